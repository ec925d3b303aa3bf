//! Tier 3: what the commands say when they cannot do what they are told, and how they end. On the real binary: each
//! failure is a sentence that says what is wrong and what to do, with the exit code that `--help` documents.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use profiler_tests::harness::agent::{Agent, Ended, Spoken, wait_until_gone};
use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::gate;
use profiler_tests::harness::profile::{self, Profile};
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::need;
use rustix::process::Signal;

/// How long a command may take that fails at once.
const FAIL_MAX: Duration = Duration::from_secs(20);

fn daemon(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

/// Runs `command`, which must end with `code` and say each of `words`, and nothing but sentences.
#[track_caller]
fn check_command(command: &mut Command, code: i32, words: &[&str]) -> Ended {
    let ended = Spoken::start(command).end(FAIL_MAX);
    let Ended { said, status, .. } = &ended;
    assert_eq!(status.code(), Some(code), "{command:?} said:\n{said}");
    for words in words {
        assert!(said.contains(words), "{command:?} lacks {words:?}:\n{said}");
    }
    for noise in ["panicked", "RUST_BACKTRACE", "Error {", "Err("] {
        assert!(!said.contains(noise), "{command:?}:\n{said}");
    }
    ended
}

#[track_caller]
fn check(arguments: &[&str], code: i32, words: &[&str]) {
    check_command(&mut daemon(arguments), code, words);
}

// Wrong usage: 2.

#[test]
fn a_flag_that_does_not_exist() {
    check(&["run", "--frobnicate"], 2, &["--frobnicate", "--help"]);
    check(&["frobnicate"], 2, &["frobnicate", "--help"]);
    check(&[], 2, &["Usage:", "run", "record", "serve", "replay", "Exit codes:"]);
}

#[test]
fn values_out_of_bounds_are_said_with_what_would_be_accepted() {
    check(&["run", "-F", "0"], 2, &["--frequency", "\"0\"", "from 1 to 999"]);
    check(&["run", "-F", "1000"], 2, &["--frequency", "\"1000\"", "from 1 to 999"]);
    check(&["run", "--interval", "0s"], 2, &["--interval", "\"0s\"", "from 1s to 1h"]);
    check(&["run", "--interval", "soon"], 2, &["--interval", "\"soon\"", "such as 10s"]);
    check(&["run", "--server", "localhost:4040"], 2, &["--server", "\"localhost:4040\"", "http://"]);
    check(&["run", "--server", "http://[::1", "--admin-listen", "127.0.0.1:0"], 2, &["http://[::1"]);
    check(&["run", "--listen", "0.0.0.0:4040"], 2, &["0.0.0.0:4040", "loopback only"]);
    check(&["serve", "--listen", "0.0.0.0:4040"], 2, &["0.0.0.0:4040", "loopback only"]);
    check(&["record", "-F", "0"], 2, &["--frequency", "from 1 to 999"]);
    check(&["record", "-d", "soon"], 2, &["--duration", "such as 30s"]);
    check(&["record", "-d", "0s"], 2, &["--duration", "such as 30s"]);
    check(&["record", "-p", "x"], 2, &["--pid", "'x'"]);
    check(&["record", "-p", "1", "--", "true"], 2, &["--pid and a command exclude each other"]);
}

#[test]
fn a_configuration_file_tells_all_its_problems_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("profiler.toml");
    fs::write(&path, "colour = 1\ninterval = \"soon\"\n[server]\nurl = \"x\"\n").expect("a file");
    let path = path.display().to_string();
    let problems = ["unknown key \"colour\"", "known are server, ", "interval = \"soon\"", "server = "];
    let mut run = daemon(&["run", "--config", &path, "-F", "5000"]);
    check_command(run.env("PROFILER_INLINES", "perhaps"), 2, &problems);
    check_command(&mut run, 2, &["PROFILER_INLINES: inlines = \"perhaps\" is not true or false"]);
    check_command(&mut run, 2, &["--frequency: frequency = \"5000\"", &path]);
}

#[test]
fn a_configuration_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&["run", "--config", "/nonexistent.toml"], 2, &["/nonexistent.toml cannot be read: No such file"]);
    let path = folder.path().display().to_string();
    check(&["run", "--config", &path], 2, &[&path, "cannot be read: Is a directory"]);
    let path = folder.path().join("binary.toml");
    fs::write(&path, b"\xff\xfe\0interval").expect("a file");
    check(&["run", "--config", &path.display().to_string()], 2, &["binary.toml"]);
    fs::write(&path, "interval = \n").expect("a file");
    check(&["run", "--config", &path.display().to_string()], 2, &["binary.toml", "line 1"]);
}

#[test]
fn a_file_whose_ending_names_no_format() {
    let endings = [".pb.gz", ".svg", ".json", ".folded", ".jsonl.gz"];
    check(&["record", "-o", "x.png"], 2, &endings);
    check(&["record", "-o", "/dev/null", "--", "true"], 2, &endings);
    check(&["replay", "x", "-o", "x.jsonl"], 2, &["a replay writes .pb.gz, .svg, .json or .folded"]);
}

#[test]
fn a_process_that_does_not_exist() {
    check(&["record", "-p", "999999999", "-o", "x.folded"], 2, &["999999999", "no such process"]);
    assert!(!Path::new("x.folded").exists());
}

#[test]
fn every_option_is_in_the_help_with_its_default() {
    let options = [
        (
            "run",
            "--server --interval --frequency --listen --admin-listen --data-dir --inlines --hostname --config",
        ),
        ("record", "--frequency --duration --pid --output --inlines"),
        ("serve", "--listen --data-dir"),
        ("replay", "--output"),
    ];
    for (command, options) in options {
        let ended = check_command(&mut daemon(&[command, "--help"]), 0, &[]);
        // One paragraph per option, which begins with its names.
        let mut paragraphs: Vec<String> = Vec::new();
        for line in ended.said.lines() {
            match paragraphs.last_mut() {
                Some(paragraph) if !line.trim_start().starts_with('-') => {
                    *paragraph += " ";
                    *paragraph += line.trim();
                }
                _ => paragraphs.push(line.trim().to_owned()),
            }
        }
        for option in options.split(' ') {
            let about =
                paragraphs.iter().find(|about| about.split([' ', ',']).take(3).any(|word| word == option));
            let about = about.unwrap_or_else(|| panic!("{command} --help lacks {option}:\n{}", ended.said));
            assert!(about.contains("[default: "), "{command} --help does not tell the default of {option}");
        }
        assert!(!ended.said.contains("--object"), "what is not for users");
    }
    for topic in ["Exit codes: 0 done", "PROFILER_LOG"] {
        check(&["--help"], 0, &[topic]);
    }
}

#[test]
fn the_version_needs_no_privilege() {
    check_command(&mut unprivileged(&["version"]), 0, &["profiler-daemon 0.", "kernel "]);
}

// A port is taken: 5. Known before any privilege is asked for.

#[test]
fn a_port_that_another_program_has() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    // It takes no connection, so whether it is a Pyroscope cannot be known.
    let address = holder.local_addr().expect("an address").to_string();
    let words = [&*address, "taken by another program", "ss -ltnp"];
    check(
        &["run", "--listen", &address, "--admin-listen", "127.0.0.1:0"],
        5,
        &[&words[..], &["--listen"]].concat(),
    );
    check(&["run", "--admin-listen", &address], 5, &[&words[..], &["--admin-listen"]].concat());
    check(&["serve", "--listen", &address], 5, &[&words[..], &["--listen"]].concat());
}

#[test]
fn a_port_that_a_pyroscope_has_is_offered_as_the_server() {
    let mut server = Spoken::start(&mut daemon(&["serve", "--listen", "127.0.0.1:0"]));
    server.wait_until_said("serving http://");
    let said = server.said();
    let address =
        said.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).expect("its address").0;
    let words = [address, "taken by a Pyroscope server", &format!("--server http://{address}"), "--listen"];
    check(&["run", "--listen", address, "--admin-listen", "127.0.0.1:0"], 5, &words);
    check(&["serve", "--listen", address], 5, &words);
    assert!(server.is_alive());
    server.signal(Signal::INT);
    let ended = server.end(FAIL_MAX);
    assert!(ended.status.success(), "{}", ended.said);
}

#[test]
fn an_address_that_this_machine_does_not_have() {
    check(&["serve", "--listen", "127.0.0.1:1", "--data-dir", "/proc/x"], 1, &["/proc/x"]);
    check(&["run", "--admin-listen", "192.0.2.1:4041"], 5, &["192.0.2.1:4041", "--admin-listen"]);
}

// Privileges and the kernel: 3. The object: 6.

/// The daemon as somebody without any privilege.
fn unprivileged(arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]);
    // Its folder may be closed to others; a descriptor is not.
    command.args(["--inh-caps", "-all"]).arg(reachable()).args(arguments);
    command
}

/// A copy of the binary where everybody can reach it.
fn reachable() -> &'static Path {
    use std::sync::OnceLock;
    static COPY: OnceLock<tempfile::TempDir> = OnceLock::new();
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let folder = COPY.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our own folder");
        let copy = folder.join("profiler-daemon");
        fs::copy(binary(), &copy).expect("a copy of the binary");
        copy
    })
}

#[test]
fn without_privilege_it_says_which_are_needed() {
    need!(gate::bpf()); // to give privileges up one must have them
    let words = ["not permitted", "root", "CAP_BPF and CAP_PERFMON", "sudo"];
    check_command(
        &mut unprivileged(&["run", "--admin-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]),
        3,
        &words,
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
    let output = folder.path().join("x.folded");
    let record = ["record", "-d", "1s", "-o", &output.display().to_string(), "--", "true"].map(str::to_owned);
    check_command(&mut unprivileged(&record.each_ref().map(String::as_str)), 3, &words);
    assert!(!output.exists(), "a profile that could not be taken leaves no file");
}

#[test]
fn a_kernel_without_type_information_will_do() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("x.folded").display().to_string();
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" record -o \"$1\" -- sh -c 'exit 9'";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]).arg(binary()).arg(&output);
    check_command(&mut command, 9, &["captured"]);
}

#[test]
fn an_object_that_is_not_ours_or_not_whole_names_the_command_that_builds_it() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiler-daemon/bpf/profiler.bpf.o");
    let whole = fs::read(committed).expect("the committed object");
    let object = folder.path().join("other.o");
    let path = object.display().to_string();
    let output = folder.path().join("x.folded").display().to_string();
    let own = fs::read(binary()).expect("the binary");
    let mut shuffled = whole.clone();
    let middle = whole.len() / 2;
    shuffled[64..middle].reverse();
    let cases: [(Option<&[u8]>, &str); 6] = [
        (None, "cannot be read"),
        (Some(b""), "is empty"),
        (Some(&whole[..middle]), "truncated"),
        (
            Some(b"#!/bin/sh\n# a script of more than sixty-four bytes, which is an ELF header's size\n"),
            "not an ELF",
        ),
        (Some(&own), "another machine"),
        (Some(&shuffled), "object"),
    ];
    for (bytes, words) in cases {
        if let Some(bytes) = bytes {
            fs::write(&object, bytes).expect("a file");
        }
        check(
            &["record", "--object", &path, "-o", &output, "--", "true"],
            6,
            &[words, "`cargo xtask build-ebpf`"],
        );
        assert!(!Path::new(&output).exists());
    }
    fs::write(&object, &whole).expect("a file");
    check(&["record", "--object", &path, "-o", &output, "--", "true"], 0, &["captured"]);
}

// Files: 1.

#[test]
fn an_output_that_cannot_be_written_is_known_before_sampling() {
    need!(gate::bpf());
    let words = ["cannot be written", "No such file or directory", "-o"];
    check(&["record", "-o", "/nonexistent/x.folded", "--", "sleep", "100"], 1, &words);
    check(
        &["record", "-o", "/nonexistent/x.jsonl.gz", "--", "sleep", "100"],
        1,
        &["/nonexistent/x.jsonl.gz"],
    );
}

#[test]
fn a_disk_that_is_full_is_said() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("x.pb.gz");
    std::os::unix::fs::symlink("/dev/full", &output).expect("a link");
    let output = output.display().to_string();
    check(&["record", "-o", &output, "--", "true"], 1, &["x.pb.gz cannot be written: No space left"]);
}

/// Records a shell that is busy for a moment to `x.folded` and `name`; what it said, and what is in the former.
#[track_caller]
fn check_recorded(folder: &Path, name: &str, code: i32, words: &[&str]) -> (Ended, Profile) {
    let (folded, recording) = (folder.join("x.folded"), folder.join(name));
    let mut record = daemon(&["record", "-F", "199", "-o"]);
    record.arg(&folded).arg("-o").arg(recording);
    record.args(["--", "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done"]);
    let ended = check_command(&mut record, code, words);
    let folded = profile::from_folded(&fs::read_to_string(folded).expect("the profile is written"));
    assert!(folded.of("sh").samples() > 0, "{}", ended.said);
    (ended, folded)
}

#[test]
fn a_recording_replays_to_the_profile_that_was_written_beside_it() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_, live) = check_recorded(folder.path(), "x.jsonl.gz", 0, &["captured"]);
    let replayed = daemon(&["replay"]).arg(folder.path().join("x.jsonl.gz")).output().expect("it runs");
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let replayed = profile::from_folded(&String::from_utf8(replayed.stdout).expect("folded text is text"));
    // It is of the whole system, in which other shells may run; and no table comes too late for it.
    assert!(replayed.of("sh").samples() >= live.of("sh").samples());
    let whole = live.of("sh").stacks.into_iter().filter(|stack| stack.cut().is_none());
    for stack in whole {
        let same = |other: &&profile::Stack| (&other.comm, &other.frames) == (&stack.comm, &stack.frames);
        let same: u64 = replayed.stacks.iter().filter(same).map(|other| other.samples).sum();
        assert!(same >= stack.samples, "{stack:?}: {same}");
    }
}

#[test]
fn a_recording_that_finds_no_room_costs_the_profile_nothing() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink("/dev/full", folder.path().join("x.jsonl.gz")).expect("a link");
    let (ended, live) = check_recorded(folder.path(), "x.jsonl.gz", 1, &["x.jsonl.gz: No space left"]);
    let written = format!("= written {} + ", live.samples());
    assert!(ended.said.contains(&written) && !ended.said.contains("ring full"), "{}", ended.said);
}

#[test]
fn a_recording_that_is_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let garbage: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let life =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/life.jsonl")).expect("a recording");
    let cases: [(&str, &[u8]); 6] = [
        ("garbage.jsonl.gz", &garbage),
        ("garbage.jsonl", &garbage),
        ("empty.jsonl", b""),
        ("gzip.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03garbage"),
        ("other.jsonl", b"{\"profiler_recording\": 999}\n"),
        ("cut.jsonl", &life[..life.len() / 2]),
    ];
    for (name, bytes) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        let ended = check_command(&mut daemon(&["replay", &path.display().to_string()]), 1, &[name]);
        assert_eq!(ended.said.lines().count(), 1, "{}", ended.said);
    }
    check(&["replay", "/nonexistent.jsonl"], 1, &["/nonexistent.jsonl", "No such file"]);
}

/// What a writer leaves that is killed: some whole lines, and a part of one.
#[test]
fn a_recording_that_is_cut_off_is_replayed_up_to_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let life = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/life.jsonl");
    let whole = fs::read_to_string(&life).expect("a recording");
    let batch = whole.lines().nth(1).expect("a batch");
    let path = folder.path().join("cut.jsonl");
    fs::write(&path, format!("{whole}{}", &batch[..batch.len() / 2])).expect("a file");
    let replayed = |of: &Path, code, words: &[&str]| {
        let to = folder.path().join("out.folded");
        let arguments = ["replay", &of.display().to_string(), "-o", &to.display().to_string()];
        check(&arguments, code, words);
        fs::read_to_string(to).expect("a profile")
    };
    let expected = replayed(&life, 0, &[]);
    assert!(!expected.is_empty());
    assert_eq!(
        replayed(&path, 1, &["cut.jsonl is cut off in line", "what is whole before that is replayed"]),
        expected
    );
}

// A command that is recorded gives its code.

#[test]
fn a_command_that_cannot_be_started() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("x.folded");
    fs::write(&output, "an older profile").expect("a file");
    let path = output.display().to_string();
    check(
        &["record", "-o", &path, "--", "/nonexistent"],
        127,
        &["/nonexistent cannot be started: No such file"],
    );
    check(
        &["record", "-o", &path, "--", "/etc/passwd"],
        126,
        &["/etc/passwd cannot be started: Permission denied"],
    );
    assert_eq!(fs::read(&output).expect("the older profile"), b"an older profile");
}

#[test]
fn the_code_of_a_recorded_command_is_passed_on() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("x.folded").display().to_string();
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        check(&["record", "-o", &output, "--", "sh", "-c", script], code, &["captured"]);
    }
}

/// Records `sleep 100` and sends what `send` sends once it runs; all of it must have ended soon.
#[track_caller]
fn check_interrupted(send: impl Fn(&Spoken), code: i32) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, ready) = (folder.path().join("x.folded"), folder.path().join("ready"));
    let script = "echo > \"$0\"; exec sleep 100";
    let arguments = [
        "record",
        "-o",
        &output.display().to_string(),
        "--",
        "sh",
        "-c",
        script,
        &ready.display().to_string(),
    ]
    .map(str::to_owned);
    let recording = Spoken::start(&mut daemon(&arguments.each_ref().map(String::as_str)));
    let begun = std::time::Instant::now();
    while !ready.exists() {
        assert!(begun.elapsed() < FAIL_MAX, "{}", recording.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    send(&recording);
    let ended = recording.end(FAIL_MAX);
    assert_eq!(ended.status.code(), Some(code), "{}", ended.said);
    assert!(ended.said.contains("captured") && output.exists(), "{}", ended.said);
}

#[test]
fn ctrl_c_ends_a_recording_and_its_command() {
    need!(gate::bpf());
    check_interrupted(|recording| recording.signal_group(Signal::INT), 130);
}

#[test]
fn a_signal_to_the_recorder_alone_reaches_the_command_too() {
    need!(gate::bpf());
    check_interrupted(|recording| recording.signal(Signal::TERM), 143);
    check_interrupted(|recording| recording.signal(Signal::INT), 143);
}

#[test]
fn ctrl_c_ends_a_recording_of_the_whole_system() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("x.folded").display().to_string();
    let mut record = Command::new("timeout");
    record.args(["--signal", "INT", "4"]).arg(binary()).args(["record", "-F", "999", "-o", &output]);
    check_command(&mut record, 124, &["captured"]); // timeout's own code
    assert!(Path::new(&output).exists());
}

/// A server that never answers, so that the agent has something to wait for.
#[test]
fn a_second_ctrl_c_does_not_wait() {
    need!(gate::bpf());
    let server = Pyroscope::start(Mood::Silent);
    let mut agent = Agent::start(&["--server", &server.url(), "-F", "999", "--interval", "1s"]);
    server.wait_for_requests(1);
    let namer = agent.child("namer");
    agent.process().signal(Signal::INT);
    // One that follows at once is the same one, as `timeout` and `sudo` send it.
    agent.process().signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(700));
    assert!(agent.process().is_alive(), "{}", agent.process().said());
    agent.process().signal(Signal::INT);
    let ended = agent.end(Duration::from_secs(2));
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    namer.into_iter().for_each(wait_until_gone);
}
