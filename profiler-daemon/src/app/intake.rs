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
pub(super) struct Family {
    members: HashSet<Pid>,
    command: Option<Pid>,
}

impl Family {
    /// These processes, which ran before us.
    pub(super) fn of(pids: impl IntoIterator<Item = Pid>) -> Self {
        Self { members: pids.into_iter().collect(), command: None }
    }

    /// The command that we have started: its birth, of a parent that was not asked for, is yet to be heard of.
    pub(super) fn of_command(pid: Pid) -> Self {
        Self { members: HashSet::from([pid]), command: Some(pid) }
    }

    fn follow(&mut self, event: &ProcessEvent) {
        if let ProcessChange::Forked { parent } = event.change {
            if self.members.contains(&parent) {
                self.members.insert(event.pid);
            } else if self.command != Some(event.pid) {
                // A number used again. (The command's own is not, before it ends, and the recording with it.)
                self.members.remove(&event.pid);
            }
        }
    }

    fn contains(&self, pid: Pid) -> bool {
        self.members.contains(&pid)
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
                    if self.family.as_ref().is_some_and(|family| !family.contains(sample.task.pid)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether pid 10 belongs to `family` after these births: pid and parent.
    #[track_caller]
    fn check(mut family: Family, births: &[(u32, u32)], belongs: bool) {
        for &(pid, parent) in births {
            let change = ProcessChange::Forked { parent: Pid(parent) };
            family.follow(&ProcessEvent { time: MonoNs(1), pid: Pid(pid), change });
        }
        assert_eq!(family.contains(Pid(10)), belongs);
    }

    #[test]
    fn a_command_belongs_although_its_birth_comes_after_it() {
        check(Family::of_command(Pid(10)), &[(10, 1)], true);
    }

    #[test]
    fn a_grandchild_belongs() {
        check(Family::of([Pid(8)]), &[(9, 8), (10, 9)], true);
    }

    #[test]
    fn a_number_that_a_stranger_uses_again_does_not_belong() {
        check(Family::of([Pid(10)]), &[(10, 1)], false);
    }
}
