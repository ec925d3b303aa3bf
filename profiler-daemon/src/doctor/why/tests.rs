//! Processes as they are, and hand-made ones.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::doctor::Health;

fn subject(proc: &Path, pid: u32) -> Subject {
    Subject { proc: proc.to_owned(), pid, patience: Duration::from_millis(100) }
}

/// What is found of process 7 with these files.
#[track_caller]
fn check(files: &[(&str, &str)], name: &str, health: Health, words: &str) {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join("7");
    std::fs::create_dir_all(folder.join("root/tmp")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let (findings, _) = examine(&subject(proc.path(), 7));
    let finding =
        findings.iter().find(|finding| finding.check == name).unwrap_or_else(|| panic!("{findings:?}"));
    assert_eq!(finding.health, health, "{finding:?}");
    assert!(finding.text().contains(words), "{finding:?}");
    assert_eq!(finding.advice.is_empty(), health != Health::DoesNotFit, "{finding:?}");
}

const STATUS: &str = "Name:\twork\nState:\tS (sleeping)\nTgid:\t7\nNSpid:\t7\t3\nVmSize:\t10 kB\n";

#[test]
fn what_is_not_there_is_said_to_be_gone() {
    check(&[], "process", Health::DoesNotFit, "no process 7");
}

#[test]
fn threads_zombies_and_the_kernels_own_are_told_apart() {
    check(&[("status", "Name:\ta\nTgid:\t5\n")], "process", Health::DoesNotFit, "Ask for 5");
    check(&[("status", "Name:\ta\nState:\tZ (zombie)\nTgid:\t7\n")], "process", Health::DoesNotFit, "zombie");
    check(&[("status", "Name:\tkworker\nState:\tI (idle)\nTgid:\t7\n")], "process", Health::Fits, "kernel");
}

#[test]
fn code_that_no_file_has_needs_a_map_under_its_own_number() {
    let maps =
        "1000-2000 r-xp 0 00:00 0 \n3000-4000 r-xp 0 08:01 5 /bin/work\n5000-6000 r-xp 0 00:00 0 [vdso]\n";
    check(
        &[("status", STATUS), ("maps", maps)],
        "code",
        Health::DoesNotFit,
        "1 mappings of code that no file has, and no /tmp/perf-3.map",
    );
    check(
        &[("status", STATUS), ("maps", maps), ("root/tmp/perf-3.map", "")],
        "code",
        Health::Fits,
        "keeps /tmp/perf-3.map",
    );
    let files = "3000-4000 r-xp 0 08:01 5 /bin/work (deleted)\n1000-2000 rw-p 0 00:00 0 \n";
    check(&[("status", STATUS), ("maps", files)], "code", Health::Fits, "1 files of it were deleted");
}

#[test]
fn a_program_that_somebody_may_serve_is_not_opened() {
    // In memory: no mount of the process has its number.
    let memory = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    std::io::Write::write_all(&mut std::fs::File::from(memory.try_clone().unwrap()), b"\x7fELF\x01").unwrap();
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join("7");
    std::fs::create_dir_all(&folder).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    std::os::unix::fs::symlink(link, folder.join("exe")).unwrap();
    let found = program::check(&subject(proc.path(), 7));
    assert!(found.health == Health::Unknown && found.found.contains("is not opened"), "{found:?}");
}

#[test]
fn a_real_sleeper_is_said_to_sleep_and_a_stopped_one_to_be_stopped() {
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let asked = subject(Path::new("/proc"), child.id());
    let work = |(findings, goes_on): (Vec<Finding>, bool)| {
        assert!(goes_on, "{findings:?}");
        findings.into_iter().find(|finding| finding.check == "work").unwrap().text()
    };
    let sleeping = work(examine(&asked));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let stopped = work(examine(&asked));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sleeping.contains("change") && sleeping.contains("when it worked"), "{sleeping}");
    assert!(stopped.contains("SIGCONT"), "{stopped}");
}

#[test]
fn we_ourselves_work_and_have_names() {
    let burning = std::thread::spawn(|| {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {}
    });
    let (findings, goes_on) = examine(&subject(Path::new("/proc"), std::process::id()));
    burning.join().unwrap();
    let found: Vec<_> = findings.iter().map(|finding| (&*finding.check, finding.health)).collect();
    let all = ["process", "access", "work", "program", "code"].map(|check| (check, Health::Fits));
    assert!(goes_on && found == all, "{findings:?}");
}
