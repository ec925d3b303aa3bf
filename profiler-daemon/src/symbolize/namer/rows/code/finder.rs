//! Finds functions in code that no table describes.
//!
//! In: where some begin for sure, and where others may. Out: all that was understood, in a [`Flow`]. What begins for sure is gone through
//! again while that teaches where others begin and which of them do not return; guesses come after, and are taken back unless proven.

use std::collections::BTreeSet;
use std::fs::File;

use rustc_hash::FxHashSet;

use super::super::super::super::bounds::{Bound, Reached};
use super::super::super::stubs::Stubs;
use super::flow::{ALIGNED_BYTES, Flow, is_padding};
use super::space::{Gap, Space};

/// How often all is gone through because of what was learned, at most. What another pass could teach is which calls do not return, so that something
/// behind them is not understood.
const PASSES_MAX: usize = 6;
/// How often it is guessed where functions begin in what was not reached, at most: each time between what was found before. What would be found later
/// has no rules.
const GUESSES_MAX: usize = 64;

/// Functions of libraries that do not return.
const ENDLESS: [&str; 12] = [
    "abort",
    "exit",
    "_exit",
    "quick_exit",
    "__assert_fail",
    "__stack_chk_fail",
    "__fortify_fail",
    "__chk_fail",
    "longjmp",
    "siglongjmp",
    "__longjmp_chk",
    "pthread_exit",
];

/// What is known so far.
pub(super) struct Finder<'a> {
    pub(super) space: &'a Space,
    pub(super) flow: Flow<'a>,
    /// Where trampolines of signals begin.
    pub(super) signals: BTreeSet<u64>,
    /// Where functions may begin, because data or other code leads there.
    pub(super) doubtful: BTreeSet<u64>,
    /// Of what followed code takes the address: hardly anything but functions.
    pub(super) taken: BTreeSet<u64>,
    bounds: Reached,
    /// Instructions that were looked at in the last pass.
    pass_looks: u64,
    file: &'a File,
    stubs: Stubs,
    /// Stubs whose names are known.
    asked: FxHashSet<u64>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(space: &'a Space, flow: Flow<'a>, file: &'a File) -> Self {
        let (signals, doubtful, taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self {
            space,
            flow,
            signals,
            doubtful,
            taken,
            bounds: Reached::default(),
            pass_looks: 0,
            file,
            stubs: Stubs::default(),
            asked: FxHashSet::default(),
        }
    }
}

impl Finder<'_> {
    /// Takes `starts` for the beginnings of functions.
    pub(super) fn take(&mut self, starts: impl Iterator<Item = u64>) {
        for start in starts {
            let Some(code) = self.space.from(start) else { continue };
            if signal_bytes(code).is_some() {
                self.signals.insert(start);
            } else {
                self.flow.starts.insert(start);
            }
        }
    }

    /// Which bounds were reached.
    pub(super) fn bounds(&self) -> Reached {
        let mut bounds = self.flow.bounds();
        bounds.append(&self.bounds);
        bounds
    }

    /// Goes through all functions that begin for sure, and those that they call.
    pub(super) fn find(&mut self) {
        for pass in 1..=PASSES_MAX {
            // What cannot be gone through to its end, and that may be more than before, would only be forgotten.
            if self.flow.looks() < self.pass_looks * 2 {
                self.bounds.note(Bound::Passes);
                break;
            }
            let (known, looks) = (self.learned(), self.flow.looks());
            self.flow.forget();
            let mut next: BTreeSet<u64> = self.flow.starts.iter().copied().collect();
            while let Some(start) = next.pop_first() {
                self.explore(start, &mut next);
            }
            self.pass_looks = looks - self.flow.looks();
            if known == self.learned() {
                break;
            }
            self.bounds.add(Bound::Passes, u64::from(pass == PASSES_MAX));
        }
    }

    /// How much is known that another pass goes by.
    fn learned(&self) -> [usize; 3] {
        [self.flow.starts.len(), self.flow.endless.len(), self.flow.final_calls.len()]
    }

    /// Goes through a function that begins for sure; adds to `next` those that it calls and nobody knew.
    fn explore(&mut self, start: u64, next: &mut BTreeSet<u64>) {
        let explored = self.flow.explore(start);
        if explored.is_known && !explored.returns {
            self.flow.endless.insert(start);
        }
        for called in std::mem::take(&mut self.flow.called) {
            if self.space.index(called).is_none() {
                self.ask(called);
            } else if self.flow.starts.insert(called) {
                next.insert(called);
            }
        }
        self.taken.extend(std::mem::take(&mut self.flow.taken));
    }

    /// Notes whether the stub at `called` leads to a function that does not return.
    fn ask(&mut self, called: u64) {
        if self.asked.insert(called)
            && let Some(name) = self.stubs.name(self.file, called)
            && ENDLESS.iter().any(|endless| name.strip_suffix("@plt") == Some(endless))
        {
            self.flow.endless.insert(called);
        }
    }

    /// Whether there is code that was not reached, but for padding.
    pub(super) fn has_more(&self) -> bool {
        const FEW_BYTES: usize = 32;
        let mut unknown = 0;
        for gap in self.space.gaps() {
            let mut at = gap.first;
            while let Some(begins) = self.unknown(gap, at) {
                at = self.known_from(gap, begins);
                unknown += at - begins;
            }
        }
        unknown > FEW_BYTES
    }

    /// Tries what may be functions, and goes through all again if some are.
    pub(super) fn guess(&mut self) {
        let before = self.flow.starts.len();
        let mut tried = BTreeSet::new();
        for guess in 1..=GUESSES_MAX {
            let mut found = false;
            while let Some(start) = self.taken.pop_first() {
                found |= tried.insert(start) && self.tries(start, start.is_multiple_of(ALIGNED_BYTES));
            }
            while let Some(start) = self.doubtful.pop_first() {
                found |= tried.insert(start) && self.tries(start, false);
            }
            if !found {
                found = self.try_unknown(&mut tried);
            }
            if !found || self.flow.is_spent() {
                break;
            }
            self.bounds.add(Bound::Guesses, u64::from(guess == GUESSES_MAX));
        }
        if self.flow.starts.len() > before {
            self.find();
        }
    }

    /// Tries what comes first in each stretch that was not reached, and what comes first behind it if that is a function. Whether any is.
    fn try_unknown(&mut self, tried: &mut BTreeSet<u64>) -> bool {
        let mut found = false;
        for gap in self.space.gaps() {
            let mut at = gap.first;
            while let Some(begins) = self.unknown(gap, at) {
                let start = gap.address + (begins - gap.first) as u64;
                let is_one =
                    start.is_multiple_of(ALIGNED_BYTES) && tried.insert(start) && self.tries(start, false);
                at = if is_one { begins } else { self.known_from(gap, begins) };
                found |= is_one;
            }
        }
        found
    }

    /// Whether a function begins at `start`, which is gone through if so, with those that it calls. One that `may_be_endless` needs
    /// not be seen to return: it does not, or another one does for it.
    fn tries(&mut self, start: u64, may_be_endless: bool) -> bool {
        let Some(code) = self.space.from(start) else { return false };
        if signal_bytes(code).is_some() {
            return self.signals.insert(start);
        }
        if self.space.index(start).is_none_or(|index| self.flow.at(index).is_some()) || is_padding(code) {
            return false;
        }
        let explored = self.flow.explore(start);
        if !explored.is_known
            || !(explored.is_proven || (may_be_endless && (!explored.returns || explored.hands_on)))
        {
            self.flow.disbelieve();
            return false;
        }
        self.flow.starts.insert(start);
        let mut next: BTreeSet<u64> = BTreeSet::new();
        for called in std::mem::take(&mut self.flow.called) {
            let unknown = self.space.index(called).is_some_and(|index| self.flow.at(index).is_none());
            if unknown && self.flow.starts.insert(called) {
                next.insert(called);
            }
        }
        self.taken.extend(std::mem::take(&mut self.flow.taken));
        while let Some(start) = next.pop_first() {
            self.explore(start, &mut next);
        }
        true
    }

    /// The first byte from `at` on that was not reached and is not padding, if there is one in `gap`.
    fn unknown(&self, gap: &Gap, mut at: usize) -> Option<usize> {
        let end = gap.first + gap.bytes;
        while at < end {
            if self.flow.at(at).is_some() {
                at += self.flow.length(at);
                continue;
            }
            let address = gap.address + (at - gap.first) as u64;
            let padding = padding_bytes(self.space.from(address).unwrap_or_default(), address);
            if padding == 0 {
                return Some(at);
            }
            // Some of it may be code that is reached.
            let behind = end.min(at + padding);
            at = (at..behind).find(|&at| self.flow.at(at).is_some()).unwrap_or(behind);
        }
        None
    }

    /// The first byte from `at` on that was reached; the end of `gap` if there is none.
    fn known_from(&self, gap: &Gap, at: usize) -> usize {
        let end = gap.first + gap.bytes;
        (at..end).find(|&at| self.flow.at(at).is_some()).unwrap_or(end)
    }
}

/// Bytes of padding that code begins with.
fn padding_bytes(code: &[u8], address: u64) -> usize {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};
    if code.first() == Some(&0) {
        return code.iter().take_while(|&&byte| byte == 0).count();
    }
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut bytes = 0;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let is_filler = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
            || (instruction.mnemonic() == Mnemonic::Xchg && instruction.len() == 2);
        if !is_filler {
            break;
        }
        bytes += instruction.len();
    }
    bytes
}

/// How long the trampoline of a signal is that code begins with, as every C library has it: the call of the system with number 15.
pub(super) fn signal_bytes(code: &[u8]) -> Option<u64> {
    match code {
        [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, ..] => Some(9),
        [0xb8, 15, 0, 0, 0, 0x0f, 0x05, ..] => Some(7),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::switch::Switch;
    use super::*;

    const BASE: u64 = 0x40_1000;

    /// What is made of `code`, of which only the first function is known.
    fn found(code: &[u8], each: impl FnOnce(&mut Finder<'_>)) {
        let mut space = Space::default();
        space.push(BASE, 0, code);
        let file = tempfile::tempfile().unwrap();
        let mut finder = Finder::new(&space, Flow::new(&space, None, Switch::new(&file, &[])), &file);
        finder.take(std::iter::once(BASE));
        finder.find();
        each(&mut finder);
    }

    /// Ten thousand that nobody calls, one right behind the other: each is seen only when the one before is known.
    #[test]
    fn a_row_of_functions_is_found_at_once() {
        const FUNCTIONS: usize = 10_000;
        let code = [&[0xc3][..], &[0x90; 15]].concat().repeat(FUNCTIONS);
        found(&code, |finder| {
            finder.guess();
            let known = (0..FUNCTIONS).filter(|number| finder.flow.at(number * 16).is_some()).count();
            assert_eq!((known, finder.bounds()), (FUNCTIONS, Reached::default()));
        });
    }

    #[test]
    fn a_pass_that_may_not_be_finished_is_not_begun() {
        found(&[0x53, 0x5b, 0xc3], |finder| {
            finder.pass_looks = u64::MAX / 4;
            finder.find();
            assert!(finder.flow.at(1).is_some(), "what was known is not forgotten");
            assert_eq!(finder.bounds().iter().collect::<Vec<_>>(), [(Bound::Passes, 1)]);
        });
    }
}
