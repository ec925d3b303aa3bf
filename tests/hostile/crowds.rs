//! Very many processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use profiler_tests::harness::gate;
use profiler_tests::harness::workloads;
use profiler_tests::need;

use crate::scene::{Room, Scene, has, now_ns};

/// As many as the kernel lets a machine of two processors have, but for a third.
const CROWD: &str = "10000";
/// Memory the agent may have resident with so many processes.
const CROWD_RESIDENT_BYTES_MAX: u64 = 96 << 20;
/// Processes that a fork bomb may have at once.
const BOMB_PROCESSES: &str = "300";
/// A user for whom nothing else runs: the limit is the user's.
const BOMB_USER: &str = "64322";

/// Processes that sleep, all of them when this is there. They end with it.
struct Crowd(Child);

impl Crowd {
    #[track_caller]
    fn gather() -> Self {
        let mut command = Command::new(workloads::hostile());
        let mut parent =
            command.args(["sleepers", CROWD]).stdout(Stdio::piped()).spawn().expect("a program of ours");
        let mut said = String::new();
        let out = parent.stdout.take().expect("it was piped");
        let crowd = Self(parent);
        BufReader::new(out).read_line(&mut said).expect("a pipe");
        assert_eq!(said, "ready\n", "so many processes cannot be had here");
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ten_thousand_processes_that_were_there_before() {
    need!(gate::bpf());
    let room = Room::alone();
    let crowd = Crowd::gather();
    let scene = Scene::set_in(room).with_resident_bytes_max(CROWD_RESIDENT_BYTES_MAX);
    assert!(scene.agent.metric("profiler_processes", "") > 10_000.0);
    assert_eq!(scene.agent.metric("profiler_processes_over_max_total", ""), 0.0);
    scene.check();
    drop(crowd);
}

#[test]
fn ten_thousand_processes_that_come_and_go() {
    need!(gate::bpf());
    let scene = Scene::set_in(Room::alone()).with_resident_bytes_max(CROWD_RESIDENT_BYTES_MAX);
    let crowd = Crowd::gather();
    scene.server.wait_for("whoever gathered them", 0, |pushed| has(pushed, "sleepers"));
    drop(crowd);
    // And all at once they are gone.
    let since = now_ns();
    scene.server.wait_for("a later window", since, |_| true);
    scene.check();
}

/// Each of its processes starts others, as fast as it can, until there may be no more; then they go on trying.
#[test]
fn a_fork_bomb_within_the_limit_of_its_user() {
    need!(gate::bpf());
    let scene = Scene::set();
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={BOMB_PROCESSES}:{BOMB_PROCESSES}"));
    command.args(["setpriv", "--clear-groups"]).arg(format!("--reuid={BOMB_USER}"));
    command.arg(format!("--regid={BOMB_USER}")).arg(workloads::hostile()).args(["bomb", "4"]);
    let mut bomb = command.spawn().expect("util-linux is there");
    scene.server.wait_for("the bomb", 0, |pushed| has(pushed, "bomb"));
    bomb.wait().expect("a child");
    // Those that it started end by themselves within the same seconds, at the latest.
    std::thread::sleep(Duration::from_secs(5));
    scene.check();
}
