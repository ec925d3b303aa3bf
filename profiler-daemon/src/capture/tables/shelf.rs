//! Where each table lies, and which goes first when there is no more room.
//!
//! In: sizes of runs, and word of which tables were used. Out: where to write. Freed runs rest for a while before they are taken
//! again, since a program may be in the middle of a walk through them. Not here: what is written (`mod.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use profiler_common::unwind::table::SLAB_WORDS;
use rustc_hash::FxHashMap;

use super::runs::{Run, Runs};
use crate::time::MonoNs;

/// How long a freed run rests. A walk takes microseconds, but a virtual processor may be taken away in the middle of it.
const REST: Duration = Duration::from_secs(1);

/// A table that was used within this time does not make room for another: two that take turns would be built again and again.
const USED_LATELY: Duration = Duration::from_secs(120);

/// Words at which the tables used least recently make room, of eight parts of the budget: the next table is then placed at
/// once.
const FULL_EIGHTHS: u64 = 7;

/// There is no room for so many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) words: u64,
}

/// Where a table lies.
#[derive(Debug)]
struct Placed {
    runs: Vec<Run>,
    used: MonoNs,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shelf {
    runs: Runs,
    slabs_max: u32,
    /// By module.
    tables: FxHashMap<u32, Placed>,
    resting: VecDeque<(MonoNs, Run)>,
}

impl Shelf {
    /// Without slabs, of which there will be no more than `slabs_max`.
    pub(super) fn new(slabs_max: u32) -> Self {
        Self { runs: Runs::default(), slabs_max, tables: FxHashMap::default(), resting: VecDeque::new() }
    }

    /// Bytes in use, and bytes of all slabs.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.runs.used_words() * 4, u64::from(self.runs.slabs()) * SLAB_WORDS as u64 * 4)
    }

    /// Slabs to be made before `short` can be placed, none of them if the budget has no more.
    pub(super) fn growth(&self, short: Short) -> u32 {
        // A run that does not fit into what is left of one slab begins the next: half of a slab is lost at worst.
        let slabs = short.words.div_ceil(SLAB_WORDS as u64 / 2);
        u32::try_from(slabs).unwrap_or(u32::MAX).min(self.slabs_max.saturating_sub(self.runs.slabs()))
    }

    /// `count` slabs were made.
    pub(super) fn grown(&mut self, count: u32) {
        (0..count).for_each(|_| self.runs.add_slab());
    }

    /// Takes one run.
    pub(super) fn take(&mut self, words: u32, now: MonoNs) -> Result<Run, Short> {
        while let Some((freed, run)) = self.resting.front().copied()
            && now.since(freed) >= REST
        {
            self.resting.pop_front();
            self.runs.give(run);
        }
        self.runs.take(words).ok_or(Short { words: words.into() })
    }

    /// Frees a run.
    pub(super) fn free(&mut self, run: Run, now: MonoNs) {
        self.resting.push_back((now, run));
    }

    /// Takes runs of `sizes` for the table of `module`, all or none, in this order.
    pub(super) fn place(
        &mut self,
        module: u32,
        sizes: impl Iterator<Item = u32> + Clone,
        now: MonoNs,
    ) -> Result<&[Run], Short> {
        let mut runs = Vec::new();
        for (index, size) in sizes.clone().enumerate() {
            match self.take(size, now) {
                Ok(run) => runs.push(run),
                Err(_) => {
                    // Nobody has seen them: they need no rest.
                    runs.into_iter().for_each(|run| self.runs.give(run));
                    return Err(Short { words: sizes.skip(index).map(u64::from).sum() });
                }
            }
        }
        let placed = Placed { runs, used: now };
        Ok(&self.tables.entry(module).insert_entry(placed).into_mut().runs)
    }

    /// Frees the table of `module`.
    pub(super) fn forget(&mut self, module: u32, now: MonoNs) {
        if let Some(placed) = self.tables.remove(&module) {
            placed.runs.into_iter().for_each(|run| self.free(run, now));
        }
    }

    /// The table of `module` was used.
    pub(super) fn used(&mut self, module: u32, now: MonoNs) {
        if let Some(placed) = self.tables.get_mut(&module) {
            placed.used = now;
        }
    }

    /// The tables that are to be forgotten so that `wanted_words` are free of the budget, and an eighth of it in any case.
    pub(super) fn to_forget(&self, wanted_words: u64, now: MonoNs) -> Vec<u32> {
        let budget = u64::from(self.slabs_max) * SLAB_WORDS as u64;
        let most = (budget / 8 * FULL_EIGHTHS).min(budget.saturating_sub(wanted_words));
        let resting: u64 = self.resting.iter().map(|(_, run)| u64::from(run.words)).sum();
        let mut excess = (self.runs.used_words() - resting).saturating_sub(most);
        if excess == 0 {
            return Vec::new();
        }
        let mut by_age: Vec<_> = self.tables.iter().map(|(&module, placed)| (placed.used, module)).collect();
        by_age.sort_unstable();
        let mut forgotten = Vec::new();
        for (used, module) in by_age {
            if excess == 0 || now.since(used) < USED_LATELY {
                break;
            }
            let words: u64 = self.tables[&module].runs.iter().map(|run| u64::from(run.words)).sum();
            excess = excess.saturating_sub(words);
            forgotten.push(module);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const SLAB: u32 = 1 << 16;

    fn at(seconds: u64) -> MonoNs {
        MonoNs(seconds * 1_000_000_000)
    }

    /// A shelf of eight slabs at most, of which `slabs` are there.
    fn shelf(slabs: u32) -> Shelf {
        let mut shelf = Shelf::new(8);
        shelf.grown(slabs);
        shelf
    }

    #[test]
    fn a_table_is_placed_whole_or_not_at_all() {
        let mut shelf = shelf(1);
        let sizes = [SLAB / 2, SLAB / 4, SLAB / 2];
        let short = shelf.place(1, sizes.into_iter(), at(0)).unwrap_err();
        assert_eq!(short, Short { words: u64::from(SLAB / 2) });
        assert_eq!(shelf.bytes().0, 4, "address 0");
        assert_eq!(shelf.growth(short), 1);
        shelf.grown(1);
        assert_eq!(shelf.place(1, sizes.into_iter(), at(0)).unwrap().len(), 3);
    }

    #[test]
    fn the_budget_is_not_exceeded() {
        let shelf = shelf(7);
        assert_eq!(shelf.growth(Short { words: 1 }), 1);
        assert_eq!(shelf.growth(Short { words: u64::MAX }), 1);
        assert_eq!(self::shelf(8).growth(Short { words: 1 }), 0);
    }

    #[test]
    fn what_was_freed_rests_before_it_is_taken_again() {
        let mut shelf = shelf(1);
        let run = shelf.take(SLAB - 1, at(0)).unwrap();
        shelf.free(run, at(10));
        assert!(shelf.take(SLAB - 1, at(10)).is_err());
        assert_eq!(shelf.take(SLAB - 1, at(11)), Ok(run));
    }

    #[test]
    fn the_table_used_least_recently_goes_first() {
        let mut shelf = shelf(8);
        for (module, second) in [(1, 0), (2, 1), (3, 2)] {
            shelf.place(module, [SLAB, SLAB - 1].into_iter(), at(second)).unwrap();
        }
        shelf.used(1, at(3));
        assert!(shelf.to_forget(0, at(1000)).is_empty(), "an eighth is free");
        shelf.take(SLAB, at(3)).unwrap();
        shelf.take(SLAB / 2, at(3)).unwrap();
        assert_eq!(shelf.to_forget(0, at(1000)), [2]);
        assert_eq!(shelf.to_forget(3 * u64::from(SLAB), at(1000)), [2, 3]);
    }

    #[test]
    fn what_was_used_lately_does_not_make_room() {
        let mut shelf = shelf(8);
        (1..5).for_each(|module| _ = shelf.place(module, [SLAB, SLAB - 1].into_iter(), at(0)).unwrap());
        assert!(shelf.to_forget(0, at(119)).is_empty());
        assert_eq!(shelf.to_forget(0, at(120)).len(), 1);
    }

    #[test]
    fn a_table_that_was_forgotten_leaves_room() {
        let mut shelf = shelf(1);
        shelf.place(1, [SLAB - 1].into_iter(), at(0)).unwrap();
        shelf.forget(1, at(1));
        assert!(shelf.place(2, [SLAB - 1].into_iter(), at(2)).is_ok());
    }
}
