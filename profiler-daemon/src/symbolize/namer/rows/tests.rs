//! Tables of real files against gimli's own evaluation, and of broken files against nothing but the wish to end.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, EvaluationResult, Expression, LittleEndian,
    Register, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow, Value,
};
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::{Mapping, MappingList, SLAB_WORDS, Slab};
use profiler_common::unwind::walk::{CONTINUE, Walk, Window};
use profiler_common::unwind::{End, Regs};

use super::*;

/// A table in slabs, as the kernel has it, and a list with one mapping of the whole file at `BASE`.
pub(super) struct Laid {
    pub(super) slabs: Vec<Box<Slab>>,
    invalid: u64,
    functions: u64,
    frameless: u64,
    /// What some bound left out.
    pub(super) bounds: Reached,
    pub(super) words: usize,
}

pub(super) const BASE: u64 = 0x5555_0000_0000;
pub(super) const STACK: u64 = 0x7ff0_0000_0000;
/// What is in rdi.
const HELD: u64 = BASE + 0x1234;

fn slab() -> Box<Slab> {
    vec![0; SLAB_WORDS].into_boxed_slice().try_into().unwrap()
}

/// Makes the table of `file`, every part of it, and lays it out.
pub(super) fn lay(file: &File) -> Result<Laid, Refusal> {
    lay_for(file, Machine::NATIVE, BASE)
}

/// The same for a file of any processor, mapped at `base`.
pub(super) fn lay_for(file: &File, machine: Machine, base: u64) -> Result<Laid, Refusal> {
    let mut builder = Builder::of(file, machine)?;
    let mut blocks = BTreeMap::new();
    let slabs = vec![slab(), slab()];
    let mut laid =
        Laid { slabs, invalid: 0, functions: 0, frameless: 0, bounds: Reached::default(), words: 0 };
    let mut from = Some(0);
    while let Some(page) = from {
        assert_eq!(builder.next_page(), Some(page));
        let part = builder.part(file);
        laid.invalid += part.invalid;
        laid.functions += part.functions;
        laid.frameless += part.frameless;
        laid.bounds.append(&part.reached);
        for (page, words) in part.blocks {
            assert!(words.len() <= SLAB_WORDS);
            assert!(blocks.insert(page, words).is_none(), "page {page} twice");
        }
        from = part.next;
    }
    // The first slab is the list, the second the directory, the others hold blocks.
    let mut at = SLAB_WORDS;
    for (page, words) in &blocks {
        laid.words += words.len();
        if at + words.len() > SLAB_WORDS {
            laid.slabs.push(slab());
            at = 0;
        }
        let number = laid.slabs.len() - 1;
        laid.slabs[number][at..at + words.len()].copy_from_slice(words);
        laid.slabs[1][*page as usize] = u32::try_from(number << 16 | at).unwrap();
        at += words.len();
    }
    let pages = u32::try_from(SLAB_WORDS).unwrap();
    let mapping = Mapping::of(base, 1 << 32, 0, 1 << 16, 0, pages);
    laid.slabs[0][..8].copy_from_slice(&mapping.words());
    Ok(laid)
}

/// What lies at `at`: always an address above every stack pointer of these tests, and always another.
pub(super) fn memory(at: u64) -> u64 {
    STACK + (1 << 30) + (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36 << 3)
}

/// One step from `regs`, over a stack that says [`memory`].
pub(super) fn step(laid: &Laid, regs: Regs) -> Result<Regs, End> {
    let mut read = |window: &mut Window, at: u64, bytes: u64| {
        for (index, word) in window.iter_mut().enumerate().take((bytes / 8) as usize) {
            *word = memory(at + index as u64 * 8);
        }
        true
    };
    let mut walk = Walk::new(regs);
    walk.restart(regs, MappingList { address: 0, mappings: 1, version: 0 });
    walk.link([HELD, 0]);
    let slab = |number: u32| laid.slabs.get(number as usize).map(|slab| &**slab);
    match walk.step(&mut read, &slab, &mut Recent::new()) {
        CONTINUE => Ok(walk.regs),
        end => Err(End::from_wire(u16::try_from(end).unwrap()).unwrap()),
    }
}

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// What gimli makes of an expression; none if it needs a register that a walk does not carry.
fn evaluate(expression: Expression<Bytes<'_>>, encoding: gimli::Encoding, regs: Regs) -> Option<u64> {
    let mut evaluation = expression.evaluation(encoding);
    let mut result = evaluation.evaluate().unwrap();
    loop {
        result = match result {
            EvaluationResult::Complete => return Some(evaluation.value_result()?.to_u64(u64::MAX).unwrap()),
            EvaluationResult::RequiresRegister { register: Register(register), .. } => {
                let value = match register {
                    6 => regs.fp,
                    7 => regs.sp,
                    16 => regs.ip,
                    _ => return None,
                };
                evaluation.resume_with_register(Value::Generic(value)).unwrap()
            }
            EvaluationResult::RequiresMemory { address, .. } => {
                evaluation.resume_with_memory(Value::Generic(memory(address))).unwrap()
            }
            _ => return None,
        };
    }
}

/// Where gimli finds the frame of a row; `before` is where it was in the row before, if it is there still.
fn frame(
    section: &EhFrame<Bytes<'_>>,
    encoding: gimli::Encoding,
    row: &UnwindTableRow<usize>,
    regs: Regs,
    before: Option<u64>,
) -> Option<u64> {
    match row.cfa() {
        CfaRule::RegisterAndOffset { register: Register(6), offset } => {
            Some(regs.fp.wrapping_add_signed(*offset))
        }
        CfaRule::RegisterAndOffset { register: Register(7), offset } => {
            Some(regs.sp.wrapping_add_signed(*offset))
        }
        CfaRule::RegisterAndOffset { offset: 8, .. } if row.end_address() - row.start_address() <= 2 => {
            // One push: rsp is at what was pushed before it.
            let mut lowest = 0;
            for (_, rule) in row.registers() {
                let RegisterRule::Offset(above) = rule else { return None };
                lowest = lowest.min(*above);
            }
            Some(regs.sp.wrapping_add_signed(-lowest))
        }
        CfaRule::RegisterAndOffset { offset: 8, .. } => before.filter(|before| *before > regs.sp + 8),
        CfaRule::RegisterAndOffset { .. } => None,
        CfaRule::Expression(expression) => evaluate(expression.get(section).unwrap(), encoding, regs),
    }
}

/// What gimli makes of a row, whose frame is at `cfa`.
fn expect(
    section: &EhFrame<Bytes<'_>>,
    encoding: gimli::Encoding,
    row: &UnwindTableRow<usize>,
    regs: Regs,
    cfa: Option<u64>,
) -> Result<Regs, End> {
    let value = |register: u16| match register {
        6 => Some(regs.fp),
        7 => Some(regs.sp),
        _ => None,
    };
    let Some(ra) = row.register(Register(16)) else { return Err(End::Invalid) };
    if ra == RegisterRule::Undefined {
        return Err(End::Root);
    }
    let Some(cfa) = cfa else { return Err(End::Invalid) };
    if ra == RegisterRule::Register(Register(5)) {
        return value(6).map(|fp| Regs { ip: HELD, sp: cfa, fp }).ok_or(End::Invalid);
    }
    let restore = |register: u16| match row.register(Register(register)) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => value(register),
        Some(RegisterRule::Offset(above)) => Some(memory(cfa.wrapping_add_signed(above))),
        Some(RegisterRule::Expression(expression)) => {
            Some(memory(evaluate(expression.get(section).unwrap(), encoding, regs)?))
        }
        Some(_) => None,
    };
    let sp = match row.register(Register(7)) {
        None => Some(cfa),
        Some(RegisterRule::Expression(expression)) => {
            evaluate(expression.get(section).unwrap(), encoding, regs).map(memory)
        }
        Some(_) => None,
    };
    match (restore(16), restore(6), sp) {
        (Some(ip), Some(fp), Some(sp)) => Ok(Regs { ip, sp, fp }),
        _ => Err(End::Invalid),
    }
}

#[derive(Debug, Default)]
struct Compared {
    rows: u64,
    invalid: u64,
    roots: u64,
    signals: u64,
    held: u64,
}

/// Compares each row of `file`, at its first and last address, with what gimli makes of it.
fn compare(path: &Path, file: &File) -> Option<Compared> {
    let reader = Reader::new(file).ok()?;
    let (mut bytes, mut address) = (Vec::new(), 0);
    reader
        .sections(|name, section| {
            if name == b".eh_frame" && !section.is_elsewhere() {
                bytes = reader.read(section.offset(), section.bytes(), TABLE_BYTES_MAX)?;
                address = section.address();
            }
            Ok(())
        })
        .ok()?;
    if bytes.is_empty() {
        return None;
    }
    let laid = lay(file).ok()?;
    let segments = reader.segments().unwrap();
    let offset_of = |address: u64| {
        segments.iter().filter(|segment| segment.is_code()).find_map(|segment| segment.offset_of(address))
    };
    let entry = reader.entry().unwrap();
    let bases = BaseAddresses::default().set_eh_frame(address);
    let section = EhFrame::new(&bytes, LittleEndian);
    let mut entries = section.entries(&bases);
    let mut context = UnwindContext::new();
    let mut compared = Compared::default();
    // Where functions overlap the one that begins first is meant, as everywhere.
    let mut spans: Vec<(u64, u64)> = Vec::new();
    let mut functions = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(function) = partial.parse(EhFrame::cie_from_offset) else { continue };
        spans.push((function.initial_address(), function.end_address()));
        functions.push(function);
    }
    spans.sort_unstable();
    let overlapped =
        |begin: u64, end: u64| spans.iter().filter(|span| span.0 < end && begin < span.1).count() > 1;
    let overlaps = spans.windows(2).any(|pair| pair[1].0 < pair[0].1);
    for function in functions {
        let (begin, end) = (function.initial_address(), function.end_address());
        if begin == end || (overlaps && overlapped(begin, end)) {
            continue;
        }
        let encoding = function.cie().encoding();
        let mut rows = function.rows(&section, &bases, &mut context).unwrap();
        let mut before = None;
        while let Ok(Some(row)) = rows.next_row() {
            let place = |regs| frame(&section, encoding, row, regs, before);
            for at in [row.start_address(), row.end_address() - 1] {
                let Some(offset) = offset_of(at).filter(|_| row.start_address() < row.end_address()) else {
                    continue;
                };
                let regs = Regs { ip: BASE + offset, sp: STACK, fp: STACK + 0x8000 };
                let regs = Regs { ip: regs.ip & !15 | at & 15, ..regs };
                assert_eq!(regs.ip & 15, offset & 15, "a page is a page");
                let mut expected = expect(&section, encoding, row, regs, place(regs));
                if (begin..end).contains(&entry) && segments.iter().any(|s| s.kind == Segment::INTERPRETER) {
                    expected = Err(End::Root);
                }
                // What `makecontext` returns to has a row like any other, and no caller.
                let mut first = [0; 3];
                if offset_of(begin).is_some_and(|at| file.read_exact_at(&mut first, at).is_ok())
                    && first == [0x48, 0x89, 0xdc]
                {
                    expected = Err(End::Root);
                }
                let is_held = row.register(Register(16)) == Some(RegisterRule::Register(Register(5)));
                compared.held += u64::from(is_held);
                // A caller lies above, at a whole word: assembly that says otherwise is not believed.
                let is_none = |sp: u64| sp <= regs.sp || !sp.is_multiple_of(8);
                if expected
                    .is_ok_and(|caller| !is_held && !function.is_signal_trampoline() && is_none(caller.sp))
                {
                    expected = Err(End::NoFrame);
                }
                let got = step(&laid, regs);
                assert_eq!(got, expected, "{} at {at:#x}: {row:?}", path.display());
                compared.rows += 1;
                compared.invalid += u64::from(got == Err(End::Invalid));
                compared.roots += u64::from(got == Err(End::Root));
                compared.signals += u64::from(function.is_signal_trampoline());
            }
            // After a push there may be another; and rbp is what a function restores.
            let is_lasting = match row.cfa() {
                CfaRule::RegisterAndOffset { register: Register(7), .. } => true,
                CfaRule::RegisterAndOffset { register: Register(6), .. } => false,
                CfaRule::RegisterAndOffset { .. } => row.end_address() - row.start_address() > 2,
                CfaRule::Expression(expression) => {
                    let moved = Regs { ip: 0, sp: STACK, fp: 0 };
                    evaluate(expression.get(&section).unwrap(), encoding, moved)
                        == place(Regs { ip: 0, sp: STACK, fp: STACK + 0x8000 })
                }
            };
            before = place(Regs { ip: 0, sp: STACK, fp: STACK + 0x8000 }).filter(|_| is_lasting);
        }
    }
    Some(compared)
}

/// Files of this machine that code may be in, some of them large.
fn binaries() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/bin", "/usr/lib/gcc/x86_64-linux-gnu"] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        found.extend(paths);
    }
    found
        .retain(|path| path.metadata().is_ok_and(|is| is.is_file() && (4096..(8 << 20)).contains(&is.len())));
    found
}

/// Any machine that can build us has more.
const FILES_MIN: u32 = 100;

#[test]
fn every_row_of_many_files_is_what_gimli_makes_of_it() {
    let began = Instant::now();
    let (mut files, mut all) = (0, Compared::default());
    // Spread over the folders, so that a machine's habits do not choose.
    let paths = binaries();
    for path in (0..7).flat_map(|first| paths.iter().skip(first).step_by(7)) {
        let Some(Compared { rows, invalid, roots, signals, held }) =
            File::open(path).ok().and_then(|file| compare(path, &file))
        else {
            continue;
        };
        files += 1;
        all.rows += rows;
        all.invalid += invalid;
        all.roots += roots;
        all.signals += signals;
        all.held += held;
        if files >= 150 || (files >= FILES_MIN && began.elapsed() > Duration::from_secs(20)) {
            break;
        }
    }
    println!("{files} files in {:?}: {all:?}", began.elapsed());
    assert!(files >= FILES_MIN && all.rows > 100_000, "too few files to mean anything: {files}, {all:?}");
    assert!(all.invalid * 500 < all.rows, "{all:?}");
}

#[test]
fn the_c_library_and_its_loader_are_what_gimli_makes_of_them() {
    for path in ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"] {
        let Ok(file) = File::open(path) else {
            println!("skipped: no {path}");
            continue;
        };
        let compared = compare(Path::new(path), &file).unwrap();
        println!("{path}: {compared:?}");
        assert!(compared.roots > 0 || path.contains("ld-linux"), "nothing is the root of a thread");
        assert!(compared.signals > 0 || path.contains("ld-linux"), "no trampoline");
        assert!(compared.held > 0 || path.contains("ld-linux"), "no vfork");
    }
}

#[test]
fn the_vdso_is_what_gimli_makes_of_it() {
    let (file, _) = crate::symbolize::vdso::image().unwrap();
    let compared = compare(Path::new("[vdso]"), &file).unwrap();
    println!("{compared:?}");
    assert!(compared.rows > 0);
}

#[test]
fn rows_of_go_say_what_its_debug_information_says() {
    let Some(file) = go_program() else { return };
    let Compared { rows, invalid, roots, signals, .. } = compare_go(&file);
    println!("{rows} rows, {invalid} invalid, {roots} roots, {signals} of a trampoline");
    assert!(rows > 10_000 && invalid < 10 && roots < 100 && signals > 0);
}

pub(in super::super) fn go_program() -> Option<File> {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("main.go"), folder.path().join("main"));
    std::fs::write(&source, "package main\nimport \"fmt\"\nfunc main() { fmt.Println(1) }\n").unwrap();
    let mut go = std::process::Command::new("go");
    let built = go.arg("build").arg("-o").args([&program, &source]).status();
    if !built.is_ok_and(|built| built.success()) {
        println!("skipped: there is no Go that could build a program");
        return None;
    }
    Some(File::options().read(true).write(true).open(&program).unwrap())
}

#[test]
fn whatever_byte_of_a_go_program_is_wrong_the_table_ends() {
    let Some(file) = go_program() else { return };
    let mut place = None;
    let reader = Reader::new(&file).unwrap();
    reader
        .sections(|name, section| {
            if name == b".gopclntab" {
                place = Some(section.offset());
            }
            Ok(())
        })
        .unwrap();
    let place = place.unwrap();
    // Few functions, so that it takes no time.
    file.write_all_at(&200u64.to_le_bytes(), place + 8).unwrap();
    assert!(lay(&file).is_ok());
    let mut word = [0; 8];
    let mut starts = vec![0];
    for field in [56, 64] {
        file.read_exact_at(&mut word, place + field).unwrap();
        starts.push(u64::from_le_bytes(word));
    }
    for start in starts {
        for at in (start..start + 48).chain((start + 48..start + 4000).step_by(97)) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place + at).unwrap();
            file.write_all_at(&[byte[0] ^ 0xff], place + at).unwrap();
            let _ = lay(&file);
            file.write_all_at(&byte, place + at).unwrap();
        }
    }
}

/// Compares where the caller's frame is with the `.debug_frame` of a Go program.
fn compare_go(file: &File) -> Compared {
    let reader = Reader::new(file).unwrap();
    let mut bytes = Vec::new();
    let mut symbols = 0;
    reader
        .sections(|name, section| {
            if name == b".debug_frame" {
                bytes = inflated(&reader, section, false, &mut Reached::default())?;
            }
            symbols += u64::from(name == b".gopclntab");
            Ok(())
        })
        .unwrap();
    assert!(!bytes.is_empty() && symbols == 1);
    let laid = lay(file).unwrap();
    let segments = reader.segments().unwrap();
    let mut section = gimli::DebugFrame::new(&bytes, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default();
    let mut entries = section.entries(&bases);
    let mut context = UnwindContext::new();
    let mut compared = Compared::default();
    let mut different = 0;
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let function = partial.parse(gimli::DebugFrame::cie_from_offset).unwrap();
        let mut rows = function.rows(&section, &bases, &mut context).unwrap();
        while let Ok(Some(row)) = rows.next_row() {
            let CfaRule::RegisterAndOffset { register: Register(7), offset } = *row.cfa() else { continue };
            for at in [row.start_address(), row.end_address() - 1] {
                let place = segments.iter().find_map(|segment| segment.offset_of(at));
                let Some(place) = place.filter(|_| row.start_address() < row.end_address()) else { continue };
                let regs = Regs { ip: BASE + place, sp: STACK, fp: STACK + 0x8000 };
                let got = step(&laid, regs);
                compared.rows += 1;
                compared.invalid += u64::from(got == Err(End::Invalid));
                compared.roots += u64::from(got == Err(End::Root));
                let cfa = STACK.wrapping_add_signed(offset);
                // Where Go goes to another stack, and where a signal handler returns to, its debug information knows less.
                let elsewhere = got.is_ok_and(|caller| caller.sp == regs.fp + 16);
                let signal = got.is_ok_and(|caller| caller.sp == memory(STACK + 160));
                compared.signals += u64::from(signal);
                if let Ok(caller) = got
                    && (caller.sp, caller.ip) != (cfa, memory(cfa - 8))
                    && !elsewhere
                    && !signal
                {
                    different += 1;
                    println!("{at:#x}: {caller:x?}, not {cfa:#x}");
                }
            }
        }
    }
    assert_eq!(different, 0);
    compared
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_compressed_debug_frame_is_read() {
    // Built without `.eh_frame`, with `-gz`.
    let bytes = include_bytes!("../../../../../tests/fuzz/corpus/unwind_table/debug");
    let laid = lay(&file(bytes)).unwrap();
    assert!(laid.functions > 0 && laid.words > 100);
}

#[test]
fn a_file_without_sections_has_the_same_table() {
    let (image, _) = crate::symbolize::vdso::image().unwrap();
    let mut bytes = vec![0; usize::try_from(image.metadata().unwrap().len()).unwrap()];
    image.read_exact_at(&mut bytes, 0).unwrap();
    // Of code without a table it has rules too, if its sections say that it is code.
    let more = lay(&file(&bytes)).unwrap();
    let (headers, count) = (number(&bytes, 40, 8).unwrap(), number(&bytes, 60, 2).unwrap());
    for header in 0..usize::try_from(count).unwrap() {
        bytes[usize::try_from(headers).unwrap() + header * 64 + 8] &= !4; // not to be executed
    }
    let whole = lay(&file(&bytes)).unwrap();
    assert!(more.words >= whole.words);
    bytes[40..48].fill(0); // where the section headers are
    bytes[60..64].fill(0); // how many
    let stripped = lay(&file(&bytes)).unwrap();
    assert!(whole.slabs == stripped.slabs);
}

#[test]
fn whatever_byte_is_wrong_the_table_ends() {
    let (image, _) = crate::symbolize::vdso::image().unwrap();
    let mut bytes = vec![0; usize::try_from(image.metadata().unwrap().len()).unwrap()];
    image.read_exact_at(&mut bytes, 0).unwrap();
    let broken = file(&bytes);
    for at in 0..bytes.len() {
        for wrong in [bytes[at] ^ 0xff, bytes[at] ^ 0x01, bytes[at].wrapping_add(0x40)] {
            broken.write_all_at(&[wrong], at as u64).unwrap();
            let _ = lay(&broken);
        }
        broken.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    for length in (0..bytes.len()).step_by(97) {
        broken.set_len(length as u64).unwrap();
        let _ = lay(&broken);
        broken.write_all_at(&bytes, 0).unwrap();
    }
}

#[test]
fn frames_are_kept_where_the_compiler_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("a.c"), folder.path().join("a.so"));
    // The second has a frame, and calls nobody: it is never passed by a walk.
    let text = "int g(int *); int f(int a) { int x[40]; x[a] = a; return g(x) + 1; }
        int h(int a) { volatile int x[400]; x[a] = a; return x[0]; }";
    std::fs::write(&source, text).unwrap();
    for (arguments, kept) in [
        (&["-fomit-frame-pointer"][..], false),
        (&["-fno-omit-frame-pointer"], true),
        (&["-fno-omit-frame-pointer", "-momit-leaf-frame-pointer"], true),
    ] {
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-O2", "-fPIC", "-fno-stack-protector", "-shared", "-nostdlib"]).args(arguments);
        let built = compiler.arg("-o").args([&library, &source]).status();
        if !built.is_ok_and(|built| built.success()) {
            println!("skipped: no C compiler");
            return;
        }
        let laid = lay(&File::open(&library).unwrap()).unwrap();
        assert_eq!(keeps_frames(laid.functions, laid.frameless), kept, "{arguments:?}");
    }
}
