//! Names that neither a table of symbols nor debug information has right by itself.

use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol};
use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, at, module, run};

const SOURCE: &str = "\
#include <stdio.h>
#include <stdlib.h>
volatile int broken, sink;
__attribute__((noinline, cold, noreturn)) static void give_up(void) { puts(\"broken\"); abort(); }
__attribute__((noinline)) int split(int x) { for (int i = 0; i < x; i++) { sink += i; if (broken) give_up(); } return sink; }
int main(int count, char **words) { return (int)labs(split(count)) + abs((int)strtol(words[0], NULL, 10)); }
";

/// `SOURCE` built with `flags`, and then treated by `after`.
fn built(folder: &Path, flags: &[&str], after: impl FnOnce(&Path)) -> Vec<u8> {
    let (source, path) = (folder.join("linked.c"), folder.join("linked"));
    std::fs::write(&source, SOURCE).unwrap();
    run(Command::new("cc")
        .args(["-O2", "-fno-builtin", "-fno-pie", "-no-pie"])
        .args(flags)
        .arg("-o")
        .arg(&path)
        .arg(&source));
    after(&path);
    std::fs::read(&path).unwrap()
}

/// Where in the file the code at `address` lies.
fn place(file: &object::File<'_>, address: u64) -> u64 {
    let section = file.sections().find(|section| {
        (section.address()..section.address() + section.size()).contains(&address)
            && section.file_range().is_some()
    });
    let section = section.unwrap();
    section.file_range().unwrap().0 + address - section.address()
}

/// What the first byte of `function` is called.
#[track_caller]
fn check(flags: &[&str], after: impl FnOnce(&Path), function: &str, expected: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let bytes = built(folder.path(), flags, after);
    let file = object::File::parse(&*bytes).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(function)).unwrap();
    let frame = at(&module(&folder.path().join("linked")), place(&file, symbol.address()));
    let mut rig = Rig::new(Config::default());
    assert_eq!(rig.name(frame), expected);
    rig
}

#[test]
fn a_function_in_two_places_has_its_name_in_both() {
    check(&["-g"], |_| {}, "split", "split");
    check(&["-g"], |_| {}, "split.cold", "split");
    check(&[], |_| {}, "split", "split");
}

#[test]
fn debug_information_packed_by_zstd_is_read() {
    let flags = ["-g"];
    let pack = |path: &Path| {
        run(Command::new("objcopy").arg("--compress-debug-sections=zstd").arg(path));
    };
    check(&flags, pack, "split.cold", "split");
}

#[test]
fn debug_information_that_makes_no_sense_leaves_the_names_of_symbols() {
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let (begins, length) = file.section_by_name(".debug_abbrev").unwrap().file_range().unwrap();
        let (begins, length) = (usize::try_from(begins).unwrap(), usize::try_from(length).unwrap());
        bytes[begins..begins + length].fill(0xff);
        std::fs::write(path, bytes).unwrap();
    };
    let rig = check(&["-g"], damage, "split", "split");
    assert_eq!(rig.started(), 1);
}

/// `_init` has no size, and the stubs lie right behind its section.
#[test]
fn a_stub_is_called_by_what_it_leads_to() {
    for flags in [&[][..], &["-Wl,-z,now"], &["-fcf-protection", "-Wl,-z,ibtplt"], &["-g"]] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = built(folder.path(), flags, |_| {});
        let file = object::File::parse(&*bytes).unwrap();
        let module = module(&folder.path().join("linked"));
        let mut found = Vec::new();
        for section in file.sections().filter(|section| section.name().unwrap().starts_with(".plt")) {
            let begins = section.file_range().unwrap().0;
            let frames: Vec<_> =
                (0..section.size() / 8).map(|stub| at(&module, begins + stub * 8 + 4)).collect();
            found.extend(Rig::new(Config::default()).names(&frames));
        }
        for function in ["labs@plt", "abs@plt", "strtol@plt", "abort@plt"] {
            assert!(found.iter().any(|name| name == function), "{flags:?}: no {function} in {found:?}");
        }
        let strangers: Vec<_> =
            found.iter().filter(|name| !name.ends_with("@plt") && !name.starts_with("linked+0x")).collect();
        assert!(strangers.is_empty(), "{flags:?}: {strangers:?}");
    }
}
