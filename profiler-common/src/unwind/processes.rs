//! Which list of mappings each process has, as a table in which a look-up touches one line of the cache.
//!
//! In: the number of a process. Out: its list. A hash map of the kernel's touches a bucket, an element, and two more lines for what
//! it is and how it hashes, each of which is a miss when a processor takes 99 samples a second. Here numbers, which the kernel gives out
//! in turn, choose a line of four entries, or the next one. One writer, many readers; an entry is two words of which the first is written last
//! and read twice, so that no reader takes half of it. Not here: the lists (`table.rs`), and where the lines are.

use super::table::MappingList;
use crate::limits::PROCESS_LINES;

/// Entries that lie together: 64 bytes.
pub const LINE_ENTRIES: usize = 4;

/// What is known of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The process (thread group); zero if the entry is free.
    pub tgid: u32,
    /// [`MappingList::version`].
    pub version: u32,
    /// [`MappingList::address`].
    pub address: u32,
    /// [`MappingList::mappings`].
    pub mappings: u32,
}
wire!(Entry: 16 bytes, tgid @ 0, version @ 4, address @ 8, mappings @ 12);

impl Entry {
    /// Process `tgid` has `list`.
    pub const fn new(tgid: u32, list: MappingList) -> Self {
        let MappingList { address, mappings, version } = list;
        Self { tgid, version, address, mappings }
    }

    /// What the process has.
    pub const fn list(self) -> MappingList {
        let Self { address, mappings, version, .. } = self;
        MappingList { address, mappings, version }
    }

    /// As words: first the one that says whose it is and what version, then the rest.
    pub const fn words(self) -> [u64; 2] {
        let Self { tgid, version, address, mappings } = self;
        [tgid as u64 | (version as u64) << 32, address as u64 | (mappings as u64) << 32]
    }

    /// From words as by [`Self::words`].
    #[expect(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
    pub const fn from_words([first, second]: [u64; 2]) -> Self {
        Self {
            tgid: first as u32,
            version: (first >> 32) as u32,
            address: second as u32,
            mappings: (second >> 32) as u32,
        }
    }
}

/// A line of entries.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Line {
    /// Each as by [`Entry::words`].
    pub entries: [[u64; 2]; LINE_ENTRIES],
}

/// The lines on which process `tgid` may be, in this order.
#[inline(always)]
pub const fn lines_of(tgid: u32) -> [u32; 2] {
    let line = tgid & (PROCESS_LINES - 1);
    [line, line ^ 1]
}
const _: () = assert!(PROCESS_LINES.is_power_of_two(), "a number is masked");
