//! Names and lines from a file that has nothing but debug information.

use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_daemon::processes::find_debug_files;
use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, at, module, places, run};

/// A stripped program, and its debug information beside it, in the folder that is named after it.
struct Apart {
    folder: tempfile::TempDir,
    path: PathBuf,
    debug: PathBuf,
    offset: u64,
}

fn apart(flags: &[&str], link: bool) -> Apart {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path(), "places", flags);
    let (path, debug) = (places.path, folder.path().join("places.debug"));
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&path).arg(&debug));
    run(Command::new("strip").arg(&path));
    if link {
        run(Command::new("objcopy").arg("--add-gnu-debuglink").arg(&debug).arg(&path));
    }
    Apart { folder, path, debug, offset: places.offsets[1] }
}

/// What `inner` in `outer` is called, and what became of the search.
#[track_caller]
fn check(apart: &Apart, expected: &str, result: &str) {
    let mut rig = Rig::new(Config { find_debug_files, ..Config::default() });
    let functions = rig.functions(&[at(&module(&apart.path), apart.offset)]);
    let shown = functions[0].iter().map(|function| {
        let file = Path::new(&*function.file).file_name().map_or("", |name| name.to_str().unwrap());
        format!("{} {file}:{}", function.name, function.line)
    });
    let shown = shown.collect::<Vec<_>>().join("<");
    let bare = shown.starts_with("places+0x");
    assert_eq!(if bare { "" } else { &shown }, expected);
    let page = rig.meters.render();
    let line = format!("profiler_namer_debug_files_total{{result=\"{result}\"}} 1");
    assert!(page.contains(&line), "{page}");
}

const WHOLE: &str = "inner places.c:4<outer places.c:5";

#[test]
fn debug_information_beside_the_program_is_read() {
    check(&apart(&["-g"], true), WHOLE, "taken");
}

#[test]
fn debug_information_below_the_program_is_read() {
    let apart = apart(&["-g"], true);
    let below = apart.folder.path().join(".debug");
    std::fs::create_dir(&below).unwrap();
    std::fs::rename(&apart.debug, below.join("places.debug")).unwrap();
    check(&apart, WHOLE, "taken");
}

#[test]
fn without_a_build_id_the_checksum_decides() {
    let apart = apart(&["-g", "-Wl,--build-id=none"], true);
    check(&apart, WHOLE, "taken");
    let mut bytes = std::fs::read(&apart.debug).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&apart.debug, bytes).unwrap();
    check(&apart, "", "of another file");
}

#[test]
fn debug_information_of_another_program_is_refused() {
    let apart = apart(&["-g"], true);
    let other = self::apart(&["-g", "-DOTHER", "-Wl,--build-id=0x1234"], true);
    std::fs::copy(&other.debug, &apart.debug).unwrap();
    check(&apart, "", "of another file");
}

#[test]
fn symbols_apart_are_read_where_there_is_no_more() {
    check(&apart(&[], true), "outer :0", "taken");
}

#[test]
fn a_program_without_any_shows_its_address() {
    check(&apart(&["-g"], false), "", "none");
}

#[test]
fn what_is_not_elf_is_refused() {
    let apart = apart(&["-g"], true);
    std::fs::write(&apart.debug, "#!/bin/sh\n").unwrap();
    check(&apart, "", "not ELF");
}
