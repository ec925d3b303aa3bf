//! Memory groups (cgroups) with no room left: the kernel ends somebody in them at the next page that is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use profiler_tests::harness::gate::{self, Missing};
use profiler_tests::harness::workloads;
use profiler_tests::need;
use tempfile::{NamedTempFile, TempDir};

use crate::scene::{Scene, has, now_ns};

/// How long a namer may be away that was asked something.
const BACK_MAX: Duration = Duration::from_secs(1);
/// How long it may take until it is asked, while new programs come.
const ASKED_MAX: Duration = Duration::from_secs(60);
/// After that long another program makes work.
const AGAIN: Duration = Duration::from_secs(4);

/// Names of its files in one version of cgroups.
#[derive(Clone, Copy)]
struct Files {
    limit: &'static str,
    unlimited: &'static str,
    used: &'static str,
    /// Counts who was ended for want of memory.
    kills: &'static str,
}

const FIRST: Files = Files {
    limit: "memory.limit_in_bytes",
    unlimited: "-1",
    used: "memory.usage_in_bytes",
    kills: "memory.oom_control",
};
const SECOND: Files =
    Files { limit: "memory.max", unlimited: "max", used: "memory.current", kills: "memory.events" };

/// Memory of the group that no process has, bytes. The kernel weighs an `oom_score_adj` in thousandths of the limit, so where the limit
/// is less than what the processes have (what they had before is not counted) it weighs nothing, and the largest is ended.
const BALLAST_BYTES: u64 = 128 << 20;

/// A memory group, which goes with this value.
struct Squeeze {
    folder: PathBuf,
    files: Files,
    _ballast: NamedTempFile,
}

impl Squeeze {
    /// By whichever version of cgroups has memory here.
    fn make(name: &str) -> Result<Self, Missing> {
        let missing = |what: String| Missing { required_by: "TEST_REQUIRE_MEMORY_CGROUP", what };
        let mounts = fs::read_to_string("/proc/mounts").map_err(|error| missing(error.to_string()))?;
        let found = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            match *fields.get(..4)? {
                [_, at, "cgroup", options] if options.split(',').any(|option| option == "memory") => {
                    Some((Path::new(at).to_owned(), FIRST))
                }
                [_, at, "cgroup2", _] => {
                    let controllers = fs::read_to_string(Path::new(at).join("cgroup.subtree_control"));
                    let memory = controllers.ok()?.split_whitespace().any(|name| name == "memory");
                    memory.then(|| (Path::new(at).to_owned(), SECOND))
                }
                _ => None,
            }
        });
        let (root, files) = found
            .ok_or_else(|| missing("no group of processes can have a limit of memory here".to_owned()))?;
        let folder = root.join(format!("profiler-{name}-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| missing(format!("{}: {error}", folder.display())))?;
        let ballast =
            NamedTempFile::new_in("/dev/shm").map_err(|error| missing(format!("/dev/shm: {error}")))?;
        let filled = Command::new("sh")
            .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec head -c "$2" /dev/zero > "$1""#])
            .args([&folder, ballast.path()])
            .arg(BALLAST_BYTES.to_string())
            .status()
            .is_ok_and(|status| status.success());
        let squeeze = Self { folder, files, _ballast: ballast };
        let ok = filled && squeeze.used() >= BALLAST_BYTES;
        ok.then_some(squeeze).ok_or_else(|| missing("/dev/shm does not count for the group".to_owned()))
    }

    /// From now on its processes get so many bytes more, or as many as they want. What they have they keep.
    #[track_caller]
    fn leave(&self, bytes: Option<u64>) {
        let limit = bytes.map_or(self.files.unlimited.to_owned(), |bytes| (self.used() + bytes).to_string());
        fs::write(self.folder.join(self.files.limit), limit).expect("the group is there");
    }

    /// Bytes that its processes took since they are in it.
    #[track_caller]
    fn used(&self) -> u64 {
        let used = fs::read_to_string(self.folder.join(self.files.used)).expect("the group is there");
        used.trim().parse().expect("a number of bytes")
    }

    /// Puts process `pid` into it, without what it has. False if it has ended meanwhile.
    fn take(&self, pid: u32) -> bool {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).is_ok()
    }

    /// How many of its processes were ended for want of memory.
    #[track_caller]
    fn kills(&self) -> u32 {
        let counts = fs::read_to_string(self.folder.join(self.files.kills)).expect("the group is there");
        let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).expect("the kernel counts them")
    }
}

impl Drop for Squeeze {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// True if it `is` so before `most` is over.
fn happens_within(most: Duration, is: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        let (happened, over) = (is(), begun.elapsed() >= most);
        if happened || over {
            return happened;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Programs that nobody has seen before: each is a file of its own, and work for every namer.
struct Fresh {
    folder: TempDir,
    started: usize,
    running: Vec<Child>,
}

impl Fresh {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), started: 0, running: Vec::new() }
    }

    /// Starts another one, which burns for a while.
    fn start(&mut self) {
        let program = self.folder.path().join(format!("wl-fresh-{}", self.started));
        fs::copy(workloads::hostile(), &program).expect("a copy");
        let child = Command::new(&program).args(["burn", "2.5"]).spawn().expect("a program of ours");
        self.started += 1;
        self.running.push(child);
    }

    /// Until all have ended.
    fn wait(&mut self) {
        for mut program in self.running.drain(..) {
            program.wait().expect("a child");
        }
    }
}

/// While the group has no room, a program that nobody has seen before makes work; the kernel ends a namer, another is there in time, and
/// the program has its name. Again and again, `times`. `take` puts processes into the group, and `leave` says how little it has.
#[track_caller]
fn check(name: &str, times: u32, take: impl Fn(&Scene, &Squeeze), leave: u64, back_max: Duration) {
    need!(gate::bpf());
    let squeeze = Squeeze::make(name);
    need!(squeeze.as_ref().map_err(Clone::clone).map(drop));
    let squeeze = squeeze.unwrap_or_else(|_| unreachable!("it was needed"));
    let scene = Scene::set();
    let mut fresh = Fresh::new();
    let failures = || scene.agent.metric("profiler_namer_failures_total", "");
    for _ in 0..times {
        let (since, killed, failed) = (now_ns(), squeeze.kills(), failures());
        let mut namers = Vec::new();
        // A namer that has what it needs for one program takes no page; the next program is another one's work.
        let begun = Instant::now();
        while squeeze.kills() == killed {
            assert!(begun.elapsed() < ASKED_MAX, "the kernel ends nobody");
            namers = scene.agent.children("namer");
            take(&scene, &squeeze);
            squeeze.leave(Some(leave));
            fresh.start();
            happens_within(AGAIN, || squeeze.kills() > killed);
        }
        squeeze.leave(None);
        let is_gone = |pid| !scene.agent.children("namer").contains(pid);
        assert!(happens_within(BACK_MAX, || namers.iter().any(is_gone)), "it was no namer");
        let is_back = || scene.agent.children("namer").iter().any(|pid| !namers.contains(pid));
        let ended = Instant::now();
        while !happens_within(back_max.min(AGAIN), is_back) {
            assert!(ended.elapsed() < back_max, "no other namer within {back_max:?}");
            fresh.start();
        }
        scene.server.wait_for("a name after it", since, |pushed| has(pushed, "burn_hostile"));
        assert!(failures() > failed, "nobody counted it");
        fresh.wait();
    }
    scene.check();
}

#[test]
fn a_namer_that_the_kernel_ends_for_want_of_memory_is_back_within_a_second() {
    let namers = |scene: &Scene, squeeze: &Squeeze| {
        // What follows is started outside.
        let taken = scene.agent.children("namer").into_iter().filter(|&pid| squeeze.take(pid)).count();
        assert!(taken > 0, "there is no namer");
    };
    check("namers", 5, namers, 0, BACK_MAX);
}

#[test]
fn of_all_our_processes_the_kernel_ends_a_namer_for_want_of_memory() {
    let all = |scene: &Scene, squeeze: &Squeeze| {
        for pid in scene.agent.children("namer").into_iter().chain([scene.agent.id()]) {
            squeeze.take(pid);
        }
    };
    // It may be one that was asked nothing, and then another is there when one is: the programs that come after it do.
    check("all", 2, all, 128 << 10, ASKED_MAX);
}
