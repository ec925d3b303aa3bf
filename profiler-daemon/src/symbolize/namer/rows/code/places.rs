//! Where code lies that no table describes, and where something points into it.
//!
//! In: a file and what is known of it. Out: stretches of code, and addresses in them. Not here: what the code does.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::super::super::bounds::{Bound, Reached};
use super::super::super::elf::{Reader, Section, Segment, malformed, number};
use super::super::{Function, PADDING_BYTES_MAX, SYMBOL_BYTES_MAX};
use super::Known;
use super::space::Space;

/// Bytes of described code that are looked through for calls, as many as take a hundredth of a second. What is called from behind them has to be
/// found in another way.
const CALLERS_BYTES_MAX: u64 = 32 << 20;
/// Bytes of data that are looked through for pointers, in programs whose addresses are fixed, which are small. The same holds of what only those
/// behind point to.
const DATA_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a name that are looked through; those of C++ rarely have more. What has a longer one is not taken for a function.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes that are read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The code between the functions that are known.
pub(super) fn gaps(file: &File, known: Known<'_>, bounds: &mut Reached) -> Space {
    // A file that has lost its sections does not say what of it is code.
    let mut regions: Vec<(u64, u64, u64)> =
        known.sections.iter().map(|section| (section.offset(), section.bytes(), section.address())).collect();
    regions.sort_unstable();
    // Address, offset, bytes.
    let mut found: Vec<(u64, u64, u64)> = Vec::new();
    let mut total = 0u64;
    let mut reached = 0;
    let mut functions = known.functions.iter().peekable();
    for (offset, bytes, address) in regions {
        let end = offset.saturating_add(bytes);
        let mut from = offset.max(reached);
        let mut note = |from: u64, to: u64| {
            if to > from && to - from > PADDING_BYTES_MAX {
                found.push((address.wrapping_add(from - offset), from, to - from));
                total = total.saturating_add(to - from);
            }
        };
        while let Some(function) = functions.next_if(|function| function.offset < end) {
            note(from, function.offset);
            from = from.max(function.offset.saturating_add(function.bytes));
        }
        note(from, end);
        reached = from.max(end);
    }
    let mut space = Space::default();
    if total > known.bytes_max {
        bounds.add(Bound::Code, found.len() as u64);
        return space;
    }
    found.sort_unstable();
    let mut code = Vec::new();
    for (address, offset, bytes) in found {
        code.resize(usize::try_from(bytes).unwrap_or(0), 0);
        // Sections without bytes in this file, and such as lie behind its end, have no code.
        if file.read_exact_at(&mut code, offset).is_ok() {
            space.push(address, offset, &code);
        }
    }
    space
}

/// Hands `found` where functions begin in `space` that have a name.
pub(super) fn symbols(
    reader: &Reader<'_>,
    space: &Space,
    bounds: &mut Reached,
    mut found: impl FnMut(u64),
) -> io::Result<()> {
    const ENTRY_BYTES: usize = 24;
    const FUNCTION: u64 = 2;
    const CHOSEN_FUNCTION: u64 = 10;
    let (mut tables, mut texts) = ([None; 2], [None; 2]);
    reader.sections(|name, section| {
        match name {
            b".symtab" => tables[0] = Some(*section),
            b".dynsym" => tables[1] = Some(*section),
            b".strtab" => texts[0] = Some(*section),
            b".dynstr" => texts[1] = Some(*section),
            _ => {}
        }
        Ok(())
    })?;
    let read = |section: Option<Section>, bounds: &mut Reached| {
        let section = section.filter(|section| !section.is_elsewhere()).ok_or_else(malformed)?;
        bounds.add(Bound::Symbols, u64::from(section.bytes() > SYMBOL_BYTES_MAX));
        reader.read(section.offset(), section.bytes(), SYMBOL_BYTES_MAX)
    };
    for (table, texts) in tables.into_iter().zip(texts) {
        let (Ok(symbols), Ok(texts)) = (read(table, bounds), read(texts, bounds)) else { continue };
        for symbol in symbols.chunks_exact(ENTRY_BYTES) {
            let (name, kind) = (number(symbol, 0, 4)?, number(symbol, 4, 1)? & 15);
            let (section, address) = (number(symbol, 6, 2)?, number(symbol, 8, 8)?);
            if !matches!(kind, FUNCTION | CHOSEN_FUNCTION) || section == 0 || space.index(address).is_none() {
                continue;
            }
            let name = usize::try_from(name).ok().and_then(|at| texts.get(at..)).unwrap_or_default();
            let name = &name[..name.len().min(NAME_BYTES_MAX)];
            let Some(end) = memchr::memchr(0, name) else {
                bounds.note(Bound::Symbols);
                continue;
            };
            // A part of a function that was moved away has the frame of the rest.
            if memchr::memmem::find(&name[..end], b".cold").is_none() {
                found(address);
            }
        }
    }
    Ok(())
}

/// Hands `found` whom described code may call; and what only looks like it.
pub(super) fn calls(file: &File, functions: &[Function], bounds: &mut Reached, mut found: impl FnMut(u64)) {
    const CALL: u8 = 0xe8;
    const JUMP: u8 = 0xe9;
    let mut left = CALLERS_BYTES_MAX;
    let mut at = 0;
    let mut piece = Vec::new();
    while let Some(first) = functions.get(at) {
        // Neighbours are read together.
        let mut end = first.offset;
        while let Some(function) = functions.get(at) {
            let function_end = function.offset.saturating_add(function.bytes);
            let is_near = function.offset.saturating_sub(end) <= PIECE_BYTES / 64
                && function.address.wrapping_sub(first.address) == function.offset.wrapping_sub(first.offset);
            if end > first.offset && (!is_near || function_end.saturating_sub(first.offset) > PIECE_BYTES) {
                break;
            }
            end = end.max(function_end);
            at += 1;
        }
        if end - first.offset > left {
            bounds.note(Bound::Callers);
            return;
        }
        let bytes = end - first.offset;
        left -= bytes;
        piece.resize(usize::try_from(bytes).unwrap_or(0), 0);
        if bytes == 0 || file.read_exact_at(&mut piece, first.offset).is_err() {
            continue;
        }
        for start in memchr::memchr2_iter(CALL, JUMP, &piece) {
            if let Some(&[a, b, c, d]) = piece.get(start + 1..start + 5) {
                let next = first.address.wrapping_add(start as u64 + 5);
                found(next.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d]))));
            }
        }
    }
}

/// Hands `found` every word of the data of a file.
pub(super) fn words(reader: &Reader<'_>, bounds: &mut Reached, mut found: impl FnMut(u64)) -> io::Result<()> {
    let mut left = DATA_BYTES_MAX;
    for segment in
        reader.segments()?.iter().filter(|segment| segment.kind == Segment::LOADED && !segment.is_code())
    {
        if segment.bytes > left {
            bounds.note(Bound::Data);
        }
        let bytes = segment.bytes.min(left);
        left -= bytes;
        let data = reader.read(segment.offset, bytes, DATA_BYTES_MAX)?;
        // Where the loader puts them, not where the file has them.
        let aligned = usize::try_from(segment.address.wrapping_neg() % 8).unwrap_or(0);
        for word in data.get(aligned..).unwrap_or_default().as_chunks::<8>().0 {
            found(u64::from_le_bytes(*word));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;

    use super::*;

    /// A file with symbols of functions at these addresses, whose names begin so far into `texts`.
    fn file(symbols: &[(u64, u32)], texts: &[u8]) -> File {
        const NAMES: &[u8] = b"\0.symtab\0.strtab\0.names\0";
        let entries = symbols.iter().flat_map(|&(address, name)| {
            let mut entry = vec![0; 24];
            entry[..4].copy_from_slice(&name.to_le_bytes());
            (entry[4], entry[6]) = (2, 1);
            entry[8..16].copy_from_slice(&address.to_le_bytes());
            entry
        });
        let entries: Vec<u8> = entries.collect();
        let mut elf = vec![0; 64 + 64 * 3];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[40], elf[60], elf[62]) = (64, 3, 2);
        for (number, (name, bytes)) in [(1u32, &entries[..]), (9, texts), (17, NAMES)].into_iter().enumerate()
        {
            let (header, offset) = (64 + 64 * number, elf.len() as u64);
            elf[header..header + 4].copy_from_slice(&name.to_le_bytes());
            elf[header + 24..header + 32].copy_from_slice(&offset.to_le_bytes());
            elf[header + 32..header + 40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            elf.extend_from_slice(bytes);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&elf).unwrap();
        file
    }

    #[track_caller]
    fn check(all: &[(u64, u32)], texts: &[u8], expected: &[u64], over: u64) {
        let file = file(all, texts);
        let mut space = Space::default();
        space.push(0x1000, 0, &[0x90; 0x100]);
        let (mut found, mut bounds, mut counted) = (Vec::new(), Reached::default(), Reached::default());
        symbols(&Reader::new(&file).unwrap(), &space, &mut bounds, |address| found.push(address)).unwrap();
        counted.add(Bound::Symbols, over);
        assert_eq!((&found[..], bounds), (expected, counted));
    }

    #[test]
    fn functions_begin_where_symbols_say_but_for_cold_parts_and_elsewhere() {
        check(&[(0x1000, 1), (0x1010, 3), (0x2000, 1)], b"\0a\0a.cold\0", &[0x1000], 0);
    }

    /// A hundred thousand names, each of which goes on for a megabyte.
    #[test]
    fn names_without_end_are_not_looked_through() {
        let all: Vec<_> = (0..100_000).map(|number| (0x1000 + u64::from(number) % 0x100, number)).collect();
        check(&all, &vec![b'a'; 1 << 20], &[], 100_000);
    }
}
