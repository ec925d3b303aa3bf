//! Names from symbols that were packed when a file was stripped, as Fedora and its kin do to all of theirs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, at, module, places, run};

/// A stripped program that exports `outer`, with `packed` made of the program as it was.
struct Packed {
    _folder: tempfile::TempDir,
    path: PathBuf,
    offsets: Vec<u64>,
}

fn packed(pack: impl FnOnce(&Path, &Path)) -> Packed {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", &["-Wl,--export-dynamic-symbol=outer"]);
    let (path, symbols) = (places.path, folder.path().join("symbols.xz"));
    pack(&path, &symbols);
    run(Command::new("strip").arg(&path));
    run(Command::new("objcopy")
        .arg("--add-section")
        .arg(format!(".gnu_debugdata={}", symbols.display()))
        .arg(&path));
    Packed { _folder: folder, path, offsets: places.offsets }
}

/// Symbols that nobody links with, in a file of their own, packed.
fn honest(program: &Path, symbols: &Path) {
    let bare = symbols.with_extension("");
    let arguments = ["--only-keep-debug", "--strip-symbol=outer"];
    run(Command::new("objcopy").args(arguments).arg(program).arg(&bare));
    run(Command::new("xz").arg(bare));
}

/// What the exported function and another one are called, and that no namer ended.
#[track_caller]
fn check(packed: &Packed, names: [&str; 2]) -> Rig {
    let module = module(&packed.path);
    let mut rig = Rig::new(Config::default());
    let begun = Instant::now();
    let got = rig.names(&[at(&module, packed.offsets[1]), at(&module, packed.offsets[0])]);
    // One without a name shows its address.
    let got: Vec<_> = got.iter().map(|name| name.split("+0x").next().unwrap()).collect();
    assert_eq!(got, names);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(rig.started(), 1, "it took a namer with it");
    rig
}

#[test]
fn packed_symbols_are_named_and_so_are_exported_ones() {
    check(&packed(honest), ["outer", "here"]);
}

#[test]
fn packed_symbols_that_are_cut_off_leave_no_names_and_end_no_namer() {
    let cut = packed(|program, symbols| {
        honest(program, symbols);
        let bytes = std::fs::read(symbols).unwrap();
        std::fs::write(symbols, &bytes[..bytes.len() / 2]).unwrap();
    });
    let rig = check(&cut, ["places", "places"]);
    assert_eq!(rig.count("profiler_namer_questions_refused_total{reason=\"not ELF\"}"), 1);
}

#[test]
fn packed_symbols_that_unpack_to_more_than_there_is_room_for_are_refused() {
    let bomb = packed(|_, symbols| {
        let bare = symbols.with_extension("");
        std::fs::File::create(&bare).unwrap().set_len(200 << 20).unwrap();
        run(Command::new("xz").arg("-0").arg(bare));
    });
    assert!(bomb.path.metadata().unwrap().len() < 1 << 20);
    let rig = check(&bomb, ["places", "places"]);
    assert_eq!(rig.count("profiler_namer_questions_refused_total{reason=\"too many symbols\"}"), 1);
}
