//! Go's table of functions, which every Go program has, stripped or not.
//!
//! In: the table (`pclntab`, of Go 1.18 and later), read piece by piece. Out: its functions and where their code is, their names, and
//! what it says place by place: how far the stack pointer has moved, the file, the line. Who reads it: unwind rules
//! (`rows/go.rs`) and names (`go.rs`). Not here: what either makes of it.

mod code;
mod module;
mod pieces;

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};

use self::pieces::Pieces;
use super::elf::{Reader, Section, Segment, malformed, number};

const MAGIC_1_18: u64 = 0xffff_fff0;
const MAGIC_1_20: u64 = 0xffff_fff1;
const HEADER_BYTES: usize = 72;

/// Bytes of a table at most; the largest programs have some fifty million.
const TABLE_BYTES_MAX: u64 = 512 << 20;

/// Functions of a table at most: the largest programs have three hundred thousand.
const FUNCTIONS_MAX: usize = 1 << 20;

/// Bytes of a function's description before its lists of tables; the first bytes of them come with it.
const FUNCTION_BYTES: usize = 44;

/// Steps of one function at most.
const STEPS_MAX: usize = 1 << 16;

/// Tables of one function at most; the compiler knows a dozen.
const TABLES_MAX: u64 = 64;

/// Bytes of a name or a path that are read; the longest generic names have a few thousand.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The last function of its stack: nobody called it.
pub(super) const TOP_FRAME: u64 = 1;
/// It goes over to another stack.
pub(super) const MOVES_STACK: u64 = 2;
/// It is written in assembly.
pub(super) const ASSEMBLY: u64 = 4;

/// A table of functions, and where its code lies.
#[derive(Debug)]
pub(super) struct Pclntab {
    table: Pieces,
    header: Header,
    code: Code,
    /// Where the code of each function begins, from the beginning of the code, and where its description is.
    functions: Vec<(u32, u32)>,
    /// The linker's own account of the program, if it was found.
    module: Option<module::Module>,
}

/// Where code is to which the table's numbers refer, and how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    /// In the file.
    pub(super) offset: u64,
    /// In memory, by the file's own word.
    pub(super) address: u64,
    /// Up to the end of its segment.
    pub(super) bytes: u64,
}

/// Where the parts of the table begin.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// As of Go 1.20.
    later: bool,
    names: u64,
    units: u64,
    files: u64,
    steps: u64,
    functions: u64,
}

/// What the table says of a function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described {
    /// Which name.
    name: u64,
    /// How far the stack pointer has moved, place by place; 0 for nothing.
    pub(super) stack: u64,
    /// Which file, place by place.
    file: u64,
    /// Which line, place by place.
    line: u64,
    /// What its numbers of files count from.
    unit: u64,
    /// Of what kind it is.
    pub(super) flags: u64,
    /// Its lists of tables: where they are, and how many they name: of numbers place by place, and of other things.
    lists: (u64, u64, u64),
}

impl Pclntab {
    /// The section of a file that has such a table, by its name.
    pub(super) fn is_section(name: &[u8]) -> bool {
        matches!(name, b".gopclntab" | b".data.rel.ro.gopclntab")
    }

    /// Reads the table in `section` of `file`.
    pub(super) fn read(file: &File, reader: &Reader<'_>, section: &Section) -> io::Result<Self> {
        let (offset, bytes) = (section.offset(), section.bytes());
        let size = file.metadata()?.len();
        if bytes > TABLE_BYTES_MAX || offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(malformed());
        }
        let mut table = Pieces::new(offset, bytes);
        let head = table.read(file, 0, HEADER_BYTES)?;
        let later = match number(head, 0, 4)? {
            MAGIC_1_18 => false,
            MAGIC_1_20 => true,
            _ => return Err(malformed()),
        };
        // Instructions of any length, and pointers of eight bytes.
        if head.get(6..8) != Some(&[1, 8]) {
            return Err(malformed());
        }
        let count = number(head, 8, 8)?;
        let text = number(head, 24, 8)?;
        let header = Header {
            later,
            names: number(head, 32, 8)?,
            units: number(head, 40, 8)?,
            files: number(head, 48, 8)?,
            steps: number(head, 56, 8)?,
            functions: number(head, 64, 8)?,
        };
        let count = usize::try_from(count).ok().filter(|&count| count <= FUNCTIONS_MAX);
        let count = count.ok_or_else(malformed)?;
        // One more, which says where the last one ends.
        let mut functions = Vec::new();
        for index in 0..=count as u64 {
            let at = header.functions.checked_add(index * 8).ok_or_else(malformed)?;
            let entry = table.read(file, at, 8)?;
            let begins = u32::try_from(number(entry, 0, 4)?).map_err(|_| malformed())?;
            let described = if index == count as u64 { 0 } else { number(entry, 4, 4)? };
            functions.push((begins, u32::try_from(described).map_err(|_| malformed())?));
        }
        let segments = reader.segments()?;
        let code: Vec<Segment> = segments.iter().filter(|segment| segment.is_code()).copied().collect();
        let none = Code { offset: 0, address: 0, bytes: 0 };
        let mut read = Self { table, header, code: none, functions, module: None };
        read.module = module::Module::find(file, reader, &segments, section.address(), &mut read).ok();
        let said = [text, read.module.as_ref().map_or(0, module::Module::text)];
        read.code = code::find(&mut read, file, &code, &said)?;
        Ok(read)
    }

    /// Where its code is.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// Where each function begins, from the beginning of the code, and at last where the last one ends.
    pub(super) fn begins(&self) -> impl ExactSizeIterator<Item = u32> + Clone {
        self.functions.iter().map(|&(begins, _)| begins)
    }

    /// Where the function with this number begins.
    pub(super) fn begin(&self, index: usize) -> Option<u32> {
        self.functions.get(index).map(|&(begins, _)| begins)
    }

    /// The number of the function at `place`, from the beginning of the code, and the place in it.
    pub(super) fn function_at(&self, place: u64) -> Option<(usize, u32)> {
        let place = u32::try_from(place).ok()?;
        // They ascend in honest tables; in others, this finds another one.
        let index = self.functions.partition_point(|&(begins, _)| begins <= place).checked_sub(1)?;
        let inside = place.checked_sub(self.functions.get(index)?.0)?;
        (index + 1 < self.functions.len()).then_some((index, inside))
    }

    /// What is said of the function with this number.
    pub(super) fn describe(&mut self, file: &File, index: usize) -> io::Result<Described> {
        let (_, described) = self.functions.get(index).copied().ok_or_else(malformed)?;
        let at = self.header.functions.checked_add(u64::from(described)).ok_or_else(malformed)?;
        let bytes = self.table.read(file, at, FUNCTION_BYTES)?;
        let tail = if self.header.later { 40 } else { 36 };
        Ok(Described {
            name: number(bytes, 4, 4)?,
            stack: number(bytes, 16, 4)?,
            file: number(bytes, 20, 4)?,
            line: number(bytes, 24, 4)?,
            unit: number(bytes, 32, 4)?,
            flags: number(bytes, tail + 1, 1)?,
            lists: (at + tail as u64 + 4, number(bytes, 28, 4)?, number(bytes, tail + 3, 1)?),
        })
    }

    /// Its name.
    pub(super) fn name(&mut self, file: &File, described: &Described) -> io::Result<&[u8]> {
        self.text(file, described.name)
    }

    /// The name that a description or an inlined call has by number.
    fn text(&mut self, file: &File, name: u64) -> io::Result<&[u8]> {
        let at = self.header.names.checked_add(name).filter(|&at| at < self.header.units);
        self.table.text(file, at.ok_or_else(malformed)?, TEXT_BYTES_MAX)
    }

    /// The source file of the byte at `place` of a function; none if it has none.
    pub(super) fn file(
        &mut self,
        file: &File,
        described: &Described,
        place: u32,
    ) -> io::Result<Option<&[u8]>> {
        let Some(number_of) = self.value(file, described.file, place)? else { return Ok(None) };
        let at = described.unit.checked_add(u64::from(number_of)).and_then(|at| at.checked_mul(4));
        let at = at.and_then(|at| at.checked_add(self.header.units)).filter(|&at| at < self.header.files);
        let text = number(self.table.read(file, at.ok_or_else(malformed)?, 4)?, 0, 4)?;
        if text == u64::from(u32::MAX) {
            return Ok(None);
        }
        let at = self.header.files.checked_add(text).filter(|&at| at < self.header.steps);
        self.table.text(file, at.ok_or_else(malformed)?, TEXT_BYTES_MAX).map(Some)
    }

    /// Its line there.
    pub(super) fn line(&mut self, file: &File, described: &Described, place: u32) -> io::Result<Option<u32>> {
        self.value(file, described.line, place)
    }

    /// What the table of numbers with this position says of the byte at `place` of its function; none if it says nothing.
    fn value(&mut self, file: &File, table: u64, place: u32) -> io::Result<Option<u32>> {
        let mut found = None;
        if table != 0 {
            self.each_value(file, table, |range, value| {
                if range.end <= place {
                    return ControlFlow::Continue(());
                }
                found = Some(value);
                ControlFlow::Break(())
            })?;
        }
        Ok(found.and_then(|value| u32::try_from(value).ok()))
    }

    /// Hands the numbers of a table to `step`, each with the bytes of the function for which it holds.
    pub(super) fn each_value(
        &mut self,
        file: &File,
        table: u64,
        mut step: impl FnMut(Range<u32>, i32) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut at = self.header.steps.checked_add(table).ok_or_else(malformed)?;
        let (mut from, mut value) = (0u32, -1i32);
        for _ in 0..STEPS_MAX {
            let bytes = self.table.read(file, at, 10)?;
            let (change, first) = varint(bytes)?;
            if change == 0 && from != 0 {
                return Ok(());
            }
            let (ahead, second) = varint(bytes.get(first..).unwrap_or_default())?;
            let change = if change & 1 == 1 { !(change >> 1) } else { change >> 1 };
            value = value.checked_add(change.cast_signed()).ok_or_else(malformed)?;
            let until = from.checked_add(ahead).ok_or_else(malformed)?;
            if step(from..until, value).is_break() {
                return Ok(());
            }
            from = until;
            at += (first + second) as u64;
        }
        Err(malformed())
    }

    /// Which number stands at `index` in the list of tables of numbers, or in the other list; none if that is shorter.
    fn listed(
        &mut self,
        file: &File,
        described: &Described,
        list: List,
        index: u64,
    ) -> io::Result<Option<u64>> {
        let (at, numbers, others) = described.lists;
        let (skipped, count) = match list {
            List::Numbers => (0, numbers),
            List::Others => (numbers, others),
        };
        if index >= count {
            return Ok(None);
        }
        if numbers > TABLES_MAX {
            return Err(malformed());
        }
        number(self.table.read(file, at + (skipped + index) * 4, 4)?, 0, 4).map(Some)
    }
}

/// What a function's description ends with.
#[derive(Clone, Copy, Debug)]
enum List {
    /// Tables of numbers, place by place.
    Numbers,
    /// Anything else.
    Others,
}

/// A number of seven bits a byte, and how many bytes it takes.
fn varint(bytes: &[u8]) -> io::Result<(u32, usize)> {
    let mut value = 0u32;
    for (at, &byte) in bytes.iter().enumerate().take(5) {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    Err(malformed())
}
