//! Real processes: whatever they do to their files, what they run is known.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Config, Tracker};
use crate::meters::Meters;
use crate::model::{
    Comm, Mapping, Module, ModuleKind, Pid, ProcessChange, ProcessEvent, ProcessFacts, Reason, UserAddr,
};
use crate::procfs::{MapsLine, Procfs};
use crate::time::MonoNs;

/// A child that does not outlive its test.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        loop {
            match command.spawn() {
                // Another test has forked while this one wrote its copy, and holds it open until it has executed.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                spawned => return Self(spawned.unwrap()),
            }
        }
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it executes a program of this name.
    fn until_it_is(&self, comm: &str) {
        let begun = Instant::now();
        while Procfs::default().stat(self.pid()).is_ok_and(|stat| stat.comm != comm.as_bytes()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it never became {comm}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The first executable mapping of a file that ends in `name`, once it is there.
    fn line(&self, name: impl AsRef<[u8]>) -> MapsLine {
        let begun = Instant::now();
        loop {
            let maps = Procfs::default().executable_maps(self.pid(), 1000).unwrap();
            match maps.executable.into_iter().find(|line| line.path.ends_with(name.as_ref())) {
                Some(line) => return line,
                None => assert!(begun.elapsed() < Duration::from_secs(10), "it never mapped the file"),
            }
        }
    }
}

fn tracker() -> Tracker {
    Tracker::new(Config::default(), Procfs::default(), &Meters::default())
}

fn mapped(pid: u32, line: &MapsLine) -> ProcessEvent {
    let mapping = Mapping {
        start: UserAddr(line.start),
        end: UserAddr(line.end),
        file_offset: line.file_offset,
        path: line.path.clone().into(),
        build_id: None,
        module: None,
    };
    ProcessEvent { time: MonoNs::now(), pid: Pid(pid), change: ProcessChange::Mapped(Box::new(mapping)) }
}

/// What the tracker pins for a mapping of a process it knows of.
fn pin(pid: u32, line: &MapsLine) -> Option<Arc<Module>> {
    let mut tracker = tracker();
    let change = ProcessChange::Forked { parent: Pid(1) };
    tracker.pin(&mut ProcessEvent { time: MonoNs::now(), pid: Pid(pid), change });
    let mut event = mapped(pid, line);
    tracker.pin(&mut event);
    match event.change {
        ProcessChange::Mapped(mapping) => mapping.module,
        other => panic!("{other:?}"),
    }
}

/// What the tracker reads of a process when the first it hears of it is one mapping.
fn facts(tracker: &mut Tracker, pid: u32) -> Option<ProcessFacts> {
    let mut event = mapped(
        pid,
        &MapsLine { start: 0, end: 4096, executable: true, file_offset: 0, inode: 0, path: b"/x".to_vec() },
    );
    tracker.pin(&mut event);
    match event.change {
        ProcessChange::Found(facts) => Some(*facts),
        _ => None,
    }
}

/// Asserts that `module` holds a file with the contents of `original`.
#[track_caller]
fn check_holds(module: Option<Arc<Module>>, original: &Path) {
    let module = module.expect("a module");
    let held = module.file.as_ref().expect("a file that is held").as_raw_fd();
    let file = fs::File::open(format!("/proc/self/fd/{held}")).unwrap();
    let expected = fs::read(original).unwrap();
    let mut seen = vec![0; expected.len()];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == expected, "the file is not {}", original.display());
}

fn sleep() -> PathBuf {
    ["/usr/bin/sleep", "/bin/sleep"].iter().map(PathBuf::from).find(|path| path.exists()).unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can change roots and read other processes' files");
    }
    root
}

/// The same line at addresses that no file of `map_files` has, so that only the path is left.
fn by_path_only(line: &MapsLine, path: &str) -> MapsLine {
    MapsLine { end: line.end + 4096, path: path.into(), ..line.clone() }
}

#[test]
fn our_own_functions_settle_to_the_bytes_of_our_executable() {
    let mut tracker = tracker();
    let events = tracker.snapshot();
    for event in events {
        tracker.apply(event);
    }
    let pid = Pid(std::process::id());
    let address = our_own_functions_settle_to_the_bytes_of_our_executable as *const () as u64;
    let (module, offset) = tracker.settle(pid, UserAddr(address)).unwrap();
    let mut in_memory = [0; 64];
    fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut in_memory, address).unwrap();
    let mut in_file = [0; 64];
    fs::File::open("/proc/self/exe").unwrap().read_exact_at(&mut in_file, offset.0).unwrap();
    assert_eq!(in_memory, in_file);
    check_holds(Some(module), Path::new("/proc/self/exe"));
    let process = tracker.process(pid).unwrap();
    assert_eq!(
        process.executable.as_deref(),
        Some(std::env::current_exe().unwrap().as_os_str().as_encoded_bytes())
    );
    assert!(process.cgroup.is_some() && !process.kernel_thread);
    assert_eq!(process.settle(UserAddr(1)), Err(Reason::NoMapping));
}

#[test]
fn every_process_has_the_kernels_shared_object() {
    let guest = Guest::start(Command::new(sleep()).arg("100"));
    let mut tracker = tracker();
    let line = guest.line("[vdso]");
    for pid in [guest.pid(), std::process::id()] {
        let facts = facts(&mut tracker, pid).unwrap();
        let mapping = facts.mappings.iter().find(|mapping| *mapping.path == *b"[vdso]").unwrap().clone();
        let change = ProcessChange::Found(Box::new(facts));
        tracker.apply(ProcessEvent { time: MonoNs::now(), pid: Pid(pid), change });
        let inside = UserAddr(mapping.start.0 + 16);
        let (module, offset) = tracker.settle(Pid(pid), inside).unwrap();
        assert_eq!((module.kind, module.id, offset.0), (ModuleKind::Vdso, mapping.module.unwrap().id, 16));
    }
    let of_guest = tracker.settle(Pid(guest.pid()), UserAddr(line.start)).unwrap().0;
    let ours = Procfs::default().executable_maps(std::process::id(), 1000).unwrap();
    let ours = ours.executable.iter().find(|line| line.path == b"[vdso]").unwrap();
    let of_us = tracker.settle(Pid(std::process::id()), UserAddr(ours.start)).unwrap().0;
    assert!(Arc::ptr_eq(&of_guest, &of_us));
}

#[test]
fn kernel_threads_are_found_as_such() {
    let mut tracker = tracker();
    let found = tracker.snapshot();
    let threads = found.iter().filter(
        |event| matches!(&event.change, ProcessChange::Found(facts) if facts.kernel_thread && facts.mappings.is_empty()),
    );
    // Some containers show none.
    if Procfs::default().stat(2).is_ok_and(|stat| stat.comm == b"kthreadd") {
        assert!(threads.count() > 1);
    }
}

#[test]
fn an_executable_that_was_deleted_is_held() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("victim");
    fs::copy(sleep(), &copy).unwrap();
    let guest = Guest::start(Command::new(&copy).arg("100"));
    let line = guest.line("/victim");
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, "something else").unwrap();
    check_holds(pin(guest.pid(), &line), &sleep());
    let deleted = guest.line("/victim (deleted)");
    check_holds(pin(guest.pid(), &deleted), &sleep());
    let unreachable =
        pin(guest.pid(), &by_path_only(&deleted, &String::from_utf8_lossy(&deleted.path))).unwrap();
    assert!(unreachable.file.is_none(), "what is at its path now is another file");
}

#[test]
fn a_program_without_a_path_is_held() {
    if !is_root() {
        return;
    }
    let memory = rustix::fs::memfd_create("secret", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = fs::File::from(memory);
    file.write_all(&fs::read(sleep()).unwrap()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // Open for writing, it could not be executed.
    let readable = fs::File::open(&path).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), readable.as_raw_fd());
    drop(file);
    let guest = Guest::start(Command::new(path).arg("100"));
    check_holds(pin(guest.pid(), &guest.line("/memfd:secret (deleted)")), &sleep());
}

#[test]
fn a_program_in_another_mount_namespace_is_held() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs none "$1" && cp "$2" "$1/hidden" && exec "$1/hidden" 100"#;
    let guest = Guest::start(
        Command::new("unshare").args(["--mount", "sh", "-c", script, "sh"]).arg(folder.path()).arg(sleep()),
    );
    guest.until_it_is("hidden");
    let line = guest.line("/hidden");
    check_holds(pin(guest.pid(), &line), &sleep());
    let path = folder.path().join("hidden");
    assert!(!path.exists());
    check_holds(pin(guest.pid(), &by_path_only(&line, path.to_str().unwrap())), &sleep());
}

#[test]
fn a_program_below_another_root_is_held() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let listed = Command::new("ldd").arg(sleep()).output().unwrap();
    let libraries = String::from_utf8(listed.stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = root.path().join(&library[1..]);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(library, inside).unwrap();
    }
    fs::copy(sleep(), root.path().join("inside")).unwrap();
    let guest = Guest::start(Command::new("chroot").arg(root.path()).args(["/inside", "100"]));
    guest.until_it_is("inside");
    let line = guest.line("/inside");
    check_holds(pin(guest.pid(), &line), &sleep());
    // The kernel's records give the path as the process sees it.
    check_holds(pin(guest.pid(), &by_path_only(&line, "/inside")), &sleep());
    let facts = facts(&mut tracker(), guest.pid()).unwrap();
    assert!(facts.mappings.iter().any(|mapping| mapping.start.0 == line.start && mapping.module.is_some()));
}

#[test]
fn a_process_heard_of_late_is_read_whole() {
    let guest = Guest::start(Command::new(sleep()).arg("100"));
    let line = guest.line("/sleep");
    let facts = facts(&mut tracker(), guest.pid()).unwrap();
    assert_eq!(facts.comm, Comm::new(b"sleep"));
    assert!(facts.executable.unwrap().ends_with(b"/sleep"));
    assert!(facts.cgroup.is_some());
    assert!(facts.mappings.iter().any(|mapping| mapping.start.0 == line.start));
}

#[test]
fn the_cgroup_is_read_at_the_exec() {
    let guest = Guest::start(Command::new(sleep()).arg("100"));
    let change = ProcessChange::Executed { comm: Comm::new(b"sleep"), cgroup: None };
    let mut event = ProcessEvent { time: MonoNs::now(), pid: Pid(guest.pid()), change };
    tracker().pin(&mut event);
    let ProcessChange::Executed { cgroup: Some(cgroup), .. } = event.change else { panic!("{event:?}") };
    assert_eq!(*cgroup, *Procfs::default().cgroup(guest.pid()).unwrap());
}

#[test]
fn a_name_of_foreign_bytes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"a) R (\n\xff");
    let copy = folder.path().join(name);
    fs::copy(sleep(), &copy).unwrap();
    let guest = Guest::start(Command::new(&copy).arg("100"));
    guest.line(b"/a) R (\n\xff");
    let facts = facts(&mut tracker(), guest.pid()).unwrap();
    assert_eq!(facts.comm, Comm::new(b"a) R (\n\xff"));
    assert!(facts.executable.unwrap().ends_with(b"/a) R (\n\xff"));
    assert!(facts.mappings.iter().any(|mapping| mapping.path.ends_with(b"/a) R (\n\xff")));
}

#[test]
fn processes_that_end_while_they_are_read_are_no_trouble() {
    let mut tracker = tracker();
    for _ in 0..100 {
        let mut child = Command::new("true").spawn().unwrap();
        // Sometimes all of it, sometimes half of it, sometimes none.
        let _ = facts(&mut tracker, child.id());
        child.wait().unwrap();
        assert!(facts(&mut tracker, child.id()).is_none());
    }
}

#[test]
fn healing_ends_what_is_gone_and_keeps_what_is_there() {
    let mut tracker = tracker();
    let mut child = Command::new(sleep()).arg("100").spawn().unwrap();
    for event in tracker.snapshot() {
        tracker.apply(event);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut events = tracker.heal();
    assert!(tracker.is_healing());
    while tracker.is_healing() {
        let found = tracker.heal_until(MonoNs(0));
        assert!(found.len() <= 1, "a turn without time reads no more than one");
        events.extend(found);
    }
    let of = |pid: u32| events.iter().filter(move |event| event.pid == Pid(pid)).map(|event| &event.change);
    assert!(of(child.id()).eq([&ProcessChange::Exited]));
    assert!(matches!(of(std::process::id()).next(), Some(ProcessChange::Found(_))));
}

/// Maps one page of itself over and over, each time at another offset, so that no two pieces are one.
const HOSTILE: &str = r#"
#include <sys/mman.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int file = open(argv[1], O_RDONLY);
    int made = 0;
    for (; made < 100000; made++)
        if (mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, made % 2 * 4096) == MAP_FAILED) break;
    printf("%d\n", made);
    fflush(stdout);
    return getchar();
}
"#;

#[test]
fn a_process_with_as_many_mappings_as_it_may_have_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hostile.c"), HOSTILE).unwrap();
    let built = Command::new("cc").current_dir(folder.path()).args(["-o", "hostile", "hostile.c"]).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: there is no C compiler to build the hostile process with");
        return;
    }
    let program = folder.path().join("hostile");
    let mut guest = Guest::start(Command::new(&program).arg(&program));
    let mut line = [0; 8];
    let read = guest.0.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let made: usize = String::from_utf8_lossy(&line[..read]).trim().parse().unwrap();
    assert!(made > 60_000);

    let config = Config { mappings_max: 50_000, ..Config::default() };
    let meters = Meters::default();
    let mut tracker = Tracker::new(config, Procfs::default(), &meters);
    let begun = cpu_time();
    let facts = facts(&mut tracker, guest.pid()).unwrap();
    assert_eq!(facts.mappings.len(), 50_000);
    let modules: std::collections::BTreeSet<_> =
        facts.mappings.iter().flat_map(|mapping| &mapping.module).map(|module| module.id).collect();
    assert!(modules.len() <= 4, "one file is one module, and one open file");
    let change = ProcessChange::Found(Box::new(facts));
    tracker.apply(ProcessEvent { time: MonoNs::now(), pid: Pid(guest.pid()), change });
    let took = cpu_time() - begun;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(meters.render().contains(r#"profiler_processes_over_max_total{what="mappings"} 1"#));
}

/// What this thread has computed so far: others may be busy while we measure.
fn cpu_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap()
}

/// Prints what events cost; to be run with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_what_events_cost() {
    const COUNT: u32 = 2000;
    let mut tracker = tracker();
    let begun = cpu_time();
    let events = tracker.snapshot();
    let (processes, read) = (events.len(), (cpu_time() - begun));
    let count = |event: &ProcessEvent| match &event.change {
        ProcessChange::Found(facts) => facts.mappings.len(),
        _ => 0,
    };
    let mappings: usize = events.iter().map(count).sum();
    eprintln!("snapshot: {processes} processes with {mappings} mappings in {read:?}");
    let begun = cpu_time();
    for event in events {
        tracker.apply(event);
    }
    eprintln!("applied in {:?}", (cpu_time() - begun));

    let guest = Guest::start(Command::new(sleep()).arg("100"));
    let fork = |pid: u32| ProcessEvent {
        time: MonoNs::now(),
        pid: Pid(pid),
        change: ProcessChange::Forked { parent: Pid(1) },
    };
    tracker.pin(&mut fork(guest.pid()));
    tracker.pin(&mut fork(u32::MAX));
    let line = guest.line("/sleep");
    let mut measure = |name: &str, pid: u32, line: &MapsLine| {
        let mut events: Vec<_> = (0..COUNT).map(|_| mapped(pid, line)).collect();
        let begun = cpu_time();
        for event in &mut events {
            tracker.pin(event);
        }
        eprintln!("pin {name}: {} ns", (cpu_time() - begun).as_nanos() / u128::from(COUNT));
        let begun = cpu_time();
        for event in events {
            tracker.apply(event);
        }
        eprintln!("apply {name}: {} ns", (cpu_time() - begun).as_nanos() / u128::from(COUNT));
    };
    measure("a mapping of a known file", guest.pid(), &line);
    measure(
        "a mapping found by path",
        guest.pid(),
        &by_path_only(&line, &String::from_utf8_lossy(&line.path)),
    );
    measure("a mapping of a process that is gone", u32::MAX, &line);
    measure("nameless memory", guest.pid(), &MapsLine { path: b"//anon".to_vec(), ..line.clone() });
    let begun = cpu_time();
    for _ in 0..COUNT {
        let change = ProcessChange::Executed { comm: Comm::new(b"sleep"), cgroup: None };
        tracker.pin(&mut ProcessEvent { time: MonoNs::now(), pid: Pid(guest.pid()), change });
    }
    eprintln!("pin an exec: {} ns", (cpu_time() - begun).as_nanos() / u128::from(COUNT));
    let folder = tempfile::tempdir().unwrap();
    let copies: Vec<_> = (0..200).map(|i| folder.path().join(i.to_string())).collect();
    let guests: Vec<_> = copies
        .iter()
        .map(|copy| {
            fs::copy(sleep(), copy).unwrap();
            Guest::start(Command::new(copy).arg("100"))
        })
        .collect();
    let mut events: Vec<_> = guests
        .iter()
        .zip(&copies)
        .map(|(guest, copy)| mapped(guest.pid(), &guest.line(copy.to_str().unwrap())))
        .collect();
    for guest in &guests {
        tracker.pin(&mut fork(guest.pid()));
    }
    let begun = cpu_time();
    for event in &mut events {
        tracker.pin(event);
    }
    eprintln!("pin a mapping of a new file: {} ns", (cpu_time() - begun).as_nanos() / 200);
}
