//! The symbolizer against namers that are threads of this test: honest ones, and ones that die, hang or lie.
//! The real one, a process, is tested from outside.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bounds::{Bound, Reached};
use super::protocol::{
    Answer, Names as Named, Outcome, REQUEST_BYTES_MAX, Refusal, Request, Rows, Subject, receive, send,
};
use super::*;
use crate::model::{
    Comm, FileOffset, KernelAddr, Labels, Lost, ModuleKind, NoTable, Pid, SampleKind, Task, Tid, Weight,
};
use crate::time::{WallNs, Window};

/// What a namer of this test does about a question.
enum Deed {
    Answer(Outcome),
    /// This much memory in use.
    Weighing(u64, Outcome),
    Die,
    Hang,
    Say(&'static [u8]),
}

type Play = fn(&Request, usize) -> Deed;

/// A symbolizer whose namers do as `play` says, which is told how many came before. Counts them.
fn symbolizer(config: Config, play: Play) -> (Symbolizer, Arc<AtomicUsize>, Meters) {
    let started = Arc::new(AtomicUsize::new(0));
    let counted = started.clone();
    let spawn: Spawner = Box::new(move || {
        let (ours, theirs) = UnixStream::pair()?;
        let before = counted.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            while let Ok((request, _)) = receive::<Request>(theirs.as_fd(), REQUEST_BYTES_MAX, true, None) {
                let (memory_bytes, outcome) = match play(&request, before) {
                    Deed::Answer(outcome) => (0, outcome),
                    Deed::Weighing(bytes, outcome) => (bytes, outcome),
                    Deed::Die => return,
                    Deed::Hang => continue,
                    Deed::Say(bytes) => {
                        let _ = rustix::io::write(&theirs, bytes);
                        continue;
                    }
                };
                let answer = Answer { id: request.id, memory_bytes, cpu_ns: 0, outcome };
                let _ = send(theirs.as_fd(), &answer, 1 << 20, &[], None);
            }
        });
        Ok(NamerProcess { socket: ours.into(), child: None })
    });
    let meters = Meters::default();
    (Symbolizer::new(config, spawn, &meters), started, meters)
}

fn impatient() -> Config {
    Config { request_timeout: Duration::from_millis(60), ..Config::default() }
}

/// Every address is called `f` and its number.
fn honest(request: &Request) -> Outcome {
    let mut names = Named { strings: vec![String::new()], ..Named::default() };
    for address in &request.addresses {
        names.strings.push(format!("f{address:x}"));
        let name = u32::try_from(names.strings.len() - 1).unwrap();
        names.found.push(Found::Named(vec![Place { name, file: 0, line: 0 }]));
    }
    Outcome::Names(names)
}

fn size(request: &Request) -> u64 {
    match request.subject {
        Subject::Kernel | Subject::DebugFile { .. } | Subject::PerfMap { .. } => 0,
        Subject::File { size, .. } | Subject::Table { size, .. } | Subject::Copy { size } => size,
    }
}

fn names_only(request: &Request) -> bool {
    matches!(request.subject, Subject::File { debug: None, .. })
}

/// A module that a test tells from others by its size.
fn module(id: u32, size: u64) -> Arc<Module> {
    Arc::new(Module {
        id,
        kind: ModuleKind::File,
        path: Arc::from(format!("/lib/m{size}.so").into_bytes()),
        build_id: None,
        identity: Some(FileIdentity { device: 1, inode: u64::from(id), size, ctime_ns: 0 }),
        file: Some(File::open("/dev/null").unwrap().into()),
        root: None,
    })
}

fn at(module: &Arc<Module>, offset: u64) -> Frame {
    Frame::User { module: module.clone(), offset: FileOffset(offset) }
}

fn batch(frames: Vec<Frame>) -> TraceBatch {
    let task = Task { pid: Pid(1), tid: Tid(1), comm: Comm::new(b"test") };
    let trace = Trace {
        time: crate::time::MonoNs(0),
        task,
        labels: Arc::new(Labels::default()),
        frames,
        weight: Weight(1),
    };
    TraceBatch {
        window: Window { start: WallNs(0), duration_ns: 1 },
        kind: SampleKind::CpuTime { period_ns: 1 },
        traces: vec![trace],
        lost: Lost::default(),
    }
}

fn named(symbolizer: &mut Symbolizer, frames: Vec<Frame>) -> Vec<String> {
    let mut batch = symbolizer.name(batch(frames));
    batch.traces.remove(0).functions.iter().map(|function| function.name.to_string()).collect()
}

#[track_caller]
fn check(meters: &Meters, line: &str) {
    let page = meters.render();
    assert!(page.lines().any(|known| known == line), "{line}\nis not in\n{page}");
}

#[test]
fn what_is_known_is_not_asked_again() {
    let (mut symbolizer, started, _) = symbolizer(Config::default(), |request, _| {
        assert!(request.addresses.is_sorted() && !request.addresses.is_empty());
        Deed::Answer(honest(request))
    });
    assert_eq!(started.load(Ordering::SeqCst), 0, "none is started before the first question");
    let a = module(1, 1);
    let frames = vec![at(&a, 2), at(&a, 1), at(&a, 2), Frame::Missing(Reason::NoFramePointer)];
    let expected = ["f2", "f1", "f2", "[no frame pointer]"];
    assert_eq!(named(&mut symbolizer, frames.clone()), expected);
    // Of the same file by another number, with a namer that would refuse.
    symbolizer.client = symbolizer_that_refuses();
    let b = Arc::new(Module { id: 7, ..Arc::into_inner(module(1, 1)).unwrap() });
    assert_eq!(named(&mut symbolizer, vec![at(&b, 1)]), ["f1"]);
}

fn symbolizer_that_refuses() -> Client {
    symbolizer(Config::default(), |_, _| Deed::Answer(Outcome::Refused(Refusal::NotElf))).0.client
}

#[test]
fn thousands_of_addresses_are_asked_in_pieces() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), |request, _| {
        assert!(request.addresses.len() <= ADDRESSES_MAX);
        Deed::Answer(honest(request))
    });
    let a = module(1, 1);
    let frames = (0..5000).rev().map(|offset| at(&a, offset)).collect();
    let names = named(&mut symbolizer, frames);
    assert_eq!(names.len(), 5000);
    assert_eq!((&*names[0], &*names[4999]), ("f1387", "f0"));
}

#[test]
fn a_namer_that_dies_once_is_asked_again() {
    let (mut symbolizer, started, meters) = symbolizer(Config::default(), |request, before| match before {
        0 => Deed::Die,
        _ => Deed::Answer(honest(request)),
    });
    assert_eq!(named(&mut symbolizer, vec![at(&module(1, 1), 1)]), ["f1"]);
    assert_eq!(started.load(Ordering::SeqCst), 2);
    check(&meters, r#"profiler_namer_failures_total{cause="ended"} 1"#);
    check(&meters, "profiler_namer_files_set_aside_total 0");
}

#[test]
fn after_a_death_debug_information_is_left_alone() {
    let (mut symbolizer, started, _) = symbolizer(Config::default(), |request, _| {
        if names_only(request) { Deed::Answer(honest(request)) } else { Deed::Die }
    });
    let a = module(1, 1);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 1)]), ["f1"]);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 2)]), ["f2"]);
    assert_eq!(started.load(Ordering::SeqCst), 2);
}

#[test]
fn a_file_that_ends_two_namers_is_set_aside_and_others_are_fine() {
    let (mut symbolizer, started, meters) = symbolizer(Config::default(), |request, _| {
        if size(request) == 666 { Deed::Die } else { Deed::Answer(honest(request)) }
    });
    let (bad, good) = (module(1, 666), module(2, 2));
    let frames = vec![at(&bad, 0x10), at(&good, 1), at(&bad, 0x20)];
    assert_eq!(named(&mut symbolizer, frames.clone()), ["m666.so+0x10", "f1", "m666.so+0x20"]);
    assert_eq!(started.load(Ordering::SeqCst), 3);
    assert_eq!(named(&mut symbolizer, frames), ["m666.so+0x10", "f1", "m666.so+0x20"]);
    assert_eq!(started.load(Ordering::SeqCst), 3, "it is not asked about again");
    check(&meters, "profiler_namer_files_set_aside_total 1");
}

#[test]
fn a_file_set_aside_gets_another_chance_later() {
    let config = Config { set_aside_for: Duration::ZERO, ..Config::default() };
    let (mut symbolizer, _, _) =
        symbolizer(
            config,
            |request, before| {
                if before < FAILURES { Deed::Die } else { Deed::Answer(honest(request)) }
            },
        );
    const FAILURES: usize = 8;
    let a = module(1, 1);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 1)]), ["m1.so+0x1"]);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 1)]), ["f1"]);
}

#[test]
fn a_namer_that_hangs_holds_up_nobody() {
    let (mut symbolizer, _, meters) = symbolizer(impatient(), |request, _| {
        if size(request) == 666 { Deed::Hang } else { Deed::Answer(honest(request)) }
    });
    let begun = crate::time::MonoNs::now();
    let names = named(&mut symbolizer, vec![at(&module(1, 666), 1), at(&module(2, 2), 2)]);
    assert_eq!(names, ["m666.so+0x1", "f2"]);
    assert!(crate::time::MonoNs::now().since(begun) < Duration::from_secs(2));
    check(&meters, r#"profiler_namer_failures_total{cause="late"} 2"#);
}

#[test]
fn a_hundred_bad_files_do_not_hold_up_a_batch() {
    let (mut symbolizer, started, _) = symbolizer(Config::default(), |_, _| Deed::Die);
    let frames = (0..100).map(|id| at(&module(id, 666), 1)).collect();
    assert_eq!(named(&mut symbolizer, frames), vec!["m666.so+0x1"; 100]);
    assert_eq!(started.load(Ordering::SeqCst), 8);
}

#[test]
fn a_batch_has_an_end_even_if_every_file_hangs() {
    let config = Config { batch_timeout: Duration::from_millis(100), ..impatient() };
    let (mut symbolizer, started, _) = symbolizer(config, |_, _| Deed::Hang);
    let frames = (0..100).map(|id| at(&module(id, 666), 1)).collect();
    named(&mut symbolizer, frames);
    assert!(started.load(Ordering::SeqCst) <= 2);
}

#[test]
fn a_namer_that_talks_rubbish_is_replaced() {
    let plays: [Play; 3] = [
        |_, _| Deed::Say(b"\xff\xff\xff\xff"),
        |_, _| Deed::Say(b"\x01\0\0\0\xff"),
        |_, _| Deed::Say(b"\x04\0\0\0\x63\0\0\x01"),
    ];
    for play in plays {
        let (mut symbolizer, _, meters) = symbolizer(Config::default(), play);
        assert_eq!(named(&mut symbolizer, vec![at(&module(1, 1), 1)]), ["m1.so+0x1"]);
        check(&meters, r#"profiler_namer_failures_total{cause="rubbish"} 2"#);
    }
}

#[test]
fn an_answer_that_points_nowhere_is_rubbish() {
    let (mut symbolizer, _, meters) = symbolizer(Config::default(), |request, _| {
        let Outcome::Names(mut names) = honest(request) else { unreachable!() };
        names.strings.clear();
        Deed::Answer(Outcome::Names(names))
    });
    assert_eq!(named(&mut symbolizer, vec![at(&module(1, 1), 1)]), ["m1.so+0x1"]);
    check(&meters, r#"profiler_namer_failures_total{cause="rubbish"} 2"#);
}

#[test]
fn an_answer_to_too_few_is_rubbish() {
    let (mut symbolizer, _, meters) =
        symbolizer(Config::default(), |_, _| Deed::Answer(Outcome::Names(Named::default())));
    named(&mut symbolizer, vec![at(&module(1, 1), 1)]);
    check(&meters, r#"profiler_namer_failures_total{cause="rubbish"} 2"#);
}

#[test]
fn a_namer_that_went_between_two_questions_is_nobodys_fault() {
    let (mut symbolizer, started, meters) = symbolizer(Config::default(), |request, _| {
        if names_only(request) { Deed::Die } else { Deed::Answer(honest(request)) }
    });
    let a = module(1, 1);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 1)]), ["f1"]);
    rustix::net::shutdown(symbolizer.client.socket().unwrap(), rustix::net::Shutdown::Both).unwrap();
    assert_eq!(named(&mut symbolizer, vec![at(&a, 2)]), ["f2"], "with debug information, as before");
    assert_eq!(started.load(Ordering::SeqCst), 2);
    check(&meters, r#"profiler_namer_failures_total{cause="gone"} 1"#);
}

#[test]
fn a_namer_that_has_grown_is_ended_and_the_file_that_made_it_so_gets_names_only() {
    let (mut symbolizer, started, meters) = symbolizer(Config::default(), |request, _| {
        if names_only(request) {
            Deed::Answer(honest(request))
        } else {
            Deed::Weighing(1 << 30, honest(request))
        }
    });
    let a = module(1, 1);
    for offset in 0..5 {
        assert_eq!(named(&mut symbolizer, vec![at(&a, offset)]), [format!("f{offset:x}")]);
    }
    assert_eq!(started.load(Ordering::SeqCst), 2);
    check(&meters, "profiler_namer_retired_total 1");
    check(&meters, r#"profiler_namer_debug_info_skipped_total{reason="memory"} 1"#);
}

#[test]
fn without_a_namer_every_frame_still_shows_something() {
    let meters = Meters::default();
    let spawn: Spawner = Box::new(|| Err(std::io::Error::other("no")));
    let mut symbolizer = Symbolizer::new(Config::default(), spawn, &meters);
    let frames = vec![Frame::Kernel(KernelAddr(u64::MAX)), at(&module(1, 1), 0x1f)];
    assert_eq!(named(&mut symbolizer, frames), ["[kernel]", "m1.so+0x1f"]);
    check(&meters, r#"profiler_namer_failures_total{cause="start"} 1"#);
}

#[test]
fn a_file_that_was_never_opened_shows_its_offset() {
    let (mut symbolizer, started, _) = symbolizer(Config::default(), |_, _| Deed::Die);
    let mut gone = Arc::into_inner(module(1, 1)).unwrap();
    (gone.file, gone.identity) = (None, None);
    gone.path = Arc::from(&b"/tmp/a;\nb (deleted)"[..]);
    assert_eq!(named(&mut symbolizer, vec![at(&Arc::new(gone), 0x1f)]), ["a??b+0x1f"]);
    assert_eq!(started.load(Ordering::SeqCst), 0);
}

#[test]
fn the_address_the_file_counts_with_is_shown_where_it_is_known() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), |_, _| {
        let found = vec![Found::Nothing, Found::Bare(0x40_1002)];
        Deed::Answer(Outcome::Names(Named { found, ..Named::default() }))
    });
    let a = module(1, 1);
    assert_eq!(named(&mut symbolizer, vec![at(&a, 1), at(&a, 2)]), ["m1.so+0x1", "m1.so+0x401002"]);
}

#[test]
fn a_function_says_how_much_of_it_is_known() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), |request, _| match request.addresses[..] {
        [1] => Deed::Answer(honest(request)),
        _ => Deed::Answer(Outcome::Refused(Refusal::NotElf)),
    });
    let missing = Frame::Missing(Reason::StackTooDeep);
    let frames = vec![at(&module(1, 1), 1), at(&module(2, 2), 2), Frame::Kernel(KernelAddr(5)), missing];
    let functions = symbolizer.name(batch(frames)).traces.remove(0).functions;
    let known: Vec<_> = functions.iter().map(|function| function.known).collect();
    assert_eq!(known, [Known::Name, Known::Place, Known::Place, Known::Nothing(Reason::StackTooDeep)]);
}

#[test]
fn a_hostile_namers_text_is_cleaned() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), |request, _| {
        let Outcome::Names(mut names) = honest(request) else { unreachable!() };
        names.strings[1] = format!("a\nb{}", "x".repeat(100_000));
        Deed::Answer(Outcome::Names(names))
    });
    let names = named(&mut symbolizer, vec![at(&module(1, 1), 1)]);
    assert!(names[0].starts_with("a?bx") && names[0].len() <= NAME_BYTES_MAX);
}

#[test]
fn hidden_kernel_addresses_are_not_read_again_in_every_window() {
    let (mut symbolizer, _, meters) =
        symbolizer(Config::default(), |_, _| Deed::Answer(Outcome::Refused(Refusal::NoKallsyms)));
    for _ in 0..5 {
        assert_eq!(named(&mut symbolizer, vec![Frame::Kernel(KernelAddr(5))]), ["[kernel]"]);
    }
    check(&meters, r#"profiler_namer_questions_refused_total{reason="no kallsyms"} 1"#);
}

#[test]
fn a_kernel_place_without_a_name_shows_no_address() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), |request, _| {
        let found = request.addresses.iter().map(|address| Found::Bare(address & 0xff)).collect();
        Deed::Answer(Outcome::Names(Named { found, ..Named::default() }))
    });
    let frames = vec![Frame::Kernel(KernelAddr(0xffff_ffff_8100_0042))];
    let functions = symbolizer.name(batch(frames)).traces.remove(0).functions;
    assert_eq!(
        (&*functions[0].name, &*functions[0].module, functions[0].kernel),
        ("[kernel]+0x42", "[kernel]", true)
    );
}

/// What was too much of each part.
fn over() -> Reached {
    let mut reached = Reached::default();
    reached.add(Bound::Functions, 3);
    reached
}

/// A part of a table: blocks of these pages.
fn rows(pages: &[u32], next: Option<u32>) -> Outcome {
    let blocks = pages.iter().map(|&page| (page, vec![page; 200])).collect();
    Outcome::Rows(Rows { blocks, next, functions: 1000, frameless: 1, invalid: 2, reached: over() })
}

/// Where a question about a table begins; none if it is about something else.
fn from(request: &Request) -> Option<u32> {
    match request.subject {
        Subject::Table { from, .. } => Some(from),
        Subject::Kernel
        | Subject::File { .. }
        | Subject::PerfMap { .. }
        | Subject::DebugFile { .. }
        | Subject::Copy { .. } => None,
    }
}

#[test]
fn a_table_is_put_together_from_its_parts() {
    let (mut symbolizer, started, meters) = symbolizer(Config::default(), |request, _| {
        Deed::Answer(match from(request) {
            Some(0) => rows(&[3, 5], Some(7)),
            Some(7) => rows(&[8], None),
            Some(_) | None => Outcome::Refused(Refusal::Nonsense),
        })
    });
    let table = symbolizer.table(&module(1, 10)).unwrap();
    assert_eq!((table.first_page, table.keeps_frames), (3, true));
    let blocks: Vec<_> = table.blocks.iter().map(|words| (words.first().copied(), words.len())).collect();
    let none = (None, 0);
    assert_eq!(blocks, [(Some(3), 200), none, (Some(5), 200), none, none, (Some(8), 200)]);
    assert_eq!(table.words(), 606);
    assert_eq!(started.load(Ordering::SeqCst), 1);
    check(&meters, r#"profiler_unwind_rules_lost_total{reason="invalid"} 4"#);
    check(&meters, r#"profiler_namer_bounds_reached_total{bound="functions"} 6"#);
    check(&meters, r#"profiler_unwind_tables_asked_total{tables="made"} 1"#);
}

#[test]
fn a_namer_that_dies_over_a_table_is_asked_again_where_it_was() {
    let (mut symbolizer, started, _) =
        symbolizer(Config::default(), |request, before| match (from(request), before) {
            (Some(0), 0) => Deed::Answer(rows(&[1], Some(2))),
            (Some(2), 1) => Deed::Answer(rows(&[2], None)),
            (Some(_) | None, _) => Deed::Die,
        });
    let table = symbolizer.table(&module(1, 10)).unwrap();
    assert_eq!((table.first_page, table.blocks.len()), (1, 2));
    assert_eq!(started.load(Ordering::SeqCst), 2);
}

#[test]
fn a_file_without_a_table_needs_no_second_question() {
    let plays: [Play; 2] =
        [|_, _| Deed::Answer(Outcome::Refused(Refusal::NoTable)), |_, _| Deed::Answer(rows(&[], None))];
    for play in plays {
        let (mut symbolizer, ..) = symbolizer(Config::default(), play);
        assert_eq!(symbolizer.table(&module(1, 10)), Err(NoTable::Never));
    }
}

#[test]
fn a_table_that_makes_no_sense_is_none_and_names_are_still_found() {
    let plays: [Play; 6] = [
        |_, _| Deed::Answer(rows(&[5, 5], None)),
        |_, _| Deed::Answer(rows(&[5, 4], None)),
        |_, _| Deed::Answer(rows(&[70_000], None)),
        |_, _| Deed::Answer(rows(&[5], Some(5))),
        |_, _| Deed::Answer(rows(&[], Some(0))),
        |request, _| {
            Deed::Answer(if from(request).is_some() {
                Outcome::Names(Named::default())
            } else {
                honest(request)
            })
        },
    ];
    for play in plays {
        let (mut symbolizer, started, meters) = symbolizer(Config::default(), play);
        assert_eq!(symbolizer.table(&module(1, 10)), Err(NoTable::NotNow));
        assert_eq!(started.load(Ordering::SeqCst), 2, "twice, and then it is set aside");
        assert_eq!(symbolizer.table(&module(1, 10)), Err(NoTable::NotNow));
        check(&meters, r#"profiler_namer_failures_total{cause="rubbish"} 2"#);
    }
    let (mut symbolizer, ..) = symbolizer(Config::default(), plays[5]);
    let known = module(1, 10);
    assert_eq!(symbolizer.table(&known), Err(NoTable::NotNow));
    assert_eq!(named(&mut symbolizer, vec![at(&known, 7)]), ["f7"]);
}

/// A perf map that a test writes itself.
fn perf_map(id: u32, file: &File) -> Arc<Module> {
    let file = Some(file.try_clone().unwrap().into());
    Arc::new(Module {
        kind: ModuleKind::PerfMap,
        identity: None,
        file,
        ..Arc::into_inner(module(id, 1)).unwrap()
    })
}

/// Every even address has a name, with the size of the map.
fn of_even_addresses(request: &Request, _: usize) -> Deed {
    let Subject::PerfMap { from: 0, to } = request.subject else {
        return Deed::Answer(Outcome::Refused(Refusal::Nonsense));
    };
    let mut names = Named { strings: vec![String::new()], ..Named::default() };
    for address in &request.addresses {
        names.strings.push(format!("f{address}@{to}"));
        let name = u32::try_from(names.strings.len() - 1).unwrap();
        let place = Place { name, file: 0, line: 0 };
        names.found.push(if address % 2 == 0 { Found::Named(vec![place]) } else { Found::Nothing });
    }
    Deed::Answer(Outcome::Names(names))
}

#[test]
fn code_made_at_run_time_is_named_by_its_process_and_what_has_no_name_says_what_it_is() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), of_even_addresses);
    let file = tempfile::tempfile().unwrap();
    file.set_len(10).unwrap();
    let map = perf_map(1, &file);
    let mut batch = symbolizer.name(batch(vec![at(&map, 2), at(&map, 3), at(&map, 5), at(&map, 4)]));
    let functions = batch.traces.remove(0).functions;
    let shown: Vec<_> = functions.iter().map(|f| (&*f.name, &*f.module, f.known)).collect();
    let nothing = Known::Nothing(Reason::AnonymousMapping);
    assert_eq!(
        shown,
        [("f2@10", "[jit]", Known::Name), ("[anonymous code]", "", nothing), ("f4@10", "[jit]", Known::Name)]
    );
}

#[test]
fn a_map_is_read_again_when_it_has_changed_and_not_before() {
    let (mut symbolizer, _, meters) = symbolizer(Config::default(), of_even_addresses);
    let file = tempfile::tempfile().unwrap();
    file.set_len(10).unwrap();
    let map = perf_map(1, &file);
    for _ in 0..3 {
        assert_eq!(named(&mut symbolizer, vec![at(&map, 2)]), ["f2@10"]);
    }
    check(&meters, "profiler_perf_maps_read_bytes_total 10");
    file.set_len(20).unwrap();
    assert_eq!(named(&mut symbolizer, vec![at(&map, 2)]), ["f2@20"]);
    file.set_len(5).unwrap();
    assert_eq!(named(&mut symbolizer, vec![at(&map, 2)]), ["f2@5"]);
    check(&meters, "profiler_perf_maps_read_bytes_total 35");
}

#[test]
fn the_same_address_in_two_processes_is_two_functions() {
    let (mut symbolizer, ..) = symbolizer(Config::default(), of_even_addresses);
    let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    one.set_len(10).unwrap();
    other.set_len(11).unwrap();
    let frames = vec![at(&perf_map(1, &one), 2), at(&perf_map(2, &other), 2)];
    assert_eq!(named(&mut symbolizer, frames), ["f2@10", "f2@11"]);
}

#[test]
fn a_map_without_an_end_costs_what_it_may() {
    let (mut symbolizer, _, meters) = symbolizer(Config::default(), |request, before| {
        let Subject::PerfMap { from, to } = &request.subject else { return Deed::Die };
        assert_eq!(to - from, 64 << 20);
        let (id, addresses) = (request.id, request.addresses.clone());
        of_even_addresses(&Request { id, subject: Subject::PerfMap { from: 0, to: 7 }, addresses }, before)
    });
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let maps: Vec<_> = (1..=6).map(|id| perf_map(id, &file)).collect();
    let names = named(&mut symbolizer, maps.iter().map(|map| at(map, 2)).collect());
    assert_eq!(names, ["f2@7", "f2@7", "f2@7", "f2@7", "[anonymous code]"]);
    check(&meters, "profiler_perf_maps_read_bytes_total 268435456");
    check(&meters, r#"profiler_perf_maps_over_max_total{what="map"} 4"#);
    check(&meters, r#"profiler_perf_maps_over_max_total{what="batch"} 2"#);
    // The next batch has its own share.
    assert_eq!(named(&mut symbolizer, vec![at(&maps[5], 2)]), ["f2@7"]);
}
