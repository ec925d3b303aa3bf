//! Processes that may not be looked at, and such as live in a world of their own.

use std::process::Command;

use profiler_tests::harness::gate;
use profiler_tests::harness::workloads::{self, succeed};
use profiler_tests::need;

use crate::scene::{Scene, has};

/// Burns as `program arguments… 2` says, while the agent looks on: its function has a name.
#[track_caller]
fn check(program: &str, arguments: &[&str], mode: &str) {
    need!(gate::bpf());
    let scene = Scene::set();
    succeed(Command::new(program).args(arguments).arg(workloads::hostile()).args([mode, "2"]));
    scene.server.wait_for("its function", 0, |pushed| has(pushed, "burn_hostile"));
    scene.check();
}

#[test]
fn a_process_that_lets_nobody_look_at_it() {
    check("setpriv", &["--reuid=64323", "--regid=64323", "--clear-groups"], "secret");
}

/// It is number one there, and sees none but its own.
#[test]
fn a_process_in_user_and_pid_namespaces_of_its_own() {
    check("unshare", &["-Urpf", "--mount-proc"], "burn");
}
