//! Speedscope's file format: one profile per series, heaviest first, all with the same list of functions.
//!
//! In: profiles. Out: JSON as <https://www.speedscope.app/file-format-schema.json> has it, weights in nanoseconds.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::model::{Function, Profile};

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'static str,
    shared: Shared<'a>,
    profiles: Vec<Sampled>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    line: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(line: &u64) -> bool {
    *line == 0
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    /// Root first.
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// All of `profiles`.
pub fn encode(profiles: &[Profile]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut known: FxHashMap<&Arc<Function>, usize> = FxHashMap::default();
    let mut sampled: Vec<Sampled> = Vec::new();
    for profile in profiles {
        let index: Vec<usize> = profile
            .functions
            .iter()
            .map(|function| {
                *known.entry(function).or_insert_with(|| {
                    frames.push(Frame {
                        name: &function.name,
                        file: &function.file,
                        line: u64::from(function.line),
                    });
                    frames.len() - 1
                })
            })
            .collect();
        let stack = |functions: &[crate::model::FunctionIndex]| {
            functions.iter().rev().map(|at| index[at.0 as usize]).collect()
        };
        let weights =
            profile.stacks.iter().map(|stack| stack.weight.0.saturating_mul(profile.kind.period_ns()));
        let weights: Vec<u64> = weights.collect();
        sampled.push(Sampled {
            kind: "sampled",
            name: profile.labels.get("service_name").unwrap_or("unknown").to_owned(),
            unit: "nanoseconds",
            start_value: 0,
            end_value: weights.iter().fold(0, |sum, weight| sum.saturating_add(*weight)),
            samples: profile.stacks.iter().map(|each| stack(&each.functions)).collect(),
            weights,
        });
    }
    sampled.sort_by(|a, b| b.end_value.cmp(&a.end_value).then_with(|| a.name.cmp(&b.name)));
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("profiler-daemon@", env!("CARGO_PKG_VERSION")),
        name: "CPU",
        shared: Shared { frames },
        profiles: sampled,
    };
    serde_json::to_vec(&file).expect("texts and numbers can be written as JSON")
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::model::{FunctionIndex, Known, Labels, SampleKind, Stack, Weight};
    use crate::time::{WallNs, Window};

    pub(in crate::encode) const KIND: SampleKind = SampleKind::CpuTime { period_ns: 10 };

    /// A profile of one stack, leaf first.
    pub(in crate::encode) fn profile(service: &str, names: &[&str], weight: u64) -> Profile {
        let function = |name: &&str| {
            Arc::new(Function {
                name: (*name).into(),
                file: "".into(),
                line: 0,
                module: "".into(),
                kernel: false,
                known: Known::Name,
            })
        };
        Profile {
            window: Window { start: WallNs(0), duration_ns: 1 },
            kind: KIND,
            labels: Arc::new(Labels::new([("service_name".into(), service.into())])),
            functions: names.iter().map(function).collect(),
            stacks: vec![Stack {
                functions: (0..u32::try_from(names.len()).unwrap()).map(FunctionIndex).collect(),
                weight: Weight(weight),
                tag: None,
            }],
        }
    }

    #[test]
    fn series_are_profiles_that_share_their_functions() {
        let file = encode(&[profile("a", &["leaf", "main"], 2), profile("b", &["main"], 7)]);
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(file["shared"]["frames"], serde_json::json!([{ "name": "leaf" }, { "name": "main" }]));
        let [b, a] = file["profiles"].as_array().unwrap().as_slice() else { panic!("{file}") };
        assert_eq!((b["name"].as_str(), b["endValue"].as_u64()), (Some("b"), Some(70)));
        assert_eq!((&b["samples"], &b["weights"]), (&serde_json::json!([[1]]), &serde_json::json!([70])));
        assert_eq!((&a["samples"], &a["weights"]), (&serde_json::json!([[1, 0]]), &serde_json::json!([20])));
    }
}
