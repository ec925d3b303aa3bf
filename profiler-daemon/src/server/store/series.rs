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
