//! Rows that walks found lately, so that a frame which many stacks share is looked up once.
//!
//! In: where a frame is, in which list of mappings, and the row that was found for it. Out: that row again, for as long as nothing
//! it was found by has changed: a list has another version then. A look-up by tables takes some ten words that depend on one another and lie far apart; this takes two, in
//! one cache line. Every processor has its own. Not here: what a row says (`cfi.rs`).

use super::cfi::Words;
use crate::limits::RECENT_ROWS;

/// A number without pattern (the golden ratio, of 2^64): what is multiplied by it differs in its highest bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// [`RECENT_ROWS`] as a number of bits.
const INDEX_BITS: u32 = RECENT_ROWS.trailing_zeros();
const _: () = assert!(RECENT_ROWS.is_power_of_two(), "an index is masked");

/// A row, and where it holds: two words, four to a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Known {
    frame: u64,
    row: u32,
    version: u32,
}

/// The rows; each has one place where it can be, and the newer one stays.
#[repr(C)]
#[derive(Debug)]
pub struct Recent {
    rows: [Known; RECENT_ROWS],
}

impl Recent {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { rows: [Known { frame: 0, row: 0, version: 0 }; RECENT_ROWS] }
    }

    /// The row for `frame` by the list with that `version`, if it is known. `frame` is an address with a bit that says how it
    /// was reached.
    #[inline(always)]
    pub(super) fn find(&self, frame: u64, version: u32) -> Option<Words> {
        let known = &self.rows[place(frame, version)];
        (known.frame == frame && known.version == version && version != 0).then_some(Words::row(known.row))
    }

    /// Remembers what was found, unless it is one of the rare rules, which take more room.
    #[inline(always)]
    pub(super) fn keep(&mut self, frame: u64, version: u32, words: Words) {
        if let Some(row) = words.alone() {
            self.rows[place(frame, version)] = Known { frame, row, version };
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

#[inline(always)]
fn place(frame: u64, version: u32) -> usize {
    let spread = (frame ^ (version as u64) << 40).wrapping_mul(SPREAD);
    (spread >> (64 - INDEX_BITS)) as usize & (RECENT_ROWS - 1)
}
