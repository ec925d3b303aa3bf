//! Unwind tables of real files from a real namer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::unwind::table::{SLAB_WORDS, STARTS_WORDS};
use profiler_daemon::model::{Module, ModuleKind, NoTable};
use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, module};

fn sound(table: &profiler_daemon::model::Table) {
    assert!(table.blocks.first().is_some_and(|words| !words.is_empty()), "it begins with rows");
    for words in &table.blocks {
        assert!(words.is_empty() || (STARTS_WORDS..=SLAB_WORDS).contains(&words.len()));
    }
}

#[test]
fn the_c_library_has_a_table() {
    let library = module(std::path::Path::new("/lib/x86_64-linux-gnu/libc.so.6"));
    let mut rig = Rig::new(Config::default());
    let table = rig.symbolizer.table(&library).unwrap();
    sound(&table);
    assert!((10_000..100_000).contains(&table.words()), "{} words", table.words());
    assert_eq!(rig.symbolizer.table(&library).unwrap(), table, "the same a second time");
    assert_eq!(rig.started(), 1);
}

#[test]
fn a_table_on_disk_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let library = std::path::Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    let mut tables = Vec::new();
    for made in [true, false] {
        let mut rig = Rig::new(Config::default());
        rig.symbolizer.keep_tables(folder.path(), &rig.meters).unwrap();
        let began = Instant::now();
        // A copy of the file is the same file here.
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(library, copy.path()).unwrap();
        tables.push(rig.symbolizer.table(&module(copy.path())).unwrap());
        println!("made: {made}: {:?}", began.elapsed());
        let found = r#"profiler_unwind_tables_on_disk_total{result="found"} 1"#;
        assert_eq!(rig.meters.render().contains(found), !made);
    }
    assert_eq!(tables[0], tables[1]);
}

#[test]
fn the_vdso_has_a_table() {
    let vdso = Arc::new(Module {
        id: 1,
        kind: ModuleKind::Vdso,
        path: Arc::from(&b"[vdso]"[..]),
        build_id: None,
        identity: None,
        file: None,
        root: None,
    });
    sound(&Rig::new(Config::default()).symbolizer.table(&vdso).unwrap());
}

#[test]
fn a_script_has_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "#!/bin/sh\n").unwrap();
    let mut rig = Rig::new(Config::default());
    assert_eq!(rig.symbolizer.table(&module(file.path())), Err(NoTable::Never));
    assert_eq!(rig.count("profiler_namer_questions_refused"), 1);
}

#[test]
fn a_large_program_comes_in_parts_and_in_time() {
    let large = ["/usr/bin/node", "/usr/lib/chromium/chromium"];
    let Some(path) = large.map(std::path::Path::new).into_iter().find(|path| path.exists()) else {
        println!("skipped: none of {large:?} is here");
        return;
    };
    // On a machine that is busy with other things a question may take any time. What counts is what it costs the namer.
    let patience = Duration::from_secs(300);
    let config = Config { request_timeout: patience, batch_timeout: patience, ..Config::default() };
    let mut rig = Rig::new(config);
    let table = rig.symbolizer.table(&module(path)).unwrap();
    sound(&table);
    assert!(table.words() > 50_000);
    assert_eq!(rig.started(), 1, "it did not grow beyond its memory");
    let spent = cpu_time(rig.pid());
    println!("{}: {} words in {spent:?} of CPU", path.display(), table.words());
    assert!(
        spent < Config::default().request_timeout,
        "{spent:?} for all parts is too long for one question"
    );
}

/// What process `pid` has used of processors so far.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // User and kernel: the 14th and 15th field; the name, which may hold anything, ends with the last parenthesis.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
