//! Files that mean no good: none of them may end anything but a namer, and none may take others' names away.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use profiler_daemon::model::Module;
use profiler_daemon::symbolize::Config;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::rig::{Rig, at, module, module_of, places};

/// Asks about a strange module beside an honest one. The strange one shows its offset, the honest one is named.
#[track_caller]
fn check(strange: &Arc<Module>, shown: &str) {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "honest", &[]);
    let honest = module(&places.path);
    let mut rig = Rig::new(Config::default());
    let begun = Instant::now();
    let names = rig.names(&[at(strange, 0x123), at(&honest, places.offsets[0]), at(strange, 0x456)]);
    assert_eq!(names, [format!("{shown}+0x123"), "here".into(), format!("{shown}+0x456")]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(rig.started(), 1, "it took a namer with it");
}

fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn an_empty_file() {
    let (_folder, path) = written("empty", b"");
    check(&module(&path), "empty");
}

#[test]
fn a_file_of_one_byte() {
    let (_folder, path) = written("byte", b"\x7f");
    check(&module(&path), "byte");
}

#[test]
fn a_script() {
    let (_folder, path) = written("script.sh", b"#!/bin/sh\nexit 0\n");
    check(&module(&path), "script.sh");
}

#[test]
fn a_pipe_that_nobody_writes_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let pipe =
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    check(&module_of(pipe.into(), &path), "pipe");
}

#[test]
fn a_device_without_end() {
    check(&module(Path::new("/dev/zero")), "zero");
}

#[test]
fn a_folder() {
    check(&module(Path::new("/usr/lib")), "lib");
}

#[test]
fn an_elf_file_whose_tables_are_itself() {
    let mut elf = vec![0; 4096];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (elf[16], elf[18], elf[20]) = (3, 62, 1);
    // Program headers and section headers begin at zero: the header describes itself, over and over.
    (elf[54], elf[56], elf[58], elf[60], elf[62]) = (56, 60, 64, 60, 1);
    let (_folder, path) = written("self", &elf);
    check(&module(&path), "self");
}

#[test]
fn a_file_that_has_changed_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "changed", &[]);
    let module = module(&places.path);
    File::options().write(true).open(&places.path).unwrap().set_len(4096).unwrap();
    check(&module, "changed");
}

/// The namer maps files, and a file that shrinks under a mapping ends whoever reads there.
#[test]
fn a_file_that_shrinks_while_it_is_read_ends_a_namer_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (places(folder.path(), "good", &[]), places(folder.path(), "bad", &["-g"]));
    let (honest, shrinking) = (module(&good.path), module(&bad.path));
    // Without a cache, so that the same places can be asked for again and again.
    let mut rig = Rig::new(Config { names_bytes_max: 0, ..Config::default() });
    rig.name(at(&shrinking, bad.offsets[0])); // it is mapped now

    let file = File::options().write(true).open(&bad.path).unwrap();
    let size = file.metadata().unwrap().len();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let shaker = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            file.set_len(0).unwrap();
            file.set_len(size).unwrap();
        }
    });
    let (mut asked, begun) = (0, Instant::now());
    while rig.count("profiler_namer_failures_total") == 0 && begun.elapsed() < Duration::from_secs(60) {
        let frames = bad.offsets.iter().map(|&offset| at(&shrinking, offset)).collect::<Vec<_>>();
        assert!(rig.names(&frames).iter().all(|name| !name.is_empty()));
        asked += 1;
    }
    eprintln!("it went after {asked} questions");
    stop.store(true, Ordering::Relaxed);
    shaker.join().unwrap();
    assert!(rig.count("profiler_namer_failures_total") > 0, "it was never read while it was short");
    assert_eq!(rig.name(at(&honest, good.offsets[0])), "here");
}

/// Damages an honest file in many ways. Namers may end; every frame shows something, and the honest file is named.
#[test]
fn damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "honest", &["-g"]);
    let bytes = std::fs::read(&places.path).unwrap();
    let honest = module(&places.path);
    let mut rig = Rig::new(Config::default());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 8).unwrap() % below
    };
    for round in 0..150 {
        let mut damaged = bytes.clone();
        let (from, most) = match round % 3 {
            0 => (0, 64),                      // the header
            1 => (damaged.len() - 2400, 2400), // section headers
            _ => (0, damaged.len()),           // anywhere
        };
        for _ in 0..=random(12) {
            damaged[from + random(most)] = u8::try_from(random(256)).unwrap();
        }
        if random(8) == 0 {
            damaged.truncate(random(damaged.len()));
        }
        let path = folder.path().join(format!("damaged{round}"));
        std::fs::write(&path, &damaged).unwrap();
        let damaged = module(&path);
        let mut frames: Vec<_> =
            places.offsets.iter().map(|&offset| at(&damaged, offset)).collect::<Vec<_>>();
        frames.push(at(&honest, 0x1000 + round));
        assert!(rig.names(&frames).iter().all(|name| !name.is_empty()));
    }
    eprintln!("{} namers for 150 damaged files", rig.started());
    assert_eq!(rig.name(at(&honest, places.offsets[1])), "inner<outer");
}
