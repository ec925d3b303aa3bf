//! Merges what means the same.
//!
//! In: the named traces of one window. Out: one profile per series, each distinct stack once. Pure: weight in is
//! weight out.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Function, FunctionIndex, Labels, NamedBatch, Profile, Stack, Tag, Weight};

/// How finely stacks are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// By functions alone: what a series shows.
    Stack,
    /// By functions and task: what a recording keeps.
    Task,
}

/// One series under construction.
#[derive(Debug, Default)]
struct Series {
    functions: Vec<Arc<Function>>,
    indices: FxHashMap<Arc<Function>, FunctionIndex>,
    stacks: FxHashMap<(Option<Tag>, Vec<FunctionIndex>), Weight>,
}

impl Series {
    fn index(&mut self, function: &Arc<Function>) -> FunctionIndex {
        if let Some(&index) = self.indices.get(function) {
            return index;
        }
        let index = FunctionIndex(
            u32::try_from(self.functions.len()).expect("a window has fewer functions than u32 counts"),
        );
        self.functions.push(Arc::clone(function));
        self.indices.insert(Arc::clone(function), index);
        index
    }
}

/// The profiles of a window, by labels.
pub fn aggregate(batch: &NamedBatch, grain: Grain) -> Vec<Profile> {
    let mut all: BTreeMap<&Arc<Labels>, Series> = BTreeMap::new();
    for trace in &batch.traces {
        let series = all.entry(&trace.labels).or_default();
        let functions = trace.functions.iter().map(|function| series.index(function)).collect();
        let tag = match grain {
            Grain::Stack => None,
            Grain::Task => Some(trace.task),
        };
        *series.stacks.entry((tag, functions)).or_default() += trace.weight;
    }
    all.into_iter()
        .map(|(labels, series)| {
            let mut stacks: Vec<Stack> = series
                .stacks
                .into_iter()
                .map(|((tag, functions), weight)| Stack { functions, weight, tag })
                .collect();
            let who = |stack: &Stack| stack.tag.map(|tag| (tag.pid, tag.tid, tag.comm));
            stacks.sort_by(|a, b| {
                b.weight
                    .cmp(&a.weight)
                    .then_with(|| a.functions.cmp(&b.functions))
                    .then_with(|| who(a).cmp(&who(b)))
            });
            Profile {
                window: batch.window,
                kind: batch.kind,
                labels: Arc::clone(labels),
                functions: series.functions,
                stacks,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Comm, Known, Lost, NamedTrace, Pid, SampleKind, Task, Tid};
    use crate::time::{WallNs, Window};

    fn trace(service: &str, tid: u32, stack: &str, weight: u64) -> NamedTrace {
        let function = |name: &str| {
            Arc::new(Function {
                name: name.into(),
                file: "".into(),
                line: 0,
                module: "".into(),
                kernel: false,
                known: Known::Name,
            })
        };
        NamedTrace {
            task: Task { pid: Pid(1), tid: Tid(tid), comm: Comm::new(b"worker") },
            labels: Arc::new(Labels::new([("service_name".into(), service.into())])),
            functions: stack.split(';').rev().map(function).collect(),
            weight: Weight(weight),
        }
    }

    /// Aggregates and shows each stack as `service: root;leaf weight`.
    #[track_caller]
    fn check(traces: Vec<NamedTrace>, grain: Grain, expected: &[&str]) {
        let window = Window { start: WallNs(0), duration_ns: 1 };
        let kind = SampleKind::CpuTime { period_ns: 1 };
        let weight: Weight = traces.iter().map(|trace| trace.weight).sum();
        let profiles = aggregate(&NamedBatch { window, kind, traces, lost: Lost::default() }, grain);
        assert_eq!(profiles.iter().map(Profile::weight).sum::<Weight>(), weight, "weight in is weight out");
        let lines: Vec<String> = profiles
            .iter()
            .flat_map(|profile| {
                profile.stacks.iter().map(|stack| {
                    let names: Vec<&str> = stack
                        .functions
                        .iter()
                        .rev()
                        .map(|index| &*profile.functions[index.0 as usize].name)
                        .collect();
                    let service = profile.labels.get("service_name").unwrap_or("");
                    format!("{service}: {} {}", names.join(";"), stack.weight.0)
                })
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn equal_stacks_of_a_series_are_one() {
        check(
            vec![trace("a", 1, "main;f", 2), trace("a", 2, "main;g", 5), trace("a", 3, "main;f", 1)],
            Grain::Stack,
            &["a: main;g 5", "a: main;f 3"],
        );
    }

    #[test]
    fn series_are_kept_apart() {
        check(
            vec![trace("b", 1, "main", 1), trace("a", 1, "main", 1)],
            Grain::Stack,
            &["a: main 1", "b: main 1"],
        );
    }

    #[test]
    fn tasks_are_kept_apart_where_asked() {
        check(
            vec![trace("a", 2, "main", 1), trace("a", 1, "main", 1)],
            Grain::Task,
            &["a: main 1", "a: main 1"],
        );
    }

    #[test]
    fn a_window_without_samples_has_no_profiles() {
        check(vec![], Grain::Stack, &[]);
    }
}
