//! Tier 6: processes that mean no good, and children that die or fall silent. Each costs a reason, never a crash, a hang
//! or memory without bound; a well-behaved program beside it keeps its names, and the books balance.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::{Agent, get};
use profiler_tests::harness::daemon::record_command;
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pushed, Pyroscope};
use profiler_tests::harness::workloads::{self, Running, succeed};
use profiler_tests::need;
use rustix::process::Signal;
use scene::{NAMES_MAX, Room, Scene, has, is_honest, now_ns, signal};
use served::Served;

mod crowds;
mod disk;
mod hidden;
mod scene;
mod served;
mod squeeze;

fn hostile(arguments: &[&str]) -> Command {
    let mut command = Command::new(workloads::hostile());
    command.args(arguments);
    command
}

#[test]
fn a_name_of_newlines_and_bytes_that_are_no_text() {
    need!(gate::bpf());
    let program = workloads::hostile().display().to_string();
    let recorded = record_command(99, &[&program, "comm", "1"]);
    for profile in [&recorded.pprof, &recorded.folded] {
        let burning: Vec<_> = profile
            .stacks
            .iter()
            .filter(|stack| stack.user().next_back().is_some_and(|leaf| leaf.name == "burn_hostile"))
            .collect();
        let samples: u64 = burning.iter().map(|stack| stack.samples).sum();
        assert!(samples > 50, "{samples} samples");
        for stack in &profile.stacks {
            assert!(!stack.comm.contains(char::is_control), "{:?}", stack.comm);
        }
    }
    for stack in &recorded.folded.stacks {
        assert!(!stack.comm.contains(' ') || stack.comm.starts_with("a"), "{:?}", stack.comm);
    }
}

#[test]
fn a_process_with_tens_of_thousands_of_executable_mappings() {
    need!(gate::bpf());
    // A crowd in one process.
    let scene = Scene::set_in(Room::alone());
    succeed(&mut hostile(&["maps", "65000", "1.5"]));
    scene.server.wait_for("its own name", 0, |pushed| has(pushed, "burn_hostile"));
    scene.check();
}

#[test]
fn files_that_loop_shrink_vanish_or_become_something_else_while_their_code_runs() {
    need!(gate::bpf());
    let scene = Scene::set();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for how in ["looped", "endless", "truncated", "deleted", "replaced", "fifo"] {
        let name = format!("{how}.bin");
        let path = folder.path().join(&name).display().to_string();
        succeed(&mut hostile(&["file", &path, how, "0.8"]));
    }
    for how in ["looped", "endless", "truncated", "deleted", "replaced", "fifo"] {
        // It has two instructions, and which of them is interrupted is the processor's choice.
        let is_there =
            |pushed: &Pushed| ["0", "3"].iter().any(|at| has(pushed, &format!("{how}.bin+0x100{at}")));
        scene.server.wait_for(how, 0, is_there);
    }
    scene.check();
}

#[test]
fn a_program_that_is_deleted_or_replaced_by_a_fifo_as_soon_as_it_runs() {
    need!(gate::bpf());
    let scene = Scene::set();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wl-fleeting");
    for put_instead in [None, Some("mkfifo"), Some("mkdir")] {
        std::fs::copy(workloads::hostile(), &path).expect("a copy");
        let mut command = Command::new(&path);
        let running = command.args(["burn", "1"]).spawn();
        std::fs::remove_file(&path).expect("our own file");
        if let Some(program) = put_instead {
            succeed(Command::new(program).arg(&path));
        }
        let since = now_ns();
        scene.server.wait_for("its function", since - 1_500_000_000, |pushed| has(pushed, "burn_hostile"));
        let mut running = running.expect("it was started before its file went");
        assert!(running.wait().expect("a child").success());
        match put_instead {
            Some("mkdir") => std::fs::remove_dir(&path).expect("our own folder"),
            Some(_) => std::fs::remove_file(&path).expect("our own file"),
            None => {}
        }
    }
    scene.check();
}

#[test]
fn storms_of_processes_that_are_gone_before_they_can_be_read() {
    need!(gate::bpf());
    let scene = Scene::set();
    succeed(&mut hostile(&["storm", "1000"]));
    succeed(&mut hostile(&["forks", "300"]));
    scene.server.wait_for("its function", 0, |pushed| has(pushed, "burn_hostile"));
    scene.check();
}

/// Opening the program is waited for in vain, and unkillably. So it is the namer who does; nobody is sent after it, and everything
/// else goes on.
#[test]
fn a_program_on_a_file_system_whose_server_hangs() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let served = Served::mount(folder.path(), &workloads::served());
    need!(served.as_ref().map_err(Clone::clone).map(drop));
    let served = served.unwrap_or_else(|_| unreachable!("it was needed"));
    let scene = Scene::set();
    let burning = Running::start(Command::new(served.program()).args(["burn", "60"]));
    scene.server.wait_for("its address", 0, |pushed| has(pushed, "wl-served+0x"));
    let begun = Instant::now();
    while scene.agent.metric("profiler_namer_stuck_total", "") == 0.0 {
        assert!(begun.elapsed() < NAMES_MAX, "the namer was not stuck");
        std::thread::sleep(Duration::from_millis(100));
    }
    // It shows in every window from then on, and costs no more namers: one for names, one for tables.
    let since = now_ns();
    scene.server.wait_for("its address later", since, |pushed| has(pushed, "wl-served+0x"));
    let refused = scene
        .agent
        .metric("profiler_namer_questions_refused_total", "reason=\"file system does not answer\"");
    assert!(refused > 0.0, "it was asked about all the time");
    assert!(scene.agent.metric("profiler_namer_stuck_total", "") <= 2.0);
    // Nor does the agent open it for who asks why it has no names.
    let (status, why) = scene.agent.ask(&format!("/-/why?pid={}", burning.id()));
    assert!(status == 200 && why.contains("is not opened"), "{status}: {why}");
    scene.check();
    drop(burning);
}

#[test]
fn a_namer_that_is_killed_is_back_and_one_that_is_stopped_is_replaced() {
    need!(gate::bpf());
    let scene = Scene::set();
    let killed = scene.agent.wait_for_child("namer", None);
    signal(killed, Signal::KILL);
    let since = now_ns();
    // A program never seen before, so that names must be asked for; longer than two windows, so that one begins in it.
    succeed(&mut hostile(&["burn", "2.5"]));
    scene.server.wait_for("a name after the kill", since, |pushed| has(pushed, "burn_hostile"));
    let stopped = scene.agent.wait_for_child("namer", Some(killed));
    signal(stopped, Signal::STOP);
    let since = now_ns();
    // Another one, whose names nobody has yet.
    succeed(Command::new(workloads::short()).args(["4000000", "0", "0"]));
    scene.server.wait_for("a name after the stop", since, |pushed| has(pushed, "burn"));
    assert_ne!(scene.agent.wait_for_child("namer", Some(stopped)), stopped);
    scene.check();
}

#[test]
fn an_embedded_server_that_is_killed_or_stopped_costs_nothing() {
    need!(gate::bpf());
    let _honest = Running::start(Command::new(workloads::shop_c("wl-honest")).arg("120"));
    let agent = Agent::start(&["--interval", "1s"]);
    let pushes = |result: &str| agent.metric("profiler_push_attempts_total", &format!("result=\"{result}\""));
    let wait_for_push = || {
        let (begun, before) = (Instant::now(), pushes("ok"));
        while pushes("ok") < before + 2.0 {
            assert!(begun.elapsed() < NAMES_MAX, "no push is taken");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait_for_push();
    let first = agent.wait_for_child("serve", None);
    signal(first, Signal::KILL);
    let second = agent.wait_for_child("serve", Some(first));
    wait_for_push();
    assert_eq!(get(agent.page(), "/ready").expect("the page answers").0, 200);

    signal(second, Signal::STOP);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(agent.ask("/-/healthy").0, 200);
    signal(second, Signal::CONT);
    wait_for_push();
    assert!(Path::new(&format!("/proc/{second}")).exists(), "it was not its fault");

    // Nor does a stopped server keep the agent from stopping; then what could not be delivered is counted.
    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert!(!ended.said.contains("for good"), "{}", ended.said);
}

/// Samples are taken while nobody reads them: 999 Hz for three seconds on every processor.
#[test]
fn an_agent_that_is_stopped_for_seconds_knows_what_became_of_every_sample() {
    need!(gate::bpf());
    let _honest = Running::start(Command::new(workloads::shop_c("wl-honest")).arg("120"));
    let server = Pyroscope::start(Mood::Takes);
    let agent = Agent::start(&["--server", &server.url(), "--interval", "1s", "-F", "999"]);
    server.wait_for("the honest program's names", 0, is_honest);
    agent.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(3));
    agent.signal(Signal::CONT);
    let since = now_ns();
    server.wait_for("the honest program's names afterwards", since, is_honest);
    let ended = agent.stop();
    // Balanced, or there are none.
    let books = ended.books();
    assert!(books.captured > 3000, "{}", ended.said);
    assert_eq!(books.delivered, server.samples_once(), "{}", ended.said);
    // What nobody took for so long may have no room, and then that is the reason.
    let line = ended.said.lines().rfind(|line| line.contains("stopped: captured ")).unwrap_or_default();
    for reason in line.split_once('(').map_or("", |(_, reasons)| reasons).trim_end_matches(')').split(", ") {
        assert!(
            reason.is_empty() || reason.ends_with("tick skipped") || reason.ends_with("ring full"),
            "{line}"
        );
    }
}
