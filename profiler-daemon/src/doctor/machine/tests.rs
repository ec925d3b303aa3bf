//! Each check on a folder that looks like a machine.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::TcpListener;

use super::*;
use crate::time::WallNs;

/// What `check` finds where `files` are all there is, and words of what it says.
#[track_caller]
fn check(check: Check, files: &[(&str, &str)], health: Health, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = folder.path().to_owned();
    check_place(
        check,
        &Place {
            root,
            memory_bytes_max: 1 << 30,
            memory_bytes_least: 600 << 20,
            data_dir: None,
            free_bytes_min: 0,
            server: None,
        },
        health,
        words,
    );
}

#[track_caller]
fn check_place(check: Check, place: &Place, health: Health, words: &str) {
    let finding = check(place);
    assert_eq!(finding.health, health, "{finding:?}");
    assert!(finding.text().contains(words), "{finding:?} lacks {words:?}");
    assert_eq!(finding.advice.is_empty(), health != Health::DoesNotFit, "{finding:?}");
}

const RELEASE: &str = "proc/sys/kernel/osrelease";

#[test]
fn a_kernel_is_new_enough_or_not() {
    check(kernel::check, &[(RELEASE, "6.1.0-18-amd64\n")], Health::Fits, "6.1.0-18-amd64");
    check(kernel::check, &[(RELEASE, "5.15.0-91-generic\n")], Health::Fits, "from 5.17 on");
    check(kernel::check, &[(RELEASE, "5.4.0\n")], Health::DoesNotFit, "Boot Linux 5.15");
    check(kernel::check, &[(RELEASE, "plan9\n")], Health::Unknown, "plan9");
    check(kernel::check, &[], Health::Unknown, "cannot be read");
}

#[test]
fn a_locked_kernel_is_told() {
    let file = "sys/kernel/security/lockdown";
    check(lockdown::check, &[], Health::Fits, "none");
    check(lockdown::check, &[(file, "none [integrity] confidentiality\n")], Health::Fits, "integrity");
    check(lockdown::check, &[(file, "none integrity [confidentiality]\n")], Health::DoesNotFit, "lockdown=");
}

#[test]
fn perf_events_for_administrators_only_are_told() {
    let file = "proc/sys/kernel/perf_event_paranoid";
    check(paranoid::check, &[(file, "-1\n")], Health::Fits, "-1");
    check(paranoid::check, &[(file, "2\n")], Health::Fits, "is 2");
    check(paranoid::check, &[(file, "3\n")], Health::DoesNotFit, "kernel.perf_event_paranoid=2");
    check(paranoid::check, &[(file, "much\n")], Health::Unknown, "cannot be read");
    check(paranoid::check, &[], Health::Unknown, "cannot be read");
}

#[test]
fn hidden_addresses_of_the_kernel_are_told_and_harm_none_but_a_replay() {
    let (file, zeros) = ("proc/kallsyms", "0000000000000000 T _stext\n0000000000000000 T other\n");
    let restrict = "proc/sys/kernel/kptr_restrict";
    check(
        kallsyms::check,
        &[(file, "0000000000000000 A fixed\nffffffff81000000 T _stext\n")],
        Health::Fits,
        "shown",
    );
    check(kallsyms::check, &[(file, zeros), (restrict, "2\n")], Health::Fits, "kptr_restrict is 2");
    check(kallsyms::check, &[], Health::Fits, "cannot be read");
}

#[test]
fn locked_memory_matters_on_old_kernels_only() {
    let limits =
        ("proc/self/limits", "Max locked memory         65536                65536                bytes\n");
    check(memlock::check, &[limits, (RELEASE, "6.1.0\n")], Health::Fits, "does not count");
    check(memlock::check, &[limits, (RELEASE, "5.10.0\n")], Health::DoesNotFit, "LimitMEMLOCK");
    let limits =
        ("proc/self/limits", "Max locked memory         65536                unlimited            bytes\n");
    check(memlock::check, &[limits, (RELEASE, "5.10.0\n")], Health::Fits, "unlimited");
    check(memlock::check, &[], Health::Unknown, "cannot be read");
}

#[test]
fn a_kernel_that_does_not_know_its_types_may_be_the_trouble() {
    check(btf::check, &[("sys/kernel/btf/vmlinux", "")], Health::Fits, "knows its types");
    check(btf::check, &[], Health::Unknown, "CONFIG_DEBUG_INFO_BTF");
}

#[test]
fn what_others_need_is_told_and_changes_nothing() {
    check(tracefs::check, &[("sys/kernel/tracing/events/enable", "")], Health::Fits, "there, and not needed");
    check(tracefs::check, &[], Health::Fits, "not there for us");
}

#[test]
fn processes_of_others_may_be_looked_at_or_not() {
    let (arguments, maps) = (("proc/1/cmdline", "init"), ("proc/1/maps", ""));
    check(processes::check, &[arguments, maps], Health::Fits, "1 were tried");
    check(processes::check, &[arguments, ("proc/self/cmdline", "us")], Health::Fits, "1 were tried");
    check(
        processes::check,
        &[arguments, ("proc/2/cmdline", ""), ("proc/2/maps", "")],
        Health::Fits,
        "1 were tried",
    );
    check(processes::check, &[("proc/2/cmdline", "")], Health::Unknown, "none is seen");
    check(processes::check, &[("proc/uptime", "")], Health::Unknown, "none is seen");
}

/// Of so many tries some were refused, and some met a process that had ended.
#[track_caller]
fn check_refused(refused: usize, gone: usize, granted: usize, expected: bool) {
    let error = |kind: std::io::ErrorKind, count| (0..count).map(move |_| Err(kind.into()));
    let tried = error(std::io::ErrorKind::PermissionDenied, refused)
        .chain(error(std::io::ErrorKind::NotFound, gone))
        .chain((0..granted).map(|_| Ok(())));
    assert_eq!(processes::is_refused(tried).is_some(), expected);
}

#[test]
fn a_right_is_missing_where_most_processes_refuse_what_it_grants() {
    check_refused(0, 0, 10, false);
    check_refused(5, 0, 5, false);
    check_refused(6, 0, 5, true);
    check_refused(1, 9, 0, true);
    check_refused(0, 9, 0, false);
}

#[test]
fn files_may_be_open_by_the_thousand_or_not() {
    let limits =
        |hard: &str| format!("Max open files            1024                 {hard}               files\n");
    check(files::check, &[("proc/self/limits", &limits("524288"))], Health::Fits, "524288");
    check(files::check, &[("proc/self/limits", &limits("4096"))], Health::DoesNotFit, "LimitNOFILE to 6144");
    check(files::check, &[], Health::Unknown, "cannot be read");
}

#[test]
fn a_machine_has_room_for_us_or_not() {
    let all = |kib: &str| format!("MemTotal:        {kib} kB\nMemFree: 1 kB\n");
    let check = |text: &str, health, words| check(memory::check, &[("proc/meminfo", text)], health, words);
    check(&all("8000000"), Health::Fits, "at most 1024 MiB of 7812 MiB");
    check(&all("1600000"), Health::DoesNotFit, "Set memory_max to 782 MiB");
    check(&all("500000"), Health::DoesNotFit, "Set memory_max to 600 MiB");
    check("MemTotal: much\n", Health::Unknown, "meminfo");
    check("", Health::Unknown, "meminfo");
}

#[test]
fn a_clock_that_was_never_set_is_told() {
    assert_eq!(clock::of(WallNs(0)).health, Health::DoesNotFit);
    assert_eq!(clock::of(WallNs(1_800_000_000_000_000_000)).health, Health::Fits);
}

#[test]
fn a_disk_is_there_writable_and_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let place = |data_dir: &Path, free_bytes_min| Place {
        root: "/".into(),
        data_dir: Some(data_dir.to_owned()),
        free_bytes_min,
        memory_bytes_max: 0,
        memory_bytes_least: 0,
        server: None,
    };
    check_place(disk::check, &place(folder.path(), 0), Health::Fits, "are free");
    check_place(disk::check, &place(folder.path(), u64::MAX), Health::DoesNotFit, "Free some space");
    check_place(disk::check, &place(&folder.path().join("no"), 0), Health::DoesNotFit, "Make the folder");
    check(disk::check, &[], Health::Fits, "in memory only");
}

#[test]
fn a_server_takes_connections_or_not() {
    let place = |server: String| Place {
        root: "/".into(),
        data_dir: None,
        free_bytes_min: 0,
        memory_bytes_max: 0,
        memory_bytes_least: 0,
        server: Some(server),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    check_place(server::check, &place(url.clone()), Health::Fits, "takes connections");
    drop(listener);
    check_place(server::check, &place(url), Health::DoesNotFit, "Start the server");
    check_place(
        server::check,
        &place("http://nowhere.invalid".to_owned()),
        Health::DoesNotFit,
        "has no address",
    );
}

#[test]
fn the_worst_decides() {
    let (fits, changes, unknown) =
        (Finding::fits("a", "b"), Finding::does_not_fit("a", "b", "c"), Finding::unknown("a", "b"));
    assert_eq!(health(std::slice::from_ref(&fits)), Health::Fits);
    assert_eq!(health(&[fits.clone(), unknown.clone()]), Health::Unknown);
    assert_eq!(health(&[unknown, changes, fits]), Health::DoesNotFit);
}
