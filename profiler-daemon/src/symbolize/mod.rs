//! Gives frames their names.
//!
//! In: traces of (module, offset) pairs and kernel addresses. Out: the same traces with functions. What is
//! already known comes from the cache; the rest is asked of the namer, module by module, hundreds of offsets at
//! once. A frame without a name shows its module and address and never vanishes. Not here: ELF, DWARF or any
//! other stranger's bytes; those are read in the namer, a process that may die.

mod bounds;
mod cache;
mod client;
mod ending;
mod living;
pub mod namer;
mod perf_maps;
mod protocol;
mod sense;
mod shelf;
mod tables;
mod text;
mod troubles;
mod vdso;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use self::cache::{Cache, KERNEL, Key, VDSO};
use self::client::{Asked, Client, Reply};
pub use self::living::{NamerProcess, Spawner};
pub use self::namer::{go_names_of, perf_map_names_of};
use self::perf_maps::{PerfMapMeters, PerfMaps};
use self::protocol::{ADDRESSES_MAX, DebugInfo, Found, INLINED_MAX, NAME_BYTES_MAX, Place};
use self::shelf::Shelf;
use self::tables::RowsMeters;
pub use self::tables::{TABLE_BYTES_MAX, table_of};
use self::text::clean;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Counters, Meters, label};
use crate::model::{
    DebugFile, FileIdentity, Frame, Function, Known, Module, ModuleKind, NamedBatch, NamedTrace, Reason,
    SampleKind, Trace, TraceBatch,
};

/// How much naming may cost.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of names to remember. Names of a full day on a busy machine are a few megabytes; what no longer fits
    /// is asked for again.
    pub names_bytes_max: usize,
    /// How long one answer may take. Reading a large file for the first time takes a few hundred milliseconds.
    pub request_timeout: Duration,
    /// How long one batch may ask. What is left then shows its address in this window.
    pub batch_timeout: Duration,
    /// Whether inlined functions, source files and lines are read from debug information.
    pub inlines: bool,
    /// Bytes of debug information that a file may have to be read for them; a larger one is read for names only.
    pub debug_bytes_max: u64,
    /// Bytes of packed debug information that are unpacked for any file, ten milliseconds of processor time; for more it has to be
    /// worth it.
    pub unpacked_bytes_max: u64,
    /// How long a file's own code must run in a window to be worth the unpacking of its debug information; zero: every file is.
    pub worth_unpacking: Duration,
    /// Anonymous memory with which a namer is ended and started afresh, bytes; with twice as much at once, else
    /// only if it is not young: starting costs 60 ms of processor time.
    pub namer_bytes_max: u64,
    /// Bytes that a file may have whose table is kept on disk: it is copied first, and the copy is memory.
    pub copied_bytes_max: u64,
    /// Files to remember as having ended the namer; the oldest is forgotten.
    pub set_aside_max: usize,
    /// How long they are remembered.
    pub set_aside_for: Duration,
    /// Where the kernel lists its symbols.
    pub kallsyms: PathBuf,
    /// Finds files that may have the debug information of a module, open, the likeliest first.
    pub find_debug_files: fn(&Module, &DebugFile) -> Vec<OwnedFd>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            names_bytes_max: 8 << 20,
            request_timeout: Duration::from_secs(2),
            batch_timeout: Duration::from_secs(4),
            inlines: true,
            debug_bytes_max: 32 << 20,
            unpacked_bytes_max: 1 << 20,
            worth_unpacking: Duration::ZERO,
            namer_bytes_max: 24 << 20,
            // Compilers, shells, interpreters and the C library fit.
            copied_bytes_max: 64 << 20,
            set_aside_max: 256,
            set_aside_for: Duration::from_secs(600),
            kallsyms: PathBuf::from("/proc/kallsyms"),
            find_debug_files: |_, _| Vec::new(),
        }
    }
}

/// Says what the kernel calls the functions at some addresses, in their order.
pub type KernelNamer = Box<dyn FnMut(&[u64]) -> std::io::Result<Vec<Option<String>>> + Send>;

/// Names batches, on the workshop's thread.
pub struct Symbolizer {
    cache: Cache,
    client: Client,
    kernel_namer: Option<KernelNamer>,
    vdso: Option<(File, FileIdentity)>,
    perf_maps: PerfMaps,
    empty: Arc<str>,
    kernel: Arc<str>,
    meters: SymbolizeMeters,
    rows: RowsMeters,
    map_meters: PerfMapMeters,
    shelf: Option<Shelf>,
}

impl std::fmt::Debug for Symbolizer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Symbolizer").field("cached_bytes", &self.cache.bytes()).finish_non_exhaustive()
    }
}

/// Room in a stack for functions that are inlined into its frames.
const INLINED_ROOM: usize = 8;

/// What is shown as the file of code that was made at run time.
const JIT: &str = "[jit]";

/// Functions at one place, innermost first.
type Names = cache::Names;

/// A module and the offsets that have no names yet, each with its place in the book.
struct Wanted {
    module: Option<Arc<Module>>,
    addresses: Vec<(u64, usize)>,
}

impl Symbolizer {
    /// No namer is started before the first question. `spawn` starts one, again and again.
    pub fn new(config: Config, spawn: Spawner, meters: &Meters) -> Self {
        let map_meters = PerfMapMeters::new(meters);
        Self {
            cache: Cache::new(config.names_bytes_max),
            client: Client::new(config, spawn, meters),
            kernel_namer: None,
            vdso: None,
            perf_maps: PerfMaps::new(&map_meters),
            empty: Arc::from(""),
            kernel: Arc::from("[kernel]"),
            meters: SymbolizeMeters::new(meters),
            rows: RowsMeters::new(meters),
            map_meters,
            shelf: None,
        }
    }

    /// Another one, which asks a namer of its own, started by `spawn`, and counts with this one.
    #[must_use]
    pub fn beside(&self, spawn: Spawner) -> Self {
        let Self {
            cache: _,
            client,
            kernel_namer: _,
            vdso: _,
            perf_maps: _,
            empty,
            kernel,
            meters,
            rows,
            map_meters,
            shelf: _,
        } = self;
        Self {
            cache: Cache::new(client.config().names_bytes_max),
            client: client.beside(spawn),
            kernel_namer: None,
            vdso: None,
            perf_maps: PerfMaps::new(map_meters),
            empty: Arc::clone(empty),
            kernel: Arc::clone(kernel),
            meters: meters.clone(),
            rows: rows.clone(),
            map_meters: map_meters.clone(),
            shelf: None,
        }
    }

    /// Asks `namer` for the names of the kernel's functions, if there is one, instead of having `/proc/kallsyms` read.
    pub fn name_kernel_by(&mut self, namer: Option<KernelNamer>) {
        self.kernel_namer = namer;
    }

    /// Keeps unwind tables in `folder`, for the next start.
    pub fn keep_tables(&mut self, folder: &Path, meters: &Meters) -> std::io::Result<()> {
        self.shelf = Some(Shelf::open(folder, self.client.config().copied_bytes_max, meters)?);
        Ok(())
    }

    /// Ends the namer, if one runs, and gives its memory back; the next question starts another.
    pub fn rest(&mut self) {
        self.client.end();
    }

    /// Names every frame of `batch`.
    pub fn name(&mut self, batch: TraceBatch) -> NamedBatch {
        let TraceBatch { window, kind, traces, lost } = batch;
        self.client.begin();
        self.weigh(&traces, kind);

        // Every distinct frame gets a place in the book, so that a frame is looked up once, here.
        let mut book: Vec<Option<Names>> = Vec::new();
        let mut places: FxHashMap<Key, usize> = FxHashMap::default();
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let mut wanted: BTreeMap<u32, Wanted> = BTreeMap::new();
        let mut last: Option<(&Arc<Module>, u32)> = None;
        let mut numbered = Vec::with_capacity(traces.iter().map(|trace| trace.frames.len()).sum());
        for frame in traces.iter().flat_map(|trace| &trace.frames) {
            let (key, module) = match frame {
                Frame::Missing(reason) => {
                    numbered.push(*reasons.entry(*reason).or_insert_with(|| {
                        book.push(Some(self.missing(*reason)));
                        book.len() - 1
                    }));
                    continue;
                }
                Frame::Kernel(address) => (Key { slot: KERNEL, address: address.0 }, None),
                Frame::User { module, offset } => {
                    // Neighbours are mostly of one file.
                    let slot = match last {
                        Some((known, slot)) if Arc::ptr_eq(known, module) => slot,
                        Some(_) | None if module.kind == ModuleKind::PerfMap => {
                            self.perf_maps.slot(module, &mut self.cache)
                        }
                        Some(_) | None => self.cache.slot(module),
                    };
                    last = Some((module, slot));
                    (Key { slot, address: offset.0 }, Some(module))
                }
            };
            let place = *places.entry(key).or_insert_with(|| {
                let known = self.cache.get(key);
                if known.is_none() {
                    wanted
                        .entry(key.slot)
                        .or_insert_with(|| Wanted { module: module.cloned(), addresses: Vec::new() })
                        .addresses
                        .push((key.address, book.len()));
                }
                book.push(known);
                book.len() - 1
            });
            numbered.push(place);
        }
        self.meters
            .places
            .get_or_create(&label("names", "known"))
            .inc_by(book.iter().flatten().count() as u64);

        for (slot, wanted) in wanted {
            self.find(slot, wanted, &mut book);
        }

        let mut numbered = numbered.into_iter();
        let traces = traces.into_iter().map(|trace| {
            let Trace { time: _, task, labels, frames, weight } = trace;
            let mut functions = Vec::with_capacity(frames.len() + INLINED_ROOM);
            for place in numbered.by_ref().take(frames.len()) {
                let names = book[place].as_deref().unwrap_or_default();
                // What is not known for the same reason without anything known in between is one frame.
                let is_again = names.len() == 1
                    && matches!(names[0].known, Known::Nothing(_))
                    && functions.last() == names.first();
                if !is_again {
                    functions.extend_from_slice(names);
                }
            }
            NamedTrace { task, labels, functions, weight }
        });
        let traces = traces.collect();
        self.meters.cached_bytes.set(self.cache.bytes() as f64);
        self.meters.evicted.inc_by(self.cache.take_evicted());
        self.perf_maps.end();
        NamedBatch { window, kind, traces, lost }
    }

    /// Sees which files are worth their debug information: those whose own code ran for long. What they only called counts for others.
    fn weigh(&mut self, traces: &[Trace], kind: SampleKind) {
        let worth = self.client.config().worth_unpacking;
        if worth.is_zero() {
            return;
        }
        let mut ran: FxHashMap<u32, u64> = FxHashMap::default();
        for Trace { frames, weight, .. } in traces {
            if let Some(Frame::User { module, .. }) = frames.first()
                && module.kind == ModuleKind::File
            {
                let ran = ran.entry(self.cache.slot(module)).or_default();
                *ran = ran.saturating_add(weight.0);
            }
        }
        for (slot, ran) in ran {
            if Duration::from_nanos(ran.saturating_mul(kind.period_ns())) >= worth {
                self.cache.want_debug(slot);
            }
        }
    }

    /// Finds names for what is wanted of one module.
    fn find(&mut self, slot: u32, wanted: Wanted, book: &mut [Option<Names>]) {
        let Wanted { module, mut addresses } = wanted;
        addresses.sort_unstable();
        let module_name: Arc<str> = match &module {
            None => self.kernel.clone(),
            Some(_) if slot == VDSO => self.cache.string("[vdso]"),
            Some(module) if module.kind == ModuleKind::PerfMap => self.cache.string(JIT),
            Some(module) => self.cache.string(&clean(&module.display_name(), NAME_BYTES_MAX)),
        };
        for chunk in addresses.chunks(ADDRESSES_MAX) {
            let asked: Vec<u64> = chunk.iter().map(|&(address, _)| address).collect();
            let reply = match (&module, slot) {
                (None, _) => self.ask_kernel(&asked),
                (Some(_), VDSO) => {
                    if self.vdso.is_none() {
                        self.vdso = vdso::image().ok();
                    }
                    match &self.vdso {
                        Some((file, identity)) => {
                            let (identity, file) = (*identity, file.as_fd());
                            self.client
                                .ask(Asked::File { slot, identity, file, module: None, unpack: true }, &asked)
                        }
                        None => Reply::Refused,
                    }
                }
                (Some(module), _) if module.kind == ModuleKind::PerfMap => self.ask_perf_map(module, &asked),
                (Some(module), _) => match (&module.file, module.identity) {
                    (Some(file), Some(identity)) => {
                        let (file, module) = (file.as_fd(), Some(&**module));
                        let is_worth_it = self.client.config().worth_unpacking.is_zero();
                        let unpack = is_worth_it || self.cache.wants_debug(slot);
                        self.client.ask(Asked::File { slot, identity, file, module, unpack }, &asked)
                    }
                    (None, _) | (_, None) => Reply::Refused,
                },
            };
            if let Reply::Names { names, .. } = &reply
                && names.debug == Some(DebugInfo::Packed)
            {
                self.cache.put_debug_off(slot);
            }
            let counted = match reply {
                Reply::Names { .. } => "found",
                Reply::Refused => "none",
                Reply::Unavailable => "unavailable",
            };
            self.meters.places.get_or_create(&label("names", counted)).inc_by(chunk.len() as u64);
            self.fill(slot, &module_name, chunk, &reply, book);
        }
    }

    /// Asks the kernel, or the namer where the kernel cannot be asked.
    fn ask_kernel(&mut self, addresses: &[u64]) -> Reply {
        let Some(name) = &mut self.kernel_namer else { return self.client.ask(Asked::Kernel, addresses) };
        match name(addresses) {
            Ok(found) => Reply::Names { names: protocol::Names::without_places(found), settled: true },
            Err(error) => {
                tracing::debug!(
                    "the kernel does not name its functions, /proc/kallsyms does from now on: {error}"
                );
                self.kernel_namer = None;
                self.client.ask(Asked::Kernel, addresses)
            }
        }
    }

    /// Writes what came of a question into the book, and into the cache what will stay true.
    fn fill(
        &mut self,
        slot: u32,
        module: &Arc<str>,
        chunk: &[(u64, usize)],
        reply: &Reply,
        book: &mut [Option<Names>],
    ) {
        let kernel = slot == KERNEL;
        let nameless = |symbolizer: &Self, address: u64| match &**module {
            // An absolute address of the kernel would tell the reader where it lies.
            _ if kernel => symbolizer.bare(module, None, kernel),
            // Where code lies that was made at run time tells nothing to anyone.
            JIT => symbolizer.missing(Reason::AnonymousMapping),
            _ => symbolizer.bare(module, Some(address), kernel),
        };
        for (index, &(address, place)) in chunk.iter().enumerate() {
            let (names, keep) = match reply {
                Reply::Names { names, settled } => match names.found.get(index) {
                    Some(Found::Named(places)) => {
                        (self.functions(&names.strings, places, module, kernel), true)
                    }
                    Some(Found::Bare(address)) => (self.bare(module, Some(*address), kernel), *settled),
                    // No name, and no address of the file's own: its offset tells it from others at least.
                    Some(Found::Nothing) | None => (nameless(self, address), *settled),
                },
                Reply::Refused => (nameless(self, address), true),
                Reply::Unavailable => (nameless(self, address), false),
            };
            if keep {
                self.cache.insert(Key { slot, address }, names.clone());
            }
            book[place] = Some(names);
        }
    }

    fn functions(&self, strings: &[String], places: &[Place], module: &Arc<str>, kernel: bool) -> Names {
        let text = |index: u32| {
            let text = usize::try_from(index).ok().and_then(|index| strings.get(index));
            // The namer cleans too, but it reads strangers' bytes: nothing is taken on its word.
            self.cache.string(&clean(text.map_or("", String::as_str), NAME_BYTES_MAX))
        };
        let function = |place: &Place| {
            let (name, file) = (text(place.name), text(place.file));
            let (line, module, known) = (place.line, module.clone(), Known::Name);
            self.cache.function(Function { name, file, line, module, kernel, known })
        };
        places.iter().take(INLINED_MAX + 1).map(function).collect()
    }

    /// `libfoo.so+0x1234`, where the number is the address that the file itself counts with, as `objdump` and
    /// `addr2line` take it; of a file that cannot be read, the offset in it. In the kernel: bytes from the
    /// beginning of its code, which do not tell where it lies, or nothing.
    fn bare(&self, module: &Arc<str>, address: Option<u64>, kernel: bool) -> Names {
        let shown = if module.is_empty() { "[unknown file]" } else { module };
        let name = match address {
            Some(address) => Arc::from(format!("{shown}+{address:#x}")),
            None => self.cache.string(shown),
        };
        let (file, module) = (self.empty.clone(), module.clone());
        Arc::from([self.cache.function(Function {
            name,
            file,
            line: 0,
            module,
            kernel,
            known: Known::Place,
        })])
    }

    /// `[reason]`.
    fn missing(&self, reason: Reason) -> Names {
        let name = Arc::from(format!("[{reason}]"));
        let (file, module, known) = (self.empty.clone(), self.empty.clone(), Known::Nothing(reason));
        Arc::from([Arc::new(Function { name, file, line: 0, module, kernel: false, known })])
    }
}

#[derive(Clone, Debug)]
struct SymbolizeMeters {
    places: Counters,
    evicted: Counter,
    cached_bytes: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl SymbolizeMeters {
    fn new(meters: &Meters) -> Self {
        Self {
            places: meters.counters(
                "profiler_places_named",
                "Distinct places of a window: known, found by the namer, without a name, or unavailable for now",
            ),
            evicted: meters.counter("profiler_names_evicted", "Names forgotten because the cache was full"),
            cached_bytes: meters.gauge("profiler_names_cached_bytes", "Size of the cache of names"),
        }
    }
}
