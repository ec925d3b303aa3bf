//! Hand-made events, applied in time order, and what the tracker makes of them. No process is asked.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Config, Process, Tracker};
use crate::meters::Meters;
use crate::model::{
    Comm, Mapping, Module, ModuleKind, Pid, ProcessChange, ProcessEvent, ProcessFacts, Reason, Tid, UserAddr,
};
use crate::procfs::Procfs;
use crate::time::MonoNs;

struct Replay {
    tracker: Tracker,
    meters: Meters,
    now: MonoNs,
    modules: Vec<Arc<Module>>,
}

fn replay(config: Config) -> Replay {
    let meters = Meters::default();
    let tracker = Tracker::new(config, Procfs::new("/nonexistent"), &meters);
    Replay { tracker, meters, now: MonoNs(1_000_000_000_000), modules: Vec::new() }
}

impl Replay {
    fn apply(&mut self, pid: u32, change: ProcessChange) -> &mut Self {
        self.now = self.now.plus(Duration::from_millis(1));
        self.tracker.apply(ProcessEvent { time: self.now, pid: Pid(pid), change });
        self
    }

    /// The module of `path`.
    fn module(&mut self, path: &str) -> Arc<Module> {
        if let Some(module) = self.modules.iter().find(|module| *module.path == *path.as_bytes()) {
            return Arc::clone(module);
        }
        let module = Arc::new(Module {
            id: u32::try_from(self.modules.len()).unwrap(),
            kind: ModuleKind::File,
            path: path.as_bytes().into(),
            build_id: None,
            identity: None,
            file: None,
            root: None,
        });
        self.modules.push(Arc::clone(&module));
        module
    }

    fn mapping(&mut self, path: &str, start: u64, end: u64) -> Mapping {
        let module = (path.starts_with('/') && path != "//anon").then(|| self.module(path));
        Mapping {
            start: UserAddr(start),
            end: UserAddr(end),
            file_offset: 0,
            path: path.as_bytes().into(),
            build_id: None,
            module,
        }
    }

    fn map(&mut self, pid: u32, path: &str, start: u64, end: u64) -> &mut Self {
        let mapping = self.mapping(path, start, end);
        self.apply(pid, ProcessChange::Mapped(Box::new(mapping)))
    }

    fn fork(&mut self, parent: u32, pid: u32) -> &mut Self {
        self.apply(pid, ProcessChange::Forked { parent: Pid(parent) })
    }

    fn exec(&mut self, pid: u32, comm: &str, cgroup: Option<&str>) -> &mut Self {
        let (comm, cgroup) = (Comm::new(comm.as_bytes()), cgroup.map(Arc::from));
        self.apply(pid, ProcessChange::Executed { comm, cgroup })
    }

    fn exit(&mut self, pid: u32) -> &mut Self {
        self.apply(pid, ProcessChange::Exited)
    }

    fn find(&mut self, pid: u32, started_ms: u64, paths: &[(&str, u64, u64)]) -> &mut Self {
        let mappings = paths.iter().map(|&(path, start, end)| self.mapping(path, start, end)).collect();
        let facts = ProcessFacts {
            started: MonoNs(started_ms * 1_000_000),
            comm: Comm::new(b"found"),
            cgroup: Some("0::/".into()),
            executable: Some(b"/bin/found"[..].into()),
            kernel_thread: false,
            mappings,
        };
        self.apply(pid, ProcessChange::Found(Box::new(facts)))
    }

    fn process(&self, pid: u32) -> &Process {
        self.tracker.process(Pid(pid)).unwrap()
    }

    /// `pid` has `address` in `expected`: "path+offset", or a reason.
    #[track_caller]
    fn check(&mut self, pid: u32, address: u64, expected: &str) -> &mut Self {
        let seen = match self.tracker.settle(Pid(pid), UserAddr(address)) {
            Ok((module, offset)) => format!("{}+{}", String::from_utf8_lossy(&module.path), offset.0),
            Err(reason) => reason.to_string(),
        };
        assert_eq!(seen, expected, "address {address} of process {pid}");
        self
    }

    #[track_caller]
    fn check_meter(&self, line: &str) {
        let page = self.meters.render();
        assert!(page.lines().any(|seen| seen == line), "{line} is not in\n{page}");
    }
}

#[test]
fn a_process_that_nobody_heard_of_is_unknown() {
    replay(Config::default()).check(1, 5, Reason::UnknownProcess.as_str());
}

#[test]
fn a_fork_sees_what_its_parent_maps_and_each_goes_on_alone() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).fork(1, 2).map(1, "/b", 20, 30).map(2, "/c", 20, 30);
    r.check(1, 5, "/a+5").check(2, 5, "/a+5").check(1, 25, "/b+5").check(2, 25, "/c+5");
}

#[test]
fn a_fork_means_the_same_as_its_parent_until_one_changes() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).fork(1, 2);
    assert_eq!(r.process(1).generation, r.process(2).generation);
    r.map(2, "/b", 20, 30);
    assert_ne!(r.process(1).generation, r.process(2).generation);
    assert_eq!(r.process(1).facts, r.process(2).facts);
}

#[test]
fn an_exec_clears_the_mappings_and_the_first_file_is_the_executable() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).fork(1, 2).exec(2, "new", Some("0::/x"));
    assert_eq!(r.process(2).executable.as_deref(), Some(&b"/bin/found"[..]), "the old one until then");
    r.map(2, "[vdso]", 90, 95).map(2, "/bin/new", 0, 10).map(2, "/lib/ld.so", 20, 30);
    r.check(2, 5, "/bin/new+5").check(1, 5, "/a+5");
    let process = r.process(2);
    assert_eq!(process.executable.as_deref(), Some(&b"/bin/new"[..]));
    assert_eq!(process.comm, Comm::new(b"new"));
    assert_eq!(process.cgroup.as_deref(), Some("0::/x"));
}

#[test]
fn what_an_exec_is_about_to_map_is_the_executable_before_it_is_mapped() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).exec(1, "new", None);
    let (anonymous, file) = (r.mapping("//anon", 0, 10), r.mapping("/bin/new", 0, 10));
    r.tracker.begins(Pid(1), &anonymous);
    assert_eq!(r.process(1).executable.as_deref(), Some(&b"/bin/found"[..]));
    r.tracker.begins(Pid(1), &file);
    assert_eq!(r.process(1).executable.as_deref(), Some(&b"/bin/new"[..]));
    r.check(1, 5, Reason::NoMapping.as_str()).map(1, "/lib/ld.so", 0, 10);
    assert_eq!(r.process(1).executable.as_deref(), Some(&b"/bin/new"[..]));
}

#[test]
fn a_cgroup_that_could_not_be_read_is_that_of_the_parent() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[]).fork(1, 2).exec(2, "new", None);
    assert_eq!(r.process(2).cgroup.as_deref(), Some("0::/"));
}

#[test]
fn a_fork_without_exec_keeps_name_and_executable() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[]).fork(1, 2);
    assert_eq!(r.process(2).comm, Comm::new(b"found"));
    assert_eq!(r.process(2).executable.as_deref(), Some(&b"/bin/found"[..]));
}

#[test]
fn samples_after_the_exit_are_still_settled() {
    replay(Config::default()).find(1, 0, &[("/a", 0, 10)]).exit(1).check(1, 5, "/a+5");
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).find(3, 0, &[("/c", 0, 10)]).fork(1, 2).map(2, "/b", 20, 30).exit(2);
    r.fork(3, 2).check(2, 5, "/c+5").check(2, 25, "no mapping");
}

#[test]
fn the_end_of_a_process_does_not_end_the_next_one_with_its_pid() {
    let mut r = replay(Config { ended_max: 0, ..Config::default() });
    r.find(1, 0, &[("/a", 0, 10)]).exit(1).find(2, 0, &[("/a", 0, 10)]).exit(2);
    assert!(r.tracker.process(Pid(1)).is_none() && r.tracker.process(Pid(2)).is_none());
    let mut r = replay(Config { ended_max: 1, ..Config::default() });
    r.find(1, 0, &[("/a", 0, 10)]).exit(1).find(1, 5_000, &[("/b", 0, 10)]).find(2, 0, &[]).exit(2);
    r.check(1, 5, "/b+5");
}

#[test]
fn found_with_another_start_is_another_process() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).find(1, 5_000, &[("/b", 20, 30)]).check(1, 5, "no mapping");
    assert_eq!(r.process(1).started, MonoNs(5_000_000_000));
}

#[test]
fn found_again_it_is_what_was_found() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10), ("/gone", 50, 60)]).find(1, 0, &[("/a", 0, 10), ("/b", 20, 30)]);
    r.check(1, 5, "/a+5").check(1, 25, "/b+5").check(1, 55, "no mapping");
}

#[test]
fn a_process_heard_of_late_takes_what_is_found_of_it() {
    let mut r = replay(Config::default());
    r.map(1, "/b", 20, 30).check(1, 25, "/b+5").check(1, 5, "no mapping");
    r.find(1, 0, &[("/a", 0, 10), ("/b", 20, 30)]).check(1, 5, "/a+5").check(1, 25, "/b+5");
}

#[test]
fn a_fork_of_a_process_that_nobody_heard_of_is_unknown() {
    replay(Config::default()).fork(7, 8).check(8, 5, "process unknown");
}

#[test]
fn another_thread_may_execute_a_program_though_the_main_one_ends_first() {
    let mut r = replay(Config { ended_max: 1, ..Config::default() });
    r.find(1, 0, &[("/a", 0, 10)]).exit(1).exec(1, "new", None).map(1, "/bin/new", 0, 10);
    r.find(2, 0, &[]).exit(2).find(3, 0, &[]).exit(3).check(1, 5, "/bin/new+5");
    assert!(r.tracker.process(Pid(2)).is_none());
}

#[test]
fn ended_processes_are_forgotten_oldest_first() {
    let mut r = replay(Config { ended_max: 3, ..Config::default() });
    for pid in 1..=5 {
        r.find(pid, 0, &[]).exit(pid);
    }
    let known = (1..=5).filter(|&pid| r.tracker.process(Pid(pid)).is_some()).collect::<Vec<_>>();
    assert_eq!(known, [3, 4, 5]);
}

#[test]
fn a_main_thread_that_ends_does_not_end_the_others() {
    let folder = tempfile::tempdir().unwrap();
    for pid in 1..=5 {
        std::fs::create_dir(folder.path().join(pid.to_string())).unwrap();
    }
    let mut r = replay(Config { ended_max: 3, ..Config::default() });
    r.tracker =
        Tracker::new(Config { ended_max: 3, ..Config::default() }, Procfs::new(folder.path()), &r.meters);
    for pid in 1..=5 {
        r.find(pid, 0, &[]).exit(pid);
    }
    assert!((1..=5).all(|pid| r.tracker.process(Pid(pid)).is_some()));
    for pid in 100..=110 {
        r.find(pid, 0, &[]).exit(pid);
    }
    assert!(
        (1..=5).filter(|&pid| r.tracker.process(Pid(pid)).is_some()).count() < 5,
        "zombies break no bound"
    );
}

#[test]
fn only_the_main_threads_name_is_the_processes() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[]);
    let facts = r.process(1).facts;
    r.apply(1, ProcessChange::Renamed { tid: Tid(5), comm: Comm::new(b"worker") });
    assert_eq!((r.process(1).comm, r.process(1).facts), (Comm::new(b"found"), facts));
    r.apply(1, ProcessChange::Renamed { tid: Tid(1), comm: Comm::new(b"\xff\n") });
    assert_eq!(r.process(1).comm, Comm::new(b"\xff\n"));
    assert_ne!(r.process(1).facts, facts);
}

#[test]
fn memory_without_a_file_is_a_reason() {
    replay(Config::default()).find(1, 0, &[]).map(1, "//anon", 0, 10).check(1, 5, "anonymous code");
}

#[test]
fn what_changes_nothing_keeps_the_generation() {
    let mut r = replay(Config::default());
    r.find(1, 0, &[("/a", 0, 10)]).map(1, "//anon", 20, 30);
    let generation = r.process(1).generation;
    r.map(1, "//anon", 20, 30).map(1, "//anon", 22, 24).map(1, "/a", 0, 10);
    assert_eq!(r.process(1).generation, generation);
    r.map(1, "//anon", 30, 31);
    assert_ne!(r.process(1).generation, generation);
}

#[test]
fn a_process_that_maps_a_hundred_thousand_pieces_costs_a_counter() {
    let begun = Instant::now();
    let mut r = replay(Config::default());
    r.find(1, 0, &[]);
    for i in 0..100_000 {
        r.map(1, "/a", i * 20, i * 20 + 10);
    }
    r.check(1, 5, "/a+5").check(1, 99_999 * 20, "no mapping");
    r.check_meter(r#"profiler_processes_over_max_total{what="mappings"} 34464"#);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn forks_that_each_change_a_large_table_share_one_bound() {
    let mut r = replay(Config { mappings_total_max: 1000, ..Config::default() });
    r.find(1, 0, &[]);
    for i in 0..400 {
        r.map(1, "/a", i * 20, i * 20 + 10);
    }
    for pid in 2..50 {
        r.fork(1, pid).map(pid, "/b", 100_000, 100_010);
    }
    r.check(1, 5, "/a+5").check(2, 100_005, "/b+5").check(49, 100_005, "no mapping").check(
        49,
        5,
        "no mapping",
    );
}

#[test]
fn too_many_processes_are_unknown_and_counted() {
    let mut r = replay(Config { processes_max: 3, ..Config::default() });
    for pid in 1..=5 {
        r.find(pid, 0, &[]);
    }
    r.find(1, 0, &[("/a", 0, 10)]).check(1, 5, "/a+5").check(5, 5, "process unknown");
    r.check_meter(r#"profiler_processes_over_max_total{what="processes"} 2"#);
}

#[test]
fn events_of_nobody_are_no_trouble() {
    let mut r = replay(Config::default());
    r.exit(9).apply(9, ProcessChange::Renamed { tid: Tid(9), comm: Comm::new(b"x") });
    assert!(r.tracker.process(Pid(9)).is_none());
    r.exec(9, "x", None).exit(9).exit(9);
    assert_eq!(r.process(9).comm, Comm::new(b"x"));
}
