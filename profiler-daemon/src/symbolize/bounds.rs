//! Bounds that the namer may reach in a file, and how often it did.
//!
//! In: what leaves something out because there is too much of it. Out: how often, by bound, which an answer carries to the agent. Not here:
//! the bounds themselves, each of which stands where it holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Bound {
    /// Functions of a file: each that has no rules.
    Functions,
    /// Bytes of a function: each whose end has no rules.
    FunctionBytes,
    /// Pages that a table may have: each function behind them.
    Pages,
    /// Rows of one page: each page without any.
    PageRows,
    /// Words of a table: each function that has no rules.
    Words,
    /// Bytes of what a compiler wrote for unwinding: each section that was not read, or not to its end.
    TableBytes,
    /// Code that no table describes: each stretch of it.
    Code,
    /// Instructions that are looked at in such code: each file.
    Instructions,
    /// Passes through such code: each file of which another one could have taught more.
    Passes,
    /// Rounds of guessing where functions begin in it: each file with more to be guessed.
    Guesses,
    /// Calls that do not return of one function in it: each function.
    FinalCalls,
    /// Different states of a stack in it: each time that one was taken for unknown.
    States,
    /// Entries of tables of jumps in it: each table that was not read.
    JumpTables,
    /// Symbols, or names of them: each table that was not read, and each name.
    Symbols,
    /// Described code that is looked through for calls: each file.
    Callers,
    /// Data that is looked through for pointers: each file.
    Data,
    /// Addresses that a loader will write: each file of which some were not read.
    Relocations,
    /// Stubs through which a file calls libraries: each section of which not all have rules, and each name.
    Stubs,
}

impl Bound {
    /// What it is called where it is counted.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Functions => "functions",
            Self::FunctionBytes => "bytes of a function",
            Self::Pages => "pages",
            Self::PageRows => "rows of a page",
            Self::Words => "words",
            Self::TableBytes => "bytes of a table",
            Self::Code => "code without a table",
            Self::Instructions => "instructions",
            Self::Passes => "passes",
            Self::Guesses => "guesses",
            Self::FinalCalls => "calls of a function",
            Self::States => "states",
            Self::JumpTables => "tables of jumps",
            Self::Symbols => "symbols",
            Self::Callers => "callers",
            Self::Data => "data",
            Self::Relocations => "relocations",
            Self::Stubs => "stubs",
        }
    }
}

/// How often each bound was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reached(BTreeMap<Bound, u64>);

impl Reached {
    /// `bound` was reached once more.
    pub(super) fn note(&mut self, bound: Bound) {
        self.add(bound, 1);
    }

    /// `bound` was reached so many `times`.
    pub(super) fn add(&mut self, bound: Bound, times: u64) {
        if times > 0 {
            let known = self.0.entry(bound).or_default();
            *known = known.saturating_add(times);
        }
    }

    /// What `other` says holds beside this.
    pub(super) fn append(&mut self, other: &Self) {
        for (bound, times) in other.iter() {
            self.add(bound, times);
        }
    }

    /// Each that was reached, and how often.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Bound, u64)> {
        self.0.iter().map(|(bound, times)| (*bound, *times))
    }

    /// True if none was reached.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_summed_and_what_was_not_is_not_there() {
        let (mut all, mut more) = (Reached::default(), Reached::default());
        all.add(Bound::Functions, 0);
        assert!(all.is_empty());
        all.note(Bound::Stubs);
        more.add(Bound::Stubs, 2);
        more.add(Bound::Code, u64::MAX);
        all.append(&more);
        all.note(Bound::Code);
        assert_eq!(all.iter().collect::<Vec<_>>(), [(Bound::Code, u64::MAX), (Bound::Stubs, 3)]);
    }
}
