//! Unwind tables and mappings into the kernel, where the walk reads them.
//!
//! In: what is mapped now by which process, tables of files, and word of which of them were used. Out: slabs that the programs
//! read, and the files whose tables are wanted. One budget bounds all of it. Not here: how a table is made, and who is
//! asked for it. Whatever does not fit or cannot be made is counted, and frame pointers serve in its place.

mod lists;
mod memory;
mod processes;
mod runs;
mod shelf;
mod walk;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aya::maps::MapData;
use profiler_common::limits::SLABS_MAX;
use profiler_common::unwind::table::{
    COMING, KEEPS_FRAMES, MAPPING_WORDS, MAPPINGS_MAX, Mapping, MappingList, SLAB_WORDS, Slab,
    TABLE_PAGES_MAX, WANTED,
};
use rustc_hash::{FxHashMap, FxHashSet};

use self::lists::{Lists, Written};
use self::memory::Memory;
pub(super) use self::processes::Processes;
use self::shelf::{Shelf, Short};
pub use self::walk::Walked;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Counters, Meters, label};
use crate::model::{Module, ModuleKind, NoTable, Pid, Table};
use crate::processes::{Mapped, Mappings};
use crate::time::MonoNs;

/// How long a file whose table did not fit, or could not be built just now, is not asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Modules whose state is kept: twice the files that the tracker knows. What is over is asked for again when it is wanted.
const MODULES_MAX: usize = 1 << 15;

/// Processes at most that are known to the kernel side as such of which nothing is known; then all of these are forgotten, and
/// may wake the reader once more.
const SILENT_MAX: usize = 1 << 10;

/// What is known of a module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody builds it.
    Asked,
    /// It lies in the slabs.
    Placed(Placed),
    /// There is none.
    None,
    /// There is none, but there may be one after this moment.
    NotBefore(MonoNs),
}

/// What a mapping says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    directory: u32,
    first_page: u32,
    /// With [`KEEPS_FRAMES`].
    pages: u32,
}

/// See the head of this file.
pub struct Tables {
    memory: Memory,
    /// Where a walk of ours writes the list of its process: kept from walk to walk.
    list: Option<Box<Slab>>,
    /// `None` without a kernel.
    processes: Option<Processes>,
    shelf: Shelf,
    lists: Lists,
    /// Lists written so far.
    version: u32,
    modules: FxHashMap<u32, State>,
    /// Processes without a list, which the kernel side is told so that their samples do not ask for one.
    silent: FxHashSet<Pid>,
    /// When the kernel last refused a slab.
    refused: Option<MonoNs>,
    meters: TablesMeters,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tables").field("shelf", &self.shelf.bytes()).finish_non_exhaustive()
    }
}

impl Tables {
    /// Nothing lies in the kernel yet. `slabs` and `processes` are the object's maps, and no more than `slabs_max` slabs are to be made.
    pub(super) fn new(slabs: MapData, processes: Processes, slabs_max: usize, meters: &Meters) -> Self {
        Self::with(Memory::in_kernel(slabs), Some(processes), slabs_max, meters)
    }

    /// Tables that no kernel walks by: for a replay.
    pub fn offline(meters: &Meters) -> Self {
        Self::with(Memory::Own(Vec::new()), None, SLABS_MAX, meters)
    }

    fn with(memory: Memory, processes: Option<Processes>, slabs_max: usize, meters: &Meters) -> Self {
        Self {
            memory,
            list: None,
            processes,
            version: 0,
            shelf: Shelf::new(u32::try_from(slabs_max).unwrap_or(u32::MAX)),
            lists: Lists::default(),
            modules: FxHashMap::default(),
            silent: FxHashSet::default(),
            refused: None,
            meters: TablesMeters::new(meters),
        }
    }

    /// Process `pid` has these mappings from now on; `None` if it has ended.
    pub fn follow(&mut self, pid: Pid, mappings: Option<&Arc<Mappings>>) {
        let now = MonoNs::now();
        let listed = match mappings {
            Some(mappings) if mappings.iter().len() > 0 => self
                .list(mappings, now)
                .filter(|written| self.tell(pid, mappings, *written, now))
                .map(|written| (mappings, written)),
            Some(_) | None => None,
        };
        let freed = match listed {
            Some((mappings, written)) => {
                self.silent.remove(&pid);
                self.lists.set(pid, mappings, written)
            }
            None => {
                let had_entry = self.lists.has(pid) || self.silent.remove(&pid);
                let freed = self.lists.remove(pid);
                if mappings.is_some_and(|mappings| mappings.iter().len() > 0) {
                    self.silence(pid);
                } else if had_entry {
                    self.forget(pid);
                }
                freed
            }
        };
        if let Some(run) = freed {
            self.shelf.free(run, now);
        }
    }

    /// Tells the kernel side that process `pid` has the list that was `written`; false if it has no room for it.
    fn tell(&mut self, pid: Pid, mappings: &Arc<Mappings>, written: Written, now: MonoNs) -> bool {
        let told = self.put(pid, written.list());
        if !told {
            self.missed("too many processes");
            // Unless another process has it, nobody does.
            if self.lists.find(mappings).is_none() {
                self.shelf.free(written.run, now);
            }
        }
        told
    }

    /// Nothing is known of process `pid`, and its samples need not say so again and again.
    fn silence(&mut self, pid: Pid) {
        if self.silent.len() >= SILENT_MAX {
            for pid in std::mem::take(&mut self.silent) {
                self.forget(pid);
            }
        }
        if self.put(pid, MappingList::default()) {
            self.silent.insert(pid);
        }
    }

    fn put(&mut self, pid: Pid, list: MappingList) -> bool {
        self.processes.as_mut().is_none_or(|processes| processes.put(pid, list))
    }

    fn forget(&mut self, pid: Pid) {
        if let Some(processes) = &mut self.processes {
            processes.remove(pid);
        }
    }

    /// The files that process `pid` runs code from, whose tables are to be built now. Each is named once, until [`Self::fill`] or
    /// forgetting ends that.
    pub fn take_wanted(&mut self, pid: Pid) -> Vec<Arc<Module>> {
        let now = MonoNs::now();
        let Some(mappings) = self.lists.of(pid).map(Arc::clone) else {
            self.silence(pid);
            return Vec::new();
        };
        let modules = mappings.iter().filter_map(|mapped| mapped.module);
        let mut wanted: Vec<_> =
            modules.filter(|module| self.is_wanted(module, now)).map(Arc::clone).collect();
        wanted.retain(|module| self.take(module));
        wanted
    }

    /// True if the table of `module` is to be built now; that is said once, as by [`Self::take_wanted`].
    pub fn take(&mut self, module: &Module) -> bool {
        let now = MonoNs::now();
        if !self.is_wanted(module, now) {
            return false;
        }
        self.modules.insert(module.id, State::Asked);
        self.show(module.id, now);
        true
    }

    /// Whether the table of module `module` was asked for and is not there yet.
    pub fn is_coming(&self, module: u32) -> bool {
        matches!(self.modules.get(&module), Some(State::Asked))
    }

    /// What came of asking for the table of module `module`.
    pub fn fill(&mut self, module: u32, table: Result<&Table, NoTable>) {
        let now = MonoNs::now();
        let state = match table {
            Ok(table) => match self.place(module, table, now) {
                Ok(placed) => {
                    self.count("placed");
                    State::Placed(placed)
                }
                Err(why) => {
                    self.count(why);
                    State::NotBefore(now.plus(REFUSED_FOR))
                }
            },
            Err(NoTable::Never) => {
                self.count("none");
                State::None
            }
            Err(NoTable::NotNow) => {
                self.count("not now");
                State::NotBefore(now.plus(REFUSED_FOR))
            }
        };
        if self.modules.len() >= MODULES_MAX {
            self.modules.retain(|_, state| matches!(state, State::Placed(_) | State::Asked));
        }
        self.modules.insert(module, state);
        self.show(module, now);
        self.measure();
    }

    /// These modules were met in stacks.
    pub fn used(&mut self, modules: impl Iterator<Item = u32>) {
        let now = MonoNs::now();
        self.memory.rest();
        self.list = None;
        modules.for_each(|module| self.shelf.used(module, now));
        self.make_room(0, now);
        // What could not be had may be tried again.
        let due: Vec<u32> = (self.modules.iter())
            .filter(|(_, state)| matches!(state, State::NotBefore(moment) if *moment <= now))
            .map(|(&module, _)| module)
            .collect();
        for module in due {
            self.modules.remove(&module);
            self.show(module, now);
        }
        self.measure();
    }

    /// The run with the list of `mappings`, which is written unless it is there.
    fn list(&mut self, mappings: &Arc<Mappings>, now: MonoNs) -> Option<Written> {
        if let Some(written) = self.lists.find(mappings) {
            return Some(written);
        }
        if mappings.iter().len() > MAPPINGS_MAX {
            self.missed("too many mappings");
        }
        let words: Vec<u32> = (mappings.iter().take(MAPPINGS_MAX))
            .flat_map(|mapped| self.mapping(&mapped, now).words())
            .collect();
        let size = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let run = match self.shelf.take(size, now) {
            Ok(run) => Ok(run),
            Err(short) => {
                self.grow(short, now).and_then(|()| self.shelf.take(size, now).map_err(|_| "no room"))
            }
        };
        let written = run.and_then(|run| match self.memory.write_at(run.address, &words) {
            Ok(()) => Ok(run),
            Err(_) => {
                self.shelf.free(run, now);
                Err("kernel")
            }
        });
        let run = written.inspect_err(|why| self.missed(why)).ok()?;
        Some(Written { run, version: self.next_version() })
    }

    fn mapping(&self, mapped: &Mapped<'_>, now: MonoNs) -> Mapping {
        let &Mapped { start, end, file_offset, module } = mapped;
        let bytes = end - start;
        let Some(module) = module else { return Mapping::bare(start, bytes) };
        match self.modules.get(&module.id) {
            Some(State::Placed(Placed { directory, first_page, pages })) => {
                Mapping::of(start, bytes, file_offset, *directory, *first_page, *pages)
            }
            Some(State::Asked) => Mapping { pages: COMING, ..Mapping::bare(start, bytes) },
            Some(State::None | State::NotBefore(_)) | None => {
                let pages = if self.is_wanted(module, now) { WANTED } else { 0 };
                Mapping { pages, ..Mapping::bare(start, bytes) }
            }
        }
    }

    fn is_wanted(&self, module: &Module, now: MonoNs) -> bool {
        let is_readable = module.file.is_some() || module.kind == ModuleKind::Vdso;
        is_readable
            && match self.modules.get(&module.id) {
                None => true,
                Some(State::NotBefore(moment)) => *moment <= now,
                Some(State::Asked | State::Placed(_) | State::None) => false,
            }
    }

    /// Writes what is known of `module` into every list that has it.
    ///
    /// A walk may read such a line while it is written. It then looks up one frame in the wrong place of the right table, or goes by
    /// pointer; so little as that is not worth a second list.
    fn show(&mut self, module: u32, now: MonoNs) {
        let mut lines = Vec::new();
        let mut changed = FxHashSet::default();
        for (name, list) in self.lists.iter() {
            for (place, mapped) in (0_u32..).zip(list.mappings.iter().take(MAPPINGS_MAX)) {
                if mapped.module.is_some_and(|mapped| mapped.id == module) {
                    let words = self.mapping(&mapped, now).words();
                    lines.push((list.written.run.address + place * MAPPING_WORDS_U32, words));
                    changed.insert(name);
                }
            }
        }
        for (address, words) in lines {
            if self.memory.write_at(address, &words).is_err() {
                self.missed("kernel");
            }
        }
        // What walks remember of the lists as they were is of no use now.
        for name in &changed {
            let version = self.next_version();
            self.lists.renew(*name, version);
        }
        for (pid, written) in self.lists.processes_with(&changed) {
            if !self.put(pid, written.list()) {
                self.missed("too many processes"); // it has its place, so this cannot be
            }
        }
    }

    fn next_version(&mut self) -> u32 {
        // Zero is that of no list.
        self.version = self.version.checked_add(1).unwrap_or(1);
        self.version
    }

    /// Writes `table` into slabs.
    fn place(&mut self, module: u32, table: &Table, now: MonoNs) -> Result<Placed, &'static str> {
        let pages = table.blocks.len();
        let largest = table.blocks.iter().map(Vec::len).max().unwrap_or(0);
        if pages == 0 || pages > TABLE_PAGES_MAX || largest > SLAB_WORDS {
            return Err("too large"); // the builder keeps these bounds, so this cannot be
        }
        let words = |block: &Vec<u32>| u32::try_from(block.len()).unwrap_or(u32::MAX);
        let sizes = std::iter::once(u32::try_from(pages).unwrap_or(u32::MAX))
            .chain(table.blocks.iter().filter(|block| !block.is_empty()).map(words));
        self.shelf.forget(module, now);
        let runs = match self.shelf.place(module, sizes.clone(), now) {
            Ok(runs) => runs.to_vec(),
            Err(short) => {
                self.grow(short, now)?;
                self.shelf.place(module, sizes, now).map_err(|_| "no room")?.to_vec()
            }
        };
        let mut places = runs.iter();
        let directory_run = places.next().copied().ok_or("too large")?;
        let mut directory = Vec::with_capacity(pages);
        for block in &table.blocks {
            directory.push(if block.is_empty() {
                0
            } else {
                let run = places.next().ok_or("too large")?;
                self.write(module, run.address, block, now)?;
                run.address
            });
        }
        self.write(module, directory_run.address, &directory, now)?;
        let keeps_frames = if table.keeps_frames { KEEPS_FRAMES } else { 0 };
        let pages = u32::try_from(pages).unwrap_or(0) | keeps_frames;
        Ok(Placed { directory: directory_run.address, first_page: table.first_page, pages })
    }

    fn write(&mut self, module: u32, address: u32, words: &[u32], now: MonoNs) -> Result<(), &'static str> {
        self.memory.write_at(address, words).map_err(|_| {
            self.shelf.forget(module, now);
            "kernel"
        })
    }

    /// Makes as many slabs as it takes to place what was `short`, or room among the tables for the next one that asks.
    fn grow(&mut self, short: Short, now: MonoNs) -> Result<(), &'static str> {
        let slabs = self.shelf.growth(short);
        if slabs == 0 {
            self.make_room(short.words, now);
            return Err("no room");
        }
        if self.refused.is_some_and(|refused| now.since(refused) < REFUSED_FOR) {
            return Err("kernel");
        }
        match self.memory.grow(slabs as usize) {
            Ok(()) => {
                self.shelf.grown(slabs);
                Ok(())
            }
            Err(error) => {
                self.say_refused(&error);
                self.refused = Some(now);
                Err("kernel")
            }
        }
    }

    fn say_refused(&self, error: &io::Error) {
        if self.refused.is_none() {
            tracing::warn!(
                "the kernel gives no memory for unwind tables: stacks are walked by frame pointer ({error})"
            );
        }
    }

    /// Forgets the tables used least recently while too much of the budget is taken.
    fn make_room(&mut self, words: u64, now: MonoNs) {
        for module in self.shelf.to_forget(words, now) {
            self.modules.remove(&module);
            // Before its words are anyone else's.
            self.show(module, now);
            self.shelf.forget(module, now);
            self.meters.forgotten.inc();
        }
    }

    fn count(&self, result: &'static str) {
        self.meters.filled.get_or_create(&label("result", result)).inc();
    }

    fn missed(&self, why: &'static str) {
        self.meters.missed.get_or_create(&label("reason", why)).inc();
    }

    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 bytes")]
    fn measure(&self) {
        let (used, all) = self.shelf.bytes();
        self.meters.used_bytes.set(used as f64);
        self.meters.bytes.set(all as f64);
    }
}

/// [`MAPPING_WORDS`], as addresses count them.
const MAPPING_WORDS_U32: u32 = 8;
const _: () = assert!(MAPPING_WORDS == MAPPING_WORDS_U32 as usize, "two names for one number");

#[derive(Debug)]
struct TablesMeters {
    filled: Counters,
    missed: Counters,
    forgotten: Counter,
    used_bytes: Gauge<f64, AtomicU64>,
    bytes: Gauge<f64, AtomicU64>,
}

impl TablesMeters {
    fn new(meters: &Meters) -> Self {
        Self {
            filled: meters.counters(
                "profiler_unwind_tables",
                "Unwind tables that were asked for, by what came of it: placed in the kernel, none in the file, not now, or no \
                 memory for it",
            ),
            missed: meters.counters(
                "profiler_unwind_lists_missed",
                "Changes of a process's mappings that the kernel was not told, or not wholly, by reason",
            ),
            forgotten: meters.counter(
                "profiler_unwind_tables_forgotten",
                "Unwind tables that made room for others, least recently used first",
            ),
            used_bytes: meters
                .gauge("profiler_unwind_tables_bytes", "Kernel memory in use for unwind tables and lists of mappings"),
            bytes: meters
                .gauge("profiler_unwind_memory_bytes", "Kernel memory taken for unwind tables and lists of mappings"),
        }
    }
}
