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

/// Hands `found` where functions begin that have a name.
pub(super) fn symbols(
    reader: &Reader<'_>,
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
    let mut read = |section: Option<Section>| {
        let section = section.filter(|section| !section.is_elsewhere()).ok_or_else(malformed)?;
        bounds.add(Bound::Symbols, u64::from(section.bytes() > SYMBOL_BYTES_MAX));
        reader.read(section.offset(), section.bytes(), SYMBOL_BYTES_MAX)
    };
    for (table, texts) in tables.into_iter().zip(texts) {
        let (Ok(symbols), Ok(texts)) = (read(table), read(texts)) else { continue };
        for symbol in symbols.chunks_exact(ENTRY_BYTES) {
            let (name, kind) = (number(symbol, 0, 4)?, number(symbol, 4, 1)? & 15);
            let (section, address) = (number(symbol, 6, 2)?, number(symbol, 8, 8)?);
            if !matches!(kind, FUNCTION | CHOSEN_FUNCTION) || section == 0 {
                continue;
            }
            let name = usize::try_from(name).ok().and_then(|at| texts.get(at..)).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            // A part of a function that was moved away has the frame of the rest.
            if memchr::memmem::find(name, b".cold").is_none() {
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
        for word in data.as_chunks::<8>().0 {
            found(u64::from_le_bytes(*word));
        }
    }
    Ok(())
}
