//! Asks a Pyroscope, ours or any other, what the command line wants to know.
//!
//! In: a range of time, a type of profiles, a selector. Out: names, time series, and one merged profile; [`stacks`] and
//! [`show`] make of that what a person reads. Not here: HTTP (`deliver`), and the other side of it (`server`).

pub mod show;
pub mod stacks;

use prost::Message;

use crate::deliver::{CallError, Caller};
use crate::pprof::Profile;
use crate::querier::{
    LabelNamesRequest, LabelPair, LabelValuesRequest, MergeProfileRequest, Names, ProfileTypesRequest,
    ProfileTypesResponse, SelectSeriesRequest, SelectSeriesResponse, SeriesRequest, SeriesResponse,
};

/// The type that an agent pushes.
const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which series, such as `{service_name="checkout"}`.
    pub selector: String,
    /// Begin, milliseconds since the epoch.
    pub start_ms: i64,
    /// End, which is part of it, milliseconds since the epoch.
    pub end_ms: i64,
}

/// A series, or what is common to some.
pub type Labels = Vec<(String, String)>;

/// A point of a time series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The end of its step, milliseconds since the epoch.
    pub at_ms: i64,
    /// What was added up in that step, in the unit of the type.
    pub value: f64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server gave none.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What it gave cannot be read.
    #[error("{server} answers what no Pyroscope does: {error}")]
    Unreadable {
        /// Its address.
        server: String,
        /// What is wrong with it.
        error: prost::DecodeError,
    },
    /// No type of profiles is called so, or several are.
    #[error("{asked:?} is {what}: {known}")]
    Type {
        /// What was asked for.
        asked: String,
        /// What that is.
        what: &'static str,
        /// What there is.
        known: String,
    },
}

/// Asks one server.
#[derive(Debug)]
pub struct Asker(Caller);

impl Asker {
    /// Asks by way of `caller`.
    pub fn new(caller: Caller) -> Self {
        Self(caller)
    }

    fn ask<A: Message + Default>(&self, method: &str, question: &impl Message) -> Result<A, QueryError> {
        let answer = self.0.call(&["querier.v1.QuerierService", method], question.encode_to_vec())?;
        A::decode(&*answer).map_err(|error| QueryError::Unreadable { server: self.0.server(), error })
    }

    /// All types of profiles in that time, whatever the selector.
    pub fn types(&self, scope: &Scope) -> Result<Vec<String>, QueryError> {
        let Scope { selector: _, start_ms, end_ms } = *scope;
        let question = ProfileTypesRequest { start: start_ms, end: end_ms };
        let answer: ProfileTypesResponse = self.ask("ProfileTypes", &question)?;
        Ok(answer.profile_types.into_iter().map(|kind| kind.id).collect())
    }

    /// The type that is called `name`: in full, or by its second part, such as `alloc_space`. `None` is CPU time.
    pub fn type_of(&self, name: Option<&str>, scope: &Scope) -> Result<String, QueryError> {
        let Some(name) = name else { return Ok(CPU.to_owned()) };
        if name.contains(':') {
            return Ok(name.to_owned());
        }
        let all = self.types(scope)?;
        one_called(name, &all).map_err(|(what, known)| QueryError::Type {
            asked: name.to_owned(),
            what,
            known: if known.is_empty() { "there is none in that time".to_owned() } else { known.join(", ") },
        })
    }

    /// Names of labels.
    pub fn label_names(&self, scope: &Scope) -> Result<Vec<String>, QueryError> {
        let Scope { selector, start_ms, end_ms } = scope.clone();
        let question = LabelNamesRequest { matchers: vec![selector], start: start_ms, end: end_ms };
        Ok(self.ask::<Names>("LabelNames", &question)?.names)
    }

    /// Values of the label `name`.
    pub fn label_values(&self, name: &str, scope: &Scope) -> Result<Vec<String>, QueryError> {
        let Scope { selector, start_ms, end_ms } = scope.clone();
        let question = LabelValuesRequest {
            name: name.to_owned(),
            matchers: vec![selector],
            start: start_ms,
            end: end_ms,
        };
        Ok(self.ask::<Names>("LabelValues", &question)?.names)
    }

    /// Series, of which only the labels `names` if there are some.
    pub fn series(&self, names: &[String], scope: &Scope) -> Result<Vec<Labels>, QueryError> {
        let Scope { selector, start_ms, end_ms } = scope.clone();
        let question = SeriesRequest {
            matchers: vec![selector],
            label_names: names.to_vec(),
            start: start_ms,
            end: end_ms,
        };
        let answer: SeriesResponse = self.ask("Series", &question)?;
        Ok(answer.labels_set.into_iter().map(|set| labels(set.labels)).collect())
    }

    /// Time series, one for each value of the labels `group_by`.
    pub fn points(
        &self,
        profile_type: String,
        group_by: &[String],
        step_s: f64,
        scope: &Scope,
    ) -> Result<Vec<(Labels, Vec<Point>)>, QueryError> {
        let Scope { selector, start_ms, end_ms } = scope.clone();
        let question = SelectSeriesRequest {
            profile_type,
            selector,
            start: start_ms,
            end: end_ms,
            group_by: group_by.to_vec(),
            step: step_s,
            limit: 0,
        };
        let answer: SelectSeriesResponse = self.ask("SelectSeries", &question)?;
        let series = answer.series.into_iter().map(|series| {
            let point = |point: crate::querier::Point| Point { at_ms: point.timestamp, value: point.value };
            (labels(series.labels), series.points.into_iter().map(point).collect())
        });
        Ok(series.collect())
    }

    /// One profile of all there is.
    pub fn profile(&self, profile_type: String, scope: &Scope) -> Result<Profile, QueryError> {
        let Scope { selector, start_ms, end_ms } = scope.clone();
        let question = MergeProfileRequest { profile_type, selector, start: start_ms, end: end_ms };
        self.ask("SelectMergeProfile", &question)
    }
}

fn labels(pairs: Vec<LabelPair>) -> Labels {
    pairs.into_iter().map(|LabelPair { name, value }| (name, value)).collect()
}

/// The type that `name` means; else what that is, and what may be meant.
fn one_called(name: &str, all: &[String]) -> Result<String, (&'static str, Vec<String>)> {
    let called: Vec<String> = all.iter().filter(|id| id.split(':').nth(1) == Some(name)).cloned().collect();
    match called.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(("no type of profiles here", all.to_vec())),
        _ => Err(("more than one type of profiles, give it in full", called)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = [
        "memory:inuse_space:bytes:space:bytes",
        "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
        "other:cpu:nanoseconds:cpu:nanoseconds",
    ];

    #[track_caller]
    fn check(name: &str, expected: Result<&str, usize>) {
        let found = one_called(name, &ALL.map(str::to_owned)).map_err(|(_, known)| known.len());
        assert_eq!(found, expected.map(str::to_owned));
    }

    #[test]
    fn a_type_is_known_by_its_second_part() {
        check("inuse_space", Ok(ALL[0]));
    }

    #[test]
    fn of_two_none_is_guessed() {
        check("cpu", Err(2));
    }

    #[test]
    fn what_is_not_there_is_told_what_is() {
        check("wall", Err(3));
        check("memory", Err(3));
    }
}
