//! Names in honest files and in the kernel, and a namer that is killed.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_daemon::model::{FileOffset, Frame, KernelAddr, Module, ModuleKind};
use profiler_daemon::symbolize::Config;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, at, module, offset, places, run};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// True once the process is gone, or a zombie that nobody waited for yet.
fn ends(pid: u32) -> bool {
    (0..500).any(|_| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ended = status.is_empty() || status.contains("State:\tZ");
        if !ended {
            std::thread::sleep(Duration::from_millis(10));
        }
        ended
    })
}

#[test]
fn a_c_program_is_named_with_its_inlined_functions_and_lines() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &["-g"]);
    let (mut rig, module) = (Rig::new(Config::default()), module(&places.path));
    let frames: Vec<_> = places.offsets.iter().map(|&offset| at(&module, offset)).collect();
    let functions = rig.functions(&frames);
    let shown = |functions: &[Arc<profiler_daemon::model::Function>]| {
        let shown = functions.iter().map(|function| {
            let file = Path::new(&*function.file).file_name().unwrap().to_str().unwrap().to_owned();
            format!("{} {}:{} {}", function.name, file, function.line, function.module)
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(shown(&functions[0]), ["here places.c:3 places"]);
    assert_eq!(shown(&functions[1]), ["inner places.c:4 places", "outer places.c:5 places"]);
    assert_eq!(shown(&functions[2]), ["space::foo(int) places.c:7 places"]);
    assert_eq!(rig.started(), 1);
}

#[test]
fn without_inlines_only_the_symbol_table_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &["-g"]);
    let mut rig = Rig::new(Config { inlines: false, ..Config::default() });
    let functions = rig.functions(&[at(&module(&places.path), places.offsets[1])]);
    let function = &functions[0][0];
    assert_eq!((functions[0].len(), &*function.name, &*function.file, function.line), (1, "outer", "", 0));
}

#[test]
fn too_much_debug_information_gives_names_only() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &["-g"]);
    let mut rig = Rig::new(Config { debug_bytes_max: 100, ..Config::default() });
    assert_eq!(rig.name(at(&module(&places.path), places.offsets[1])), "outer");
    assert_eq!(rig.count("profiler_namer_debug_info_skipped_total"), 1);
}

#[test]
fn a_stripped_file_shows_the_address_that_its_tools_count_with() {
    let folder = tempfile::tempdir().unwrap();
    for (name, flag) in [("pie", "-pie"), ("fixed", "-no-pie")] {
        let places = places(folder.path(), name, &[flag]);
        let symbols = run(Command::new("nm").arg(&places.path));
        let here = symbols.lines().find(|line| line.ends_with(" T here")).unwrap();
        let address = u64::from_str_radix(here.split(' ').next().unwrap(), 16).unwrap();
        run(Command::new("strip").arg(&places.path));
        let mut rig = Rig::new(Config::default());
        assert_eq!(rig.name(at(&module(&places.path), places.offsets[0])), format!("{name}+{address:#x}"));
    }
}

#[test]
fn a_file_that_was_deleted_is_named_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let module = module(&places.path);
    std::fs::remove_file(&places.path).unwrap();
    assert_eq!(Rig::new(Config::default()).name(at(&module, places.offsets[0])), "here");
}

#[test]
fn a_file_that_only_its_owner_may_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    std::fs::set_permissions(&places.path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(Rig::new(Config::default()).name(at(&module(&places.path), places.offsets[0])), "here");
}

#[inline(never)]
fn a_rust_function_of_ours(x: u64) -> u64 {
    std::hint::black_box(x) + 1
}

#[test]
fn a_rust_function_is_named_without_its_hash() {
    let address = a_rust_function_of_ours as fn(u64) -> u64 as usize as u64;
    let offset = offset(std::process::id(), address);
    let mut rig = Rig::new(Config { debug_bytes_max: 1 << 30, ..Config::default() });
    let functions = rig.functions(&[at(&module(&std::env::current_exe().unwrap()), offset)]);
    let function = functions[0].last().unwrap();
    assert_eq!(&*function.name, "namer::files::a_rust_function_of_ours");
    assert!(function.file.ends_with("namer/files.rs") && function.line > 0, "{function:?}");
}

#[test]
fn the_vdso_is_named() {
    let vdso = Arc::new(Module {
        id: u32::MAX,
        kind: ModuleKind::Vdso,
        path: Arc::from(&b"[vdso]"[..]),
        build_id: None,
        identity: None,
        file: None,
        root: None,
    });
    let frames = (0..0x1000).map(|at| Frame::User { module: vdso.clone(), offset: FileOffset(at) });
    let names = Rig::new(Config::default()).names(&frames.collect::<Vec<_>>());
    assert!(names.iter().any(|name| name.contains("clock_gettime")), "{names:?}");
    assert!(names[0].starts_with("[vdso]+0x"), "{}", names[0]);
}

#[test]
fn a_kernel_is_named_from_the_list_it_is_given() {
    let mut list = tempfile::NamedTempFile::new().unwrap();
    list.write_all(
        b"ffffffff81000000 T _text\nffffffff81000100 t do_it\nffffffffc0000000 t ext4_go\t[ext4]\n",
    )
    .unwrap();
    let config = Config { kallsyms: list.path().to_owned(), ..Config::default() };
    let mut rig = Rig::new(config);
    let frames = [0xffff_ffff_8100_0123, 0xffff_ffff_c000_0008, 0xffff_ffff_9000_0000, 0x10];
    let names = rig.names(&frames.map(|address| Frame::Kernel(KernelAddr(address))));
    assert_eq!(names, ["do_it", "ext4_go", "[kernel]+0xf000000", "[kernel]"]);
}

#[test]
fn this_kernel_is_named_though_the_namer_may_not_see_its_addresses() {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let line = kallsyms.lines().find(|line| line.ends_with(" T schedule")).unwrap();
    let address = u64::from_str_radix(&line[..16], 16).unwrap();
    if address == 0 {
        eprintln!("skipped: the kernel hides its addresses from this test");
        return;
    }
    assert_eq!(Rig::new(Config::default()).name(Frame::Kernel(KernelAddr(address + 1))), "schedule");
}

#[test]
fn a_namer_that_is_killed_is_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &["-g"]);
    let (mut rig, module) = (Rig::new(Config::default()), module(&places.path));
    assert_eq!(rig.name(at(&module, places.offsets[0])), "here");
    signal(rig.pid(), Signal::KILL);
    assert!(ends(rig.pid()));
    let begun = Instant::now();
    assert_eq!(rig.name(at(&module, places.offsets[1])), "inner<outer");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(rig.started(), 2);
}

/// As the kernel does it when memory is short.
#[test]
fn a_namer_that_is_killed_is_back_within_a_second_five_times_in_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let mut rig = Rig::new(Config::default());
    assert_eq!(rig.name(at(&module(&places.path), places.offsets[0])), "here");
    for times in 1..=5 {
        // A file that it has not seen.
        let copy = folder.path().join(format!("copy{times}"));
        std::fs::copy(&places.path, &copy).unwrap();
        signal(rig.pid(), Signal::KILL);
        assert!(ends(rig.pid()));
        let begun = Instant::now();
        assert_eq!(rig.name(at(&module(&copy), places.offsets[0])), "here");
        assert!(begun.elapsed() < Duration::from_secs(1), "{times}: {:?}", begun.elapsed());
        assert_eq!(rig.started(), times + 1);
    }
    assert_eq!(rig.count("profiler_namer_files_set_aside_total"), 0);
}

#[test]
fn a_namer_that_is_killed_while_it_answers_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let (mut rig, module) = (Rig::new(Config::default()), module(&places.path));
    assert_eq!(rig.name(at(&module, places.offsets[0])), "here");
    let pid = rig.pid();
    signal(pid, Signal::STOP); // so that the question is under way for certain
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        signal(pid, Signal::KILL);
    });
    assert_eq!(rig.name(at(&module, places.offsets[1])), "outer");
    killer.join().unwrap();
    assert_eq!(rig.count("profiler_namer_failures_total"), 1);
}

#[test]
fn a_namer_that_stands_still_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let config = Config { request_timeout: Duration::from_millis(500), ..Config::default() };
    let (mut rig, module) = (Rig::new(config), module(&places.path));
    assert_eq!(rig.name(at(&module, places.offsets[0])), "here");
    let stopped = rig.pid();
    signal(stopped, Signal::STOP);
    assert_eq!(rig.name(at(&module, places.offsets[1])), "outer");
    assert_eq!(rig.started(), 2);
    // The next batch takes the dead one from the process table.
    rig.name(at(&module, places.offsets[2]));
    assert!(!Path::new(&format!("/proc/{stopped}")).exists());
}

#[test]
fn a_namer_that_gets_no_processor_is_not_to_blame() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let config = Config { request_timeout: Duration::from_millis(300), ..Config::default() };
    let (mut rig, module) = (Rig::new(config), module(&places.path));
    assert_eq!(rig.name(at(&module, places.offsets[0])), "here");
    // The hog has a processor for itself, and the namer the three thousandth part of it that the hog leaves.
    let mut hog =
        Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let namer = rig.pid().to_string();
    run(Command::new("taskset").args(["-c", "-p", "0", &namer]));
    run(Command::new("chrt").args(["-i", "-p", "0", &namer]));
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let address = u64::from_str_radix(&kallsyms[..16], 16).unwrap();
    let frame = Frame::Kernel(KernelAddr(address));
    assert_eq!(rig.name(frame.clone()), "[kernel]");
    hog.kill().unwrap();
    hog.wait().unwrap();
    run(Command::new("chrt").args(["-o", "-p", "0", &namer]));
    let named = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        rig.name(frame.clone()) != "[kernel]"
    });
    assert_eq!((named, rig.started()), (address != 0, 1));
    assert_eq!(rig.count("profiler_namer_failures_total"), 0);
}

#[test]
fn the_namer_ends_with_the_symbolizer() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &[]);
    let mut rig = Rig::new(Config::default());
    rig.name(at(&module(&places.path), places.offsets[0]));
    let pid = rig.pid();
    drop(rig);
    assert!(ends(pid));
}
