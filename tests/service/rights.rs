//! The unit with less than it asks for: one capability of the six, or a view of the processes. Without two of them there is no
//! profiling, and a sentence says which; without the others there is, and what cannot be known is counted.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::{Agent, Spoken};
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;

use crate::{Place, systemd, unit};

/// The unit's command without `capability`.
#[track_caller]
fn without(place: &Place, capability: &str) -> Command {
    let unit = unit();
    let (missing, left): (Vec<_>, Vec<_>) =
        unit.capabilities().into_iter().partition(|known| *known == capability);
    assert_eq!(missing.len(), 1, "{capability} is one of the unit's");
    place.command(&left)
}

/// Without `capability` it does not start, and says so.
#[track_caller]
fn check_refused(capability: &str) {
    need!(gate::bpf());
    need!(systemd());
    let place = Place::new(&Pyroscope::start(Mood::Takes));
    let ended = Spoken::start(&mut without(&place, capability)).end(Duration::from_secs(20));
    assert_eq!(ended.status.code(), Some(3), "{}", ended.said);
    assert!(ended.said.contains(&format!("{capability} is missing")), "{}", ended.said);
}

/// Without `capability` it works; it says so, and counts under `counter` (with `labels`) what it cannot know of `program` and the
/// kernel.
#[track_caller]
fn check_worse(capability: &str, mut program: Command, (counter, labels): (&str, &str)) {
    need!(gate::bpf());
    need!(systemd());
    let server = Pyroscope::start(Mood::Takes);
    let place = Place::new(&server);
    let _program = Running::start(&mut program);
    let _honest = Running::start(Command::new(workloads::shop_c("wl-honest")).arg("120"));
    let agent = Agent::of(Spoken::start(&mut without(&place, capability)));
    let begun = Instant::now();
    while agent.metric(counter, labels) == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{counter}{{{labels}}} stays 0");
        std::thread::sleep(Duration::from_millis(100));
    }
    // What is sampled is pushed all the same.
    server.wait_for("stacks", 0, |pushed| pushed.profile.samples() > 50);
    let ended = agent.stop();
    assert!(ended.said.contains(&format!("{capability} is missing")), "{}", ended.said);
    assert_eq!(ended.books().lost_by_us, 0, "{}", ended.said);
}

/// A program that burns and that `mode` lets look at.
fn burning(mode: u32) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("wl-burning");
    std::fs::copy(workloads::hostile(), &copy).expect("a copy");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).expect("a file of ours");
    let mut command = Command::new(&copy);
    command.args(["burn", "60"]);
    (folder, command)
}

#[test]
fn without_bpf() {
    check_refused("CAP_BPF");
}

#[test]
fn without_perfmon() {
    check_refused("CAP_PERFMON");
}

#[test]
fn without_ptrace() {
    let (_folder, program) = burning(0o755);
    check_worse("CAP_SYS_PTRACE", program, ("profiler_processes_unread_total", ""));
}

#[test]
fn without_dac_read_search() {
    let (_folder, program) = burning(0o700);
    check_worse(
        "CAP_DAC_READ_SEARCH",
        program,
        ("profiler_namer_questions_refused_total", "cannot be opened"),
    );
}

/// The kernel names its functions to who asks it, whether it shows their addresses or not.
#[test]
fn without_syslog() {
    need!(gate::bpf());
    need!(systemd());
    let server = Pyroscope::start(Mood::Takes);
    let place = Place::new(&server);
    let _calling = Running::start(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=64"]));
    let agent = Agent::of(Spoken::start(&mut without(&place, "CAP_SYSLOG")));
    server.wait_for("the kernel's function that reads", 0, |pushed| {
        let mut frames = pushed.profile.stacks.iter().flat_map(|stack| &stack.frames);
        frames.any(|frame| frame.kernel && frame.name == "vfs_read")
    });
    let ended = agent.stop();
    assert!(!ended.said.contains("is missing"), "{}", ended.said);
    assert_eq!(ended.books().lost_by_us, 0, "{}", ended.said);
}

#[test]
fn without_checkpoint_restore() {
    // It is held open, deleted and then run, so that no path leads to it.
    let (_folder, program) = burning(0o755);
    let mut command = Command::new("sh");
    let script = "exec 9<\"$1\"; rm \"$1\"; exec /proc/self/fd/9 burn 60";
    command.args(["-ec", script, "sh"]).arg(program.get_program());
    check_worse("CAP_CHECKPOINT_RESTORE", command, ("profiler_modules_unopened_total", ""));
}

/// `hidepid=2` shows a process to nobody but its user, and to who may trace it.
#[test]
fn a_proc_that_hides_processes_hides_none_from_the_unit() {
    need!(gate::bpf());
    need!(systemd());
    let server = Pyroscope::start(Mood::Takes);
    let place = Place::new(&server);
    let _honest = Running::start(Command::new(workloads::shop_c("wl-honest")).arg("120"));
    let command = place.command(&unit().capabilities());
    let script = "mount -t proc -o hidepid=2 proc /proc; exec \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-ec", script, "sh"]).arg(command.get_program()).args(command.get_args());
    hidden.env_clear();
    hidden.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let agent = Agent::of(Spoken::start(&mut hidden));
    server.wait_for("a program of another user, by name", 0, |pushed| {
        pushed.profile.stacks.iter().any(|stack| stack.user().any(|frame| frame.name == "price"))
    });
    assert_eq!(agent.metric("profiler_processes_unread_total", ""), 0.0);
    assert_eq!(agent.stop().books().lost_by_us, 0);
}
