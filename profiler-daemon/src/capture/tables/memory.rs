//! The slabs in the kernel: one array of one large value each, in a map of maps, so that the programs read a word with two
//! look-ups that the kernel turns into loads.
//!
//! In: words and where they go. Out: nothing; the programs read them. A slab is filled through a mapping of its memory, a
//! nanosecond a word instead of a system call, and is mapped only while it is written: what is mapped counts as memory of
//! ours. Not here: which words are free (`runs.rs`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapData;
use profiler_common::unwind::table::SLAB_WORDS;

use crate::capture::sys::{self, Words};

/// Slabs that stay mapped between two writes: lists of processes come again and again, and into few slabs.
const MAPPED_MAX: usize = 2;

/// The map of slabs.
#[derive(Debug)]
pub(super) struct Memory {
    outer: MapData,
    slabs: Vec<OwnedFd>,
    /// Most recently written last.
    mapped: Vec<(u32, Words)>,
}

impl Memory {
    /// Without a slab yet.
    pub(super) fn new(outer: MapData) -> Self {
        Self { outer, slabs: Vec::new(), mapped: Vec::new() }
    }

    /// Makes `count` more slabs, of zeros. All or none are there afterwards.
    ///
    /// At once, because the kernel waits after each change of a map of maps until no program can see the old one, which takes some
    /// ten milliseconds.
    pub(super) fn grow(&mut self, count: usize) -> io::Result<()> {
        let mut fresh = Vec::with_capacity(count);
        for _ in 0..count {
            fresh.push(sys::create_words(SLAB_WORDS)?);
        }
        let first = u32::try_from(self.slabs.len()).unwrap_or(u32::MAX);
        sys::put_maps(self.outer.fd().as_fd(), first, &fresh)?;
        self.slabs.append(&mut fresh);
        Ok(())
    }

    /// Writes `words` from `address` on, in order; no program sees a word without those before it.
    pub(super) fn write_at(&mut self, address: u32, words: &[u32]) -> io::Result<()> {
        let slab = address >> 16;
        let position = match self.mapped.iter().position(|(mapped, _)| *mapped == slab) {
            Some(position) => position,
            None => {
                let fd = self.slabs.get(slab as usize).ok_or(io::ErrorKind::NotFound)?;
                let words = Words::map(fd.as_fd(), SLAB_WORDS)?;
                if self.mapped.len() >= MAPPED_MAX {
                    self.mapped.remove(0);
                }
                self.mapped.push((slab, words));
                self.mapped.len() - 1
            }
        };
        let entry = self.mapped.remove(position);
        entry.1.write((address & 0xffff) as usize, words);
        self.mapped.push(entry);
        Ok(())
    }
}
