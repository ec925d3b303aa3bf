//! Names in files, by blazesym, and of Go code by its own table.
//!
//! In: an open file and offsets in it. Out: functions, innermost first. blazesym opens files by path and maps
//! them: `/proc/self/fd/N` is the path, so it reads the very file that was pinned, wherever it lies and whatever
//! its name became. A file that shrinks under the mapping ends this process; its parent knows what to do.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};
use rustc_hash::FxHashMap;

use super::super::protocol::{
    ANSWER_BYTES_MAX, DebugInfo, Found, INLINED_MAX, NAME_BYTES_MAX, Names, Place, Refusal,
};
use super::super::text::clean;
use super::elf::Outline;
use super::go::GoNames;

/// The files that were asked about last.
#[derive(Default)]
pub(super) struct Modules {
    /// The one asked about last is the last.
    open: Vec<Open>,
}

/// More than a busy machine runs code from in one window; each is two descriptors and a mapping.
const OPEN_MAX: usize = 64;

struct Open {
    slot: u32,
    /// Holds the descriptor that `source` names.
    file: File,
    /// Of a Go program.
    go: Option<GoNames>,
    /// True if debug information was wanted.
    debug: bool,
    outline: Outline,
    source: Source<'static>,
    symbolizer: Symbolizer,
}

impl Modules {
    /// Names at the file's `offsets`.
    pub(super) fn name(
        &mut self,
        slot: u32,
        file: OwnedFd,
        size: u64,
        debug_bytes_max: Option<u64>,
        offsets: &[u64],
    ) -> Result<Names, Refusal> {
        let file = File::from(file);
        is_still(&file, size)?;
        let known = self.open.iter().position(|open| open.slot == slot);
        let known = known.map(|at| self.open.remove(at));
        let (mut open, debug) = match known.filter(|open| open.debug == debug_bytes_max.is_some()) {
            Some(open) => (open, None),
            None => {
                let (open, debug) = Open::new(slot, file, debug_bytes_max)?;
                (open, Some(debug))
            }
        };
        let mut names = open.name(offsets);
        names.debug = debug;
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(open);
        Ok(names)
    }
}

impl Open {
    fn new(slot: u32, file: File, debug_bytes_max: Option<u64>) -> Result<(Self, DebugInfo), Refusal> {
        let outline = Outline::read(&file)?;
        let go = GoNames::open(&file);
        let debug = match debug_bytes_max {
            None => DebugInfo::Unwanted,
            Some(_) if outline.debug_elsewhere => DebugInfo::Elsewhere,
            Some(_) if outline.debug_bytes == 0 => DebugInfo::Absent,
            // Only its C code would need it.
            Some(most) if outline.debug_bytes > most && go.is_some() => DebugInfo::Unwanted,
            Some(most) if outline.debug_bytes > most => DebugInfo::TooLarge,
            Some(_) => DebugInfo::Read,
        };
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Err(refused) = File::open(&path) {
            tracing::debug!("a file cannot be opened again: {refused}");
            return Err(Refusal::Unopenable);
        }
        let read_debug = debug == DebugInfo::Read;
        let mut source = Elf::new(path);
        source.debug_syms = read_debug;
        let nowhere: Option<[&Path; 0]> = Some([]);
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(read_debug)
            .enable_inlined_fns(read_debug)
            .set_debug_dirs(nowhere)
            .build();
        let debug_wanted = debug_bytes_max.is_some();
        let open = Self { slot, file, go, debug: debug_wanted, outline, source: source.into(), symbolizer };
        Ok((open, debug))
    }

    fn name(&mut self, offsets: &[u64]) -> Names {
        let mut writer = Writer::default();
        let go: Vec<Option<Found>> =
            offsets.iter().map(|&offset| self.go_name(offset, &mut writer)).collect();
        let addresses: Vec<Option<u64>> =
            offsets.iter().map(|&offset| self.outline.address(offset)).collect();
        let others = go.iter().zip(&addresses).filter(|(go, _)| go.is_none());
        let others: Vec<u64> = others.filter_map(|(_, address)| *address).collect();
        let symbols = match &*others {
            [] => Ok(Vec::new()),
            others => self.symbolizer.symbolize(&self.source, Input::VirtOffset(others)),
        };
        // Without symbols that can be read there are still the addresses.
        let mut symbols = symbols.unwrap_or_default().into_iter();
        for (go, address) in go.into_iter().zip(addresses) {
            let found = match (go, address) {
                (Some(go), _) => go,
                (None, None) => Found::Nothing,
                (None, Some(address)) => match symbols.next() {
                    // At zero lies the header, not code: what has a name there is a version of the interface.
                    Some(Symbolized::Sym(symbol))
                        if symbol.addr != 0 && !symbol.name.is_empty() && writer.has_room() =>
                    {
                        writer.named(&symbol)
                    }
                    Some(Symbolized::Sym(_) | Symbolized::Unknown(_)) | None => Found::Bare(address),
                },
            };
            writer.names.found.push(found);
        }
        writer.names
    }

    /// What Go's own table says of `offset`. One that makes no sense there may do so elsewhere.
    fn go_name(&mut self, offset: u64, writer: &mut Writer) -> Option<Found> {
        let go = self.go.as_mut().filter(|_| writer.has_room())?;
        go.name(&self.file, offset, self.debug, writer).ok().flatten()
    }
}

/// A file of another size has other contents than those that were pinned, and may be shrinking yet. Its change
/// time says less: that moves when a package is upgraded and the old file unlinked.
pub(super) fn is_still(file: &File, size: u64) -> Result<(), Refusal> {
    let metadata = file.metadata().map_err(|_| Refusal::Unopenable)?;
    if !metadata.is_file() {
        return Err(Refusal::NotRegular);
    }
    if metadata.len() != size {
        return Err(Refusal::Changed);
    }
    Ok(())
}

/// Writes an answer in which every text occurs once.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) names: Names,
    known: FxHashMap<String, u32>,
    bytes: usize,
}

impl Writer {
    /// False when an answer of hostile length has to end; what follows has no name then.
    fn has_room(&self) -> bool {
        self.bytes < ANSWER_BYTES_MAX - (INLINED_MAX + 1) * 2 * NAME_BYTES_MAX - (64 << 10)
    }

    /// Adds `text`, made fit to be shown. Returns its index.
    pub(super) fn text(&mut self, text: &str) -> u32 {
        let text = clean(text, NAME_BYTES_MAX);
        if let Some(&index) = self.known.get(&*text) {
            return index;
        }
        let index = u32::try_from(self.names.strings.len()).unwrap_or(u32::MAX);
        self.bytes += text.len() + 8;
        self.names.strings.push(text.clone().into_owned());
        self.known.insert(text.into_owned(), index);
        index
    }

    fn named(&mut self, symbol: &Sym<'_>) -> Found {
        // The innermost ones, should there be more than a sane compiler makes.
        let inlined =
            symbol.inlined.iter().rev().filter(|inlined| !inlined.name.is_empty()).take(INLINED_MAX);
        let mut places: Vec<Place> =
            inlined.map(|inlined| self.coded(&inlined.name, inlined.code_info.as_ref())).collect();
        places.push(self.coded(&symbol.name, symbol.code_info.as_deref()));
        Found::Named(places)
    }

    fn coded(&mut self, name: &str, code: Option<&CodeInfo<'_>>) -> Place {
        match code {
            Some(code) => {
                let path: &OsStr = &code.to_path().into_owned().into_os_string();
                self.place(name, &path.to_string_lossy(), code.line.unwrap_or(0))
            }
            None => self.place(name, "", 0),
        }
    }

    /// A line of a function; `name` is not empty.
    pub(super) fn place(&mut self, name: &str, file: &str, line: u32) -> Place {
        self.bytes += size_of::<Place>();
        Place { name: self.text(name), file: self.text(file), line }
    }
}
