//! Tables for aarch64 against gimli, and the walk by them over stacks that a program took of itself.
//!
//! Program and stacks are recorded: `tests/recordings/aarch64/program.c` says how.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule,
    UnwindContext, UnwindSection, UnwindTableRow, Vendor,
};
use profiler_common::unwind::aarch64::Aarch64;
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::MappingList;
use profiler_common::unwind::walk::{CONTINUE, Walk, Window};
use profiler_common::unwind::{End, Regs};

use super::tests::{BASE, Laid, STACK, lay_for, memory};
use super::*;

const X29: Register = Register(29);
const X30: Register = Register(30);
const SP: Register = Register(31);
/// What x30 has in each row.
const LINK: u64 = 0x1234_5678;

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings/aarch64").join(name)
}

/// Walks from `regs` and x30 `link` to the end.
fn walk(
    laid: &Laid,
    regs: Regs,
    link: u64,
    steps: usize,
    mut read: impl FnMut(&mut Window, u64, u64) -> bool,
) -> (Vec<Regs>, Option<End>) {
    let mut walk = Walk::new(regs);
    walk.restart(regs, MappingList { address: 0, mappings: 1, version: 0 });
    walk.link([link, 0]);
    let slab = |number: u32| laid.slabs.get(number as usize).map(|slab| &**slab);
    let mut frames = Vec::new();
    for _ in 0..steps {
        let went = walk.step_on::<Aarch64>(&mut read, &slab, &mut Recent::new());
        if went != CONTINUE {
            return (frames, End::from_wire(u16::try_from(went).unwrap()));
        }
        frames.push(walk.regs);
    }
    (frames, None)
}

/// What gimli makes of a row.
fn expect(row: &UnwindTableRow<usize>, regs: Regs) -> Result<Regs, End> {
    if row.register(X30) == Some(RegisterRule::Undefined) {
        return Err(End::Root);
    }
    let cfa = match *row.cfa() {
        CfaRule::RegisterAndOffset { register: SP, offset } => regs.sp.wrapping_add_signed(offset),
        CfaRule::RegisterAndOffset { register: X29, offset } => regs.fp.wrapping_add_signed(offset),
        _ => return Err(End::Invalid),
    };
    let restore = |register, is| match row.register(register) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Ok(is),
        Some(RegisterRule::Offset(above)) => Ok(memory(cfa.wrapping_add_signed(above))),
        Some(_) => Err(End::Invalid),
    };
    Ok(Regs { ip: restore(X30, LINK)?, sp: cfa, fp: restore(X29, regs.fp)? })
}

/// Compares each row of `file`; how many, and how many of them the walk says that it cannot follow.
fn compare(path: &Path) -> (u64, u64) {
    let file = File::open(path).unwrap();
    let reader = Reader::new(&file).unwrap();
    let mut table = None;
    reader
        .sections(|name, section| {
            if name == b".eh_frame" {
                table = Some((
                    reader.read(section.offset(), section.bytes(), TABLE_BYTES_MAX)?,
                    section.address(),
                ));
            }
            Ok(())
        })
        .unwrap();
    let (bytes, address) = table.unwrap();
    let laid = lay_for(&file, Machine::Aarch64, BASE).unwrap();
    let segments = reader.segments().unwrap();
    let code = |address| segments.iter().filter(|s| s.is_code()).find_map(|s| s.offset_of(address));
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut section: EhFrame<EndianSlice<'_, LittleEndian>> = EhFrame::new(&bytes, LittleEndian);
    section.set_vendor(Vendor::AArch64);
    let entry = reader.entry().unwrap();
    let (mut rows_seen, mut invalid) = (0, 0);
    let mut entries = section.entries(&bases);
    let mut context = UnwindContext::new();
    while let Ok(Some(entry_or)) = entries.next() {
        let CieOrFde::Fde(partial) = entry_or else { continue };
        let Ok(function) = partial.parse(EhFrame::cie_from_offset) else { continue };
        if function.is_signal_trampoline()
            || (function.initial_address()..function.end_address()).contains(&entry)
        {
            continue;
        }
        let mut rows = function.rows(&section, &bases, &mut context).unwrap();
        while let Ok(Some(row)) = rows.next_row() {
            let Some(offset) = code(row.start_address()) else { continue };
            let regs = Regs { ip: BASE + offset, sp: STACK, fp: STACK + 0x8000 };
            let read = |window: &mut Window, at: u64, bytes: u64| {
                for (index, word) in window.iter_mut().enumerate().take((bytes / 8) as usize) {
                    *word = memory(at + index as u64 * 8);
                }
                true
            };
            let got = match walk(&laid, regs, LINK, 1, read) {
                (_, Some(end)) => Err(end),
                (frames, None) => Ok(frames[0]),
            };
            rows_seen += 1;
            if got == Err(End::Invalid) {
                invalid += 1;
            } else {
                assert_eq!(
                    got,
                    expect(row, regs),
                    "{} at {:#x}: {row:?}",
                    path.display(),
                    row.start_address()
                );
            }
        }
    }
    (rows_seen, invalid)
}

#[test]
fn every_row_of_a_program_for_aarch64_is_what_gimli_makes_of_it() {
    let mut files = vec![recording("program")];
    // Libraries to build for it are only on some machines; the program is linked with its library.
    if let Ok(folder) = std::fs::read_dir("/usr/aarch64-linux-gnu/lib") {
        let shared = |path: &PathBuf| path.to_string_lossy().contains(".so.") && path.is_file();
        files.extend(folder.flatten().map(|entry| entry.path()).filter(shared));
    }
    let (mut rows, mut invalid) = (0, 0);
    for file in &files {
        let (of_file, without) = compare(file);
        rows += of_file;
        invalid += without;
    }
    println!("{} files, {rows} rows, {invalid} of them cannot be followed", files.len());
    assert!(rows > 5_000, "too few rows to mean anything: {rows}");
    assert!(invalid * 200 < rows, "{invalid} of {rows} rows cannot be followed");
}

/// Functions of the program: first address, bytes, name.
fn symbols(file: &File) -> Vec<(u64, u64, String)> {
    const FUNCTION: u64 = 2;
    let reader = Reader::new(file).unwrap();
    let (mut symbols, mut names) = (Vec::new(), Vec::new());
    reader
        .sections(|name, section| {
            let bytes = || reader.read(section.offset(), section.bytes(), 1 << 20);
            match name {
                b".symtab" => symbols = bytes()?,
                b".strtab" => names = bytes()?,
                _ => {}
            }
            Ok(())
        })
        .unwrap();
    let functions = symbols.chunks_exact(24).filter(|symbol| number(symbol, 4, 1).unwrap() & 15 == FUNCTION);
    functions
        .map(|symbol| {
            let name = &names[usize::try_from(number(symbol, 0, 4).unwrap()).unwrap()..];
            let name = name.split(|byte| *byte == 0).next().unwrap();
            let [address, bytes] = [8, 16].map(|at| number(symbol, at, 8).unwrap());
            (address, bytes, String::from_utf8_lossy(name).into_owned())
        })
        .collect()
}

/// What the program did when it took its stacks, by the numbers of its loops.
const KINDS: [&[&str]; 9] = [
    &["saves_x30_alone"],
    &["saves_others_too"],
    &["saves_x30_alone", "keeps_a_record"],
    &["saves_x30_alone", "keeps_a_record", "moves_its_stack"],
    &["saves_others_too", "has_a_large_frame"],
    &["saves_others_too", "signs_its_record"],
    &["signs_x30_alone"],
    &["saves_x30_alone", "compare", SORTS, SORTS, SORTS, "__qsort_r", "sorts"],
    &["recurses"],
];
/// The library sorts eight numbers, by halves.
const SORTS: &str = "msort_with_tmp.part.0";
const LEAVES: [&str; 3] = ["leaf", "signed_leaf", "deep_leaf"];

#[test]
fn stacks_of_a_program_for_aarch64_are_whole() {
    let file = File::open(recording("program")).unwrap();
    let segments = Reader::new(&file).unwrap().segments().unwrap();
    let code = segments.iter().find(|segment| segment.is_code()).unwrap();
    let laid = lay_for(&file, Machine::Aarch64, code.address - code.offset).unwrap();
    let symbols = symbols(&file);
    let name = |address: u64| {
        let inside = |(start, bytes, _): &&(u64, u64, String)| address.wrapping_sub(*start) < *bytes;
        symbols.iter().find(inside).map_or("?", |(_, _, name)| name)
    };
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(File::open(recording("stacks.gz")).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let mut rest = &words[..];
    let mut taken = 0;
    while let [pc, sp, x29, x30, count, after @ ..] = rest {
        let (stack, next) = after.split_at(usize::try_from(*count).unwrap());
        rest = next;
        let read = |window: &mut Window, at: u64, bytes: u64| {
            let Some(first) = at.checked_sub(*sp).map(|offset| (offset / 8) as usize) else { return false };
            // Above what was written down lie the program's arguments.
            let above = stack.get(first..).unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
            window.iter_mut().zip(above).take((bytes / 8) as usize).for_each(|(to, word)| *to = word);
            first < stack.len()
        };
        let regs = Regs { ip: *pc, sp: *sp, fp: *x29 };
        let (frames, end) = walk(&laid, regs, *x30, 200, read);
        let mut found = vec![name(*pc)];
        found.extend(frames.iter().map(|frame| name(frame.ip - 1)));
        let mut expected = vec![LEAVES[taken % 3]];
        let kind = taken / 3 % KINDS.len();
        expected.extend(std::iter::repeat_n(KINDS[kind], if kind == 8 { 61 } else { 1 }).flatten());
        expected.extend(["chain", "main", "__libc_start_call_main", "__libc_start_main_impl", "_start"]);
        assert_eq!(found, expected, "stack {taken}");
        assert_eq!(end, Some(End::Root), "stack {taken}");
        taken += 1;
    }
    assert_eq!((taken, rest.len()), (2 * KINDS.len() * LEAVES.len(), 0));
}
