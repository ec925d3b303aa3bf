//! Replays what happened to processes and reads each sample against the mappings of its very moment.
//!
//! In: events and samples, each in time order. Out: traces, gathered; and samples that wait for a table, with their process as it was
//! (`stacks.rs`). The same for a live kernel and a recording.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::stacks::{Stacks, Walk};
use crate::attribute::{Attributor, Room};
use crate::meters::Meters;
use crate::model::{Mapping, Pid, ProcessChange, ProcessEvent, RawSample, Weight};
use crate::processes::Tracker;
use crate::time::MonoNs;

/// How long after an exec the first mapping of its program is looked for. It takes the kernel some 50 us, and longer only where the
/// exec itself waits, for a disk.
const EXEC: Duration = Duration::from_millis(100);

/// The processes that were asked for, with their descendants.
#[derive(Clone, Debug)]
pub(super) struct Family {
    members: HashSet<Pid>,
    asked: MonoNs,
}

impl Family {
    /// The processes that are `pids` at this moment.
    pub(super) fn of(pids: impl IntoIterator<Item = Pid>) -> Self {
        Self { members: pids.into_iter().collect(), asked: MonoNs::now() }
    }

    fn follow(&mut self, event: &ProcessEvent) {
        if let ProcessChange::Forked { parent } = event.change {
            if self.members.contains(&parent) {
                self.members.insert(event.pid);
            } else if event.time > self.asked {
                self.members.remove(&event.pid); // a number used again; a fork before that is how a member began
            }
        }
    }
}

/// Tracker and attributor, driven in time order.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) tracker: Tracker,
    pub(super) attributor: Attributor,
    pub(super) stacks: Stacks,
    family: Option<Family>,
}

impl Intake {
    pub(super) fn new(
        tracker: Tracker,
        attributor: Attributor,
        family: Option<Family>,
        meters: &Meters,
    ) -> Self {
        Self { tracker, attributor, stacks: Stacks::new(meters), family }
    }

    /// Gathers samples that have waited.
    pub(super) fn gather(&mut self, walks: Vec<Walk>) {
        for (sample, process) in walks {
            // They are few. A window that is full is closed at the next sample that is taken.
            let _ = self.attributor.gather(&sample, Some(&process));
        }
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
                        let pid = event.pid;
                        let first = match event.change {
                            ProcessChange::Executed { .. } => first_mapping(&event, events),
                            _ => None,
                        };
                        self.tracker.apply(event);
                        if let Some(mapping) = first {
                            self.tracker.begins(pid, mapping);
                        }
                    }
                }
                _ => {
                    let Some(sample) = samples.pop_front() else { return taken };
                    if self.family.as_ref().is_some_and(|family| !family.members.contains(&sample.task.pid)) {
                        taken.elsewhere += sample.weight;
                        continue;
                    }
                    taken.gathered += sample.weight;
                    self.tracker.look_for_perf_map(sample.task.pid, sample.time);
                    let process = self.tracker.process(sample.task.pid);
                    let Some(sample) = self.stacks.keep(sample, process) else { continue };
                    if self.attributor.gather(&sample, process) == Room::Full {
                        taken.full = true;
                        return taken;
                    }
                }
            }
        }
    }
}

/// The first mapping after an exec, if it is among `later` events.
fn first_mapping<'a>(exec: &ProcessEvent, later: &'a VecDeque<ProcessEvent>) -> Option<&'a Mapping> {
    let until = exec.time.plus(EXEC);
    let mut later = later.iter().take_while(|event| event.time <= until);
    match &later.find(|event| event.pid == exec.pid)?.change {
        ProcessChange::Mapped(mapping) => Some(mapping),
        _ => None,
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
    use profiler_common::unwind::End;

    use super::*;
    use crate::attribute;
    use crate::model::{Comm, Cpu, KernelAddr, Lost, SampleKind, Task, Tid, UserAddr};
    use crate::processes;
    use crate::procfs::Procfs;
    use crate::time::{WallNs, Window};

    const ASKED: MonoNs = MonoNs(1000);

    /// The family of process 10 after `forks`: when, who, by whom.
    #[track_caller]
    fn check(forks: &[(u64, u32, u32)], expected: &[u32]) {
        let mut family = Family { members: HashSet::from([Pid(10)]), asked: ASKED };
        for &(time, pid, parent) in forks {
            let change = ProcessChange::Forked { parent: Pid(parent) };
            family.follow(&ProcessEvent { time: MonoNs(time), pid: Pid(pid), change });
        }
        assert_eq!(family.members, expected.iter().copied().map(Pid).collect());
    }

    #[test]
    fn a_command_that_we_started_a_moment_ago_is_still_the_one_asked_for() {
        check(&[(990, 10, 1)], &[10]);
    }

    #[test]
    fn children_and_their_children_belong_to_it() {
        check(&[(1001, 11, 10), (1002, 12, 11), (1003, 13, 1)], &[10, 11, 12]);
    }

    #[test]
    fn a_number_that_a_stranger_uses_again_does_not() {
        check(&[(1001, 11, 10), (1002, 11, 1), (1003, 10, 1)], &[]);
    }

    fn happened(time: u64, pid: u32, change: ProcessChange) -> ProcessEvent {
        ProcessEvent { time: MonoNs(time), pid: Pid(pid), change }
    }

    fn executed(time: u64, pid: u32) -> ProcessEvent {
        happened(time, pid, ProcessChange::Executed { comm: Comm::new(b"new"), cgroup: None })
    }

    fn mapped(time: u64, pid: u32, path: &str) -> ProcessEvent {
        let (start, end) = (UserAddr(0x1000), UserAddr(0x2000));
        let path = path.as_bytes().into();
        let mapping = Mapping { start, end, file_offset: 0, path, build_id: None, module: None };
        happened(time, pid, ProcessChange::Mapped(Box::new(mapping)))
    }

    /// In the kernel's code, as all are that are taken during an exec.
    fn sample(time: u64, pid: u32) -> RawSample {
        RawSample {
            stack: None,
            time: MonoNs(time),
            cpu: Cpu(0),
            task: Task { pid: Pid(pid), tid: Tid(pid), comm: Comm::new(b"thread") },
            kernel: vec![KernelAddr(time)],
            user: Vec::new(),
            ended: End::NoUser,
            weight: Weight(1),
        }
    }

    /// Whose the samples of process 2 are that were taken at `times`. It is a child of process 1, which runs `/bin/old`.
    #[track_caller]
    fn check_services(after_the_fork: Vec<ProcessEvent>, times: &[u64], expected: &[&str]) {
        let meters = Meters::default();
        let tracker = Tracker::new(processes::Config::default(), Procfs::new("/nonexistent"), &meters);
        let attributor = Attributor::new(&attribute::Config::default(), &meters);
        let mut intake = Intake::new(tracker, attributor, None, &meters);
        let mut events = VecDeque::from([
            executed(1, 1),
            mapped(2, 1, "/bin/old"),
            happened(3, 2, ProcessChange::Forked { parent: Pid(1) }),
        ]);
        events.extend(after_the_fork);
        let mut samples: VecDeque<_> = times.iter().map(|&time| sample(time, 2)).collect();
        let _ = intake.take_until(MonoNs(u64::MAX), &mut events, &mut samples);
        let window = Window { start: WallNs(0), duration_ns: 1 };
        let batch = intake.attributor.take(window, SampleKind::CpuTime { period_ns: 1 }, Lost::default());
        let services: Vec<_> =
            batch.traces.iter().map(|trace| trace.labels.get("service_name").unwrap_or_default()).collect();
        assert_eq!(services, expected);
    }

    #[test]
    fn what_the_kernel_spends_on_an_exec_is_the_new_programs() {
        let events =
            vec![executed(10, 2), executed(15, 3), mapped(16, 3, "/bin/other"), mapped(20, 2, "/bin/new")];
        check_services(events, &[5, 12, 22], &["old", "new", "new"]);
    }

    #[test]
    fn an_exec_that_maps_nothing_leaves_the_old_name() {
        let events = vec![executed(10, 2), happened(15, 2, ProcessChange::Exited), mapped(20, 2, "/bin/new")];
        check_services(events, &[12], &["old"]);
    }
}
