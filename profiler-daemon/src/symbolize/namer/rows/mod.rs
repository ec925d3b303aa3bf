//! Unwind tables of files.
//!
//! In: an open file, any bytes, and the page to go on from. Out: blocks of rows, as many as one answer carries. Rules come from
//! `.eh_frame`, then Go's own table of functions, then `.debug_frame`, then the code of stubs, and where none of these says anything the code itself; where two overlap, the one that begins first goes on,
//! and of two that begin together the one from the source named first. The file's tables are kept for the next question. Read
//! by `pread`: nothing here can fault, and a file that changes meanwhile gives rules that lead nowhere, which every walk survives.
//! Not here: the walk; and what an address means in a process.

mod aarch64;
mod blocks;
mod callees;
mod code;
mod frames;
mod go;
mod machine;
mod stubs;

#[cfg(test)]
mod aarch64_tests;
#[cfg(test)]
mod bad_tests;
#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use self::tests::go_program;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use profiler_common::unwind::table::{PAGE_BYTES, Rule, TABLE_PAGES_MAX};

use self::blocks::Writer;
use self::code::{Code, Known};
use self::frames::{Reading, TABLE_BYTES_MAX, Table};
use self::go::Go;
use self::machine::Machine;
use super::super::bounds::{Bound, Reached};
use super::super::protocol::{BLOCK_WORDS_MAX, Refusal, Rows};
use super::elf::{Reader, Section, Segment, malformed, number};
use super::pclntab::Pclntab;
use super::stubs::{SECTIONS_MAX, is_stubs};

/// Counts up whenever another table is made of the same file, so that what was kept of the old ones is not used.
pub(in super::super) const TABLES_VERSION: u32 = 6;

/// Functions of a file at most. A browser with all of its own has six hundred thousand.
const FUNCTIONS_MAX: usize = 1 << 20;

/// Bytes of one function at most; the rest is left out. The largest that compilers make have one or two million.
const FUNCTION_BYTES_MAX: u64 = 16 << 20;

/// Words of a file's table at most, twice what the largest library known needs.
pub(in crate::symbolize) const TABLE_WORDS_MAX: usize = 4 << 20;

/// Bytes of one table of symbols, or of their names, at most: five million symbols. A browser with all of its own has one or two.
const SYMBOL_BYTES_MAX: u64 = 32 << 20;

/// Bytes between functions, which only align the next: nothing runs there, so what held before may go on.
const PADDING_BYTES_MAX: u64 = 15;

/// Of so many functions with frames one may do without a frame pointer where they are said to keep it, and call others all the
/// same: a walk loses that one's caller, and no more. Browsers and engines have one in a thousand, written by hand for encryption.
const KEEPING_FRAMES: u64 = 500;

/// A function that a table describes.
#[derive(Clone, Copy, Debug)]
struct Function {
    /// Where in the file its code begins.
    offset: u64,
    /// Bytes of code.
    bytes: u64,
    /// Where the file says that it lies in memory.
    address: u64,
    /// Which table, the first one first.
    source: u8,
    /// What finds it in its table.
    number: u32,
}

// The sources, the one that is believed first.
const EH_FRAME: u8 = 0;
const GO: u8 = 1;
const DEBUG_FRAME: u8 = 2;
const STUBS: u8 = 3;
const CODE: u8 = 4;

/// What is read of a file, and how far its table is made.
#[derive(Debug)]
pub(in super::super) struct Builder {
    machine: Machine,
    functions: Vec<Function>,
    eh_frame: Option<Table>,
    debug_frame: Option<Table>,
    go: Option<Go>,
    stubs: Vec<Section>,
    by_code: Code,
    /// True if the file makes stacks for others to run on.
    makes_stacks: bool,
    /// Where a program begins, which nobody called.
    entry: Option<u64>,
    writer: Writer,
    next: usize,
    /// The first offset that has no rule yet.
    reached: u64,
    words: usize,
    over: bool,
    /// What was left out because there was too much of it, since the last part.
    bounds: Reached,
    first_page: Option<u32>,
    code: Vec<Segment>,
    /// Functions without a frame pointer that may call others, so far.
    frameless: u64,
}

impl Builder {
    /// Reads what there is of `file`.
    pub(in super::super) fn new(file: &File) -> Result<Self, Refusal> {
        Self::of(file, Machine::NATIVE)
    }

    /// The same for a file of `machine`.
    fn of(file: &File, machine: Machine) -> Result<Self, Refusal> {
        let reader = Reader::new(file).map_err(|_| Refusal::NotElf)?;
        if !reader.is_wide() || reader.machine().ok() != Some(machine.number()) {
            return Err(Refusal::OtherMachine);
        }
        let segments = reader.segments().map_err(|_| Refusal::NotElf)?;
        let mut found = Found::read(&reader, &segments, machine).map_err(|_| Refusal::NotElf)?;
        let code: Vec<Segment> = segments.iter().filter(|segment| segment.is_code()).copied().collect();
        let (mut functions, mut bounds) = (Vec::new(), std::mem::take(&mut found.bounds));
        let mut note = |function| keep(function, &mut functions, &mut bounds);
        for (source, table) in [(EH_FRAME, &found.eh_frame), (DEBUG_FRAME, &found.debug_frame)] {
            let Some(table) = table else { continue };
            table.functions(|address, bytes, number| {
                let place = code.iter().find_map(|segment| Some((segment, segment.offset_of(address)?)));
                if let (Some((segment, offset)), Ok(number)) = (place, u32::try_from(number)) {
                    let rest = segment.bytes - (offset - segment.offset);
                    note(Function { offset, bytes: bytes.min(rest), address, source, number });
                }
            });
        }
        // Go keeps frame pointers on aarch64, and has no rows from its own table there.
        let go = found.go.filter(|_| machine == Machine::X86_64);
        let go = go.and_then(|section| Go::read(file, &reader, &section).ok());
        if let Some(go) = &go {
            go.functions(|address, offset, bytes, number| {
                note(Function { offset, bytes, address, source: GO, number });
            });
        }
        for (number, section) in (0..).zip(&found.stubs) {
            let (offset, address) = (section.offset(), section.address());
            let bytes = section.bytes().min(stubs::STUBS_BYTES_MAX);
            note(Function { offset, bytes, address, source: STUBS, number });
        }
        // Linkers leave them sorted but for a few places, and this sort sees that.
        let sort = |functions: &mut Vec<Function>| {
            functions.sort_by_key(|function| (function.offset, function.source, function.number));
        };
        sort(&mut functions);
        let is_fixed = reader.is_fixed().unwrap_or(false);
        let program = is_fixed || segments.iter().any(|segment| segment.kind == Segment::INTERPRETER);
        let entry = reader.entry().ok().filter(|&entry| entry != 0);
        let by_code = if machine == Machine::X86_64 {
            let (segments, sections, functions) = (&segments[..], &found.code[..], &functions[..]);
            let nameless = &found.nameless[..];
            let bytes_max = code::CODE_BYTES_MAX;
            let known = Known { segments, sections, functions, nameless, entry, is_fixed, bytes_max };
            Code::read(file, &reader, known)
        } else {
            Code::default()
        };
        bounds.append(&by_code.bounds);
        let described = functions.len();
        by_code.functions(|address, offset, bytes, number| {
            keep(Function { offset, bytes, address, source: CODE, number }, &mut functions, &mut bounds);
        });
        if functions.len() > described {
            sort(&mut functions);
        }
        if functions.is_empty() {
            return Err(Refusal::NoTable);
        }
        Ok(Self {
            machine,
            functions,
            eh_frame: found.eh_frame,
            debug_frame: found.debug_frame,
            go,
            stubs: found.stubs,
            by_code,
            makes_stacks: found.makes_stacks,
            entry: entry.filter(|_| program),
            writer: Writer::new(),
            next: 0,
            reached: 0,
            words: 0,
            over: false,
            bounds,
            first_page: None,
            code,
            frameless: 0,
        })
    }

    /// The page that the next part begins with; none when all is made. Zero before the first.
    pub(super) fn next_page(&self) -> Option<u32> {
        (!self.over).then(|| self.first_page.unwrap_or(0))
    }

    /// Makes the next part of the table, of `file` which is the same as before.
    pub(in super::super) fn part(&mut self, file: &File) -> Rows {
        let mut part = Rows::default();
        let mut rules = Vec::new();
        let mut eh = self.eh_frame.as_ref().map(Table::reading);
        let mut debug = self.debug_frame.as_ref().map(Table::reading);
        while self.writer.done_words < BLOCK_WORDS_MAX && self.words < TABLE_WORDS_MAX {
            let Some(function) = self.functions.get(self.next) else { break };
            self.next += 1;
            let end = function.offset.saturating_add(function.bytes);
            if end / PAGE_BYTES >= TABLE_PAGES_MAX as u64 {
                self.bounds.note(Bound::Pages);
                continue;
            }
            if end <= self.reached {
                continue;
            }
            rules.clear();
            match (function.source, &mut eh, &mut debug, &mut self.go) {
                (EH_FRAME, Some(table), _, _) | (DEBUG_FRAME, _, Some(table), _) => {
                    read(table, function, &mut rules)
                }
                (GO, _, _, Some(go)) => go.rules(file, function.number, &mut rules),
                (CODE, ..) => self.by_code.rules(function.number, &mut rules),
                (STUBS, ..) if let Some(section) = self.stubs.get(function.number as usize) => {
                    stubs::rules(file, section, &mut rules);
                }
                _ => continue,
            }
            if self.entry.is_some_and(|entry| entry.wrapping_sub(function.address) < function.bytes) {
                rules.clear();
                rules.push((function.address, Rule::Stop));
            }
            if let (EH_FRAME, Some(table)) = (function.source, &mut eh)
                && self.machine == Machine::X86_64
                && rules.iter().any(|(_, rule)| *rule == Rule::Invalid)
            {
                callees::add(file, function, &self.functions, &self.code, table, &mut rules);
            }
            let is_bottom = self.makes_stacks && self.machine == Machine::X86_64 && is_bottom(file, function);
            if is_bottom {
                rules.clear();
                rules.push((function.address, Rule::Stop));
            }
            let (framed, frameless) =
                if function.source == STUBS { (false, false) } else { self.machine.frame(&rules) };
            part.functions += u64::from(framed);
            // Once there are too many, no more code is looked at.
            let enough = self.frameless > self.functions.len() as u64 / KEEPING_FRAMES;
            if frameless && (enough || may_call(file, function, &self.code, self.machine)) {
                self.frameless += 1;
                part.frameless += 1;
            }
            if function.offset > self.reached + PADDING_BYTES_MAX {
                self.writer.put(self.reached, Rule::Pointer);
            }
            // What overlaps the function before begins where that ends.
            let mut begin = function.offset.max(self.reached);
            let mut before = None;
            if let Some(&(_, rule)) = rules.first()
                && (rule == Rule::Signal || is_bottom)
            {
                // A handler returns to its first byte, and whoever looks up a return address looks before it.
                begin = function.offset.saturating_sub(1).max(self.reached);
                before = Some(rule);
            }
            for &(address, rule) in &rules {
                let at = function.offset.saturating_add(address.saturating_sub(function.address));
                if at >= end {
                    break;
                }
                part.invalid += u64::from(rule == Rule::Invalid);
                if at > begin {
                    if let Some(rule) = before.take() {
                        self.writer.put(begin, rule);
                    }
                    self.writer.put(at, rule);
                } else {
                    before = Some(rule);
                }
            }
            if let Some(rule) = before {
                self.writer.put(begin, rule);
            }
            self.reached = end;
        }
        if self.next >= self.functions.len() || self.words >= TABLE_WORDS_MAX {
            self.writer.end(self.reached);
            self.over = true;
        }
        part.reached = std::mem::take(&mut self.bounds);
        part.reached.add(Bound::PageRows, std::mem::take(&mut self.writer.dropped));
        if self.over {
            part.reached.add(Bound::Words, (self.functions.len() - self.next) as u64);
        }
        self.words += std::mem::take(&mut self.writer.done_words);
        part.blocks = std::mem::take(&mut self.writer.done);
        self.first_page = part.blocks.last().map(|(page, _)| page + 1).or(self.first_page);
        part.next = self.next_page();
        part
    }
}

/// Adds `function` to `functions`, as far as there is room.
fn keep(function: Function, functions: &mut Vec<Function>, bounds: &mut Reached) {
    if functions.len() == FUNCTIONS_MAX {
        bounds.note(Bound::Functions);
        return;
    }
    bounds.add(Bound::FunctionBytes, u64::from(function.bytes > FUNCTION_BYTES_MAX));
    functions.push(Function { bytes: function.bytes.min(FUNCTION_BYTES_MAX), ..function });
}

fn read(table: &mut Reading<'_>, function: &Function, rules: &mut Vec<(u64, Rule)>) {
    table.rules(function.number as usize, function, rules);
    // Rows ascend in honest tables; what does not is none.
    let mut last = 0;
    rules.retain(|(address, _)| {
        let ascends = *address >= last.max(function.address);
        last = last.max(*address);
        ascends
    });
}

/// Whether a function may call others. One too large to be looked at may.
fn may_call(file: &File, function: &Function, code: &[Segment], machine: Machine) -> bool {
    const LOOK_BYTES_MAX: u64 = 64 << 10;
    let Ok(bytes) = usize::try_from(function.bytes.min(LOOK_BYTES_MAX)) else { return true };
    let mut bytes = vec![0; bytes];
    if function.bytes > LOOK_BYTES_MAX || file.read_exact_at(&mut bytes, function.offset).is_err() {
        return true;
    }
    machine.may_call(&bytes, function.address, |target| {
        code.iter().any(|segment| segment.offset_of(target).is_some())
    })
}

/// Whether a function is what `makecontext` lets the function that it starts return to: nobody called it, and the word above is none that
/// leads on. It has no name that a file keeps, and begins by taking the stack pointer from rbx.
fn is_bottom(file: &File, function: &Function) -> bool {
    const BYTES_MAX: u64 = 64;
    const FROM_RBX: [u8; 3] = [0x48, 0x89, 0xdc];
    let mut code = [0; 3];
    function.source == EH_FRAME
        && function.bytes <= BYTES_MAX
        && file.read_exact_at(&mut code, function.offset).is_ok()
        && code == FROM_RBX
}

/// Whether the functions of a file keep frame pointers, all but a few: of `functions` with frames, `frameless` do not.
pub(in super::super) fn keeps_frames(functions: u64, frameless: u64) -> bool {
    functions > 0 && frameless <= functions / KEEPING_FRAMES
}

/// What the headers lead to.
#[derive(Debug, Default)]
struct Found {
    eh_frame: Option<Table>,
    debug_frame: Option<Table>,
    /// Where Go's table of functions is.
    go: Option<Section>,
    stubs: Vec<Section>,
    /// Sections with code.
    code: Vec<Section>,
    /// Where `.init` and `.fini` begin, functions without a name that is kept.
    nameless: Vec<u64>,
    makes_stacks: bool,
    /// What was too large to be read.
    bounds: Reached,
}

impl Found {
    fn read(reader: &Reader<'_>, segments: &[Segment], machine: Machine) -> io::Result<Self> {
        let mut found = Self::default();
        let mut texts = [None; 2];
        // A table that cannot be read does not make the others unreadable.
        let sections = reader.sections(|name, section| {
            if section.is_elsewhere() {
                return Ok(());
            }
            if section.is_code() {
                found.code.push(*section);
                if matches!(name, b".init" | b".fini") {
                    found.nameless.push(section.address());
                }
            }
            match name {
                b".eh_frame" if !section.is_compressed() && found.eh_frame.is_none() => {
                    found.over(Bound::TableBytes, section, TABLE_BYTES_MAX);
                    let bytes = reader.read(section.offset(), section.bytes(), TABLE_BYTES_MAX).ok();
                    found.eh_frame = bytes.map(|bytes| Table::eh_frame(bytes, section.address(), machine));
                }
                b".debug_frame" | b".zdebug_frame" if found.debug_frame.is_none() => {
                    let is_old = name.starts_with(b".z");
                    found.over(Bound::TableBytes, section, TABLE_BYTES_MAX);
                    let inflated = inflated(reader, section, is_old, &mut found.bounds);
                    found.debug_frame = inflated.ok().map(|bytes| Table::debug_frame(bytes, machine));
                }
                b".dynstr" => texts[0] = Some(*section),
                b".strtab" => texts[1] = Some(*section),
                name if is_stubs(name) && section.is_code() && machine == Machine::X86_64 => {
                    found.over(Bound::Stubs, section, stubs::STUBS_BYTES_MAX);
                    if found.stubs.len() < SECTIONS_MAX {
                        found.stubs.push(*section);
                    } else {
                        found.bounds.note(Bound::Stubs);
                    }
                }
                name if Pclntab::is_section(name) => found.go = Some(*section),
                _ => {}
            }
            Ok(())
        });
        // A file may have lost its sections and still run: then its loader's own index leads to the table.
        if found.eh_frame.is_none() {
            found.eh_frame = by_index(reader, segments, machine).ok();
        }
        sections.or_else(|error| if found.eh_frame.is_some() { Ok(()) } else { Err(error) })?;
        for texts in texts.iter().flatten() {
            found.over(Bound::Symbols, texts, SYMBOL_BYTES_MAX);
            let names = reader.read(texts.offset(), texts.bytes(), SYMBOL_BYTES_MAX);
            found.makes_stacks |=
                names.is_ok_and(|names| memchr::memmem::find(&names, b"\0makecontext\0").is_some());
        }
        Ok(found)
    }

    /// Counts a section that is larger than what is read of such.
    fn over(&mut self, bound: Bound, section: &Section, bytes_max: u64) {
        self.bounds.add(bound, u64::from(section.bytes() > bytes_max));
    }
}

/// The bytes of a section; `is_old` if it is compressed in the way that was before there was a flag for it. What it does not end within is
/// counted among `bounds`.
fn inflated(
    reader: &Reader<'_>,
    section: &Section,
    is_old: bool,
    bounds: &mut Reached,
) -> io::Result<Vec<u8>> {
    const HEADER_BYTES: usize = 24;
    const OLD_HEADER_BYTES: usize = 12;
    const ZLIB: u64 = 1;
    const ZSTD: u64 = 2;
    let bytes = reader.read(section.offset(), section.bytes(), TABLE_BYTES_MAX)?;
    let packed = |header: usize| bytes.get(header..).ok_or_else(malformed);
    let kind = match (section.is_compressed(), is_old) {
        (true, _) => number(&bytes, 0, 4)?,
        (false, true) if bytes.starts_with(b"ZLIB") => ZLIB,
        (false, true) => return Err(malformed()),
        (false, false) => return Ok(bytes),
    };
    let packed = packed(if section.is_compressed() { HEADER_BYTES } else { OLD_HEADER_BYTES })?;
    let mut unpacked: Box<dyn io::Read + '_> = match kind {
        ZLIB => Box::new(flate2::read::ZlibDecoder::new(packed)),
        ZSTD => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        _ => return Err(malformed()),
    };
    let mut inflated = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(&mut unpacked, TABLE_BYTES_MAX), &mut inflated)?;
    bounds.add(Bound::TableBytes, u64::from(inflated.len() as u64 == TABLE_BYTES_MAX));
    Ok(inflated)
}

/// The `.eh_frame` that the index by which a loader finds it points to; it ends with the part of the file that it is in.
fn by_index(reader: &Reader<'_>, segments: &[Segment], machine: Machine) -> io::Result<Table> {
    let index = segments.iter().find(|segment| segment.kind == Segment::FRAME_INDEX).ok_or_else(malformed)?;
    let head = reader.read(index.offset, index.bytes.min(8), 8)?;
    // Version 1, and the pointer as four bytes, signed, from where they lie: what every linker writes.
    if head.get(..2) != Some(&[1, 0x1b]) {
        return Err(malformed());
    }
    let distance = number(&head, 4, 4)?;
    let distance = i64::from(u32::try_from(distance).map_err(|_| malformed())?.cast_signed());
    let address = index.address.wrapping_add(4).wrapping_add_signed(distance);
    let place = segments
        .iter()
        .filter(|segment| segment.kind == Segment::LOADED)
        .find_map(|segment| Some((segment, segment.offset_of(address)?)));
    let (segment, offset) = place.ok_or_else(malformed)?;
    let rest = segment.bytes - (offset - segment.offset);
    Ok(Table::eh_frame(reader.read(offset, rest.min(TABLE_BYTES_MAX), TABLE_BYTES_MAX)?, address, machine))
}
