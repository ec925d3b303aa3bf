//! The executable mappings of every process as of the last word heard of it.
//!
//! In: events as they arrive, their files pinned. Out: whose mappings changed, and to what. This runs ahead of the tracker
//! itself, which is always of the moment of the samples that are read: the kernel walks the stacks of now.
//! Not here: facts for labels.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Config;
use super::mappings::{Added, Mappings, Total};
use crate::model::{Mapping, Pid, ProcessChange, ProcessEvent};
use crate::time::MonoNs;

/// See the head of this file.
#[derive(Debug)]
pub struct Present {
    config: Config,
    processes: FxHashMap<Pid, Seen>,
    changed: FxHashSet<Pid>,
    total: Total,
}

#[derive(Clone, Debug)]
struct Seen {
    /// When its table began: what is older says nothing of it any more.
    since: MonoNs,
    mappings: Arc<Mappings>,
}

impl Present {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            processes: FxHashMap::default(),
            changed: FxHashSet::default(),
            total: Total::default(),
        }
    }

    /// Takes an event, about in order of time: two processors' words may arrive crossed.
    pub(super) fn take(&mut self, event: &ProcessEvent) {
        let ProcessEvent { time, pid, change } = event;
        let is_old = self.processes.get(pid).is_some_and(|seen| seen.since > *time);
        if is_old {
            return;
        }
        match change {
            ProcessChange::Found(facts) => {
                let mut seen = self.begin(*time);
                for mapping in &facts.mappings {
                    self.add(&mut seen, mapping);
                }
                self.keep(*pid, seen);
            }
            ProcessChange::Forked { parent } => {
                let seen = match self.processes.get(parent) {
                    Some(parent) => Seen { since: *time, mappings: Arc::clone(&parent.mappings) },
                    None => self.begin(*time),
                };
                self.keep(*pid, seen);
            }
            ProcessChange::Executed { .. } => {
                let seen = self.begin(*time);
                self.keep(*pid, seen);
            }
            ProcessChange::Mapped(mapping) => {
                let mut seen = self.processes.remove(pid).unwrap_or_else(|| self.begin(*time));
                let is_changed = self.add(&mut seen, mapping);
                if is_changed {
                    self.keep(*pid, seen);
                } else {
                    self.processes.insert(*pid, seen);
                }
            }
            ProcessChange::Exited => {
                if self.processes.remove(pid).is_some() {
                    self.changed.insert(*pid);
                }
            }
            ProcessChange::Renamed { .. } => {}
        }
    }

    /// The processes whose mappings changed since the last call, ended ones among them.
    pub fn take_changed(&mut self) -> Vec<Pid> {
        self.changed.drain().collect()
    }

    /// The mappings of a process, ascending; `None` if it is not there.
    pub fn mappings(&self, pid: Pid) -> Option<&Arc<Mappings>> {
        self.processes.get(&pid).map(|seen| &seen.mappings)
    }

    fn begin(&self, time: MonoNs) -> Seen {
        Seen { since: time, mappings: Arc::new(Mappings::new(&self.total)) }
    }

    fn add(&self, seen: &mut Seen, mapping: &Mapping) -> bool {
        let Config { mappings_max, mappings_total_max, .. } = self.config;
        // What is over the bounds is counted where it is missed: by the tracker.
        Mappings::add(&mut seen.mappings, mapping, mappings_max, mappings_total_max) != Added::Known
    }

    fn keep(&mut self, pid: Pid, seen: Seen) {
        if self.processes.len() < self.config.processes_max || self.processes.contains_key(&pid) {
            self.processes.insert(pid, seen);
            self.changed.insert(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Comm, UserAddr};

    const PID: Pid = Pid(7);

    fn mapped(start: u64) -> ProcessChange {
        ProcessChange::Mapped(Box::new(Mapping {
            start: UserAddr(start),
            end: UserAddr(start + 10),
            file_offset: 0,
            path: b"//anon".as_slice().into(),
            build_id: None,
            module: None,
        }))
    }

    fn executed() -> ProcessChange {
        ProcessChange::Executed { comm: Comm::new(b"x"), cgroup: None }
    }

    /// After these events in the order they arrive, each with its time and process, process 7 has mappings that start here.
    #[track_caller]
    fn check(events: Vec<(u64, u32, ProcessChange)>, expected: Option<&[u64]>) {
        let mut present = Present::new(Config::default());
        for (time, pid, change) in events {
            present.take(&ProcessEvent { time: MonoNs(time), pid: Pid(pid), change });
        }
        let found =
            present.mappings(PID).map(|mappings| mappings.iter().map(|m| m.start).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_child_has_the_mappings_of_its_parent() {
        check(
            vec![(1, 1, mapped(20)), (2, 7, ProcessChange::Forked { parent: Pid(1) }), (3, 1, mapped(40))],
            Some(&[20]),
        );
    }

    #[test]
    fn an_exec_begins_anew() {
        check(vec![(1, 7, mapped(20)), (2, 7, executed()), (3, 7, mapped(40))], Some(&[40]));
    }

    #[test]
    fn a_fork_that_is_heard_of_after_the_exec_that_followed_it_changes_nothing() {
        check(
            vec![
                (1, 1, mapped(20)),
                (3, 7, executed()),
                (4, 7, mapped(40)),
                (2, 7, ProcessChange::Forked { parent: Pid(1) }),
            ],
            Some(&[40]),
        );
    }

    #[test]
    fn a_process_that_ended_is_not_there() {
        check(vec![(1, 7, mapped(20)), (2, 7, ProcessChange::Exited)], None);
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut present = Present::new(Config::default());
        let mut take = |time, change| {
            present.take(&ProcessEvent { time: MonoNs(time), pid: PID, change });
            present.take_changed()
        };
        assert_eq!(take(1, mapped(20)), [PID]);
        assert_eq!(take(2, mapped(20)), []);
        assert_eq!(take(3, ProcessChange::Exited), [PID]);
        assert_eq!(take(4, ProcessChange::Exited), []);
        assert_eq!(present.mappings(PID).map(|mappings| mappings.iter().count()), None);
    }
}
