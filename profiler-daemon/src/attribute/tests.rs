//! Hand-made samples in hand-made processes, and the folded text they come to.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use super::*;
use crate::model::{
    Comm, Cpu, FileOffset, Mapping, Module, ModuleKind, Pid, ProcessChange, ProcessEvent, ProcessFacts, Tid,
    Weight,
};
use crate::procfs::Procfs;
use crate::time::{MonoNs, WallNs};

const WINDOW: Window = Window { start: WallNs(0), duration_ns: 1_000_000_000 };
const KIND: SampleKind = SampleKind::CpuTime { period_ns: 10_000_000 };

struct Scene {
    tracker: Tracker,
    attributor: Attributor,
    meters: Meters,
    now: MonoNs,
}

/// Process 1 is `/bin/app`, mapped at 1000..2000, with `/lib/c.so` at 5000..6000 from offset 100 and compiled code
/// at 8000..9000; process 2 is a kernel thread.
fn scene(config: &Config) -> Scene {
    let meters = Meters::default();
    let tracker = Tracker::new(crate::processes::Config::default(), Procfs::new("/nonexistent"), &meters);
    let attributor = Attributor::new(config, &meters);
    let mut scene = Scene { tracker, attributor, meters, now: MonoNs(0) };
    scene.find(
        1,
        "/bin/app",
        false,
        vec![
            mapping(1, "/bin/app", 1000, 0),
            mapping(2, "/lib/c.so", 5000, 100),
            mapping(0, "//anon", 8000, 0),
        ],
    );
    scene.find(2, "", true, vec![]);
    scene
}

fn config() -> Config {
    Config { hostname: "host".into(), ..Config::default() }
}

/// A thousand bytes of `path` at `start`; id zero is memory without a file.
fn mapping(id: u32, path: &str, start: u64, file_offset: u64) -> Mapping {
    let path: Arc<[u8]> = path.as_bytes().into();
    let module = Module {
        id,
        kind: ModuleKind::File,
        path: Arc::clone(&path),
        build_id: None,
        identity: None,
        file: None,
        root: None,
    };
    let (start, end) = (UserAddr(start), UserAddr(start + 1000));
    Mapping { start, end, file_offset, path, build_id: None, module: (id > 0).then(|| Arc::new(module)) }
}

fn sample(pid: u32, kernel: &[u64], user: &[u64], ended: End) -> RawSample {
    RawSample {
        stack: None,
        time: MonoNs(7),
        cpu: Cpu(0),
        task: Task { pid: Pid(pid), tid: Tid(pid), comm: Comm::new(b"thread") },
        kernel: kernel.iter().copied().map(KernelAddr).collect(),
        user: user.iter().copied().map(UserAddr).collect(),
        ended,
        weight: Weight(1),
    }
}

use crate::model::Task;

fn text(frames: &[Frame]) -> String {
    let texts = frames.iter().map(|frame| match frame {
        Frame::Kernel(KernelAddr(at)) => format!("k{at}"),
        Frame::User { module, offset: FileOffset(offset) } => format!("{}+{offset}", module.display_name()),
        Frame::Missing(reason) => format!("[{reason}]"),
    });
    texts.collect::<Vec<_>>().join(" ")
}

impl Scene {
    fn apply(&mut self, pid: u32, change: ProcessChange) {
        self.now = self.now.plus(Duration::from_millis(1));
        self.tracker.apply(ProcessEvent { time: self.now, pid: Pid(pid), change });
    }

    fn find(&mut self, pid: u32, executable: &str, kernel_thread: bool, mappings: Vec<Mapping>) {
        let facts = ProcessFacts {
            started: MonoNs(0),
            comm: Comm::new(b"main"),
            cgroup: Some("0::/".into()),
            executable: (!executable.is_empty()).then(|| executable.as_bytes().into()),
            kernel_thread,
            mappings,
        };
        self.apply(pid, ProcessChange::Found(Box::new(facts)));
    }

    fn gather(&mut self, sample: &RawSample) -> Room {
        self.attributor.gather(sample, self.tracker.process(sample.task.pid))
    }

    /// The gathered traces: "service: frames weight", sorted.
    fn take(&mut self) -> Vec<String> {
        let batch = self.attributor.take(WINDOW, KIND, Lost::default());
        let lines = batch.traces.iter().map(|trace| {
            let service = trace.labels.get("service_name").unwrap();
            format!("{service}: {} {}", text(&trace.frames), trace.weight.0)
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }
}

#[track_caller]
fn check(sample: &RawSample, expected: &str) {
    let mut scene = scene(&config());
    let trace = scene.attributor.attribute(sample, &scene.tracker).unwrap();
    assert_eq!(text(&trace.frames), expected);
    assert_eq!(trace.weight, sample.weight);
}

#[test]
fn the_first_address_is_exact_and_the_others_are_inside_the_call() {
    check(&sample(1, &[], &[1010, 1020, 5030], End::Root), "app+10 app+19 c.so+129");
}

#[test]
fn each_part_of_a_stack_has_an_exact_first_address() {
    check(&sample(1, &[70, 80], &[1010, 1020], End::Root), "k70 k79 app+10 app+19");
}

#[test]
fn a_call_at_the_end_of_a_mapping_returns_to_the_next_but_belongs_to_the_first() {
    check(&sample(1, &[], &[1010, 2000], End::Root), "app+10 app+999");
}

#[test]
fn what_lies_nowhere_is_a_frame_with_a_reason() {
    check(&sample(1, &[], &[1010, 3000, 1020], End::Root), "app+10 [no mapping] app+19");
}

#[test]
fn compiled_code_is_one_frame_however_deep() {
    check(&sample(1, &[], &[8010, 8020, 8030, 1020], End::Root), "[anonymous code] app+19");
}

#[test]
fn different_reasons_stay_apart() {
    check(&sample(1, &[], &[8010, 3000], End::Root), "[anonymous code] [no mapping]");
}

#[test]
fn a_walk_that_was_cut_says_why_at_the_root() {
    check(&sample(1, &[], &[1010], End::Fault), "app+10 [stack unreadable]");
    check(&sample(1, &[], &[1010], End::Truncated), "app+10 [stack too deep]");
    check(&sample(1, &[], &[1010, 3000], End::NoMapping), "app+10 [no mapping]");
    check(&sample(1, &[], &[1010], End::Invalid), "app+10 [no unwind rule]");
    check(&sample(1, &[70], &[1010, 1020], End::NoFrame), "k70 app+10 app+19 [no frame pointer]");
    check(&sample(1, &[], &[], End::Fault), "[stack unreadable]");
}

#[test]
fn every_end_of_a_walk_but_a_root_is_a_reason() {
    for (end, name) in ENDS {
        let mut scene = scene(&config());
        let trace = scene.attributor.attribute(&sample(1, &[], &[1010], end), &scene.tracker).unwrap();
        let is_cut = matches!(trace.frames.last(), Some(Frame::Missing(_)));
        assert_eq!(is_cut, !matches!(end, End::Root | End::NoUser), "{name}");
    }
}

#[test]
fn a_thread_of_the_kernel_is_whole() {
    check(&sample(2, &[70, 80], &[], End::NoUser), "k70 k79");
    // One that works for a process too.
    check(&sample(1, &[70, 80], &[], End::NoUser), "k70 k79");
}

#[test]
fn a_process_that_nobody_heard_of_keeps_kernel_frames_and_weight() {
    check(&sample(9, &[70], &[1010, 1020], End::Root), "k70 [process unknown]");
}

#[test]
fn a_stack_without_frames_is_one_frame() {
    check(&sample(1, &[], &[], End::NoUser), "[stack unreadable]");
}

#[test]
fn addresses_at_the_edges_are_no_special_case() {
    check(&sample(1, &[0, 0], &[0, 0, u64::MAX], End::Root), "k0 k0 [no mapping]");
}

#[test]
fn labels_name_service_and_host() {
    let mut scene = scene(&config());
    let trace = scene.attributor.attribute(&sample(1, &[], &[1010], End::Root), &scene.tracker).unwrap();
    assert_eq!(trace.labels.iter().collect::<Vec<_>>(), [("hostname", "host"), ("service_name", "app")]);
}

#[test]
fn equal_samples_are_one_trace() {
    let mut scene = scene(&config());
    for _ in 0..3 {
        let _ = scene.gather(&sample(1, &[70], &[1010, 1020], End::Root));
    }
    let _ = scene.gather(&sample(1, &[70], &[1010, 1021], End::Root));
    assert_eq!(scene.take(), ["app: k70 app+10 app+19 3", "app: k70 app+10 app+20 1"]);
    assert_eq!(scene.take(), Vec::<String>::new());
}

#[test]
fn kernel_and_user_addresses_are_not_taken_for_each_other() {
    let mut scene = scene(&config());
    let _ = scene.gather(&sample(1, &[1010], &[1020], End::Root));
    let _ = scene.gather(&sample(1, &[], &[1010, 1020], End::Root));
    let _ = scene.gather(&sample(1, &[1010, 1020], &[], End::Root));
    assert_eq!(scene.take().len(), 3);
}

#[test]
fn the_same_stack_that_ended_otherwise_is_another() {
    let mut scene = scene(&config());
    let _ = scene.gather(&sample(1, &[], &[1010], End::Root));
    let _ = scene.gather(&sample(1, &[], &[1010], End::Fault));
    let _ = scene.gather(&sample(1, &[], &[1010], End::NoFrame));
    let expected = ["app: app+10 1", "app: app+10 [no frame pointer] 1", "app: app+10 [stack unreadable] 1"];
    assert_eq!(scene.take(), expected);
}

#[test]
fn the_same_address_after_an_exec_means_something_else() {
    let mut scene = scene(&config());
    let same = sample(1, &[], &[1010], End::Root);
    let _ = scene.gather(&same);
    scene.apply(1, ProcessChange::Executed { comm: Comm::new(b"new"), cgroup: None });
    scene.apply(1, ProcessChange::Mapped(Box::new(mapping(3, "/bin/new", 1000, 0))));
    let _ = scene.gather(&same);
    assert_eq!(scene.take(), ["app: app+10 1", "new: new+10 1"]);
}

#[test]
fn the_same_program_elsewhere_in_memory_is_the_same_trace() {
    let mut scene = scene(&config());
    scene.find(3, "/bin/app", false, vec![mapping(1, "/bin/app", 3000, 0)]);
    let _ = scene.gather(&sample(1, &[], &[1010], End::Root));
    let _ = scene.gather(&sample(3, &[], &[3010], End::Root));
    assert_eq!(scene.take(), ["app: app+10 2"]);
}

#[test]
fn the_same_stack_of_another_service_is_another_trace() {
    let mut scene = scene(&config());
    scene.find(3, "/bin/other", false, vec![]);
    let _ = scene.gather(&sample(1, &[70], &[], End::NoUser));
    let _ = scene.gather(&sample(3, &[70], &[], End::NoUser));
    assert_eq!(scene.take(), ["app: k70 1", "other: k70 1"]);
}

#[test]
fn kernel_threads_are_one_service() {
    let mut scene = scene(&config());
    let _ = scene.gather(&sample(2, &[70, 80], &[], End::NoUser));
    assert_eq!(scene.take(), ["kernel: k70 k79 1"]);
}

#[test]
fn threads_merge_unless_tasks_are_to_be_told_apart() {
    for (by_task, traces) in [(false, 1), (true, 3)] {
        let mut scene = scene(&Config { by_task, ..config() });
        let one = sample(1, &[], &[1010], End::Root);
        let mut other = one.clone();
        other.task.tid = Tid(5);
        let mut renamed = one.clone();
        renamed.task.comm = Comm::new(b"worker");
        for sample in [&one, &other, &renamed, &one, &other, &renamed] {
            let _ = scene.gather(sample);
        }
        assert_eq!(scene.take().len(), traces);
    }
}

#[test]
fn unknown_processes_are_known_by_the_name_of_their_thread() {
    let mut scene = scene(&config());
    let one = sample(9, &[70], &[], End::NoUser);
    let mut other = one.clone();
    other.task.comm = Comm::new(b"other");
    for sample in [&one, &other, &one] {
        let _ = scene.gather(sample);
    }
    assert_eq!(scene.take(), ["other: k70 1", "thread: k70 2"]);
}

#[test]
fn a_full_window_says_so_and_loses_nothing() {
    let mut scene = scene(&Config { traces_max: 3, ..config() });
    let rooms = (0..5).map(|i| scene.gather(&sample(1, &[i], &[], End::NoUser))).collect::<Vec<_>>();
    assert_eq!(rooms, [Room::Left, Room::Left, Room::Full, Room::Full, Room::Full]);
    assert_eq!(scene.take().len(), 5);
    assert_eq!(scene.gather(&sample(1, &[9], &[], End::NoUser)), Room::Left);
    assert!(scene.meters.render().contains("profiler_windows_full_total 1"));
}

#[test]
fn a_window_is_full_of_frames_too() {
    let mut scene = scene(&Config { frames_max: 100, ..config() });
    assert_eq!(scene.gather(&sample(1, &[70; 50], &[], End::NoUser)), Room::Left);
    assert_eq!(scene.gather(&sample(1, &[71; 50], &[], End::NoUser)), Room::Full);
}

#[test]
fn weight_in_is_weight_out() {
    let mut scene = scene(&config());
    let mut expected = Weight(0);
    for i in 0..1000_u64 {
        let pid = u32::try_from(i % 11).unwrap();
        let mut sample = sample(pid, &[i % 7], &[1000 + i % 13, 3000, 8000 + i % 3], End::Root);
        sample.weight = Weight(i);
        expected += sample.weight;
        let _ = scene.gather(&sample);
    }
    let batch = scene.attributor.take(WINDOW, KIND, Lost::default());
    assert_eq!(batch.traces.iter().map(|trace| trace.weight).sum::<Weight>(), expected);
}

#[test]
fn what_is_missing_is_counted_by_weight_and_walks_by_their_end() {
    let mut scene = scene(&config());
    let mut missing = sample(1, &[], &[1010, 3000], End::NoFrame);
    missing.weight = Weight(5);
    let _ = scene.gather(&missing);
    let _ = scene.gather(&missing);
    scene.take();
    let page = scene.meters.render();
    for line in [
        r#"profiler_frames_missing_total{reason="no mapping"} 10"#,
        r#"profiler_frames_missing_total{reason="no frame pointer"} 10"#,
        r#"profiler_walks_total{end="no frame pointer"} 2"#,
        r#"profiler_walks_total{end="root"} 0"#,
    ] {
        assert!(page.lines().any(|seen| seen == line), "{line} is not in\n{page}");
    }
}

#[test]
fn samples_after_the_exit_are_attributed_all_the_same() {
    let mut scene = scene(&config());
    scene.apply(1, ProcessChange::Exited);
    let _ = scene.gather(&sample(1, &[], &[1010], End::Root));
    assert_eq!(scene.take(), ["app: app+10 1"]);
}

/// What this thread has computed so far: others may be busy while we measure.
fn cpu_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap()
}

/// Prints what a sample costs; to be run with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_what_a_sample_of_fifty_frames_costs() {
    const COUNT: u64 = 10_000;
    let mut scene = scene(&config());
    let mappings = (0..30).map(|i| mapping(i + 10, "/lib/some.so", 100_000 + u64::from(i) * 2000, 0));
    scene.find(3, "/bin/large", false, mappings.collect());
    let stack = |seed: u64| {
        let user: Vec<u64> =
            (0..40).map(|i| 100_000 + (i * 7919 + seed * 31) % 58_000 / 2000 * 2000 + i).collect();
        let kernel: Vec<u64> = (0..10).map(|i| 1_000_000 + i + seed).collect();
        sample(3, &kernel, &user, End::Root)
    };
    let fresh: Vec<_> = (0..COUNT).map(stack).collect();
    let mut measure = |name: &str, next: &dyn Fn(u64) -> usize| {
        let begun = cpu_time();
        for i in 0..COUNT {
            let _ = scene.gather(&fresh[next(i)]);
        }
        eprintln!("{name}: {} ns per sample", (cpu_time() - begun).as_nanos() / u128::from(COUNT));
        scene.take();
    };
    measure("repeated", &|_| 0);
    measure("fresh", &|i| usize::try_from(i).unwrap());
}
