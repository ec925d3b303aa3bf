//! Which words of the slabs are free.
//!
//! In: how many words are wanted. Out: where they lie, by word address: slab in the upper sixteen bits, word in the lower. No
//! run crosses from one slab into the next. Not here: what is written there (`memory.rs`), and how long a run rests
//! before it is given back (`shelf.rs`).

use std::collections::{BTreeMap, BTreeSet};

use profiler_common::unwind::table::SLAB_WORDS;

/// Words that lie together in one slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Run {
    /// Address of the first; never 0, which means none.
    pub(super) address: u32,
    /// How many; never 0.
    pub(super) words: u32,
}

impl Run {
    fn end(self) -> u32 {
        self.address.wrapping_add(self.words)
    }
}

/// Words of a slab, as an address counts them.
const WORDS: u32 = 1 << 16;
const _: () = assert!(SLAB_WORDS == WORDS as usize, "an address keeps sixteen bits for the word");

/// The free runs of all slabs. The smallest that is large enough is taken, so that large ones stay for blocks of many
/// rows.
#[derive(Debug, Default)]
pub(super) struct Runs {
    slabs: u32,
    by_address: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    free_words: u64,
}

impl Runs {
    /// Slabs there are.
    pub(super) fn slabs(&self) -> u32 {
        self.slabs
    }

    /// Words in use, address 0 among them.
    pub(super) fn used_words(&self) -> u64 {
        u64::from(self.slabs) * u64::from(WORDS) - self.free_words
    }

    /// There is one more slab, and all of it is free but for address 0.
    pub(super) fn add_slab(&mut self) {
        let first = u32::from(self.slabs == 0);
        let address = (self.slabs << 16) + first;
        self.slabs += 1;
        self.insert(Run { address, words: WORDS - first });
    }

    /// Takes a run of `words`; `None` if no free run is that long.
    pub(super) fn take(&mut self, words: u32) -> Option<Run> {
        if words == 0 {
            return None;
        }
        let &(size, address) = self.by_size.range((words, 0)..).next()?;
        self.remove(address, size);
        if size > words {
            self.insert(Run { address: address + words, words: size - words });
        }
        Some(Run { address, words })
    }

    /// Gives a run back that was taken, and joins it with free neighbours in its slab.
    pub(super) fn give(&mut self, run: Run) {
        let Run { mut address, mut words } = run;
        let same_slab = |other: u32| other >> 16 == run.address >> 16;
        if let Some((&before, &size)) = self.by_address.range(..address).next_back() {
            debug_assert!(before.wrapping_add(size) <= address, "given back twice");
            if same_slab(before) && before + size == address {
                self.remove(before, size);
                (address, words) = (before, words + size);
            }
        }
        // At the very end of the last slab there is no neighbour to ask for.
        if let Some(&size) = self.by_address.get(&run.end())
            && same_slab(run.end())
        {
            self.remove(run.end(), size);
            words += size;
        }
        self.insert(Run { address, words });
    }

    fn insert(&mut self, run: Run) {
        self.by_address.insert(run.address, run.words);
        self.by_size.insert((run.words, run.address));
        self.free_words += u64::from(run.words);
    }

    fn remove(&mut self, address: u32, words: u32) {
        self.by_address.remove(&address);
        self.by_size.remove(&(words, address));
        self.free_words -= u64::from(words);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn slabs(count: u32) -> Runs {
        let mut runs = Runs::default();
        (0..count).for_each(|_| runs.add_slab());
        runs
    }

    /// Runs of these sizes are taken one after another from `count` slabs; where they lie.
    #[track_caller]
    fn check(count: u32, sizes: &[u32], expected: &[Option<u32>]) {
        let mut runs = slabs(count);
        let found: Vec<_> = sizes.iter().map(|&size| runs.take(size).map(|run| run.address)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn address_zero_is_never_given_out() {
        check(1, &[1, 1], &[Some(1), Some(2)]);
    }

    #[test]
    fn without_a_slab_there_is_nothing() {
        check(0, &[1], &[None]);
    }

    #[test]
    fn nothing_is_no_run() {
        check(1, &[0], &[None]);
    }

    #[test]
    fn a_whole_slab_is_the_longest_run() {
        check(2, &[WORDS, WORDS + 1, WORDS], &[Some(1 << 16), None, None]);
    }

    #[test]
    fn no_run_crosses_from_one_slab_into_the_next() {
        check(3, &[40_000, 40_000, 40_000], &[Some(1), Some(1 << 16), Some(2 << 16)]);
    }

    #[test]
    fn the_smallest_hole_that_fits_is_taken() {
        let mut runs = slabs(1);
        let taken: Vec<Run> = [100, 1, 10, 1].iter().map(|&words| runs.take(words).unwrap()).collect();
        runs.give(taken[0]);
        runs.give(taken[2]);
        assert_eq!(runs.take(10), Some(taken[2]));
    }

    #[test]
    fn the_last_slab_may_be_the_last_there_can_be() {
        let mut runs = Runs { slabs: WORDS - 1, ..Runs::default() };
        runs.slabs = WORDS - 1;
        runs.insert(Run { address: (WORDS - 1) << 16, words: WORDS });
        let run = runs.take(WORDS).unwrap();
        runs.give(run);
        assert_eq!(runs.take(WORDS), Some(run));
    }

    /// Takes and gives at random, and never hands out a word twice; in the end everything is free and joined again.
    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let mut runs = slabs(3);
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((random >> 33) % below).unwrap()
        };
        let mut taken: Vec<Run> = Vec::new();
        let mut used = vec![false; 3 << 16];
        for _ in 0..20_000 {
            if next(2) == 0 || taken.is_empty() {
                if let Some(run) = runs.take(1 + next(3000)) {
                    assert_eq!(run.address >> 16, (run.end() - 1) >> 16);
                    for word in run.address..run.end() {
                        assert!(!std::mem::replace(&mut used[word as usize], true), "{word} is in use");
                    }
                    taken.push(run);
                }
            } else {
                let run = taken.swap_remove(next(taken.len() as u64) as usize);
                used[run.address as usize..run.end() as usize].fill(false);
                runs.give(run);
            }
            assert_eq!(runs.used_words(), 1 + taken.iter().map(|run| u64::from(run.words)).sum::<u64>());
        }
        taken.drain(..).for_each(|run| runs.give(run));
        let free: Vec<_> = runs.by_address.into_iter().collect();
        assert_eq!(free, [(1, WORDS - 1), (1 << 16, WORDS), (2 << 16, WORDS)]);
    }
}
