//! Remembers names, as many as fit a budget.
//!
//! In: names by (module, offset). Out: the same, until they are the least recently used ones. Two generations:
//! what is used lives in the young one; when that has filled half of the budget, it becomes the old one, and
//! the old one goes whole. So nothing is kept per name to know its age, and what no window used since goes first.
//!
//! A module is known here by a small number, its slot: the same for all modules of equal file identity. Not
//! by build id, which anyone can forge: names of a forged file must not become another's.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::{FileIdentity, Function, Module, ModuleKind};

/// Functions at one address, innermost first.
pub(super) type Names = Arc<[Arc<Function>]>;

/// A place in a module: its slot, and file offset or kernel address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) address: u64,
}

/// The kernel's slot.
pub(super) const KERNEL: u32 = 0;
/// The vDSO's slot.
pub(super) const VDSO: u32 = 1;
const FIRST_FILE: u32 = 2;

/// Names under a budget.
#[derive(Debug)]
pub(super) struct Cache {
    young: Generation,
    old: Generation,
    slots: Slots,
    bytes_max: usize,
    evicted: u64,
}

#[derive(Debug, Default)]
struct Generation {
    names: FxHashMap<Key, Names>,
    functions: FxHashSet<Arc<Function>>,
    strings: FxHashSet<Arc<str>>,
    bytes: usize,
}

#[derive(Debug)]
struct Slots {
    by_id: FxHashMap<u32, u32>,
    by_identity: FxHashMap<FileIdentity, u32>,
    debug: FxHashMap<u32, Debug>,
    next: u32,
}

/// What is done about the debug information of a file, where that has to be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Debug {
    /// Names are remembered without it.
    PutOff,
    /// It is worth being unpacked, and names are remembered with it.
    Wanted,
}

// What an entry costs beside its text: table room at three quarters load, and the allocation.
const NAMES_BYTES: usize = 72;
const FUNCTION_BYTES: usize = size_of::<Function>() + 32;
const STRING_BYTES: usize = 48;
const SLOT_BYTES: usize = 96;

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            slots: Slots {
                by_id: FxHashMap::default(),
                by_identity: FxHashMap::default(),
                debug: FxHashMap::default(),
                next: FIRST_FILE,
            },
            bytes_max,
            evicted: 0,
        }
    }

    /// The slot of `module`.
    pub(super) fn slot(&mut self, module: &Module) -> u32 {
        match module.kind {
            ModuleKind::Vdso => return VDSO,
            ModuleKind::File => {}
            // What it says changes: whoever knows that it did not remembers the slot.
            ModuleKind::PerfMap => return self.fresh_slot(),
        }
        if let Some(&slot) = self.slots.by_id.get(&module.id) {
            return slot;
        }
        let known = module.identity.and_then(|identity| self.slots.by_identity.get(&identity).copied());
        let slot = known.unwrap_or_else(|| self.fresh_slot());
        if let Some(identity) = module.identity {
            self.slots.by_identity.insert(identity, slot);
        }
        self.young.bytes += SLOT_BYTES;
        self.turn_if_full();
        self.slots.by_id.insert(module.id, slot);
        slot
    }

    /// The file of `slot` was named without the debug information that it has.
    pub(super) fn put_debug_off(&mut self, slot: u32) {
        self.slots.debug.entry(slot).or_insert(Debug::PutOff);
    }

    /// The file of `slot` is worth its debug information. What it was named without that is forgotten: its files have another slot.
    pub(super) fn want_debug(&mut self, slot: u32) {
        if self.slots.debug.insert(slot, Debug::Wanted) != Some(Debug::PutOff) {
            return;
        }
        let fresh = self.fresh_slot();
        let Slots { by_id, by_identity, debug, .. } = &mut self.slots;
        debug.remove(&slot);
        debug.insert(fresh, Debug::Wanted);
        for known in by_id.values_mut().chain(by_identity.values_mut()).filter(|known| **known == slot) {
            *known = fresh;
        }
    }

    /// Whether the file of `slot` is worth its debug information.
    pub(super) fn wants_debug(&self, slot: u32) -> bool {
        self.slots.debug.get(&slot) == Some(&Debug::Wanted)
    }

    /// A slot that nothing is remembered of.
    fn fresh_slot(&mut self) -> u32 {
        let slot = self.slots.next;
        // Wraps after four billion files, to numbers that are long forgotten.
        self.slots.next = slot.checked_add(1).unwrap_or(FIRST_FILE);
        slot
    }

    /// The names at `key`, if remembered.
    pub(super) fn get(&mut self, key: Key) -> Option<Names> {
        if let Some(names) = self.young.names.get(&key) {
            return Some(names.clone());
        }
        let names = self.old.names.remove(&key)?;
        self.insert(key, names.clone());
        Some(names)
    }

    /// Remembers `names` at `key`.
    pub(super) fn insert(&mut self, key: Key, names: Names) {
        for function in &*names {
            if !self.young.functions.contains(function) {
                self.young.keep_string(&function.name);
                self.young.keep_string(&function.file);
                self.young.keep_string(&function.module);
                self.young.functions.insert(function.clone());
                self.young.bytes += FUNCTION_BYTES;
            }
        }
        self.young.bytes += NAMES_BYTES + names.len() * size_of::<Arc<Function>>();
        self.young.names.insert(key, names);
        self.turn_if_full();
    }

    /// `function`, or the equal one that is remembered.
    pub(super) fn function(&self, function: Function) -> Arc<Function> {
        match self.young.functions.get(&function).or_else(|| self.old.functions.get(&function)) {
            Some(known) => known.clone(),
            None => Arc::new(function),
        }
    }

    /// `text`, or the equal one that is remembered.
    pub(super) fn string(&self, text: &str) -> Arc<str> {
        match self.young.strings.get(text).or_else(|| self.old.strings.get(text)) {
            Some(known) => known.clone(),
            None => Arc::from(text),
        }
    }

    /// Bytes in use, by estimate.
    pub(super) fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// Names that went because others came, since the last call.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    fn turn_if_full(&mut self) {
        if self.young.bytes <= self.bytes_max / 2 {
            return;
        }
        self.evicted += self.old.names.len() as u64;
        self.old = std::mem::take(&mut self.young);
        let live: FxHashSet<u32> = self.old.names.keys().map(|key| key.slot).collect();
        self.slots.by_id.retain(|_, slot| live.contains(slot));
        self.slots.by_identity.retain(|_, slot| live.contains(slot));
        self.slots.debug.retain(|slot, _| live.contains(slot));
    }
}

impl Generation {
    fn keep_string(&mut self, text: &Arc<str>) {
        if self.strings.insert(text.clone()) {
            self.bytes += STRING_BYTES + text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::model::{BuildId, Known};

    fn module(id: u32, inode: Option<u64>) -> Module {
        Module {
            id,
            kind: ModuleKind::File,
            path: Arc::from(&b"/a"[..]),
            build_id: BuildId::new(b"the same"),
            identity: inode.map(|inode| FileIdentity { device: 1, inode, size: 1, ctime_ns: 1 }),
            file: None,
            root: None,
        }
    }

    fn names(name: &str) -> Names {
        let empty: Arc<str> = Arc::from("");
        let (name, file, known) = (Arc::from(name), empty.clone(), Known::Name);
        Arc::from([Arc::new(Function { name, file, line: 0, module: empty, kernel: false, known })])
    }

    fn key(address: u64) -> Key {
        Key { slot: 9, address }
    }

    #[test]
    fn one_file_known_twice_is_one_module() {
        let mut cache = Cache::new(1 << 20);
        assert_eq!(cache.slot(&module(1, Some(5))), cache.slot(&module(2, Some(5))));
    }

    #[test]
    fn a_build_id_shares_nothing() {
        let mut cache = Cache::new(1 << 20);
        assert_ne!(cache.slot(&module(1, Some(5))), cache.slot(&module(2, Some(6))));
        assert_ne!(cache.slot(&module(3, None)), cache.slot(&module(4, None)));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut cache = Cache::new(20_000);
        cache.insert(key(0), names("used"));
        cache.insert(key(1), names("unused"));
        for address in 2..1000 {
            cache.insert(key(address), names(&format!("f{address}")));
            assert!(cache.get(key(0)).is_some(), "after {address}");
            assert!(cache.bytes() <= 20_000 + 1000, "{}", cache.bytes());
        }
        assert!(cache.get(key(1)).is_none());
        assert!(cache.take_evicted() > 900);
    }

    #[test]
    fn a_thousand_fresh_files_do_not_fill_the_table() {
        let mut cache = Cache::new(20_000);
        for id in 0..1000 {
            let slot = cache.slot(&module(id, Some(u64::from(id))));
            cache.insert(Key { slot, address: 0 }, names("main"));
        }
        assert!(cache.slots.by_id.len() < 200, "{}", cache.slots.by_id.len());
        assert!(cache.slots.by_identity.len() < 200);
    }

    #[test]
    fn functions_are_shared() {
        let mut cache = Cache::new(1 << 20);
        let first = names("f");
        cache.insert(key(0), first.clone());
        let again = cache.function((*names("f")[0]).clone());
        assert!(Arc::ptr_eq(&first[0], &again));
        assert!(Arc::ptr_eq(&cache.string("f"), &first.first().unwrap().name));
    }
}
