//! Rows that walks found lately, so that a frame which many stacks share is looked up once.
//!
//! In: where a frame is, in which list of mappings, and the row that was found for it. Out: that row again, for as long as nothing
//! it was found by has changed: a list has another version then. A look-up by tables takes some ten words that depend on one another
//! and lie far apart; this takes two, in one cache line. Every processor has its own. Not here: what a row says (`cfi.rs`).
//!
//! At 99 samples a second none of this is in a cache, and lines that are anywhere come one after the other, since a frame's row says
//! where the next frame is. So rows are kept twice: by what they are of, and in the order in which stacks have them, where a
//! line has four frames and the processor sees which line will be next.

use super::cfi::Words;
use super::sign::sign;
use crate::limits::{RECENT_ROWS, TRAIL_ROWS};

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

impl Known {
    const NOTHING: Self = Self { frame: 0, row: 0, version: 0 };

    #[inline(always)]
    fn is_of(&self, frame: u64, version: u32) -> bool {
        self.frame == frame && self.version == version && version != 0
    }
}

/// Bytes of a stack whose frames are neighbours on a trail. Ten common frames, so that a leaf that comes and goes moves few of them to
/// another place.
const PART_BYTES: u64 = 1 << 10;
/// Rows of a trail for each of those parts, four lines; with more frames it uses those of the next part too.
const PART_ROWS: u64 = 16;
const _: () = assert!(TRAIL_ROWS.is_power_of_two(), "a place is masked");

/// Where a walk stands on the trail: frames of one part of a stack lie one after the other from the place that is that part's, so that
/// outer frames have the same places whatever they have called.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail {
    part: u64,
    place: u64,
}

impl Trail {
    /// No frame yet: of no part, since a part's number has less bits.
    pub(super) const START: Self = Self { part: u64::MAX >> 1, place: 0 };

    /// Goes to the next frame, which has stack pointer `sp`, of a process whose list has that `version`.
    #[inline(always)]
    pub(super) fn go_on(&mut self, sp: u64, version: u32) {
        let part = sp / PART_BYTES;
        let is_same = sign((part ^ self.part).wrapping_sub(1));
        // Stacks of different processes are at the same addresses, about.
        let first = part.wrapping_add((version as u64).wrapping_mul(SPREAD >> 32)).wrapping_mul(PART_ROWS);
        self.place = self.place.wrapping_add(1) & is_same | first & !is_same;
        self.part = part;
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "masked to a few bits")]
    fn place(self) -> usize {
        self.place as usize & (TRAIL_ROWS - 1)
    }
}

/// The rows; each has one place by what it is of and one on a trail, and the newer one stays.
#[repr(C)]
#[derive(Debug)]
pub struct Recent {
    trails: [Known; TRAIL_ROWS],
    rows: [Known; RECENT_ROWS],
}

impl Recent {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { trails: [Known::NOTHING; TRAIL_ROWS], rows: [Known::NOTHING; RECENT_ROWS] }
    }

    /// The row for `frame`, which `trail` is at, by the list with that `version`, if it is known. `frame` is an address with a bit
    /// that says how it was reached.
    #[inline(always)]
    pub(super) fn find(&mut self, frame: u64, trail: Trail, version: u32) -> Option<Words> {
        let here = &mut self.trails[trail.place()];
        if here.is_of(frame, version) {
            return Some(Words::row(here.row));
        }
        let known = self.rows[place(frame, version)];
        if !known.is_of(frame, version) {
            return None;
        }
        *here = known;
        Some(Words::row(known.row))
    }

    /// Remembers what was found, unless it is one of the rare rules, which take more room.
    #[inline(always)]
    pub(super) fn keep(&mut self, frame: u64, trail: Trail, version: u32, words: Words) {
        if let Some(row) = words.alone() {
            let known = Known { frame, row, version };
            self.trails[trail.place()] = known;
            self.rows[place(frame, version)] = known;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const VERSION: u32 = 7;

    /// Checks at which places, counted from the first, a walk looks for the frames with these stack pointers.
    #[track_caller]
    fn check(pointers: &[u64], places: &[u64]) {
        let found = places_of(pointers);
        assert_eq!(found.iter().map(|place| place - found[0]).collect::<Vec<_>>(), places);
    }

    fn places_of(pointers: &[u64]) -> Vec<u64> {
        let mut trail = Trail::START;
        let go_on = |&sp: &u64| {
            trail.go_on(sp, VERSION);
            trail.place
        };
        pointers.iter().map(go_on).collect()
    }

    #[test]
    fn frames_of_one_part_are_neighbours() {
        check(&[0x7000, 0x7010, 0x7100, 0x73f8], &[0, 1, 2, 3]);
    }

    #[test]
    fn each_part_has_a_place_of_its_own() {
        check(&[0x7000, 0x7010, 0x7400, 0x7410, 0x8000], &[0, 1, 16, 17, 64]);
    }

    #[test]
    fn outer_frames_are_where_they_were_whatever_they_called() {
        let outer =
            |leaves: &[u64]| places_of(&[leaves, &[0x7440, 0x7480]].concat())[leaves.len()..].to_vec();
        assert_eq!(outer(&[0x7380]), outer(&[0x6f00, 0x7010, 0x7020, 0x7380]));
    }

    #[test]
    fn a_first_frame_is_one_like_others() {
        check(&[0, 8], &[0, 1]);
    }

    /// A row's number is found again only for its frame and version, on its trail and apart from it.
    #[test]
    fn a_row_is_known_by_frame_and_version_on_any_trail() {
        let (mut recent, mut trail) = (Recent::new(), Trail::START);
        trail.go_on(0x7000, VERSION);
        recent.keep(0x1234, trail, VERSION, Words::row(99));
        let mut other = trail;
        other.go_on(0x9000, VERSION);
        let mut row = |frame, trail, version| recent.find(frame, trail, version).map(|words| words.row);
        for trail in [trail, other, other] {
            assert_eq!(row(0x1234, trail, VERSION), Some(99));
            assert_eq!(row(0x1234, trail, VERSION + 1), None);
            assert_eq!(row(0x1235, trail, VERSION), None);
        }
        assert_eq!(row(0, Trail::START, 0), None);
    }
}
