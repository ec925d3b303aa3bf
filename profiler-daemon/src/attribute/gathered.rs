//! The traces of a window, equal ones merged.
//!
//! A sample is compared twice. As it came, addresses and all, with what its process has said before: a busy loop
//! repeats itself exactly, and then nothing has to be looked up. And once its addresses are settled, with what
//! others have said: the same program elsewhere in memory, another thread of the same service.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::Config;
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::model::{Frame, RawSample, Task, Trace};

/// Places that are tried for a hash. Whoever makes stacks with the same hash on purpose gets them unmerged.
const PLACES_MAX: u64 = 8;

/// Whether a window has room for more samples.
#[must_use = "a window without room is to be taken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Left,
    /// The window is to be closed early, or memory grows.
    Full,
}

/// A sample as it came.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// Where its words begin in [`Gathered::words`].
    start: usize,
    /// How many they are.
    len: usize,
    /// Its trace.
    trace: usize,
}

#[derive(Debug)]
pub(super) struct Gathered {
    traces: Vec<Trace>,
    frames: usize,
    said: FxHashMap<u64, Said>,
    /// The words of every sample that was said first, end to end; and behind them those of the sample at hand.
    words: Vec<u64>,
    /// Where the words of the sample at hand begin, and the place in `said` that is free for them.
    at_hand: (usize, Option<u64>),
    meant: FxHashMap<u64, usize>,
    traces_max: usize,
    frames_max: usize,
    full: Counter,
}

impl Gathered {
    pub(super) fn new(config: &Config, meters: &Meters) -> Self {
        Self {
            traces: Vec::new(),
            frames: 0,
            said: FxHashMap::default(),
            words: Vec::new(),
            at_hand: (0, None),
            meant: FxHashMap::default(),
            traces_max: config.traces_max,
            frames_max: config.frames_max,
            full: meters.counter(
                "profiler_windows_full",
                "Windows that had to be closed early: too many different traces",
            ),
        }
    }

    /// Adds `sample` if it was said before: the same addresses, in a process where they mean the same, and by the
    /// same task if `is_task_apart`. Otherwise remembers its words for [`Self::add`], which has to follow.
    pub(super) fn add_again(&mut self, sample: &RawSample, generation: u64, is_task_apart: bool) -> bool {
        let start = self.words.len();
        self.words.push(generation);
        // Where the kernel's part ends and how the walk ended are as much a part of a stack as its addresses.
        self.words.push(((sample.kernel.len() as u64) << 16) | u64::from(sample.ended as u16));
        self.words.extend(sample.kernel.iter().map(|address| address.0));
        self.words.extend(sample.user.iter().map(|address| address.0));
        if is_task_apart {
            self.words.extend(task_words(&sample.task));
        }
        let words = &self.words[start..];
        let hash = hash_words(words);
        let mut free = None;
        for place in places(hash) {
            let Some(said) = self.said.get(&place) else {
                free = Some(place);
                break;
            };
            if self.words[said.start..said.start + said.len] == *words {
                self.traces[said.trace].weight += sample.weight;
                self.words.truncate(start);
                return true;
            }
        }
        self.at_hand = (start, free);
        false
    }

    /// Adds what the sample means that [`Self::add_again`] did not know.
    pub(super) fn add(&mut self, trace: Trace, by_task: bool) {
        let index = self.merge(trace, by_task);
        let (start, free) = self.at_hand;
        match free {
            Some(place) => {
                let said = Said { start, len: self.words.len() - start, trace: index };
                self.said.insert(place, said);
            }
            None => self.words.truncate(start),
        }
    }

    /// Forgets what [`Self::add_again`] did not know: it is not wanted.
    pub(super) fn forget(&mut self) {
        self.words.truncate(self.at_hand.0);
    }

    pub(super) fn room(&self) -> Room {
        let is_full = self.traces.len() >= self.traces_max
            || self.frames >= self.frames_max
            || self.words.len() >= self.frames_max;
        if is_full { Room::Full } else { Room::Left }
    }

    pub(super) fn take(&mut self) -> Vec<Trace> {
        if self.room() == Room::Full {
            self.full.inc();
        }
        self.frames = 0;
        self.words.clear();
        self.said.clear();
        self.meant.clear();
        std::mem::take(&mut self.traces)
    }

    /// The index of `trace` among the traces, where its weight is by now.
    fn merge(&mut self, trace: Trace, by_task: bool) -> usize {
        for place in places(hash_trace(&trace, by_task)) {
            let Some(&index) = self.meant.get(&place) else {
                self.meant.insert(place, self.traces.len());
                break;
            };
            let seen = &mut self.traces[index];
            if (!by_task || seen.task == trace.task)
                && seen.labels == trace.labels
                && seen.frames == trace.frames
            {
                seen.weight += trace.weight;
                return index;
            }
        }
        self.frames += trace.frames.len();
        self.traces.push(trace);
        self.traces.len() - 1
    }
}

fn places(hash: u64) -> impl Iterator<Item = u64> {
    (0..PLACES_MAX).map(move |step| hash.wrapping_add(step))
}

fn task_words(task: &Task) -> [u64; 3] {
    let comm = u128::from_le_bytes(task.comm.0);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, and then the upper one")]
    [(u64::from(task.pid.0) << 32) | u64::from(task.tid.0), comm as u64, (comm >> 64) as u64]
}

fn hash_words(words: &[u64]) -> u64 {
    let mut hasher = FxHasher::default();
    for &word in words {
        hasher.write_u64(word);
    }
    hasher.finish()
}

fn hash_trace(trace: &Trace, by_task: bool) -> u64 {
    let mut hasher = FxHasher::default();
    // Equal labels share one piece of memory.
    hasher.write_usize(Arc::as_ptr(&trace.labels).addr());
    if by_task {
        trace.task.hash(&mut hasher);
    }
    for frame in &trace.frames {
        match frame {
            Frame::Kernel(address) => hasher.write_u64(address.0),
            Frame::User { module, offset } => {
                hasher.write_u32(module.id);
                hasher.write_u64(offset.0);
            }
            Frame::Missing(reason) => reason.hash(&mut hasher),
        }
    }
    hasher.finish()
}
