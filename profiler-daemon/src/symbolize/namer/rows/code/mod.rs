//! Rules of code that no table describes, made by following the stack pointer through it.
//!
//! In: the code of a file between the functions of its tables. Out: functions, and rules for what is understood of them. C libraries without unwind
//! tables (musl's) are such code, programs built without any, and assembly. Functions begin where symbols say, where calls and pointers
//! lead, and behind padding; what is only guessed counts if it was seen to return with the stack as it has to be. Not here: frames that a table
//! describes; and aarch64.

mod finder;
mod flow;
mod places;
mod space;
mod state;
mod switch;

#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;

use profiler_common::unwind::table::Rule;

use self::finder::{Finder, signal_bytes};
use self::flow::{Flow, is_padding};
use self::switch::Switch;
use super::super::super::bounds::{Bound, Reached};
use super::super::elf::{Reader, Section, Segment};
use super::{Function, PADDING_BYTES_MAX};

/// Bytes of such code of a file at most, which take a tenth of a second or two: a C library has four hundred thousand. A file with more has
/// none of these rules: engines of JavaScript have some million, browsers a hundred, and both keep frame pointers. There can be no more stretches of
/// it, nor places in it where something may begin.
pub(super) const CODE_BYTES_MAX: u64 = 1 << 20;

/// A function that was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    address: u64,
    offset: u64,
    bytes: u64,
    /// Where its rules begin among those of all.
    first: usize,
}

/// Functions without a table, and their rules.
#[derive(Debug, Default)]
pub(super) struct Code {
    found: Vec<Found>,
    rules: Vec<(u64, Rule)>,
    /// What was left out because there was too much of it.
    pub(super) bounds: Reached,
}

/// What is known of the file already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// What is mapped.
    pub(super) segments: &'a [Segment],
    /// Sections with code.
    pub(super) sections: &'a [Section],
    /// Functions of its tables, ascending by offset.
    pub(super) functions: &'a [Function],
    /// Where functions begin that no symbol names.
    pub(super) nameless: &'a [u64],
    /// Where it begins.
    pub(super) entry: Option<u64>,
    /// True if its addresses are those of the process.
    pub(super) is_fixed: bool,
    /// Bytes of code without a table, of which there are no rules if it is more.
    pub(super) bytes_max: u64,
}

impl Code {
    /// Follows the stack pointer through the code of `file` that is not known.
    pub(super) fn read(file: &File, reader: &Reader<'_>, known: Known<'_>) -> Self {
        let mut code = Self::default();
        let space = places::gaps(file, known, &mut code.bounds);
        if space.bytes() == 0 {
            return code;
        }
        let flow = Flow::new(&space, known.entry, Switch::new(file, known.segments));
        let mut finder = Finder::new(&space, flow, file);
        finder.take(known.entry.into_iter());
        finder.take(known.nameless.iter().copied());
        // What cannot be read of these leads nowhere.
        let _ = places::symbols(reader, &space, &mut code.bounds, |address| {
            finder.take(std::iter::once(address))
        });
        finder.find();
        if finder.has_more() {
            let mut pointers = BTreeSet::new();
            let mut note = |address: u64| {
                if space.index(address).is_some() {
                    pointers.insert(address);
                }
            };
            places::calls(file, known.functions, &mut code.bounds, &mut note);
            let all = reader.relocations(|_, target| note(target));
            code.bounds.add(Bound::Relocations, u64::from(matches!(all, Ok(false))));
            if known.is_fixed {
                let _ = places::words(reader, &mut code.bounds, &mut note);
            }
            finder.doubtful.extend(pointers);
            finder.guess();
        }
        code.bounds.append(&finder.bounds());
        code.keep(&finder);
        code
    }

    /// Hands `(address, offset in the file, bytes, number)` of each function to `found`.
    pub(super) fn functions(&self, mut found: impl FnMut(u64, u64, u64, u32)) {
        for (number, function) in (0..).zip(&self.found) {
            found(function.address, function.offset, function.bytes, number);
        }
    }

    /// Appends to `rules` those of the function with `number`, each with the address from which it holds.
    pub(super) fn rules(&self, number: u32, rules: &mut Vec<(u64, Rule)>) {
        let number = number as usize;
        let Some(first) = self.found.get(number).map(|found| found.first) else { return };
        let behind = self.found.get(number + 1).map_or(self.rules.len(), |next| next.first);
        rules.extend_from_slice(self.rules.get(first..behind).unwrap_or_default());
    }

    /// Writes down what was found.
    fn keep(&mut self, finder: &Finder<'_>) {
        let Finder { space, flow, signals, .. } = finder;
        for gap in space.gaps() {
            let address = |index: usize| gap.address + (index - gap.first) as u64;
            let end = gap.first + gap.bytes;
            let mut at = gap.first;
            let mut open: Option<Found> = None;
            // Where what is known ends, and the last rule.
            let (mut known_to, mut last) = (at, Rule::Pointer);
            while at < end {
                let here = address(at);
                if signals.contains(&here) {
                    self.close(open.take(), address(known_to));
                    let bytes = signal_bytes(space.from(here).unwrap_or_default()).unwrap_or(1);
                    let offset = gap.offset + (at - gap.first) as u64;
                    self.found.push(Found { address: here, offset, bytes, first: self.rules.len() });
                    self.rules.push((here, Rule::Signal));
                    at += usize::try_from(bytes).unwrap_or(1);
                    known_to = at;
                    continue;
                }
                let Some(state) = flow.at(at) else {
                    at += 1;
                    continue;
                };
                let rule = state.rule();
                let unknown = at - known_to;
                let is_start = flow.starts.contains(&here);
                let between = space.from(address(known_to)).unwrap_or_default();
                let skips = unknown > 0 && !(unknown as u64 <= PADDING_BYTES_MAX && is_padding(between));
                if is_start || (skips && unknown as u64 > PADDING_BYTES_MAX) || open.is_none() {
                    self.close(open.take(), address(known_to));
                    let offset = gap.offset + (at - gap.first) as u64;
                    open = Some(Found { address: here, offset, bytes: 0, first: self.rules.len() });
                    self.rules.push((here, rule));
                } else {
                    if skips && last != Rule::Pointer {
                        self.rules.push((address(known_to), Rule::Pointer));
                        last = Rule::Pointer;
                    }
                    if rule != last {
                        self.rules.push((here, rule));
                    }
                }
                last = rule;
                at += flow.length(at);
                known_to = at.min(end);
            }
            self.close(open, address(known_to));
        }
    }

    fn close(&mut self, open: Option<Found>, end: u64) {
        if let Some(found) = open {
            self.found.push(Found { bytes: end - found.address, ..found });
        }
    }
}
