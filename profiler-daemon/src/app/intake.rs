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
    pids: HashSet<Pid>,
    /// Who started them, if that was seen: what the kernel tells of their birth, sometimes twice, makes them no strangers.
    starter: Option<Pid>,
}

impl Family {
    /// Processes that are there already.
    pub(super) fn of(pids: impl IntoIterator<Item = Pid>) -> Self {
        Self { pids: pids.into_iter().collect(), starter: None }
    }

    /// A process that `starter` started after the kernel began to tell.
    pub(super) fn started(pid: Pid, starter: Pid) -> Self {
        Self { pids: HashSet::from([pid]), starter: Some(starter) }
    }

    fn follow(&mut self, event: &ProcessEvent) {
        if let ProcessChange::Forked { parent } = event.change {
            if self.pids.contains(&parent) {
                self.pids.insert(event.pid);
            } else if self.starter != Some(parent) {
                self.pids.remove(&event.pid); // a number used again
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
                    if self.family.as_ref().is_some_and(|family| !family.pids.contains(&sample.task.pid)) {
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

    /// Follows forks (parent, child) and says whether process 10 is of the family then.
    fn follows(mut family: Family, forks: &[(u32, u32)]) -> bool {
        for &(parent, pid) in forks {
            let change = ProcessChange::Forked { parent: Pid(parent) };
            family.follow(&ProcessEvent { time: MonoNs(0), pid: Pid(pid), change });
        }
        family.pids.contains(&Pid(10))
    }

    #[test]
    fn a_command_is_not_lost_by_its_own_birth() {
        assert!(follows(Family::started(Pid(10), Pid(1)), &[(1, 10), (1, 10)]));
    }

    #[test]
    fn a_number_used_again_by_a_stranger_is_a_stranger() {
        assert!(!follows(Family::of([Pid(10)]), &[(1, 10)]));
        assert!(!follows(Family::started(Pid(10), Pid(1)), &[(1, 10), (2, 10)]));
    }

    #[test]
    fn descendants_belong() {
        assert!(follows(Family::of([Pid(5)]), &[(5, 7), (7, 10)]));
    }
}
