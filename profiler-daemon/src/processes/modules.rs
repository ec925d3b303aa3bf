//! The files that code runs from, each known once and held by a handle while it is of use.
//!
//! In: mappings as they are seen. Out: the module of each, the same one for the same file. A file is first of all
//! what `stat` says it is; its build id, which anyone can forge, only helps to recognise a file whose process is
//! gone. A file that no process maps any more is closed after a while, and stays known.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Config;
use super::debug_files::Roots;
use super::files::{Sighting, by_path, by_range, is_elf_in_memory};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::model::{BuildId, FileIdentity, Mapping, Module, ModuleKind};
use crate::procfs::Procfs;
use crate::time::MonoNs;

/// The time between two looks at which files are of use, at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Modules without a file that are known by path and build id.
const UNOPENED_MAX: usize = 1 << 10;

/// What is behind a mapping, by the name the kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// Nothing: anonymous memory, stacks, heaps.
    Nothing,
    /// The kernel's shared object.
    Vdso,
    /// A file that has no path: shared memory, mostly of engines that compile at run time, but a program may be
    /// executed from it as well.
    Memory,
    /// A file.
    File,
}

impl Backing {
    fn of(path: &[u8]) -> Self {
        if path == b"[vdso]" {
            Self::Vdso
        } else if !path.starts_with(b"/") || path.starts_with(b"//anon") {
            Self::Nothing
        } else if [&b"/memfd:"[..], b"/dev/zero", b"/SYSV", b"/anon_hugepage"]
            .iter()
            .any(|name| path.starts_with(name))
        {
            Self::Memory
        } else {
            Self::File
        }
    }
}

/// True if a mapping with this path may be of an executable, be it one without a path in any folder.
pub(super) fn is_file(path: &[u8]) -> bool {
    match Backing::of(path) {
        Backing::File | Backing::Memory => true,
        Backing::Nothing | Backing::Vdso => false,
    }
}

/// Path and build id: what a file is called, not what it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    path: Arc<[u8]>,
    build_id: Option<BuildId>,
}

/// A file that is known.
#[derive(Debug)]
struct Known {
    /// Without its file if that was closed or could not be opened.
    module: Arc<Module>,
    /// The build id the kernel read, which it may have done only after the module was made.
    build_id: Option<BuildId>,
    /// Since when no process maps it, as far as a sweep has seen.
    idle_since: Option<MonoNs>,
}

#[derive(Debug)]
struct ModuleMeters {
    open: Gauge<f64, AtomicU64>,
    unopened: Counter,
    over_open_max: Counter,
    forgotten: Counter,
}

/// The table of modules.
#[derive(Debug)]
pub(super) struct Modules {
    known: FxHashMap<FileIdentity, Known>,
    /// Which file was seen under a name that has a build id; `None` if there was more than one.
    by_name: FxHashMap<Name, Option<FileIdentity>>,
    unopened: FxHashMap<Name, Arc<Module>>,
    vdso: Option<Arc<Module>>,
    roots: Roots,
    next_id: u32,
    open: usize,
    swept: MonoNs,
    open_max: usize,
    known_max: usize,
    idle: Duration,
    meters: ModuleMeters,
}

impl Modules {
    pub(super) fn new(config: &Config, meters: &Meters) -> Self {
        Self {
            known: FxHashMap::default(),
            by_name: FxHashMap::default(),
            unopened: FxHashMap::default(),
            vdso: None,
            roots: Roots::default(),
            next_id: 1,
            open: 0,
            swept: MonoNs::default(),
            open_max: config.modules_open_max,
            known_max: config.modules_known_max,
            idle: config.module_idle,
            meters: ModuleMeters {
                open: meters.gauge("profiler_modules_open", "Files of code that are held open"),
                unopened: meters.counter(
                    "profiler_modules_unopened",
                    "Mappings whose file could not be opened; its functions have no names",
                ),
                over_open_max: meters.counter(
                    "profiler_modules_over_open_max",
                    "Files that were not opened because too many are open and in use",
                ),
                forgotten: meters.counter(
                    "profiler_modules_forgotten",
                    "Files that were forgotten because too many are known",
                ),
            },
        }
    }

    /// The module behind `mapping`; `None` for memory without a file of code. `inode` is the file's, if known.
    pub(super) fn pin(
        &mut self,
        procfs: &Procfs,
        pid: u32,
        mapping: &Mapping,
        inode: Option<u64>,
        now: MonoNs,
    ) -> Option<Arc<Module>> {
        let by_range = || by_range(procfs, pid, mapping.start.0, mapping.end.0);
        match Backing::of(&mapping.path) {
            Backing::Nothing => None,
            Backing::Vdso => self.vdso(mapping),
            Backing::Memory => self.module_of((procfs, pid), by_range()?, mapping, now, is_elf_in_memory),
            Backing::File => {
                let sighting = by_range().or_else(|| by_path(procfs, pid, &mapping.path, inode));
                match sighting {
                    Some(sighting) => self
                        .module_of((procfs, pid), sighting, mapping, now, |_, _| true)
                        .or_else(|| self.unopened(&name_of(mapping))),
                    None => self.recognise(mapping).or_else(|| self.unopened(&name_of(mapping))),
                }
            }
        }
    }

    /// Closes files that nobody has mapped for a while. Cheap to call with every event: it looks at them once in
    /// a few seconds at most, and has no clock of its own.
    pub(super) fn sweep(&mut self, now: MonoNs) {
        if now.since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.close_idle(now, self.idle);
        }
    }

    /// The module of a file that was found; `None` if it cannot be opened or `is_wanted` refuses it.
    fn module_of(
        &mut self,
        process: (&Procfs, u32),
        sighting: Sighting,
        mapping: &Mapping,
        now: MonoNs,
        is_wanted: impl FnOnce(FileIdentity, &OwnedFd) -> bool,
    ) -> Option<Arc<Module>> {
        let sighted = sighting.identity;
        if let Some(known) = self.known.get_mut(&sighted) {
            if is_other(known.build_id, mapping.build_id) {
                // The file that is found now is not the one that was mapped then.
                return None;
            }
            known.idle_since = None;
            if known.module.file.is_some() {
                let module = Arc::clone(&known.module);
                if known.build_id.is_none() && mapping.build_id.is_some() {
                    known.build_id = mapping.build_id;
                }
                self.learn_name(mapping, sighted);
                return Some(module);
            }
        }
        if self.open >= self.open_max {
            self.close_idle(now, Duration::ZERO);
        }
        let (identity, file) = if self.open < self.open_max {
            let (identity, file) = sighting.hold()?;
            if !is_wanted(identity, &file) {
                return None;
            }
            (identity, Some(file))
        } else {
            self.meters.over_open_max.inc();
            (sighted, None)
        };
        self.remember(process, identity, file, mapping)
    }

    /// Makes the module of a file, or gives the known one its file back.
    fn remember(
        &mut self,
        (procfs, pid): (&Procfs, u32),
        identity: FileIdentity,
        file: Option<OwnedFd>,
        mapping: &Mapping,
    ) -> Option<Arc<Module>> {
        let before = self.known.get(&identity);
        if before.is_some_and(|known| known.module.file.is_some() || file.is_none()) {
            return before.map(|known| Arc::clone(&known.module));
        }
        let (id, path, build_id) = match before {
            Some(known) => (known.module.id, Arc::clone(&known.module.path), known.build_id),
            None => {
                if self.known.len() >= self.known_max {
                    self.forget_idle();
                }
                if self.known.len() >= self.known_max {
                    return None;
                }
                (self.fresh_id()?, Arc::clone(&mapping.path), None)
            }
        };
        let build_id = build_id.or(mapping.build_id);
        self.open += usize::from(file.is_some());
        self.show_open();
        let root = self.roots.of(procfs, pid);
        let module = Arc::new(Module {
            id,
            kind: ModuleKind::File,
            path,
            build_id,
            identity: Some(identity),
            file,
            root,
        });
        let known = Known { module: Arc::clone(&module), build_id, idle_since: None };
        self.known.insert(identity, known);
        self.learn_name(mapping, identity);
        Some(module)
    }

    /// The one file that was seen under the same path with the same build id.
    fn recognise(&self, mapping: &Mapping) -> Option<Arc<Module>> {
        mapping.build_id?;
        let identity = (*self.by_name.get(&name_of(mapping))?)?;
        Some(Arc::clone(&self.known.get(&identity)?.module))
    }

    fn learn_name(&mut self, mapping: &Mapping, identity: FileIdentity) {
        if mapping.build_id.is_none() {
            return;
        }
        if self.by_name.len() >= 2 * self.known_max {
            // Links can give a file any number of names. They are learned again as they are seen.
            self.by_name.clear();
            self.meters.forgotten.inc();
        }
        self.by_name
            .entry(name_of(mapping))
            .and_modify(|seen| {
                if *seen != Some(identity) {
                    *seen = None;
                }
            })
            .or_insert(Some(identity));
    }

    /// A module without a file: a name for its frames to show, a build id for its names to be found by.
    fn unopened(&mut self, name: &Name) -> Option<Arc<Module>> {
        self.meters.unopened.inc();
        if let Some(module) = self.unopened.get(name) {
            return Some(Arc::clone(module));
        }
        if self.unopened.len() >= UNOPENED_MAX {
            self.unopened.clear();
            self.meters.forgotten.inc();
        }
        let module = Arc::new(Module {
            id: self.fresh_id()?,
            kind: ModuleKind::File,
            path: Arc::clone(&name.path),
            build_id: name.build_id,
            identity: None,
            file: None,
            root: None,
        });
        self.unopened.insert(name.clone(), Arc::clone(&module));
        Some(module)
    }

    /// The kernel's shared object is the same in every process, but for processes of the 32-bit kind, who have
    /// another one below 4 GiB that we cannot name.
    fn vdso(&mut self, mapping: &Mapping) -> Option<Arc<Module>> {
        if mapping.end.0 <= u64::from(u32::MAX) {
            return None;
        }
        if self.vdso.is_none() {
            self.vdso = Some(Arc::new(Module {
                id: self.fresh_id()?,
                kind: ModuleKind::Vdso,
                path: Arc::clone(&mapping.path),
                build_id: None,
                identity: None,
                file: None,
                root: None,
            }));
        }
        self.vdso.clone()
    }

    /// Closes files that nobody else holds and that have been so for `idle`; they stay known.
    fn close_idle(&mut self, now: MonoNs, idle: Duration) {
        for known in self.known.values_mut() {
            if Arc::strong_count(&known.module) > 1 {
                known.idle_since = None;
                continue;
            }
            let since = *known.idle_since.get_or_insert(now);
            if now.since(since) < idle {
                continue;
            }
            // The sole holder can take the file out, and dropping it closes it.
            if let Some(module) = Arc::get_mut(&mut known.module)
                && module.file.take().is_some()
            {
                module.root = None;
                self.open -= 1;
            }
        }
        self.show_open();
    }

    /// Forgets the half of the files in no use that has been so for longest.
    fn forget_idle(&mut self) {
        let mut idle: Vec<(MonoNs, FileIdentity)> = (self.known.iter())
            .filter(|(_, known)| Arc::strong_count(&known.module) == 1)
            .map(|(&identity, known)| (known.idle_since.unwrap_or(MonoNs(u64::MAX)), identity))
            .collect();
        idle.sort_unstable();
        idle.truncate(idle.len().div_ceil(2));
        for (_, identity) in &idle {
            if let Some(known) = self.known.remove(identity)
                && known.module.file.is_some()
            {
                self.open -= 1;
            }
            self.meters.forgotten.inc();
        }
        let known = &self.known;
        self.by_name.retain(|_, identity| identity.is_some_and(|identity| known.contains_key(&identity)));
        self.show_open();
    }

    /// The number of a new module; `None` after four billion.
    pub(super) fn fresh_id(&mut self) -> Option<u32> {
        let id = self.next_id;
        self.next_id = id.checked_add(1)?;
        Some(id)
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer files than 2^52 can be open")]
    fn show_open(&self) {
        self.meters.open.set(self.open as f64);
    }
}

fn name_of(mapping: &Mapping) -> Name {
    Name { path: Arc::clone(&mapping.path), build_id: mapping.build_id }
}

fn is_other(known: Option<BuildId>, seen: Option<BuildId>) -> bool {
    matches!((known, seen), (Some(known), Some(seen)) if known != seen)
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
