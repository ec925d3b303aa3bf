//! The namer as it is: a process of its own, real files, a real kernel.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod cost;
mod debug_files;
mod files;
mod go;
mod hostile;
mod linked;
mod packed;
mod rig;
mod tables;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use profiler_daemon::children::spawn_server;

use rig::CHILD;

/// What a child that confined itself said when it tried `what` in a fresh folder.
fn tried(what: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::set_permissions(folder.path().join("data"), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(folder.path().join("private"), b"secret").unwrap();
    std::fs::set_permissions(folder.path().join("private"), PermissionsExt::from_mode(0o600)).unwrap();
    let output = Command::new(CHILD).arg(what).arg(folder.path()).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[track_caller]
fn check(said: &str, line: &str) {
    assert!(said.lines().any(|known| known == line), "{line}\nis not in\n{said}");
}

fn value<'a>(status: &'a str, field: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim()
}

/// Whether this test may expect another user and an empty bounding set.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: that a child becomes another user is not tested");
    }
    root
}

#[test]
fn the_namer_reads_what_it_is_handed_and_does_nothing_else() {
    let said = tried("try-namer");
    check(&said, "read what was handed: done");
    for refused in ["write", "append", "unlink", "connect", "unix socket", "exec", "thread"] {
        let outcome = value(&said, &format!("{refused}: "));
        assert!(outcome.contains("denied") || outcome.contains("not permitted"), "{refused}: {outcome}");
    }
    assert_ne!(value(&said, "half a gigabyte: "), "done");
    check(&said, "NoNewPrivs:\t1");
    check(&said, "Seccomp:\t2");
    check(&said, "OomScoreAdj:\t1000");
    if is_root() {
        check(&said, "Uid:\t65534\t65534\t65534\t65534");
        check(&said, "Gid:\t65534\t65534\t65534\t65534");
        assert_eq!(value(&said, "Groups:"), "");
        check(&said, "CapBnd:\t0000000000000000");
        check(&said, "CapEff:\t0000000000000004"); // CAP_DAC_READ_SEARCH
        check(&said, "CapPrm:\t0000000000000004");
    }
    check(&said, "CapAmb:\t0000000000000000");
    check(&said, "CapInh:\t0000000000000000");
}

#[test]
fn the_server_writes_in_its_folder_and_keeps_no_capability() {
    let said = tried("try-server");
    check(&said, "write in its folder: done");
    check(&said, "thread: done");
    for refused in ["write beside it", "exec"] {
        let outcome = value(&said, &format!("{refused}: "));
        assert!(outcome.contains("denied") || outcome.contains("not permitted"), "{refused}: {outcome}");
    }
    check(&said, "CapEff:\t0000000000000000");
    check(&said, "CapPrm:\t0000000000000000");
    check(&said, "NoNewPrivs:\t1");
    check(&said, "OomScoreAdj:\t900");
}

#[test]
fn the_server_takes_its_listener_keeps_nothing_else_and_ends_with_its_parent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Something that a child must not keep: a descriptor that was not marked to be closed.
    let leaked = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let mut spawned = spawn_server(Path::new(CHILD), ["serve"], &listener).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut said = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut said).unwrap();
    // Standard input, output and error, listener, lifeline, the connection, and the folder it counts in.
    assert_eq!(said, "7");
    // Its own group: a Ctrl-C on the terminal does not reach it.
    let pid = spawned.child.id();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(stat.split(' ').nth(4), Some(&*pid.to_string()));
    drop(spawned.lifeline);
    assert_eq!(spawned.child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_namer_started_by_hand_says_so() {
    let mut child =
        Command::new(CHILD).arg("namer").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert!(!child.wait().unwrap().success());
}

/// Lines that a program prints until an empty one.
fn lines(output: impl Read) -> Vec<String> {
    BufReader::new(output).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect()
}
