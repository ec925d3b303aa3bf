//! Names and lines from a file that has nothing but debug information.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use profiler_daemon::model::{Frame, Function};
use profiler_daemon::processes::find_debug_files;
use profiler_daemon::symbolize::Config;

use crate::rig::{CHILD, Rig, at, batch, module, places, run};

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

/// Whoever runs is worth the unpacking of its debug information, at once or later; whoever only calls others is not.
#[test]
fn packed_debug_information_is_read_of_what_runs() {
    let apart = apart(&["-g"], true);
    run(Command::new("objcopy").arg("--compress-debug-sections").arg(&apart.debug));
    let worth_unpacking = Duration::from_nanos(5);
    let config = Config { find_debug_files, unpacked_bytes_max: 0, worth_unpacking, ..Config::default() };
    let program = at(&module(&apart.path), apart.offset);
    let other = at(&module(Path::new(CHILD)), 0);
    let (alone, called) = ([program.clone()], [other, program]);
    let check = |rig: &mut Rig, stack: &[Frame], samples: usize, expected: &str| {
        let stacks = vec![stack; samples].concat();
        let named = rig.symbolizer.name(batch(&stacks, stack.len()));
        let of_program = |function: &&Arc<Function>| function.module.starts_with("places");
        let shown = named.traces[0].functions.iter().filter(of_program);
        let shown = shown.map(|function| format!("{}:{}", function.name, function.line)).collect::<Vec<_>>();
        assert_eq!(shown.join("<"), expected, "{samples} samples");
    };
    let (by_symbol, whole) = ("outer:0", "inner:4<outer:5");
    let mut rig = Rig::new(config.clone());
    check(&mut rig, &alone, 4, by_symbol);
    check(&mut rig, &called, 9, by_symbol);
    check(&mut rig, &alone, 5, whole);
    check(&mut rig, &alone, 1, whole);
    let skipped = "profiler_namer_debug_info_skipped_total{reason=\"not worth unpacking yet\"} 1";
    assert!(rig.meters.render().contains(skipped), "{}", rig.meters.render());
    check(&mut Rig::new(config), &alone, 5, whole);
    let any = Config { find_debug_files, unpacked_bytes_max: 0, ..Config::default() };
    check(&mut Rig::new(any), &alone, 1, whole);
}
