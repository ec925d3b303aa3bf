//! Tables that contradict themselves, have no end, or lose their file on the way: made by hand, to the byte.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::Write;

use profiler_common::unwind::table::{PAGE_BYTES, TABLE_PAGES_MAX};
use profiler_common::unwind::{End, Regs};

use super::tests::{BASE, STACK, lay, memory, step};
use super::{Bound, Builder, FUNCTION_BYTES_MAX, FUNCTIONS_MAX, Refusal};

/// Where the code begins, in the file and in memory.
const CODE: u64 = 0x1000;
/// Where the table does.
const TABLE: u64 = 0x200;

/// A function: where it begins behind [`CODE`], its bytes, and how far above rsp its frame is.
type Described = (u32, u32, u8);

/// An `.eh_frame` that describes `functions`, in their order.
fn eh_frame(functions: &[Described]) -> Vec<u8> {
    const OFFSET: u8 = 0x80;
    let mut table = Vec::new();
    let mut entry = |body: &[u8]| {
        let bytes = (4 + body.len()).next_multiple_of(8) - 4;
        table.extend(u32::try_from(bytes).unwrap().to_le_bytes());
        table.extend(body);
        table.resize(table.len() + bytes - body.len(), 0);
        table.len()
    };
    // Pointers of four bytes from where they lie; at first the frame is 8 above rsp, the return address below that.
    let shared = [0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, OFFSET | 16, 1];
    let mut at = entry(&shared);
    for &(begins, bytes, above) in functions {
        let pointer = u32::try_from(at + 4).unwrap();
        let place = u32::try_from(TABLE).unwrap() + pointer + 4;
        let from = (u32::try_from(CODE).unwrap() + begins).wrapping_sub(place);
        let mut body = Vec::new();
        for word in [pointer, from, bytes] {
            body.extend(word.to_le_bytes());
        }
        body.extend([0, 0x0e, above]);
        at = entry(&body);
    }
    table
}

/// A file whose code is `code_bytes` long, as it says, with this `.eh_frame`.
fn file(table: &[u8], code_bytes: u64) -> File {
    file_at(table, CODE, code_bytes)
}

/// The same, whose code lies at `offset` in the file.
fn file_at(table: &[u8], offset: u64, code_bytes: u64) -> File {
    const NAMES: &[u8] = b"\0.eh_frame\0.names\0";
    let mut elf = vec![0; usize::try_from(TABLE).unwrap()];
    let put = |elf: &mut Vec<u8>, at: usize, number: u64, width: usize| {
        elf[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    };
    let names = TABLE + table.len() as u64;
    let sections = (names + NAMES.len() as u64).next_multiple_of(8);
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, number, width) in [(16, 3, 2), (18, 62, 2), (20, 1, 4), (32, 64, 8), (40, sections, 8)] {
        put(&mut elf, at, number, width);
    }
    for (at, number) in [(52, 64), (54, 56), (56, 1), (58, 64), (60, 3), (62, 2)] {
        put(&mut elf, at, number, 2);
    }
    // One part, executable.
    for (at, number, width) in
        [(64, 1, 4), (68, 5, 4), (72, offset, 8), (80, CODE, 8), (96, code_bytes, 8), (104, code_bytes, 8)]
    {
        put(&mut elf, at, number, width);
    }
    elf.extend(table);
    elf.extend(NAMES);
    elf.resize(usize::try_from(sections).unwrap() + 64, 0);
    for (name, offset, bytes) in [(1, TABLE, table.len() as u64), (11, names, NAMES.len() as u64)] {
        let at = elf.len();
        elf.resize(at + 64, 0);
        for (field, number, width) in
            [(0, name, 4), (4, 1, 4), (16, offset, 8), (24, offset, 8), (32, bytes, 8)]
        {
            put(&mut elf, at + field, number, width);
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// Where the frame is, above rsp, at each of these places of the code; none where the table says nothing.
#[track_caller]
fn check(functions: &[Described], places: &[(u64, Option<u64>)]) {
    let laid = lay(&file(&eh_frame(functions), 1 << 30)).unwrap();
    for &(place, above) in places {
        let regs = Regs { ip: BASE + CODE + place, sp: STACK, fp: STACK + 1 };
        let expected = above.map(|above| memory(STACK + above - 8)).ok_or(End::NoFrame);
        assert_eq!(step(&laid, regs).map(|caller| caller.ip), expected, "at {place:#x}");
    }
}

#[test]
fn of_functions_that_overlap_the_first_goes_on() {
    let places = [(0, Some(8)), (0x1ff, Some(8)), (0x200, Some(16)), (0x2ff, Some(16)), (0x310, None)];
    check(&[(0, 0x200, 8), (0x100, 0x200, 16)], &places);
    check(&[(0x100, 0x200, 16), (0, 0x200, 8)], &places);
}

#[test]
fn a_function_inside_another_is_not_seen() {
    check(&[(0, 0x300, 8), (0x100, 0x10, 16)], &[(0xff, Some(8)), (0x108, Some(8)), (0x2ff, Some(8))]);
}

#[test]
fn of_functions_at_the_same_place_the_first_of_the_table_holds() {
    check(&[(0, 0x100, 24), (0, 0x200, 16)], &[(0, Some(24)), (0xff, Some(24)), (0x100, Some(16))]);
}

#[test]
fn thousands_at_the_same_place_cost_no_more_than_one() {
    let functions: Vec<Described> = (0..20_000).map(|number| (0, 0x1000 + number, 16)).collect();
    let laid = lay(&file(&eh_frame(&functions), 1 << 30)).unwrap();
    assert!(laid.words < 1000, "{} words", laid.words);
}

#[test]
fn a_function_without_end_ends() {
    let laid = lay(&file(&eh_frame(&[(0, u32::MAX, 8)]), 1 << 40)).unwrap();
    let granules = usize::try_from(FUNCTION_BYTES_MAX / 256).unwrap();
    assert!(laid.words < granules * 2, "{} words", laid.words);
    assert_eq!(laid.bounds.iter().collect::<Vec<_>>(), [(Bound::FunctionBytes, 1)], "and is counted");
}

#[test]
fn code_beyond_what_a_directory_has_is_left_out_and_counted() {
    let table = eh_frame(&[(0, 0x100, 8), (0x1000, 0x100, 8)]);
    let laid = lay(&file_at(&table, TABLE_PAGES_MAX as u64 * PAGE_BYTES - 0x800, 1 << 30)).unwrap();
    assert_eq!(laid.bounds.iter().collect::<Vec<_>>(), [(Bound::Pages, 1)]);
}

#[test]
fn functions_beyond_the_bound_are_left_out_and_counted() {
    let functions: Vec<Described> =
        (0..u32::try_from(FUNCTIONS_MAX).unwrap() + 7).map(|number| (number * 16, 16, 8)).collect();
    let builder = Builder::new(&file(&eh_frame(&functions), 1 << 30)).unwrap();
    assert_eq!(builder.functions.len(), FUNCTIONS_MAX);
    assert_eq!(builder.bounds.iter().collect::<Vec<_>>(), [(Bound::Functions, 7)]);
}

#[test]
fn a_file_that_is_emptied_on_the_way_leaves_a_table_that_ends() {
    let functions: Vec<Described> = (0..1000).map(|number| (number * 64, 64, 16)).collect();
    let file = file(&eh_frame(&functions), 1 << 30);
    let mut builder = Builder::new(&file).unwrap();
    file.set_len(0).unwrap();
    let part = builder.part(&file);
    assert_eq!((part.next, part.functions), (None, 1000));
    assert!(matches!(Builder::new(&file), Err(Refusal::NotElf)));
}
