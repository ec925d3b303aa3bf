//! Finds what the compiler wrote down about a frame.
//!
//! In: an address and the tables of `table.rs`. Out: the words of its rule. Whatever the tables say, a search reads inside of slabs,
//! and ends. Not here: what a rule means (`x86_64.rs`, `aarch64.rs`).
#![expect(clippy::cast_possible_truncation, reason = "places in a slab and parts of a word, all of 32 bits")]

use super::sign::sign;
use super::table::{
    GRANULE_BYTES, GRANULES, KIND_POINTER, KIND_SHIFT, KIND_SIDE, MAPPING_WORDS, PAGE_BYTES, PAGES_MASK,
    SLAB_WORDS, STARTS_WORDS, Slab,
};
use super::walk::Walk;

/// The word of `slab` at `at`; a place beyond the slab is one at its beginning.
#[inline(always)]
fn word(slab: &Slab, at: u64) -> u64 {
    slab[at as usize & (SLAB_WORDS - 1)] as u64
}

#[inline(always)]
fn double_word(slab: &Slab, at: u64) -> u64 {
    word(slab, at) | word(slab, at + 1) << 32
}

/// Where in its slab a word is.
#[inline(always)]
fn place(address: u32) -> u64 {
    (address & 0xffff) as u64
}

/// A rule as it was found: a row, and for one of [`KIND_SIDE`] the words of the rare rule.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// The row.
    pub(super) row: u32,
    /// The second word of a rare rule.
    pub(super) second: u32,
    /// The first.
    pub(super) number: u64,
}

impl Words {
    /// A row that says all there is to say.
    #[inline(always)]
    pub(super) const fn row(row: u32) -> Self {
        Self { row, second: 0, number: 0 }
    }

    /// The row, if it says all there is to say.
    #[inline(always)]
    pub(super) fn alone(self) -> Option<u32> {
        (self.row >> KIND_SHIFT != KIND_SIDE).then_some(self.row)
    }

    /// A checked step by frame pointer.
    pub(super) const POINTER: Self = Self::row(KIND_POINTER << KIND_SHIFT);
}

impl Walk {
    /// Finds the mapping with `at` in the list, and keeps it. False if there is none.
    #[inline(always)]
    pub(super) fn find_mapping<'a>(&mut self, at: u64, slab: &impl Fn(u32) -> Option<&'a Slab>) -> bool {
        const WORDS: u64 = MAPPING_WORDS as u64;
        let Some(slab) = slab(self.list >> 16) else { return false };
        let list = place(self.list);
        let mappings = self.mappings as u64;
        // The last that starts at `at` or before; the first, if none does.
        let mut found = 0;
        let mut step = if mappings <= 16 {
            8
        } else if mappings <= 256 {
            128
        } else {
            4096
        };
        while step > 0 {
            let next = found + step;
            let start = double_word(slab, list + next * WORDS);
            // Halves, so that the difference has a sign wherever both lie; a start is even.
            let beyond = sign((at >> 1).wrapping_sub(start >> 1)) | sign((mappings - 1).wrapping_sub(next));
            found += step & !beyond;
            step >>= 1;
        }
        let entry = list + found * WORDS;
        self.start = double_word(slab, entry);
        self.bytes = double_word(slab, entry + 2);
        self.shift = double_word(slab, entry + 4);
        self.directory = word(slab, entry + 6) as u32;
        self.pages = word(slab, entry + 7) as u32;
        at.wrapping_sub(self.start) < self.bytes
    }

    /// The rule for the instruction with address `at` in the mapping that is kept; one of [`KIND_POINTER`] if its table says nothing.
    #[inline(always)]
    pub(super) fn find_rule<'a>(&self, at: u64, slab: &impl Fn(u32) -> Option<&'a Slab>) -> Words {
        let offset = at.wrapping_add(self.shift);
        let page = offset / PAGE_BYTES;
        if page >= (self.pages & PAGES_MASK) as u64 {
            return Words::POINTER;
        }
        let Some(directory) = slab(self.directory >> 16) else { return Words::POINTER };
        let block = word(directory, place(self.directory) + page) as u32;
        if block == 0 {
            return Words::POINTER;
        }
        let Some(slab) = slab(block >> 16) else { return Words::POINTER };
        let block = place(block);
        let row = find_row(slab, block, offset);
        if row >> KIND_SHIFT != KIND_SIDE {
            return Words::row(row);
        }
        let side = block + (row >> 8 & 0x1f_ffff) as u64;
        Words { row, second: word(slab, side + 1) as u32, number: word(slab, side) }
    }
}

/// The row for `offset` in the block at `block`; one of [`KIND_POINTER`] if its granule has none.
#[inline(always)]
fn find_row(slab: &Slab, block: u64, offset: u64) -> u32 {
    let granule = offset / GRANULE_BYTES % GRANULES as u64;
    let low_byte = offset % GRANULE_BYTES;
    let first = start(slab, block, granule);
    let rows = start(slab, block, granule + 1).wrapping_sub(first);
    if rows == 0 || rows > GRANULE_BYTES {
        return KIND_POINTER << KIND_SHIFT;
    }
    let first = block + STARTS_WORDS as u64 + first;
    // The last that starts at `offset` or before: the first does. Most granules have few rows.
    let mut found = 0;
    let mut step = if rows <= 4 {
        2
    } else if rows <= 16 {
        8
    } else {
        128
    };
    while step > 0 {
        let next = found + step;
        let from = word(slab, first + next) & (GRANULE_BYTES - 1);
        let beyond = sign(low_byte.wrapping_sub(from)) | sign((rows - 1).wrapping_sub(next));
        found += step & !beyond;
        step >>= 1;
    }
    word(slab, first + found) as u32
}

/// The number of the first row of `granule`.
#[inline(always)]
fn start(slab: &Slab, block: u64, granule: u64) -> u64 {
    word(slab, block + granule / 2) >> (granule % 2 * 16) & 0xffff
}
