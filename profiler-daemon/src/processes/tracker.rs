//! Follows every process from event to event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustc_hash::{FxHashMap, FxHashSet};

use super::mappings::{Added, Mappings, Total};
use super::modules::{Modules, is_file};
use super::perf_maps::PerfMaps;
use super::{Config, Present, Process};
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Meters, label};
use crate::model::{
    Comm, FileOffset, Mapping, Module, Pid, ProcessChange, ProcessEvent, ProcessFacts, Reason, UserAddr,
};
use crate::procfs::{Procfs, Unread};
use crate::time::MonoNs;

/// Start times that differ by less are the same: `/proc` gives them in ticks of ten milliseconds, and the fork
/// record comes a little after the start.
const SAME_START_NS: u64 = 100_000_000;

/// Knows the processes of this machine.
#[derive(Debug)]
pub struct Tracker {
    config: Config,
    procfs: Procfs,
    modules: Modules,
    perf_maps: PerfMaps,
    processes: FxHashMap<Pid, Process>,
    /// Processes whose beginning was seen by [`Tracker::pin`], which runs ahead of [`Tracker::apply`].
    announced: FxHashSet<Pid>,
    /// Processes that are to be read again.
    to_heal: Vec<Pid>,
    present: Present,
    /// Those whose main thread ended, oldest first, with the moment; some may have come back to life.
    ended: VecDeque<(Pid, MonoNs)>,
    total: Total,
    last_number: u64,
    meters: TrackerMeters,
}

#[derive(Debug)]
struct TrackerMeters {
    processes: Gauge<f64, AtomicU64>,
    over_mappings_max: Counter,
    over_processes_max: Counter,
    over_ended_max: Counter,
    unread: Counter,
}

impl Tracker {
    /// A tracker that knows nothing yet and asks `procfs`; in a replay that is a folder that does not exist.
    pub fn new(config: Config, procfs: Procfs, meters: &Meters) -> Self {
        let over_max = meters.counters(
            "profiler_processes_over_max",
            "What was not kept because there was too much of it, by kind",
        );
        let over_max = |what: &str| over_max.get_or_create(&label("what", what)).clone();
        Self {
            modules: Modules::new(&config, meters),
            perf_maps: PerfMaps::new(config.perf_maps_open_max, config.processes_max, meters),
            present: Present::new(config.clone()),
            config,
            procfs,
            processes: FxHashMap::default(),
            announced: FxHashSet::default(),
            to_heal: Vec::new(),
            ended: VecDeque::new(),
            total: Total::default(),
            last_number: 0,
            meters: TrackerMeters {
                processes: meters
                    .gauge("profiler_processes", "Processes that are known, recently ended ones among them"),
                over_mappings_max: over_max("mappings"),
                over_processes_max: over_max("processes"),
                over_ended_max: over_max("ended processes"),
                unread: meters.counter(
                    "profiler_processes_unread",
                    "Facts of processes that were there and could not be read",
                ),
            },
        }
    }

    /// What runs already, as events to apply. To be called when events are recorded already, so that nothing
    /// falls between the two.
    pub fn snapshot(&mut self) -> Vec<ProcessEvent> {
        let Ok(pids) = self.procfs.pids().inspect_err(|_| _ = self.meters.unread.inc()) else {
            return Vec::new();
        };
        self.announced = pids.iter().copied().map(Pid).collect();
        let found: Vec<ProcessEvent> = pids.into_iter().filter_map(|pid| self.found(Pid(pid))).collect();
        found.iter().for_each(|event| self.present.take(event));
        found
    }

    /// One process as it is now, as an event to apply; nothing if there is none.
    pub fn look_at(&mut self, pid: Pid) -> Option<ProcessEvent> {
        let found = self.found(pid)?;
        self.present.take(&found);
        Some(found)
    }

    /// After records were lost: the end of what does not run any more, as events to apply. What runs is read by
    /// [`Self::heal_until`], from here on.
    pub fn heal(&mut self) -> Vec<ProcessEvent> {
        let time = MonoNs::now();
        let Ok(pids) = self.procfs.pids().inspect_err(|_| _ = self.meters.unread.inc()) else {
            return Vec::new(); // so nothing is known to be over
        };
        self.to_heal = pids.into_iter().map(Pid).collect();
        self.announced = self.to_heal.iter().copied().collect();
        let is_over =
            |(pid, process): &(&Pid, &Process)| process.ended.is_none() && !self.announced.contains(pid);
        let over = self.processes.iter().filter(is_over);
        let events: Vec<_> =
            over.map(|(&pid, _)| ProcessEvent { time, pid, change: ProcessChange::Exited }).collect();
        events.iter().for_each(|event| self.present.take(event));
        events
    }

    /// What runs, as events to apply: one process after the other, until it is that late. Of ten thousand all take seconds.
    pub fn heal_until(&mut self, deadline: MonoNs) -> Vec<ProcessEvent> {
        let mut events = Vec::new();
        while let Some(pid) = self.to_heal.pop() {
            events.extend(self.look_at(pid));
            if MonoNs::now() >= deadline {
                break;
            }
        }
        events
    }

    /// Whether there are processes yet that [`Self::heal_until`] has to read.
    pub fn is_healing(&self) -> bool {
        !self.to_heal.is_empty()
    }

    /// Holds on to what the process of `event` would take with it. To be called at once, in any order. A mapping
    /// of a process that nothing is known of becomes all that `/proc` says of it.
    pub fn pin(&mut self, event: &mut ProcessEvent) {
        let ProcessEvent { time, pid, change } = event;
        match change {
            ProcessChange::Found(_) | ProcessChange::Forked { .. } => {
                self.announced.insert(*pid);
            }
            ProcessChange::Executed { cgroup, .. } => {
                self.announced.insert(*pid);
                self.perf_maps.forget(*pid);
                if cgroup.is_none() {
                    *cgroup = self.cgroup(*pid);
                }
            }
            ProcessChange::Mapped(mapping) => {
                if !self.announced.contains(pid)
                    && let Some(found) = self.found(*pid)
                {
                    self.announced.insert(*pid);
                    event.change = found.change;
                } else if mapping.module.is_none() {
                    mapping.module = self.modules.pin(&self.procfs, pid.0, mapping, None, *time);
                    if mapping.module.is_none() {
                        self.perf_maps.look(&self.procfs, *pid, *time, || self.modules.fresh_id());
                    }
                }
            }
            ProcessChange::Exited => {
                self.announced.remove(pid);
            }
            ProcessChange::Renamed { .. } => {}
        }
        self.present.take(event);
    }

    /// What is mapped now, as far as [`Self::pin`], [`Self::snapshot`] and [`Self::heal`] have heard.
    pub fn present(&mut self) -> &mut Present {
        &mut self.present
    }

    /// Takes `event` for granted: what is asked from now on is of the moment after it.
    pub fn apply(&mut self, event: ProcessEvent) {
        let ProcessEvent { time, pid, change } = event;
        match change {
            ProcessChange::Found(facts) => self.found_applied(pid, *facts),
            ProcessChange::Forked { parent } => self.forked(time, pid, parent),
            ProcessChange::Executed { comm, cgroup } => self.executed(time, pid, comm, cgroup),
            ProcessChange::Renamed { tid, comm } => {
                // Only the main thread's name is the process's.
                if tid.0 == pid.0 {
                    self.renamed(pid, comm);
                }
            }
            ProcessChange::Mapped(mapping) => self.mapped(time, pid, &mapping),
            ProcessChange::Exited => self.exited(time, pid),
        }
        self.modules.sweep(time);
        self.show_processes();
    }

    /// The process, which has just executed a program, is to map `mapping` first: whose program it is is known before.
    pub fn begins(&mut self, pid: Pid, mapping: &Mapping) {
        if let Some(mut process) = self.processes.remove(&pid) {
            self.maybe_begun(&mut process, mapping);
            self.insert(process);
        }
    }

    /// The process that has this pid now, or had it last.
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// Looks, now and then, whether the process has written down by now what code it made. To be called with each sample.
    pub fn look_for_perf_map(&mut self, pid: Pid, now: MonoNs) {
        let Some(process) = self.processes.get(&pid) else { return };
        if process.ended.is_some() || !process.mappings.has_anonymous() {
            return;
        }
        self.perf_maps.look(&self.procfs, pid, now, || self.modules.fresh_id());
        self.take_perf_map(pid);
    }

    /// The process has the perf map that was found for it.
    fn take_perf_map(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid)
            && let Some(map) = self.perf_maps.of(pid)
            && process.perf_map.as_ref().is_none_or(|known| !Arc::ptr_eq(known, map))
        {
            process.perf_map = Some(Arc::clone(map));
            self.last_number += 1;
            process.generation = self.last_number;
        }
    }

    /// The file that an address of a process lies in, and where in it.
    pub fn settle(&self, pid: Pid, address: UserAddr) -> Result<(Arc<Module>, FileOffset), Reason> {
        let process = self.processes.get(&pid).ok_or(Reason::UnknownProcess)?;
        process.settle(address).map(|(module, offset)| (Arc::clone(module), offset))
    }

    /// Everything `/proc` says of a process, its files pinned; `None` if it is gone or over.
    fn found(&mut self, pid: Pid) -> Option<ProcessEvent> {
        // Before the first byte is read: what happens from here on comes as an event of its own.
        let time = MonoNs::now();
        let stat = self.known(self.procfs.stat(pid.0))?;
        if stat.zombie {
            return None;
        }
        let executable = if stat.kernel_thread { None } else { self.known(self.procfs.executable(pid.0)) };
        let mappings = if stat.kernel_thread { Vec::new() } else { self.mappings(pid, time) };
        let facts = ProcessFacts {
            started: stat.started,
            comm: Comm::new(&stat.comm),
            cgroup: self.cgroup(pid),
            executable: executable.map(Arc::from),
            kernel_thread: stat.kernel_thread,
            mappings,
        };
        Some(ProcessEvent { time, pid, change: ProcessChange::Found(Box::new(facts)) })
    }

    fn mappings(&mut self, pid: Pid, now: MonoNs) -> Vec<Mapping> {
        let maps = self.procfs.executable_maps(pid.0, self.config.mappings_max);
        let maps = self.known(maps).unwrap_or_default();
        if maps.truncated {
            self.meters.over_mappings_max.inc();
        }
        let mut mappings = Vec::with_capacity(maps.executable.len());
        for line in maps.executable {
            let mut mapping = Mapping {
                start: UserAddr(line.start),
                end: UserAddr(line.end),
                file_offset: line.file_offset,
                path: line.path.into(),
                build_id: None,
                module: None,
            };
            mapping.module = self.modules.pin(&self.procfs, pid.0, &mapping, Some(line.inode), now);
            if let Some(module) = &mapping.module
                && module.path == mapping.path
            {
                mapping.path = Arc::clone(&module.path);
            }
            mappings.push(mapping);
        }
        mappings
    }

    /// Contents of the process's cgroup file, in the piece of memory where they are already if they are known.
    fn cgroup(&self, pid: Pid) -> Option<Arc<str>> {
        let text = self.known(self.procfs.cgroup(pid.0))?;
        match self.processes.get(&pid).and_then(|process| process.cgroup.as_ref()) {
            Some(before) if **before == *text => Some(Arc::clone(before)),
            _ => Some(text.into()),
        }
    }

    /// What was read. That a process is gone is no surprise; anything else is counted.
    fn known<T>(&self, read: Result<T, Unread>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(Unread::Gone) => None,
            Err(Unread::Refused { .. } | Unread::Malformed { .. }) => {
                self.meters.unread.inc();
                None
            }
        }
    }

    fn found_applied(&mut self, pid: Pid, facts: ProcessFacts) {
        let ProcessFacts { started, comm, cgroup, executable, kernel_thread, mappings } = facts;
        let before = self.processes.remove(&pid);
        let same = before
            .filter(|before| !before.start_known || before.started.0.abs_diff(started.0) < SAME_START_NS);
        let mut process = self.blank(pid, started);
        process.start_known = true;
        process.comm = comm;
        process.cgroup = cgroup;
        process.executable = executable;
        process.kernel_thread = kernel_thread;
        for mut mapping in mappings {
            // What could not be opened now may have been when it was new.
            if mapping.module.as_ref().is_none_or(|module| module.identity.is_none())
                && let Some((module, offset)) = same.as_ref().and_then(|same| same.settle(mapping.start).ok())
                && module.identity.is_some()
                && module.path == mapping.path
                && offset.0 == mapping.file_offset
            {
                mapping.module = Some(Arc::clone(module));
            }
            self.add(&mut process, &mapping);
        }
        self.insert(process);
    }

    fn forked(&mut self, time: MonoNs, pid: Pid, parent: Pid) {
        self.take_perf_map(parent);
        // The child is the parent, but for its pid: even its numbers, since addresses and labels mean the same. So do the
        // names of code that the parent made, until the child writes down its own.
        let mut child = match self.processes.get(&parent) {
            Some(parent) => parent.clone(),
            None => self.blank(pid, time),
        };
        child.pid = pid;
        child.started = time;
        child.ended = None;
        self.insert(child);
    }

    fn executed(&mut self, time: MonoNs, pid: Pid, comm: Comm, cgroup: Option<Arc<str>>) {
        let mut process = self.take(time, pid);
        process.comm = comm;
        process.cgroup = cgroup.or(process.cgroup);
        process.kernel_thread = false;
        process.mappings = Arc::new(Mappings::new(&self.total));
        process.perf_map = None;
        // All that it runs from here on will be seen, and first of all its executable. Until then it is known by
        // the old one, unless it is known what it is about to map ([`Self::begins`]).
        process.start_known = true;
        process.executing = true;
        self.number_facts(&mut process);
        self.insert(process);
    }

    fn renamed(&mut self, pid: Pid, comm: Comm) {
        let number = self.last_number + 1;
        if let Some(process) = self.processes.get_mut(&pid)
            && process.comm != comm
        {
            process.comm = comm;
            process.facts = number;
            process.generation = number;
            self.last_number = number;
        }
    }

    fn mapped(&mut self, time: MonoNs, pid: Pid, mapping: &Mapping) {
        let mut process = self.take(time, pid);
        self.maybe_begun(&mut process, mapping);
        self.add(&mut process, mapping);
        self.insert(process);
    }

    /// After an exec, the first file that is mapped is the executable.
    fn maybe_begun(&mut self, process: &mut Process, mapping: &Mapping) {
        if process.executing && is_file(&mapping.path) {
            process.executing = false;
            process.executable = Some(Arc::clone(&mapping.path));
            self.number_facts(process);
        }
    }

    fn exited(&mut self, time: MonoNs, pid: Pid) {
        self.take_perf_map(pid);
        self.perf_maps.forget(pid);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.ended = Some(time);
        self.ended.push_back((pid, time));
        self.forget_ended();
    }

    /// Forgets the process that ended first if there are too many. While its pid is taken, other threads than the
    /// main one may run on, so it is put off, within a bound that zombies cannot break.
    fn forget_ended(&mut self) {
        if self.ended.len() <= self.config.ended_max {
            return;
        }
        let Some((pid, time)) = self.ended.pop_front() else { return };
        // It may have come back to life, or another one may have its pid.
        if self.processes.get(&pid).is_none_or(|process| process.ended != Some(time)) {
            return;
        }
        if self.procfs.is_there(pid.0) {
            if self.ended.len() < 2 * self.config.ended_max {
                self.ended.push_back((pid, time));
                return;
            }
            self.meters.over_ended_max.inc();
        }
        self.processes.remove(&pid);
    }

    /// The process with this pid, for a change; one that we never heard of begins here. Whoever executes or maps
    /// is alive: when another thread than the main one executes a program, the main one ends first.
    fn take(&mut self, time: MonoNs, pid: Pid) -> Process {
        let mut process = self.processes.remove(&pid).unwrap_or_else(|| self.blank(pid, time));
        process.ended = None;
        process
    }

    fn insert(&mut self, process: Process) {
        if self.processes.len() >= self.config.processes_max && !self.processes.contains_key(&process.pid) {
            self.meters.over_processes_max.inc();
            return;
        }
        self.processes.insert(process.pid, process);
    }

    fn add(&mut self, process: &mut Process, mapping: &Mapping) {
        let Config { mappings_max, mappings_total_max, .. } = self.config;
        match Mappings::add(&mut process.mappings, mapping, mappings_max, mappings_total_max) {
            Added::Known => return,
            Added::Changed => {}
            Added::Full => _ = self.meters.over_mappings_max.inc(),
        }
        self.last_number += 1;
        process.generation = self.last_number;
    }

    fn number_facts(&mut self, process: &mut Process) {
        self.last_number += 1;
        process.facts = self.last_number;
        process.generation = self.last_number;
    }

    /// A process of which nothing is known but that it is there.
    fn blank(&mut self, pid: Pid, started: MonoNs) -> Process {
        self.last_number += 1;
        Process {
            pid,
            started,
            comm: Comm::new(b""),
            executable: None,
            cgroup: None,
            kernel_thread: false,
            facts: self.last_number,
            generation: self.last_number,
            mappings: Arc::new(Mappings::new(&self.total)),
            perf_map: None,
            executing: false,
            start_known: false,
            ended: None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer processes than 2^52 can run")]
    fn show_processes(&self) {
        self.meters.processes.set(self.processes.len() as f64);
    }
}
