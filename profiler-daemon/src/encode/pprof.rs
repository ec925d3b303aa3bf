//! pprof of the type `process_cpu:cpu:nanoseconds:cpu:nanoseconds`.
//!
//! `time_nanos` is the window's start, `duration_nanos` and `period_type` are always set, every location has a
//! function and every mapping says so (a Pyroscope drops a frame without one). A profile that a server would find too large is
//! split; as (labels, `time_nanos`) must be unique there, each further part begins a millisecond later.

use rustc_hash::FxHashMap;

use super::Limits;
use crate::model::{Format, Function, Payload, Profile, Stack, Weight};
use crate::pprof::{self, Label, Line, Location, Mapping, Message, Sample, Strings, ValueType};
use crate::time::{WallNs, Window};

/// What parts of one profile are apart.
const PART_STEP_NS: i64 = 1_000_000;

/// Payloads of `profile`: one, unless it passes a limit.
pub fn payloads(profile: &Profile, limits: Limits) -> Vec<Payload> {
    let mut payloads = Vec::new();
    for stacks in profile.stacks.chunks(limits.samples_max.max(1)) {
        split(profile, stacks, limits, &mut payloads);
    }
    payloads
}

/// Encodes `stacks`, in halves if they are too large together. A single stack goes as it is.
fn split(profile: &Profile, stacks: &[Stack], limits: Limits, payloads: &mut Vec<Payload>) {
    let part = i64::try_from(payloads.len()).unwrap_or(i64::MAX);
    let start = WallNs(profile.window.start.0.saturating_add(part.saturating_mul(PART_STEP_NS)));
    let window = Window { start, ..profile.window };
    let mut builder = Builder::default();
    builder.add(profile, stacks, false);
    let body = builder.finish(window, profile.kind.period_ns());
    if body.len() > limits.bytes_max && stacks.len() > 1 {
        let (first, second) = stacks.split_at(stacks.len() / 2);
        split(profile, first, limits, payloads);
        split(profile, second, limits, payloads);
        return;
    }
    payloads.push(Payload {
        window,
        labels: profile.labels.clone(),
        format: Format::Pprof,
        body,
        weight: stacks.iter().map(|stack| stack.weight).sum::<Weight>(),
    });
}

/// One file of everything: every sample carries its series' labels, its task's name and numbers.
pub fn file(profiles: &[Profile], window: Window, period_ns: u64) -> Vec<u8> {
    let mut builder = Builder::default();
    for profile in profiles {
        builder.add(profile, &profile.stacks, true);
    }
    pprof::gzip(&builder.finish(window, period_ns))
}

/// A profile under construction.
#[derive(Debug, Default)]
struct Builder {
    strings: Strings,
    mappings: FxHashMap<i64, u64>,
    functions: FxHashMap<(i64, i64), u64>,
    locations: FxHashMap<(u64, u64, u32), u64>,
    out: pprof::Profile,
    period_ns: u64,
}

impl Builder {
    fn add(&mut self, profile: &Profile, stacks: &[Stack], labelled: bool) {
        self.period_ns = profile.kind.period_ns();
        // Functions that none of these stacks uses stay out.
        let mut ids: Vec<Option<u64>> = vec![None; profile.functions.len()];
        let series: Vec<Label> = if labelled {
            profile.labels.iter().map(|(name, value)| self.text_label(name, value)).collect()
        } else {
            Vec::new()
        };
        for stack in stacks {
            let mut location_id = Vec::with_capacity(stack.functions.len());
            for index in &stack.functions {
                let index = index.0 as usize;
                let id = match ids[index] {
                    Some(id) => id,
                    None => *ids[index].insert(self.location(&profile.functions[index])),
                };
                location_id.push(id);
            }
            let mut label = series.clone();
            if let (true, Some(task)) = (labelled, stack.tag) {
                label.push(self.text_label("comm", &task.comm.to_string()));
                label.push(self.number_label("pid", task.pid.0));
                label.push(self.number_label("tid", task.tid.0));
            }
            let value = i64::try_from(stack.weight.0.saturating_mul(self.period_ns)).unwrap_or(i64::MAX);
            self.out.sample.push(Sample { location_id, value: vec![value], label });
        }
    }

    fn text_label(&mut self, name: &str, value: &str) -> Label {
        Label { key: self.strings.intern(name), str: self.strings.intern(value), ..Label::default() }
    }

    fn number_label(&mut self, name: &str, value: u32) -> Label {
        Label { key: self.strings.intern(name), num: i64::from(value), ..Label::default() }
    }

    fn location(&mut self, function: &Function) -> u64 {
        let name = self.strings.intern(&function.name);
        let filename = self.strings.intern(&function.file);
        let module = self.strings.intern(&function.module);
        let mapping_id = *self.mappings.entry(module).or_insert_with(|| {
            let id = self.out.mapping.len() as u64 + 1;
            self.out.mapping.push(Mapping {
                id,
                filename: module,
                has_functions: true,
                has_filenames: true,
                has_line_numbers: true,
                has_inline_frames: true,
                ..Mapping::default()
            });
            id
        });
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = self.out.function.len() as u64 + 1;
            self.out.function.push(pprof::Function { id, name, system_name: name, filename, start_line: 0 });
            id
        });
        *self.locations.entry((mapping_id, function_id, function.line)).or_insert_with(|| {
            let id = self.out.location.len() as u64 + 1;
            let line = vec![Line { function_id, line: i64::from(function.line) }];
            self.out.location.push(Location { id, mapping_id, line, ..Location::default() });
            id
        })
    }

    fn finish(mut self, window: Window, period_ns: u64) -> Vec<u8> {
        let cpu = ValueType { r#type: self.strings.intern("cpu"), unit: self.strings.intern("nanoseconds") };
        self.out.sample_type = vec![cpu];
        self.out.period_type = Some(cpu);
        self.out.period = i64::try_from(period_ns).unwrap_or(i64::MAX);
        self.out.time_nanos = window.start.0;
        self.out.duration_nanos = i64::try_from(window.duration_ns).unwrap_or(i64::MAX);
        self.out.string_table = self.strings.finish();
        self.out.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use super::*;
    use crate::model::{Comm, FunctionIndex, Known, Labels, Pid, SampleKind, Task, Tid};

    const WINDOW: Window = Window { start: WallNs(1_000_000_000), duration_ns: 500 };

    /// `count` stacks of one leaf each under `main`, the i-th weighing i + 1.
    fn profile(count: u32) -> Profile {
        let function = |name: String| {
            Arc::new(Function {
                name: name.into(),
                file: "a.c".into(),
                line: 7,
                module: "bin".into(),
                kernel: false,
                known: Known::Name,
            })
        };
        let leaves = (0..count).map(|leaf| function(format!("leaf_{leaf}")));
        Profile {
            window: WINDOW,
            kind: SampleKind::CpuTime { period_ns: 10 },
            labels: Arc::new(Labels::new([("service_name".into(), "svc".into())])),
            functions: std::iter::once(function("main".to_owned())).chain(leaves).collect(),
            stacks: (0..count)
                .map(|leaf| Stack {
                    functions: vec![FunctionIndex(leaf + 1), FunctionIndex(0)],
                    weight: Weight(u64::from(leaf) + 1),
                    tag: Some(Task { pid: Pid(5), tid: Tid(6), comm: Comm::new(b"w") }),
                })
                .collect(),
        }
    }

    fn decode(payload: &Payload) -> pprof::Profile {
        pprof::Profile::decode(payload.body.as_slice()).unwrap()
    }

    fn names(profile: &pprof::Profile, sample: &Sample) -> Vec<String> {
        let function = |id: &u64| {
            let location = &profile.location[usize::try_from(*id).unwrap() - 1];
            let function = &profile.function[usize::try_from(location.line[0].function_id).unwrap() - 1];
            profile.text(function.name).unwrap().to_owned()
        };
        sample.location_id.iter().map(function).collect()
    }

    #[test]
    fn a_profile_says_what_when_and_how_much() {
        let payloads = payloads(&profile(2), Limits::default());
        assert_eq!(payloads.len(), 1);
        let pprof = decode(&payloads[0]);
        assert_eq!((pprof.time_nanos, pprof.duration_nanos, pprof.period), (1_000_000_000, 500, 10));
        let kind = pprof.period_type.unwrap();
        assert_eq!((pprof.text(kind.r#type), pprof.text(kind.unit)), (Some("cpu"), Some("nanoseconds")));
        assert_eq!(pprof.sample_type, [kind]);
        assert_eq!(names(&pprof, &pprof.sample[1]), ["leaf_1", "main"]);
        assert_eq!(pprof.sample[1].value, [20]);
        assert!(pprof.sample[1].label.is_empty(), "pids never make series");
        assert!(pprof.mapping.iter().all(|mapping| mapping.has_functions));
    }

    #[track_caller]
    fn check_split(count: u32, limits: Limits, parts_min: usize) {
        let whole = profile(count);
        let payloads = payloads(&whole, limits);
        assert!(payloads.len() >= parts_min, "{} parts", payloads.len());
        assert_eq!(payloads.iter().map(|payload| payload.weight).sum::<Weight>(), whole.weight());
        let mut times: Vec<i64> = payloads.iter().map(|payload| decode(payload).time_nanos).collect();
        times.dedup();
        assert_eq!(times.len(), payloads.len(), "each part has its own time");
        for payload in &payloads {
            let pprof = decode(payload);
            assert!(pprof.sample.len() <= limits.samples_max && payload.body.len() <= limits.bytes_max);
            let value: i64 = pprof.sample.iter().map(|sample| sample.value[0]).sum();
            assert_eq!(u64::try_from(value).unwrap(), payload.weight.0 * 10);
        }
    }

    #[test]
    fn too_many_samples_are_split() {
        check_split(250, Limits { samples_max: 100, bytes_max: 1 << 20 }, 3);
    }

    #[test]
    fn too_many_bytes_are_split() {
        check_split(250, Limits { samples_max: 16_000, bytes_max: 2_000 }, 3);
    }

    #[test]
    fn a_file_keeps_who_each_sample_was() {
        let bytes = file(&[profile(1)], WINDOW, 10);
        let pprof = pprof::Profile::decode(pprof::gunzip(&bytes, 1 << 20).unwrap().as_slice()).unwrap();
        let labels: Vec<(&str, &str, i64)> = pprof.sample[0]
            .label
            .iter()
            .map(|label| (pprof.text(label.key).unwrap(), pprof.text(label.str).unwrap(), label.num))
            .collect();
        assert_eq!(labels, [("service_name", "svc", 0), ("comm", "w", 0), ("pid", "", 5), ("tid", "", 6)]);
    }
}
