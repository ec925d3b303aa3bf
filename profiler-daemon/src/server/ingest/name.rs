//! What a profile is called: `application.kind{label=value,…}`, and what that says of its values.

use std::collections::HashMap;

use super::unprocessable;
use crate::server::profile::{self, Limits};
use crate::server::refusal::Refusal;

/// What the values of text count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) metric: &'static str,
    pub(super) sample: (&'static str, &'static str),
    pub(super) period: Option<(&'static str, &'static str)>,
    /// Values are samples, each as long as the sampler's period.
    pub(super) timed: bool,
}

const CPU_TIME: Option<(&str, &str)> = Some(("cpu", "nanoseconds"));
const CPU: Kind =
    Kind { metric: "process_cpu", sample: ("cpu", "nanoseconds"), period: CPU_TIME, timed: true };

const fn counted(metric: &'static str, sample: (&'static str, &'static str)) -> Kind {
    Kind { metric, sample, period: None, timed: false }
}

/// By the end of the name.
const KINDS: &[(&str, Kind)] = &[
    ("cpu", CPU),
    ("itimer", CPU),
    ("wall", Kind { metric: "wall", sample: ("wall", "nanoseconds"), period: CPU_TIME, timed: true }),
    ("alloc_objects", counted("memory", ("alloc_objects", "count"))),
    ("alloc_space", counted("memory", ("alloc_space", "bytes"))),
    ("inuse_objects", counted("memory", ("inuse_objects", "count"))),
    ("inuse_space", counted("memory", ("inuse_space", "bytes"))),
    ("lock_count", counted("block", ("contentions", "count"))),
    ("lock_duration", counted("block", ("delay", "nanoseconds"))),
    ("goroutines", counted("goroutines", ("goroutine", "count"))),
    ("exceptions", counted("exceptions", ("exceptions", "count"))),
];

/// An application and its labels.
pub(super) type Name<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// The application and its labels.
pub(super) fn parse(name: &str) -> Result<Name<'_>, Refusal> {
    let refuse = |why: &str| Refusal::invalid("name", format!("the parameter \"name\" {why}"));
    let (app, labels) = match name.split_once('{') {
        None => (name, ""),
        Some((app, rest)) => {
            (app, rest.trim_end().strip_suffix('}').ok_or_else(|| refuse("has no closing brace"))?)
        }
    };
    let app = app.trim();
    if app.is_empty() {
        return Err(refuse("is missing"));
    }
    let mut pairs = Vec::new();
    for pair in labels.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| refuse("has a label without a value"))?;
        pairs.push((name.trim(), value.trim()));
    }
    Ok((app, pairs))
}

/// Of an application whose profile is text: its name, and what the values are.
pub(super) fn kind_of_text(app: &str) -> Result<(&str, Kind), Refusal> {
    let Some((service, suffix)) = app.rsplit_once('.') else { return Ok((app, CPU)) };
    match KINDS.iter().find(|(known, _)| *known == suffix) {
        Some(&(_, kind)) => Ok((service, kind)),
        None => Err(Refusal::invalid("name", format!("unknown profile type: {suffix}"))),
    }
}

/// What a pprof is called in the names of its types, by the first of its kinds of samples that tells.
pub(super) fn metric_of_pprof(
    bytes: &[u8],
    names: &HashMap<String, String>,
    limits: &Limits,
) -> Result<String, Refusal> {
    let bytes = profile::decompressed(bytes, limits).map_err(|refusal| unprocessable(refusal.message))?;
    let profile = profile::decode(&bytes, limits).map_err(|refusal| unprocessable(refusal.message))?;
    let kinds: Vec<&str> = profile.sample_type.iter().filter_map(|kind| profile.text(kind.r#type)).collect();
    let told = |kind: &&str| {
        let name = names.get(*kind).filter(|name| !name.is_empty()).map_or(*kind, String::as_str);
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        match () {
            () if has(&["cpu"]) => Some("process_cpu"),
            () if has(&["wall"]) => Some("wall"),
            () if has(&["mutex"]) => Some("mutex"),
            () if has(&["block", "contentions", "delay", "lock_"]) => Some("block"),
            () if has(&["goroutine"]) => Some("goroutines"),
            () if has(&["alloc", "inuse", "heap"]) => Some("memory"),
            () if has(&["exception"]) => Some("exceptions"),
            () => None,
        }
    };
    let first = || kinds.first().copied().unwrap_or("unknown");
    Ok(kinds.iter().find_map(told).unwrap_or_else(first).to_owned())
}
