//! Headers of ELF files, and what must be known of a file before it is given to blazesym.
//!
//! In: a file, any bytes. Out: its segments and sections, and how much debug information it has. Read by `pread`, so
//! that nothing here can fault. Not here: symbols.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::protocol::Refusal;
use super::packed::{PACKED_BYTES_MAX, check_packed};

/// The outline of an ELF file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    segments: Vec<Segment>,
    /// Bytes of debug information, uncompressed.
    pub(super) debug_bytes: u64,
    /// Those of them that are compressed in the file.
    pub(super) packed_debug_bytes: u64,
    /// Bytes of symbol tables.
    symbol_bytes: u64,
    /// True if debug information refers to another file, shared by several.
    pub(super) debug_elsewhere: bool,
    /// The build id; empty if there is none.
    pub(super) build_id: Vec<u8>,
    /// The name of the file with the debug information, and the checksum of its bytes.
    pub(super) debug_link: Option<(Vec<u8>, u32)>,
    /// Addresses of sections with code: the first, and the first behind.
    code: Vec<(u64, u64)>,
    /// Where symbols lie that were packed when it was stripped, and how many bytes they take.
    packed_symbols: Option<(u64, u64)>,
}

/// A part of a file that a program header describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// What it is for.
    pub(super) kind: u64,
    /// What it may be used for.
    pub(super) flags: u64,
    /// Where in the file it lies.
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) bytes: u64,
    /// Where the file says that it lies in memory.
    pub(super) address: u64,
}

impl Segment {
    /// It is mapped.
    pub(super) const LOADED: u64 = 1;
    /// It names the loader, as the headers of a program do.
    pub(super) const INTERPRETER: u64 = 3;
    /// It is the index of the unwind table.
    pub(super) const FRAME_INDEX: u64 = 0x6474_e550;
    /// Among the flags: it may be executed.
    const EXECUTABLE: u64 = 1;
    /// Among the flags: it may be written.
    const WRITABLE: u64 = 2;

    /// True if it is mapped to be executed.
    pub(super) fn is_code(&self) -> bool {
        self.kind == Self::LOADED && self.flags & Self::EXECUTABLE != 0
    }

    /// True if it is mapped to be written, if only by the loader.
    pub(super) fn is_writable(&self) -> bool {
        self.kind == Self::LOADED && self.flags & Self::WRITABLE != 0
    }

    /// Where in the file that lies which lies at `address` in memory.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        let inside = address.checked_sub(self.address).filter(|&inside| inside < self.bytes)?;
        self.offset.checked_add(inside)
    }
}

/// A few, in practice.
const SEGMENTS_MAX: usize = 256;
/// Thousands, in files built with a section for every function.
const SECTIONS_MAX: usize = 65_536;
/// What every program gets from its compiler without a size, and right before its own code, of which not all may have names: a jump.
const RUNTIME: &str = "frame_dummy";
const RUNTIME_BYTES_MAX: u64 = 16;
/// Bytes of a section that says one thing.
const SMALL_BYTES_MAX: u64 = 4 << 10;
/// The kind of a section without bytes in this file.
const NO_BITS: u64 = 8;
/// Five million symbols: a browser with all of its own has one or two. blazesym sorts them all.
const SYMBOL_BYTES_MAX: u64 = 128 << 20;
/// A browser has some ten million.
const RELOCATION_BYTES_MAX: u64 = 128 << 20;
const SECTION_NAMES_BYTES_MAX: u64 = 4 << 20;

impl Outline {
    /// Reads the headers of `file`.
    pub(super) fn read(file: &File) -> Result<Self, Refusal> {
        let reader = Reader::new(file).map_err(|_| Refusal::NotElf)?;
        let mut segments = reader.segments().map_err(|_| Refusal::NotElf)?;
        segments.retain(|segment| segment.kind == Segment::LOADED);
        if segments.is_empty() {
            return Err(Refusal::NotElf);
        }
        let mut outline = Self { segments, ..Self::default() };
        reader.sections(|name, section| outline.note(&reader, name, section)).map_err(|_| Refusal::NotElf)?;
        if outline.symbol_bytes > SYMBOL_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        if let Some((offset, bytes)) = outline.packed_symbols {
            if bytes > PACKED_BYTES_MAX {
                return Err(Refusal::TooLarge);
            }
            check_packed(&reader.read(offset, bytes, PACKED_BYTES_MAX).map_err(|_| Refusal::NotElf)?)?;
        }
        Ok(outline)
    }

    /// The address that the file itself gives to what is at `offset`.
    pub(super) fn address(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            offset.checked_sub(segment.offset).is_some_and(|inside| inside < segment.bytes)
        })?;
        segment.address.checked_add(offset - segment.offset)
    }
}

impl Outline {
    /// Whether the symbol `name` at `from` may be that of the code at `address`. One without a size ends with its section: what every program
    /// begins and ends with (`_init`, `_fini`) has none, and in the section behind lie the stubs through which it calls libraries.
    pub(super) fn reaches(&self, name: &str, from: u64, size: Option<usize>, address: u64) -> bool {
        if from == 0 || size.is_some_and(|size| size > 0) {
            return true;
        }
        if name == RUNTIME && address.saturating_sub(from) >= RUNTIME_BYTES_MAX {
            return false;
        }
        let section = self.code.iter().find(|(start, end)| (*start..*end).contains(&address));
        section.is_none_or(|(start, _)| *start <= from)
    }
}

impl Outline {
    fn note(&mut self, reader: &Reader<'_>, name: &[u8], section: &Section) -> io::Result<()> {
        const SYMBOLS: u64 = 2;
        const DYNAMIC_SYMBOLS: u64 = 11;
        if matches!(section.kind, SYMBOLS | DYNAMIC_SYMBOLS) {
            self.symbol_bytes = self.symbol_bytes.saturating_add(section.bytes);
        }
        if name.starts_with(b".debug_") || name.starts_with(b".zdebug_") {
            let bytes = reader.uncompressed(section)?;
            self.debug_bytes = self.debug_bytes.saturating_add(bytes);
            if section.is_compressed() {
                self.packed_debug_bytes = self.packed_debug_bytes.saturating_add(bytes);
            }
        }
        if section.is_code() {
            self.code.push((section.address, section.address.saturating_add(section.bytes)));
        }
        match name {
            b".gnu_debugdata" if section.kind != NO_BITS => {
                self.packed_symbols.get_or_insert((section.offset, section.bytes));
            }
            b".gnu_debugaltlink" | b".debug_sup" => self.debug_elsewhere = true,
            // What makes no sense here says nothing of the rest.
            b".gnu_debuglink" => {
                let link = reader.read(section.offset, section.bytes, SMALL_BYTES_MAX);
                self.debug_link = link.ok().as_deref().and_then(link_of);
            }
            b".note.gnu.build-id" if section.kind != NO_BITS => {
                let note = reader.read(section.offset, section.bytes, SMALL_BYTES_MAX);
                self.build_id = note.ok().as_deref().and_then(build_id_of).unwrap_or_default();
            }
            _ => {}
        }
        Ok(())
    }
}

/// Name and checksum in a section that says where debug information is.
fn link_of(section: &[u8]) -> Option<(Vec<u8>, u32)> {
    let end = section.iter().position(|&byte| byte == 0)?;
    let sum = number(section, (end + 1).next_multiple_of(4), 4).ok()?;
    Some((section[..end].to_vec(), u32::try_from(sum).ok()?))
}

/// The build id in its note.
fn build_id_of(note: &[u8]) -> Option<Vec<u8>> {
    const BUILD_ID: u64 = 3;
    let bytes = usize::try_from(number(note, 4, 4).ok()?).ok()?;
    let is = number(note, 8, 4).ok()? == BUILD_ID && note.get(12..16)? == b"GNU\0";
    note.get(16..16usize.checked_add(bytes)?).filter(|_| is).map(<[u8]>::to_vec)
}

/// Reads the numbers of a little-endian file of either class.
pub(super) struct Reader<'a> {
    file: &'a File,
    size: u64,
    header: Vec<u8>,
    wide: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        let mut header = vec![0; 52];
        file.read_exact_at(&mut header, 0)?;
        let wide = match &header[..6] {
            b"\x7fELF\x02\x01" => true,
            b"\x7fELF\x01\x01" => false,
            _ => return Err(malformed()),
        };
        if wide {
            header.resize(64, 0);
            file.read_exact_at(&mut header, 0)?;
        }
        Ok(Self { file, size: file.metadata()?.len(), header, wide })
    }

    /// True if it is of 64 bits.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    /// The number of the kind of processor.
    pub(super) fn machine(&self) -> io::Result<u64> {
        number(&self.header, 18, 2)
    }

    /// True if its addresses are those of the process.
    pub(super) fn is_fixed(&self) -> io::Result<bool> {
        const EXECUTABLE: u64 = 2;
        Ok(number(&self.header, 16, 2)? == EXECUTABLE)
    }

    /// The address at which a program begins.
    pub(super) fn entry(&self) -> io::Result<u64> {
        number(&self.header, 24, if self.wide { 8 } else { 4 })
    }

    /// `bytes` of the file from `offset` on; none if they are more than `bytes_max`, or more than there are.
    pub(super) fn read(&self, offset: u64, bytes: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
        let fits = bytes <= bytes_max && offset.checked_add(bytes).is_some_and(|end| end <= self.size);
        let bytes = usize::try_from(bytes).ok().filter(|_| fits).ok_or_else(malformed)?;
        let mut read = vec![0; bytes];
        self.file.read_exact_at(&mut read, offset)?;
        Ok(read)
    }

    /// Every program header.
    pub(super) fn segments(&self) -> io::Result<Vec<Segment>> {
        let (start, size, count) = if self.wide {
            (number(&self.header, 32, 8)?, 56, number(&self.header, 56, 2)?)
        } else {
            (number(&self.header, 28, 4)?, 32, number(&self.header, 44, 2)?)
        };
        let table = self.table(start, size, count, SEGMENTS_MAX)?;
        let mut segments = Vec::new();
        for entry in table.chunks_exact(size) {
            let (flags, offset, address, bytes) = if self.wide {
                (number(entry, 4, 4)?, number(entry, 8, 8)?, number(entry, 16, 8)?, number(entry, 32, 8)?)
            } else {
                (number(entry, 24, 4)?, number(entry, 4, 4)?, number(entry, 8, 4)?, number(entry, 16, 4)?)
            };
            segments.push(Segment { kind: number(entry, 0, 4)?, flags, offset, bytes, address });
        }
        Ok(segments)
    }

    /// Hands every section to `note`, with its name.
    pub(super) fn sections(&self, mut note: impl FnMut(&[u8], &Section) -> io::Result<()>) -> io::Result<()> {
        let (start, size, count, names) = if self.wide {
            let header = &self.header;
            (number(header, 40, 8)?, 64, number(header, 60, 2)?, number(header, 62, 2)?)
        } else {
            let header = &self.header;
            (number(header, 32, 4)?, 40, number(header, 48, 2)?, number(header, 50, 2)?)
        };
        if start == 0 {
            return Ok(()); // a file may have lost its sections and still run
        }
        let table = self.table(start, size, count, SECTIONS_MAX)?;
        let section = |entry: &[u8]| -> io::Result<Section> {
            Ok(if self.wide {
                Section {
                    name: number(entry, 0, 4)?,
                    kind: number(entry, 4, 4)?,
                    flags: number(entry, 8, 8)?,
                    address: number(entry, 16, 8)?,
                    offset: number(entry, 24, 8)?,
                    bytes: number(entry, 32, 8)?,
                }
            } else {
                Section {
                    name: number(entry, 0, 4)?,
                    kind: number(entry, 4, 4)?,
                    flags: number(entry, 8, 4)?,
                    address: number(entry, 12, 4)?,
                    offset: number(entry, 16, 4)?,
                    bytes: number(entry, 20, 4)?,
                }
            })
        };
        let names = usize::try_from(names).map_err(|_| malformed())?;
        let names = section(table.chunks_exact(size).nth(names).ok_or_else(malformed)?)?;
        if names.bytes > SECTION_NAMES_BYTES_MAX {
            return Err(malformed());
        }
        let mut texts = vec![0; usize::try_from(names.bytes).map_err(|_| malformed())?];
        self.file.read_exact_at(&mut texts, names.offset)?;
        for entry in table.chunks_exact(size) {
            let section = section(entry)?;
            let name = usize::try_from(section.name).ok().and_then(|at| texts.get(at..)).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            note(name, &section)?;
        }
        Ok(())
    }

    /// Hands `note` every place where a loader will write an address, and that address as the file counts it. Of 64-bit files, such
    /// as say so in the usual way. False if there are more than are read.
    pub(super) fn relocations(&self, mut note: impl FnMut(u64, u64)) -> io::Result<bool> {
        const RELATIVE: u64 = 8;
        const ENTRY_BYTES: usize = 24;
        const PIECE_BYTES: usize = ENTRY_BYTES << 10;
        let mut tables = Vec::new();
        self.sections(|_, section| {
            if section.is_relocations() && self.wide {
                tables.push(*section);
            }
            Ok(())
        })?;
        let (mut left, mut all) = (RELOCATION_BYTES_MAX, true);
        for Section { offset, bytes, .. } in tables {
            all &= bytes <= left;
            let bytes = bytes.min(left);
            left -= bytes;
            for from in (0..bytes).step_by(PIECE_BYTES) {
                let at = offset.checked_add(from).ok_or_else(malformed)?;
                let piece = self.read(at, (bytes - from).min(PIECE_BYTES as u64), PIECE_BYTES as u64)?;
                for entry in piece.chunks_exact(ENTRY_BYTES) {
                    if number(entry, 8, 8)? == RELATIVE {
                        note(number(entry, 0, 8)?, number(entry, 16, 8)?);
                    }
                }
            }
        }
        Ok(all)
    }

    /// Bytes of a section when it is not compressed any more.
    pub(super) fn uncompressed(&self, section: &Section) -> io::Result<u64> {
        if !section.is_compressed() {
            return Ok(section.bytes);
        }
        let (at, width) = if self.wide { (8, 8) } else { (4, 4) };
        let mut size = [0; 8];
        let offset = section.offset.checked_add(at).ok_or_else(malformed)?;
        self.file.read_exact_at(&mut size[..width], offset)?;
        number(&size, 0, width)
    }

    fn table(&self, start: u64, size: usize, count: u64, count_max: usize) -> io::Result<Vec<u8>> {
        let count = usize::try_from(count).ok().filter(|&count| count <= count_max).ok_or_else(malformed)?;
        let mut table = vec![0; count * size];
        self.file.read_exact_at(&mut table, start)?;
        Ok(table)
    }
}

/// A section of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    name: u64,
    kind: u64,
    flags: u64,
    address: u64,
    offset: u64,
    bytes: u64,
}

impl Section {
    /// True if it has to be inflated first.
    pub(super) fn is_compressed(&self) -> bool {
        const COMPRESSED: u64 = 1 << 11;
        self.flags & COMPRESSED != 0
    }

    /// True if it is mapped to be executed.
    pub(super) fn is_code(&self) -> bool {
        const EXECUTED: u64 = 1 << 2;
        self.flags & EXECUTED != 0
    }

    /// True if it says which addresses a loader will write where.
    pub(super) fn is_relocations(&self) -> bool {
        const WITH_ADDENDS: u64 = 4;
        self.kind == WITH_ADDENDS
    }

    /// True if it has no bytes in this file.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.kind == NO_BITS
    }

    /// Where the file says that it lies in memory; 0 if it does not.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Where in the file it lies.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The number of `width` bytes at `at`.
pub(super) fn number(bytes: &[u8], at: usize, width: usize) -> io::Result<u64> {
    let bytes = at.checked_add(width).and_then(|end| bytes.get(at..end)).ok_or_else(malformed)?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// What is said of bytes that make no sense.
pub(super) fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[track_caller]
    fn refused(bytes: &[u8]) {
        assert_eq!(Outline::read(&file(bytes)), Err(Refusal::NotElf));
    }

    /// A 64-bit header with one loaded segment at file offset 0x1000.
    fn small() -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64; // program headers follow
        elf[56] = 1; // one of them
        elf[64] = 1; // loaded
        elf[64 + 8..64 + 16].copy_from_slice(&0x1000u64.to_le_bytes());
        elf[64 + 16..64 + 24].copy_from_slice(&0x40_1000u64.to_le_bytes());
        elf[64 + 32..64 + 40].copy_from_slice(&0x100u64.to_le_bytes());
        elf
    }

    #[test]
    fn an_offset_becomes_an_address() {
        let outline = Outline::read(&file(&small())).unwrap();
        assert_eq!(outline.address(0x1010), Some(0x40_1010));
        assert_eq!(outline.address(0x10ff), Some(0x40_10ff));
        assert_eq!(outline.address(0x1100), None);
        assert_eq!(outline.address(0xfff), None);
    }

    #[test]
    fn our_own_file_has_debug_information() {
        let outline = Outline::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(outline.debug_bytes > 0 && !outline.debug_elsewhere, "{outline:?}");
    }

    #[test]
    fn what_is_not_elf_is_refused() {
        refused(b"");
        refused(b"\x7f");
        refused(b"\x7fELF");
        refused(&[0; 4096]);
        refused(b"#!/bin/sh\n");
    }

    #[test]
    fn headers_that_point_nowhere_are_refused() {
        let mut elf = small();
        elf[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        refused(&elf);
        let mut elf = small();
        elf[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        refused(&elf);
        let mut elf = small();
        elf.truncate(100);
        refused(&elf);
    }

    #[test]
    fn segments_at_the_end_of_numbers_do_not_overflow() {
        let mut elf = small();
        elf[64 + 8..64 + 24].fill(0xff);
        elf[64 + 32..64 + 40].fill(0xff);
        let outline = Outline::read(&file(&elf)).unwrap();
        assert_eq!(outline.address(u64::MAX), Some(u64::MAX));
        assert_eq!(outline.address(0), None);
    }
}
