//! Replays what happened to processes and reads each sample against the mappings of its very moment.
//!
//! In: events and samples, each in time order. Out: traces, gathered. The same for a live kernel and a recording.

use std::collections::{HashSet, VecDeque};

use crate::attribute::{Attributor, Room};
use crate::model::{Pid, ProcessChange, ProcessEvent, RawSample, Weight};
use crate::processes::Tracker;
use crate::time::MonoNs;

/// The processes that were asked for, with their descendants.
#[derive(Clone, Debug, Default)]
pub(super) struct Family(HashSet<Pid>);

impl Family {
    pub(super) fn of(pids: impl IntoIterator<Item = Pid>) -> Self {
        Self(pids.into_iter().collect())
    }

    fn follow(&mut self, event: &ProcessEvent) {
        if let ProcessChange::Forked { parent } = event.change {
            if self.0.contains(&parent) {
                self.0.insert(event.pid);
            } else {
                self.0.remove(&event.pid); // a number used again
            }
        }
    }
}

/// Tracker and attributor, driven in time order.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) tracker: Tracker,
    pub(super) attributor: Attributor,
    family: Option<Family>,
}

impl Intake {
    pub(super) fn new(tracker: Tracker, attributor: Attributor, family: Option<Family>) -> Self {
        Self { tracker, attributor, family }
    }

    /// Takes everything up to and including `until` from both queues; events before samples of the same moment.
    /// Returns the weight that was gathered and the weight of processes nobody asked for. Stops early, before
    /// `until`, when the gatherer is full: the window is then to be closed.
    pub(super) fn take_until(
        &mut self,
        until: MonoNs,
        events: &mut VecDeque<ProcessEvent>,
        samples: &mut VecDeque<RawSample>,
    ) -> Taken {
        let mut taken = Taken::default();
        loop {
            let event_time = events.front().map(|event| event.time).filter(|time| *time <= until);
            let sample_time = samples.front().map(|sample| sample.time).filter(|time| *time <= until);
            match (event_time, sample_time) {
                (None, None) => return taken,
                (Some(event), sample) if sample.is_none_or(|sample| event <= sample) => {
                    if let Some(event) = events.pop_front() {
                        if let Some(family) = &mut self.family {
                            family.follow(&event);
                        }
                        self.tracker.apply(event);
                    }
                }
                _ => {
                    let Some(sample) = samples.pop_front() else { return taken };
                    if self.family.as_ref().is_some_and(|family| !family.0.contains(&sample.task.pid)) {
                        taken.elsewhere += sample.weight;
                        continue;
                    }
                    taken.gathered += sample.weight;
                    if self.attributor.gather(&sample, &self.tracker) == Room::Full {
                        taken.full = true;
                        return taken;
                    }
                }
            }
        }
    }
}

/// What [`Intake::take_until`] took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) gathered: Weight,
    pub(super) elsewhere: Weight,
    pub(super) full: bool,
}
