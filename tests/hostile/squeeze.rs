//! Memory groups (cgroups) with no room left: whoever is put into one is ended by the kernel at the next page that it needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_tests::harness::gate::{self, Missing};
use profiler_tests::harness::workloads;
use profiler_tests::need;

use crate::scene::{Scene, has, now_ns};

/// How long the namer may be away.
const BACK_MAX: Duration = Duration::from_secs(1);
/// How long it may take until it is asked.
const ASKED_MAX: Duration = Duration::from_secs(20);
const TIMES: u32 = 5;

/// A memory group, which goes with this value.
struct Squeeze {
    folder: PathBuf,
    /// Which file counts who was ended for want of memory.
    kills: &'static str,
}

impl Squeeze {
    /// By whichever version of cgroups has memory here.
    fn make() -> Result<Self, Missing> {
        let missing = |what: String| Missing { required_by: "TEST_REQUIRE_MEMORY_CGROUP", what };
        let mounts = fs::read_to_string("/proc/mounts").map_err(|error| missing(error.to_string()))?;
        let found = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            match *fields.get(..4)? {
                [_, at, "cgroup", options] if options.split(',').any(|option| option == "memory") => {
                    Some((Path::new(at).to_owned(), "memory.limit_in_bytes", "memory.oom_control"))
                }
                [_, at, "cgroup2", _] => {
                    let controllers = fs::read_to_string(Path::new(at).join("cgroup.subtree_control"));
                    let memory = controllers.ok()?.split_whitespace().any(|name| name == "memory");
                    memory.then(|| (Path::new(at).to_owned(), "memory.max", "memory.events"))
                }
                _ => None,
            }
        });
        let (root, limit, kills) = found
            .ok_or_else(|| missing("no group of processes can have a limit of memory here".to_owned()))?;
        let folder = root.join(format!("profiler-squeeze-{}", std::process::id()));
        let make = || -> io::Result<()> {
            fs::create_dir(&folder)?;
            fs::write(folder.join(limit), "0")
        };
        make().map_err(|error| missing(format!("{}: {error}", folder.display())))?;
        Ok(Self { folder, kills })
    }

    /// From now on process `pid` gets no page more. What it has it keeps. False if it has ended meanwhile.
    fn take(&self, pid: u32) -> bool {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).is_ok()
    }

    /// How many of its processes were ended for want of memory.
    #[track_caller]
    fn kills(&self) -> u32 {
        let counts = fs::read_to_string(self.folder.join(self.kills)).expect("the group is there");
        let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).expect("the kernel counts them")
    }
}

impl Drop for Squeeze {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

#[track_caller]
fn wait_until(what: &str, most: Duration, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < most, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_namer_that_the_kernel_ends_for_want_of_memory_is_back_within_a_second() {
    need!(gate::bpf());
    let squeeze = Squeeze::make();
    need!(squeeze.as_ref().map_err(Clone::clone).map(drop));
    let squeeze = squeeze.unwrap_or_else(|_| unreachable!("it was needed"));
    let scene = Scene::set();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let failures = || scene.agent.metric("profiler_namer_failures_total", "cause=\"ended\"");
    for time in 0..TIMES {
        let (since, killed, failed) = (now_ns(), squeeze.kills(), failures());
        let namers = scene.agent.children("namer");
        assert!(namers.iter().filter(|&&pid| squeeze.take(pid)).count() > 0, "there is no namer");
        // A program never seen before, so that names must be asked for.
        let program = folder.path().join(format!("wl-fresh-{time}"));
        fs::copy(workloads::hostile(), &program).expect("a copy");
        let mut fresh = Command::new(&program);
        let mut fresh = fresh.args(["burn", "2.5"]).spawn().expect("a program of ours");
        wait_until("the kernel ends a namer", ASKED_MAX, || squeeze.kills() > killed);
        let is_new = |pid: &u32| !namers.contains(pid);
        wait_until("another namer", BACK_MAX, || scene.agent.children("namer").iter().any(is_new));
        scene.server.wait_for("a name after it", since, |pushed| has(pushed, "burn_hostile"));
        assert!(failures() > failed, "nobody counted it");
        fresh.wait().expect("a child");
    }
    scene.check();
}
