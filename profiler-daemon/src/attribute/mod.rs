//! Pins each sample to things that outlive its process: whose stack is this?
//!
//! In: samples in time order, with addresses that mean something only while their process runs, and the tracker at
//! the moment of each. Out: traces, whose frames are offsets in files and whose labels are values. Equal ones are
//! merged on the way, for a busy loop says the same thing a hundred times a second.
//! Not here: names of functions. A process that is gone already costs a `Reason`, never an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_common::unwind::End;

use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Meters, label};
use crate::model::{
    Frame, KernelAddr, Lost, RawSample, Reason, SampleKind, Trace, TraceBatch, UserAddr, Weight,
};
use crate::processes::{Process, Tracker};
use crate::time::Window;

mod gathered;
mod labels;
mod relabel;
mod sources;

use gathered::Gathered;
pub use gathered::Room;
use labels::LabelCache;
pub use relabel::Relabel;

/// What traces are labelled with and how many are kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The value of the label `hostname`.
    pub hostname: String,
    /// True keeps tasks apart, as recordings want it; false merges what all threads of a service do.
    pub by_task: bool,
    /// Traces of one window at which it is to be closed. Two busy processors that never do the same thing twice
    /// make two thousand in ten seconds at 99 Hz.
    pub traces_max: usize,
    /// Frames of one window at which it is to be closed: 24 bytes each.
    pub frames_max: usize,
    /// Series of one window that have labels of their own; what comes beyond is merged and counted. A server has to keep each
    /// of them, window after window: as many as a large machine has services.
    pub series_max: usize,
    /// What operators make of labels.
    pub relabel: Relabel,
    /// Names of users by their numbers.
    pub users: BTreeMap<u32, String>,
}

impl Config {
    /// What a window takes at most, bytes: traces, their frames, and the words that say whether a sample was met before.
    pub fn window_bytes_max(&self) -> u64 {
        let trace = size_of::<Trace>() + 2 * size_of::<(u64, usize)>() + 3 * size_of::<u64>();
        let frame = size_of::<Frame>() + size_of::<u64>();
        (self.traces_max * trace + self.frames_max * frame) as u64
    }

    /// The same with fewer traces and frames to a window, so that one takes no more than `bytes`.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        let all = u128::from(self.window_bytes_max());
        let part = |most: usize| {
            usize::try_from(most as u128 * u128::from(bytes) / all).map_or(most, |part| part.min(most))
        };
        Self { traces_max: part(self.traces_max), frames_max: part(self.frames_max), ..self }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            by_task: false,
            traces_max: 1 << 14,
            frames_max: 1 << 18,
            series_max: 1 << 11,
            relabel: Relabel::default(),
            users: BTreeMap::new(),
        }
    }
}

/// Turns samples into traces.
#[derive(Debug)]
pub struct Attributor {
    by_task: bool,
    labels: LabelCache,
    gathered: Gathered,
    walks: [Counter; ENDS.len()],
    missing: Counters,
    /// Weight of processes that are not to be profiled, since it was last asked for.
    unwanted: Weight,
}

/// How walks end, and what that is called in metrics.
const ENDS: [(End, &str); 7] = [
    (End::Root, "root"),
    (End::NoUser, "no user stack"),
    (End::NoFrame, "no frame pointer"),
    (End::Fault, "unreadable"),
    (End::Truncated, "too deep"),
    (End::NoMapping, "no mapping"),
    (End::Invalid, "no rule"),
];

impl Attributor {
    /// An attributor with nothing gathered.
    pub fn new(config: &Config, meters: &Meters) -> Self {
        let walks = meters.counters("profiler_walks", "Walks of user stacks, by how they ended");
        Self {
            by_task: config.by_task,
            labels: LabelCache::new(config, meters),
            gathered: Gathered::new(config, meters),
            walks: ENDS.map(|(_, name)| walks.get_or_create(&label("end", name)).clone()),
            missing: meters.counters(
                "profiler_frames_missing",
                "Frames that cannot be known, by reason, each with the weight of its trace",
            ),
            unwanted: Weight(0),
        }
    }

    /// What `sample` means, while its process is as it was then; `None` if it is not to be profiled.
    pub fn attribute(&mut self, sample: &RawSample, tracker: &Tracker) -> Option<Trace> {
        self.trace(sample, tracker.process(sample.task.pid))
    }

    /// Weight of processes that rules leave out, since the last time.
    pub fn take_unwanted(&mut self) -> Weight {
        std::mem::take(&mut self.unwanted)
    }

    /// Adds `sample` of `process`, as it was then, to the window. It is never refused: without room, the window is to be taken soon.
    pub fn gather(&mut self, sample: &RawSample, process: Option<&Process>) -> Room {
        if let Some(position) = ENDS.iter().position(|&(end, _)| end == sample.ended) {
            self.walks[position].inc();
        }
        // A process without an executable is labelled by the name of its thread.
        let is_named_by_thread = process.is_none_or(|process| process.executable.is_none());
        let is_task_apart = self.by_task || is_named_by_thread;
        let generation = process.map_or(0, |process| process.generation);
        if !self.gathered.add_again(sample, generation, is_task_apart) {
            match self.trace(sample, process) {
                Some(trace) => self.gathered.add(trace, self.by_task),
                None => {
                    self.gathered.forget();
                    self.unwanted += sample.weight;
                }
            }
        }
        self.gathered.room()
    }

    /// The traces gathered since the last time.
    pub fn take(&mut self, window: Window, kind: SampleKind, lost: Lost) -> TraceBatch {
        let traces = self.gathered.take();
        self.labels.sweep();
        self.count_missing(&traces);
        TraceBatch { window, kind, traces, lost }
    }

    fn trace(&mut self, sample: &RawSample, process: Option<&Process>) -> Option<Trace> {
        let labels = self.labels.of(process, sample.task.comm)?;
        Some(Trace {
            time: sample.time,
            task: sample.task,
            labels,
            frames: frames(sample, process),
            weight: sample.weight,
        })
    }

    fn count_missing(&self, traces: &[Trace]) {
        let mut lost = Lost::default();
        for trace in traces {
            for frame in &trace.frames {
                if let Frame::Missing(reason) = frame {
                    lost.add(*reason, trace.weight);
                }
            }
        }
        for (reason, weight) in lost.0 {
            self.missing.get_or_create(&label("reason", reason.as_str())).inc_by(weight.0);
        }
    }
}

/// The frames of a sample, leaf first: those in the kernel, then those of the process.
fn frames(sample: &RawSample, process: Option<&Process>) -> Vec<Frame> {
    let mut frames = Vec::with_capacity(sample.kernel.len() + sample.user.len() + 1);
    let calls = sample.kernel.iter().enumerate();
    frames.extend(calls.map(|(depth, &KernelAddr(at))| Frame::Kernel(KernelAddr(inside_call(depth, at)))));
    for (depth, &UserAddr(at)) in sample.user.iter().enumerate() {
        let at = UserAddr(inside_call(depth, at));
        match process.map_or(Err(Reason::UnknownProcess), |process| process.settle(at)) {
            Ok((module, offset)) => frames.push(Frame::User { module: Arc::clone(module), offset }),
            Err(reason) => push_missing(&mut frames, reason),
        }
    }
    match sample.ended {
        // Nothing lies beyond: the program's start, or a thread that the kernel started for itself.
        End::Root | End::NoUser => {}
        // A walk that was cut says why at its root.
        End::NoFrame => push_missing(&mut frames, Reason::NoFramePointer),
        End::Fault => push_missing(&mut frames, Reason::StackUnreadable),
        End::Truncated => push_missing(&mut frames, Reason::StackTooDeep),
        End::NoMapping => push_missing(&mut frames, Reason::NoMapping),
        End::Invalid => push_missing(&mut frames, Reason::NoUnwindRule),
    }
    if frames.is_empty() {
        frames.push(Frame::Missing(Reason::StackUnreadable));
    }
    frames
}

/// The address to look up for an entry of a stack: the first one is where the processor was, the others are where
/// it would return to, which may be the line, the function or the file after the one that called.
fn inside_call(depth: usize, address: u64) -> u64 {
    if depth == 0 { address } else { address.saturating_sub(1) }
}

/// What is missing for the same reason without a known frame in between is one frame.
fn push_missing(frames: &mut Vec<Frame>, reason: Reason) {
    if frames.last() != Some(&Frame::Missing(reason)) {
        frames.push(Frame::Missing(reason));
    }
}

#[cfg(test)]
mod tests;
