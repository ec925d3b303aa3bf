//! What an executable says of itself, as far as it says whether stacks can be walked and functions named.
//!
//! In: a file, which may be anything. Out: its class, and the names of its sections. Not here: what is in them; that is for the namer.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Sections that are looked at: no linker makes so many.
const SECTIONS_MAX: usize = 512;
/// Bytes of a table of names that are looked at.
const NAMES_BYTES_MAX: usize = 64 << 10;
/// Bytes of one entry of the table of sections, in a 64-bit file.
const SECTION_BYTES: usize = 64;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elf {
    /// A program of 32 bits.
    Narrow,
    /// One of 64 bits, with these sections.
    Wide(Vec<String>),
    /// Not a program as the kernel starts them.
    Other,
}

/// Reads the head of `file` and its table of sections.
pub(super) fn read(file: &File) -> Elf {
    let mut head = [0; 64];
    if file.read_exact_at(&mut head, 0).is_err() || &head[..4] != b"\x7fELF" {
        return Elf::Other;
    }
    match head[4] {
        1 => Elf::Narrow,
        2 => Elf::Wide(sections(file, &head).unwrap_or_default()),
        _ => Elf::Other,
    }
}

fn sections(file: &File, head: &[u8; 64]) -> Option<Vec<String>> {
    let (table, count) = (u64_at(head, 40)?, usize::from(u16_at(head, 60)?).min(SECTIONS_MAX));
    if usize::from(u16_at(head, 58)?) != SECTION_BYTES {
        return None;
    }
    let mut entries = vec![0; count * SECTION_BYTES];
    file.read_exact_at(&mut entries, table).ok()?;
    let entries: Vec<&[u8]> = entries.chunks_exact(SECTION_BYTES).collect();
    let names = entries.get(usize::from(u16_at(head, 62)?))?;
    let length = usize::try_from(u64_at(names, 32)?).unwrap_or(usize::MAX).min(NAMES_BYTES_MAX);
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, u64_at(names, 24)?).ok()?;
    let name = |entry: &&[u8]| {
        let start = usize::try_from(u32::from_le_bytes(entry.get(..4)?.try_into().ok()?)).ok()?;
        let name = text.get(start..)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    };
    Some(entries.iter().filter_map(name).collect())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &Elf) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        assert_eq!(read(&File::open(file.path()).unwrap()), *expected);
    }

    #[test]
    fn our_own_program_has_sections_and_loses_them_where_it_is_cut() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Elf::Wide(sections) = read(&File::open("/proc/self/exe").unwrap()) else {
            panic!("we are of 64 bits")
        };
        assert!(
            [".text", ".eh_frame", ".symtab"].iter().all(|name| sections.iter().any(|s| s == name)),
            "{sections:?}"
        );
        check(&own[..4096], &Elf::Wide(Vec::new()));
        check(&own[..63], &Elf::Other);
    }

    #[test]
    fn hostile_heads_are_read_no_further() {
        let mut head = [0xff; 4096];
        head[..5].copy_from_slice(b"\x7fELF\x02");
        check(&head, &Elf::Wide(Vec::new()));
        head[58..60].copy_from_slice(&64u16.to_le_bytes());
        check(&head, &Elf::Wide(Vec::new()));
        head[40..48].copy_from_slice(&0u64.to_le_bytes());
        head[60..64].copy_from_slice(&[2, 0, 1, 0]);
        check(&head, &Elf::Wide(Vec::new()));
        head[4] = 1;
        check(&head, &Elf::Narrow);
        check(b"#!/bin/sh\n", &Elf::Other);
    }
}
