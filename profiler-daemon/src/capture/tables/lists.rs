//! Which list of mappings each process has: forks share one until one of them changes it.
//!
//! In: processes and their tables of mappings. Out: which lists are to be written, and which are of no use any more.

use std::sync::Arc;

use profiler_common::unwind::table::MappingList;
use rustc_hash::{FxHashMap, FxHashSet};

use super::MAPPING_WORDS_U32;
use super::runs::Run;
use crate::model::Pid;
use crate::processes::Mappings;

/// Where a list was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) run: Run,
    /// As in [`MappingList`].
    pub(super) version: u32,
}

impl Written {
    /// As the kernel side has it for a process.
    pub(super) const fn list(self) -> MappingList {
        let Self { run: Run { address, words }, version } = self;
        MappingList { address, mappings: words / MAPPING_WORDS_U32, version }
    }
}

/// A list that lies in the slabs.
#[derive(Debug)]
pub(super) struct List {
    /// What it lists; held, so that its address stays its name.
    pub(super) mappings: Arc<Mappings>,
    pub(super) written: Written,
    processes: usize,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Lists {
    by_mappings: FxHashMap<usize, List>,
    by_process: FxHashMap<Pid, usize>,
}

fn name(mappings: &Arc<Mappings>) -> usize {
    Arc::as_ptr(mappings).addr()
}

impl Lists {
    /// The list of exactly these mappings, if one lies there already.
    pub(super) fn find(&self, mappings: &Arc<Mappings>) -> Option<Written> {
        self.by_mappings.get(&name(mappings)).map(|list| list.written)
    }

    /// The mappings of `pid` as it was last told.
    pub(super) fn of(&self, pid: Pid) -> Option<&Arc<Mappings>> {
        self.by_process.get(&pid).and_then(|name| self.by_mappings.get(name)).map(|list| &list.mappings)
    }

    /// Process `pid` has the list that was `written`, which lists `mappings`. Returns the run that nobody has any more, if there is one.
    #[must_use]
    pub(super) fn set(&mut self, pid: Pid, mappings: &Arc<Mappings>, written: Written) -> Option<Run> {
        let name = name(mappings);
        let list = self.by_mappings.entry(name).or_insert_with(|| List {
            mappings: Arc::clone(mappings),
            written,
            processes: 0,
        });
        list.processes += 1;
        let before = self.by_process.insert(pid, name);
        before.and_then(|name| self.leave(name))
    }

    /// Process `pid` has no list. Returns the run that nobody has any more, if there is one.
    #[must_use]
    pub(super) fn remove(&mut self, pid: Pid) -> Option<Run> {
        let name = self.by_process.remove(&pid)?;
        self.leave(name)
    }

    /// True if `pid` has a list.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.by_process.contains_key(&pid)
    }

    /// All lists, by a name that each has for as long as it is there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &List)> {
        self.by_mappings.iter().map(|(&name, list)| (name, list))
    }

    /// The list called `name` was changed where it lies, and has `version` now.
    pub(super) fn renew(&mut self, name: usize, version: u32) {
        if let Some(list) = self.by_mappings.get_mut(&name) {
            list.written.version = version;
        }
    }

    /// The processes with one of the lists called `names`.
    pub(super) fn processes_with(&self, names: &FxHashSet<usize>) -> Vec<(Pid, Written)> {
        let with = self.by_process.iter().filter(|(_, name)| names.contains(name));
        with.filter_map(|(&pid, name)| Some((pid, self.by_mappings.get(name)?.written))).collect()
    }

    fn leave(&mut self, name: usize) -> Option<Run> {
        let list = self.by_mappings.get_mut(&name)?;
        list.processes -= 1;
        if list.processes > 0 {
            return None;
        }
        self.by_mappings.remove(&name).map(|list| list.written.run)
    }
}
