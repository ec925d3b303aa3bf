//! What a series is called: its labels and what its values count.

use std::fmt;
use std::sync::Arc;

/// What values count, as Pyroscope writes it: `process_cpu:cpu:nanoseconds:cpu:nanoseconds`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::server) struct ProfileType(Arc<str>);

impl ProfileType {
    /// The type that a profiler of CPU time pushes.
    pub(in crate::server) const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

    /// Of its five parts.
    pub(in crate::server) fn new(
        name: &str,
        (kind, unit): (&str, &str),
        (period_kind, period_unit): (&str, &str),
    ) -> Self {
        Self(format!("{name}:{kind}:{unit}:{period_kind}:{period_unit}").into())
    }

    /// As it was written by `as_str`.
    pub(super) fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// As Pyroscope writes it.
    pub(in crate::server) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names and values, sorted by name, each name once.
pub(in crate::server) type Labels = Vec<(Box<str>, Box<str>)>;

/// A series. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) struct Series {
    labels: Arc<Labels>,
    profile_type: ProfileType,
}

impl Series {
    /// The values of `profile_type` under `labels`.
    pub(in crate::server) fn new(labels: Arc<Labels>, profile_type: ProfileType) -> Self {
        Self { labels, profile_type }
    }

    /// The value of a label.
    pub(in crate::server) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// The value of a label, or of what a Pyroscope makes of the type of a series.
    pub(in crate::server) fn value_of(&self, name: &str) -> Option<&str> {
        let part = |index| self.profile_type.0.split(':').nth(index);
        match name {
            "__profile_type__" => Some(self.profile_type.as_str()),
            "__type__" => part(1),
            "__unit__" => part(2),
            "__period_type__" => part(3),
            "__period_unit__" => part(4),
            "__service_name__" => self.label("service_name"),
            _ => self.label(name),
        }
    }

    /// All that `value_of` knows.
    pub(in crate::server) fn all_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        const MADE: [&str; 6] = [
            "__profile_type__",
            "__type__",
            "__unit__",
            "__period_type__",
            "__period_unit__",
            "__service_name__",
        ];
        let own = self.labels.iter().map(|(name, value)| (&**name, &**value));
        own.chain(MADE.iter().filter_map(|&name| Some((name, self.value_of(name)?))))
    }

    /// Its labels.
    pub(in crate::server) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whose profile it is.
    pub(in crate::server) fn service(&self) -> &str {
        self.label("service_name").unwrap_or_default()
    }

    /// What its values count.
    pub(in crate::server) fn profile_type(&self) -> &ProfileType {
        &self.profile_type
    }

    /// The memory that this occupies, bytes, near enough to bound it.
    pub(super) fn bytes(&self) -> usize {
        const PAIR: usize = size_of::<(Box<str>, Box<str>)>() + 32;
        self.labels.iter().map(|(name, value)| name.len() + value.len() + PAIR).sum::<usize>()
            + self.profile_type.0.len()
    }
}

/// As in Pyroscope's messages: `{__name__="process_cpu", service_name="x"}`.
pub(in crate::server) struct Written<'a>(pub(in crate::server) &'a [(Box<str>, Box<str>)]);

impl fmt::Display for Written<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{name}={value:?}")?;
        }
        out.write_str("}")
    }
}
