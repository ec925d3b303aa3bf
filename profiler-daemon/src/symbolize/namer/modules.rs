//! Names in files, by blazesym, and of Go code by its own table.
//!
//! In: an open file and offsets in it. Out: functions, innermost first. blazesym opens files by path and maps
//! them: `/proc/self/fd/N` is the path, so it reads the very file that was pinned, wherever it lies and whatever
//! its name became. A file that shrinks under the mapping ends this process; its parent knows what to do.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Sym, Symbolizer};

use super::super::bounds::Bound;
use super::super::protocol::{DebugBounds, DebugInfo, Found, Names, Refusal, Sought};
use super::elf::Outline;
use super::go::GoNames;
use super::stubs::Stubs;
use super::writer::Writer;

/// The files that were asked about last.
#[derive(Default)]
pub(super) struct Modules {
    /// The one asked about last is the last.
    open: Vec<Open>,
}

/// More than a busy machine runs code from in one window; each is two descriptors and a mapping, twice if its debug information is apart.
const OPEN_MAX: usize = 64;

struct Open {
    slot: u32,
    own: Lookup,
    /// The file with its debug information, if that is another.
    apart: Option<Lookup>,
    /// Of a Go program.
    go: Option<GoNames>,
    /// How much debug information is wanted.
    bounds: Option<DebugBounds>,
    outline: Outline,
    stubs: Stubs,
}

/// What names addresses.
struct Lookup {
    /// By debug information, if it is wanted, and symbols.
    whole: Symbols,
    /// By symbols alone, where debug information is wanted.
    plain: Option<Symbols>,
    /// Holds the descriptor that both name.
    file: File,
}

struct Symbols {
    source: Source<'static>,
    symbolizer: Symbolizer,
}

impl Modules {
    /// Names at the file's `offsets`.
    pub(super) fn name(
        &mut self,
        slot: u32,
        file: File,
        size: u64,
        bounds: Option<DebugBounds>,
        offsets: &[u64],
    ) -> Result<Names, Refusal> {
        is_still(&file, size)?;
        let known = self.open.iter().position(|open| open.slot == slot);
        let known = known.map(|at| self.open.remove(at));
        let known = known.filter(|open| open.bounds.is_some() == bounds.is_some());
        let (mut open, debug) = match known {
            Some(open) => (open, None),
            None => {
                let (open, debug) = Open::new(slot, file, bounds)?;
                (open, Some(debug))
            }
        };
        let mut names = open.name(offsets);
        names.sought = debug.and_then(|debug| open.sought(debug));
        names.debug = debug;
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(open);
        Ok(names)
    }
}

impl Modules {
    /// Takes `file` for the debug information of the one that was asked about last by this number.
    pub(super) fn take(&mut self, slot: u32, file: File) -> Result<DebugInfo, Refusal> {
        let open = self.open.iter_mut().find(|open| open.slot == slot).ok_or(Refusal::Nonsense)?;
        open.take(file)
    }
}

impl Open {
    fn new(slot: u32, file: File, bounds: Option<DebugBounds>) -> Result<(Self, DebugInfo), Refusal> {
        let outline = Outline::read(&file)?;
        let go = GoNames::open(&file);
        let mut debug = debug_in(&outline, bounds);
        if debug == DebugInfo::TooLarge && go.is_some() {
            debug = DebugInfo::Unwanted; // only its C code would need it
        }
        let own = Lookup::new(file, debug == DebugInfo::Read)?;
        Ok((Self { slot, own, apart: None, go, bounds, outline, stubs: Stubs::default() }, debug))
    }

    /// What another file with debug information would be, if one is worth being looked for.
    fn sought(&self, debug: DebugInfo) -> Option<Sought> {
        let Outline { build_id, debug_link, .. } = &self.outline;
        if debug != DebugInfo::Absent || self.go.is_some() || (build_id.is_empty() && debug_link.is_none()) {
            return None;
        }
        let name = debug_link.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        Some(Sought { build_id: build_id.clone(), name })
    }

    /// Takes names and debug information from `file`, if it belongs to this one.
    fn take(&mut self, file: File) -> Result<DebugInfo, Refusal> {
        let outline = Outline::read(&file)?;
        let belongs = match (&*self.outline.build_id, &self.outline.debug_link) {
            ([], Some((_, sum))) => checksum(&file)? == *sum,
            ([], None) => false,
            (build_id, _) => build_id == outline.build_id,
        };
        if !belongs {
            return Err(Refusal::OfAnother);
        }
        let debug = debug_in(&outline, self.bounds);
        self.apart = Some(Lookup::new(file, debug == DebugInfo::Read)?);
        Ok(debug)
    }

    fn name(&mut self, offsets: &[u64]) -> Names {
        let mut writer = Writer::default();
        let go: Vec<Option<Found>> =
            offsets.iter().map(|&offset| self.go_name(offset, &mut writer)).collect();
        let addresses: Vec<Option<u64>> =
            offsets.iter().map(|&offset| self.outline.address(offset)).collect();
        let others = go.iter().zip(&addresses).filter(|(go, _)| go.is_none());
        let others: Vec<u64> = others.filter_map(|(_, address)| *address).collect();
        let mut symbols = symbols(&self.own, self.apart.as_ref(), &others).into_iter();
        for (go, address) in go.into_iter().zip(addresses) {
            let found = match (go, address) {
                (Some(go), _) => go,
                (None, None) => Found::Nothing,
                (None, Some(address)) => {
                    let symbol = symbols.next().flatten();
                    let symbol = symbol.filter(|symbol| {
                        self.outline.reaches(&symbol.name, symbol.addr, symbol.size, address)
                    });
                    match symbol {
                        Some(symbol) if writer.has_room() => writer.named(&symbol),
                        Some(_) => Found::Bare(address),
                        None => match self.stubs.name(&self.own.file, address) {
                            Some(name) if writer.has_room() => Found::Named(vec![writer.place(&name, "", 0)]),
                            Some(_) | None => Found::Bare(address),
                        },
                    }
                }
            };
            writer.names.found.push(found);
        }
        writer.names.reached.add(Bound::Stubs, self.stubs.take_left_out());
        writer.names
    }

    /// What Go's own table says of `offset`. One that makes no sense there may do so elsewhere.
    fn go_name(&mut self, offset: u64, writer: &mut Writer) -> Option<Found> {
        let go = self.go.as_mut().filter(|_| writer.has_room())?;
        go.name(&self.own.file, offset, self.bounds.is_some(), writer).ok().flatten()
    }
}

/// Symbols at `addresses`, in their order, from a file and the one with its debug information.
fn symbols<'a>(own: &'a Lookup, apart: Option<&'a Lookup>, addresses: &[u64]) -> Vec<Option<Sym<'a>>> {
    let Some(apart) = apart else { return own.symbols(addresses) };
    let mut symbols = apart.symbols(addresses);
    if symbols.iter().any(Option::is_none) {
        for (symbol, own) in symbols.iter_mut().zip(own.symbols(addresses)) {
            *symbol = symbol.take().or(own);
        }
    }
    symbols
}

impl Lookup {
    fn new(file: File, debug: bool) -> Result<Self, Refusal> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Err(refused) = File::open(&path) {
            tracing::debug!("a file cannot be opened again: {refused}");
            return Err(Refusal::Unopenable);
        }
        let plain = debug.then(|| Symbols::new(&path, false));
        Ok(Self { whole: Symbols::new(&path, debug), plain, file })
    }

    /// Symbols at `addresses`, in their order; without symbols that can be read there are none.
    fn symbols(&self, addresses: &[u64]) -> Vec<Option<Sym<'_>>> {
        let Some(plain) = &self.plain else { return self.whole.named(addresses) };
        // Debug information that cannot be read must not cost the names that are there without it.
        let Some(mut symbols) = self.whole.at(addresses) else { return plain.named(addresses) };
        let doubtful: Vec<usize> =
            (0..symbols.len()).filter(|&at| symbols[at].as_ref().is_none_or(is_doubtful)).collect();
        let asked: Vec<u64> = doubtful.iter().map(|&at| addresses[at]).collect();
        let known = plain.at(&asked).unwrap_or_else(|| vec![None; asked.len()]);
        for (at, known) in doubtful.into_iter().zip(known) {
            symbols[at] = match symbols[at].take() {
                Some(symbol) => settled(symbol, known),
                None => known.filter(|known| !is_doubtful(known)),
            };
        }
        symbols
    }
}

impl Symbols {
    fn new(path: &Path, debug: bool) -> Self {
        let mut source = Elf::new(path);
        source.debug_syms = debug;
        let nowhere: Option<[&Path; 0]> = Some([]);
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(debug)
            .enable_inlined_fns(debug)
            .set_debug_dirs(nowhere)
            .build();
        Self { source: source.into(), symbolizer }
    }

    /// Symbols at `addresses`, in their order; none if nothing can be read.
    fn at(&self, addresses: &[u64]) -> Option<Vec<Option<Sym<'_>>>> {
        if addresses.is_empty() {
            return Some(Vec::new());
        }
        let symbols = self.symbolizer.symbolize(&self.source, Input::VirtOffset(addresses)).ok()?;
        Some(symbols.into_iter().map(|symbol| symbol.into_sym()).collect())
    }

    /// The same of a table of symbols alone.
    fn named(&self, addresses: &[u64]) -> Vec<Option<Sym<'_>>> {
        let symbols = self.at(addresses).unwrap_or_else(|| vec![None; addresses.len()]);
        symbols.into_iter().map(|symbol| symbol.filter(|symbol| !is_doubtful(symbol))).collect()
    }
}

/// Whether a symbol may be none. At zero lies the header, not code: what has a name there is a version of the interface. But debug
/// information also gives zero for a function that lies in several places, as those do whose cold part was moved away; and it has functions
/// without a name, as compilers make them of coroutines.
fn is_doubtful(symbol: &Sym<'_>) -> bool {
    symbol.addr == 0 || symbol.name.is_empty()
}

/// What debug information says of a `doubtful` function, where the table of symbols has what is `known`.
fn settled<'a>(mut doubtful: Sym<'a>, known: Option<Sym<'a>>) -> Option<Sym<'a>> {
    match known {
        // It is from that table.
        Some(known) if known.addr == 0 && known.name == doubtful.name => return None,
        Some(known) if known.addr != 0 && doubtful.name.is_empty() => doubtful.name = known.name,
        Some(_) | None => {}
    }
    (!doubtful.name.is_empty()).then_some(doubtful)
}

/// What is to become of the debug information of a file.
fn debug_in(outline: &Outline, bounds: Option<DebugBounds>) -> DebugInfo {
    match bounds {
        None => DebugInfo::Unwanted,
        Some(_) if outline.debug_bytes == 0 => DebugInfo::Absent,
        Some(_) if outline.debug_elsewhere => DebugInfo::Elsewhere,
        Some(most) if outline.debug_bytes > most.bytes_max => DebugInfo::TooLarge,
        Some(most) if outline.packed_debug_bytes > most.unpacked_bytes_max => DebugInfo::Packed,
        Some(_) => DebugInfo::Read,
    }
}

/// The checksum by which a file recognises the one with its debug information.
fn checksum(file: &File) -> Result<u32, Refusal> {
    /// Build ids are twenty years old: what has none is small, or old and small.
    const CHECKED_BYTES_MAX: u64 = 256 << 20;
    let mut sum = crc32fast::Hasher::new();
    let mut piece = vec![0; 64 << 10];
    let mut at = 0;
    while at < CHECKED_BYTES_MAX {
        let read = file.read_at(&mut piece, at).map_err(|_| Refusal::Unopenable)?;
        if read == 0 {
            return Ok(sum.finalize());
        }
        sum.update(&piece[..read]);
        at += read as u64;
    }
    Err(Refusal::TooLarge)
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
