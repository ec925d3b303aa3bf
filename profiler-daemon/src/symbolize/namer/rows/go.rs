//! Rules from Go's table of functions, which every Go program has, stripped or not.
//!
//! In: the table (`pclntab`, of Go 1.18 and later), read piece by piece. Out: functions, and for each how far the stack pointer
//! has moved, place by place. Go keeps frame pointers too, but not in functions that need no frame, whose caller would be lost.
//! Not here: names and lines.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use profiler_common::unwind::table::{Cfa, Rule, Saved};

use super::super::elf::{Segment, malformed, number};

const MAGIC_1_18: u64 = 0xffff_fff0;
const MAGIC_1_20: u64 = 0xffff_fff1;
const HEADER_BYTES: usize = 72;

/// Bytes of a table at most; the largest programs have some fifty million.
const TABLE_BYTES_MAX: u64 = 512 << 20;

/// Bytes read of the table at once: neighbours lie together.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes of a function's description of which we need anything.
const FUNCTION_BYTES: usize = 44;

/// Steps of one function at most.
const STEPS_MAX: usize = 1 << 16;

/// The last function of its stack: nobody called it.
const TOP_FRAME: u64 = 1;
/// It goes over to another stack.
const MOVES_STACK: u64 = 2;
/// It is written in assembly.
const ASSEMBLY: u64 = 4;

/// The function that a signal handler returns to, by its names.
const TRAMPOLINES: [&[u8]; 2] = [b"runtime.sigreturn__sigaction\0", b"runtime.sigreturn\0"];
const TRAMPOLINE_BYTES: usize = 29;

/// A table of functions, and where its code lies.
#[derive(Debug)]
pub(super) struct Go {
    table: Pieces,
    header: Header,
    /// Where in the file code with number zero lies, where in memory, and how much is after it.
    code: Code,
    /// Where the code of each function begins, from the beginning of the code, and where its description is.
    functions: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Code {
    offset: u64,
    address: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    later: bool,
    names: u64,
    steps: u64,
    functions: u64,
}

/// Part of a file, read in pieces of which the last few are kept.
#[derive(Debug)]
struct Pieces {
    offset: u64,
    bytes: u64,
    kept: Vec<(u64, Vec<u8>)>,
}

impl Pieces {
    /// The bytes from `at` on, `most` or as many as there are.
    fn read(&mut self, file: &File, at: u64, most: usize) -> io::Result<&[u8]> {
        const KEPT_MAX: usize = 4;
        if at >= self.bytes {
            return Err(malformed());
        }
        let holds = |(from, bytes): &(u64, Vec<u8>)| {
            let end = from + bytes.len() as u64;
            at >= *from && (at + most as u64 <= end || (end == self.bytes && at < end))
        };
        match self.kept.iter().position(holds) {
            Some(known) => {
                // The last used is the last.
                let piece = self.kept.remove(known);
                self.kept.push(piece);
            }
            None => {
                let rest = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
                let mut bytes = vec![0; rest.min(PIECE_BYTES.max(most))];
                file.read_exact_at(&mut bytes, self.offset + at)?;
                if self.kept.len() == KEPT_MAX {
                    self.kept.remove(0);
                }
                self.kept.push((at, bytes));
            }
        }
        let (from, bytes) = self.kept.last().ok_or_else(malformed)?;
        let start = usize::try_from(at - from).map_err(|_| malformed())?;
        let end = bytes.len().min(start + most);
        bytes.get(start..end).ok_or_else(malformed)
    }
}

impl Go {
    /// Reads the table of `bytes` at `offset` of `file`, whose code is in the segments `code`.
    pub(super) fn read(file: &File, offset: u64, bytes: u64, code: &[Segment]) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if bytes > TABLE_BYTES_MAX || offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(malformed());
        }
        let mut table = Pieces { offset, bytes, kept: Vec::new() };
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
            steps: number(head, 56, 8)?,
            functions: number(head, 64, 8)?,
        };
        let count = usize::try_from(count).ok().filter(|&count| count <= super::FUNCTIONS_MAX);
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
        let none = Code { offset: 0, address: 0, bytes: 0 };
        let mut go = Self { table, header, code: none, functions };
        go.code = go.find_code(file, text, code)?;
        Ok(go)
    }

    /// Where the code is to which the table's numbers refer. Go 1.26 does not say, and before it said so by a relocation where
    /// code may lie anywhere: the instruction that makes a function's frame must stand where the table says that it is made.
    fn find_code(&mut self, file: &File, text: u64, code: &[Segment]) -> io::Result<Code> {
        /// How far into a segment C code may come first.
        const BEFORE_BYTES_MAX: usize = 16 << 20;
        const ALIGNMENT: usize = 16;
        let frames = self.frames(file);
        let (Some(&first), Some(&last)) = (frames.first(), frames.last()) else { return Err(malformed()) };
        let whole = self.functions.last().map_or(0, |&(end, _)| u64::from(end));
        for segment in code {
            let most = BEFORE_BYTES_MAX + last.place as usize;
            let wanted = usize::try_from(segment.bytes).unwrap_or(usize::MAX).min(most);
            let mut bytes = vec![0; wanted];
            file.read_exact_at(&mut bytes, segment.offset)?;
            let fits = |begins: usize| {
                whole <= segment.bytes.saturating_sub(begins as u64)
                    && first.is_made(&bytes, begins)
                    && frames.iter().all(|frame| frame.is_made(&bytes, begins))
            };
            let said = text.checked_sub(segment.address).and_then(|begins| usize::try_from(begins).ok());
            let said = said.filter(|&begins| begins < bytes.len() && fits(begins));
            let found = said.or_else(|| (0..bytes.len()).step_by(ALIGNMENT).find(|&begins| fits(begins)));
            if let Some(begins) = found {
                let begins = begins as u64;
                return Ok(Code {
                    offset: segment.offset + begins,
                    address: segment.address.wrapping_add(begins),
                    bytes: segment.bytes - begins,
                });
            }
        }
        Err(malformed())
    }

    /// Where some of the first functions make their frames.
    fn frames(&mut self, file: &File) -> Vec<FrameMade> {
        const FRAMES: usize = 64;
        let mut frames: Vec<FrameMade> = Vec::new();
        for index in 0..self.functions.len().saturating_sub(1) {
            let begins = self.functions[index].0;
            let Ok(described) = self.describe(file, index) else { continue };
            if described.flags & (ASSEMBLY | MOVES_STACK | TOP_FRAME) != 0 {
                continue;
            }
            let mut steps = Vec::new();
            if described.steps == 0 || self.steps(file, described.steps, &mut steps).is_err() {
                continue;
            }
            let made = steps.iter().find(|(_, moved)| *moved > 0);
            if let Some(&(from, moved)) = made {
                let Some(place) = begins.checked_add(from) else { continue };
                frames.push(FrameMade { place, moved });
            }
            if frames.len() == FRAMES {
                break;
            }
        }
        frames.sort_unstable_by_key(|frame| frame.place);
        frames
    }

    /// Hands `(address, offset in the file, bytes, number)` of each function to `found`, `most` of them.
    pub(super) fn functions(&self, most: usize, mut found: impl FnMut(u64, u64, u64, u32)) {
        for (number, pair) in (0..).zip(self.functions.windows(2)).take(most) {
            let (begins, ends) = (u64::from(pair[0].0), u64::from(pair[1].0).min(self.code.bytes));
            if begins < ends {
                let bytes = (ends - begins).min(super::FUNCTION_BYTES_MAX);
                found(self.code.address.wrapping_add(begins), self.code.offset + begins, bytes, number);
            }
        }
    }

    /// Appends to `rules` those of the function with `number`, each with the address from which it holds.
    pub(super) fn rules(&mut self, file: &File, number: u32, rules: &mut Vec<(u64, Rule)>) {
        let Some(&(begins, _)) = self.functions.get(number as usize) else { return };
        let address = self.code.address.wrapping_add(u64::from(begins));
        if self.read_rules(file, number as usize, begins, address, rules).is_err() {
            rules.push((address, Rule::Invalid));
        }
    }

    fn read_rules(
        &mut self,
        file: &File,
        index: usize,
        begins: u32,
        address: u64,
        rules: &mut Vec<(u64, Rule)>,
    ) -> io::Result<()> {
        let described = self.describe(file, index)?;
        if described.flags & TOP_FRAME != 0 {
            rules.push((address, Rule::Stop));
            return Ok(());
        }
        if described.flags & MOVES_STACK != 0 {
            // Its frame pointer still is that of the stack it came from.
            rules.push((address, Rule::Elsewhere));
            return Ok(());
        }
        if described.flags & ASSEMBLY != 0 && self.is_trampoline(file, described.name)? {
            rules.push((address, Rule::Signal));
            return Ok(());
        }
        if described.steps == 0 {
            rules.push((address, Rule::Pointer)); // data among the code, or a mark
            return Ok(());
        }
        let mut steps = Vec::new();
        self.steps(file, described.steps, &mut steps)?;
        let keeps = described.flags & ASSEMBLY == 0 || self.pushes(file, begins, &steps);
        for (from, moved) in steps {
            let rbp = if keeps && moved >= 8 { Saved::Cfa(-16) } else { Saved::Not };
            let rule = match moved.checked_add(8) {
                Some(above) if moved >= 0 => Rule::Frame { cfa: Cfa::Rsp(above), rbp },
                Some(_) | None => Rule::Invalid,
            };
            rules.push((address + u64::from(from), rule));
        }
        Ok(())
    }

    /// True if a function in assembly makes its frame by pushing the frame pointer, as the assembler does for it.
    fn pushes(&self, file: &File, begins: u32, steps: &[(u32, i32)]) -> bool {
        const PUSH_RBP: u8 = 0x55;
        let Some(&(from, 8)) = steps.iter().find(|(_, moved)| *moved > 0) else { return false };
        let place = (u64::from(begins) + u64::from(from)).checked_sub(1);
        let Some(place) = place.filter(|&place| place < self.code.bytes) else { return false };
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.code.offset + place).is_ok() && byte[0] == PUSH_RBP
    }

    fn is_trampoline(&mut self, file: &File, name: u64) -> io::Result<bool> {
        let at = self.header.names.checked_add(name).ok_or_else(malformed)?;
        let name = self.table.read(file, at, TRAMPOLINE_BYTES)?;
        Ok(TRAMPOLINES.iter().any(|trampoline| name.starts_with(trampoline)))
    }

    fn describe(&mut self, file: &File, index: usize) -> io::Result<Described> {
        let (_, described) = self.functions.get(index).copied().ok_or_else(malformed)?;
        let at = self.header.functions.checked_add(u64::from(described)).ok_or_else(malformed)?;
        let flags = if self.header.later { 41 } else { 37 };
        let bytes = self.table.read(file, at, FUNCTION_BYTES)?;
        Ok(Described {
            name: number(bytes, 4, 4)?,
            steps: number(bytes, 16, 4)?,
            flags: number(bytes, flags, 1)?,
        })
    }

    /// How far the stack pointer has moved, each with the byte of the function from which it has.
    fn steps(&mut self, file: &File, at: u64, steps: &mut Vec<(u32, i32)>) -> io::Result<()> {
        let mut at = self.header.steps.checked_add(at).ok_or_else(malformed)?;
        let (mut from, mut moved) = (0u32, -1i32);
        for _ in 0..STEPS_MAX {
            let bytes = self.table.read(file, at, 10)?;
            let (change, first) = varint(bytes)?;
            if change == 0 && from != 0 {
                return Ok(());
            }
            let (ahead, second) = varint(bytes.get(first..).unwrap_or_default())?;
            let change = if change & 1 == 1 { !(change >> 1) } else { change >> 1 };
            moved = moved.checked_add(change.cast_signed()).ok_or_else(malformed)?;
            steps.push((from, moved));
            from = from.checked_add(ahead).ok_or_else(malformed)?;
            at += (first + second) as u64;
        }
        Err(malformed())
    }
}

struct Described {
    name: u64,
    steps: u64,
    flags: u64,
}

/// A place before which a function's frame is made.
#[derive(Clone, Copy, Debug)]
struct FrameMade {
    place: u32,
    moved: i32,
}

impl FrameMade {
    /// True if the instruction before the place makes the frame, where the code begins at `begins` of `bytes`.
    fn is_made(&self, bytes: &[u8], begins: usize) -> bool {
        let Some(before) = bytes.get(..begins + self.place as usize) else { return false };
        let moved = self.moved.to_le_bytes();
        (self.moved == 8 && before.ends_with(&[0x55]))
            || before.ends_with(&[0x48, 0x83, 0xec, moved[0]])
            || before.ends_with(&[0x48, 0x83, 0xc4, moved[0].wrapping_neg()])
            || before.ends_with(&[0x48, 0x81, 0xec, moved[0], moved[1], moved[2], moved[3]])
    }
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
