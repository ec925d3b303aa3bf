//! The slabs in the kernel: one array of one large value each, in a map of maps, so that the programs read a word with two
//! look-ups that the kernel turns into loads.
//!
//! In: words and where they go. Out: the same words, to the programs, and to a walk of ours. A slab is filled and read through a
//! mapping of its memory, a nanosecond a word instead of a system call, and is mapped only while it is written or walked by:
//! what is mapped counts as memory of ours. Without a kernel, in a replay, a slab is memory of ours and nothing else.
//! Not here: which words are free (`runs.rs`).

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapData;
use profiler_common::unwind::table::{SLAB_WORDS, Slab};

use crate::capture::sys::{self, Words};

/// Slabs that stay mapped to be written. Blocks go where they fit best, so that a table of many goes back and forth between slabs; to
/// map one takes as long as to write a few thousand words.
const WRITTEN_MAX: usize = 8;

/// All slabs. Whoever writes holds them exclusively, so that nobody reads meanwhile but the kernel.
#[derive(Debug)]
pub(super) enum Memory {
    /// In the kernel.
    Kernel(Maps),
    /// Ours alone.
    Own(Vec<Box<Slab>>),
}

impl Memory {
    /// Slabs in the map of maps `outer`, none yet.
    pub(super) fn in_kernel(outer: MapData) -> Self {
        Self::Kernel(Maps { outer, slabs: Vec::new(), written: Vec::new() })
    }

    /// Makes `count` more slabs, of zeros. All or none are there afterwards.
    pub(super) fn grow(&mut self, count: usize) -> io::Result<()> {
        match self {
            Self::Kernel(maps) => maps.grow(count),
            Self::Own(slabs) => {
                slabs.extend((0..count).map(|_| blank()));
                Ok(())
            }
        }
    }

    /// Writes `words` from `address` on, in order; no program sees a word without those before it.
    pub(super) fn write_at(&mut self, address: u32, words: &[u32]) -> io::Result<()> {
        match self {
            Self::Kernel(maps) => maps.write_at(address, words),
            Self::Own(slabs) => {
                let slab = slabs.get_mut((address >> 16) as usize).ok_or(io::ErrorKind::NotFound)?;
                slab[(address & 0xffff) as usize..][..words.len()].copy_from_slice(words);
                Ok(())
            }
        }
    }

    /// A slab, to be read.
    pub(super) fn slab(&self, number: u32) -> Option<&Slab> {
        match self {
            Self::Kernel(maps) => maps.slab(number),
            Self::Own(slabs) => slabs.get(number as usize).map(|slab| &**slab),
        }
    }

    /// Lets go of what was read and written.
    pub(super) fn rest(&mut self) {
        match self {
            Self::Kernel(maps) => {
                maps.written.clear();
                maps.slabs.iter_mut().for_each(|slab| _ = slab.read.take());
            }
            Self::Own(_) => {}
        }
    }
}

/// A slab of zeros.
pub(super) fn blank() -> Box<Slab> {
    vec![0; SLAB_WORDS].into_boxed_slice().try_into().expect("as many words as a slab has")
}

/// Slabs in the kernel.
#[derive(Debug)]
pub(super) struct Maps {
    outer: MapData,
    slabs: Vec<Map>,
    /// Most recently written last.
    written: Vec<(u32, Words)>,
}

#[derive(Debug)]
struct Map {
    fd: OwnedFd,
    /// Its memory, while it is walked by.
    read: OnceCell<Words>,
}

impl Maps {
    /// At once, because the kernel waits after each change of a map of maps until no program can see the old one, which takes some
    /// ten milliseconds.
    fn grow(&mut self, count: usize) -> io::Result<()> {
        let mut fresh = Vec::with_capacity(count);
        for _ in 0..count {
            fresh.push(sys::create_words(SLAB_WORDS)?);
        }
        let first = u32::try_from(self.slabs.len()).unwrap_or(u32::MAX);
        sys::put_maps(self.outer.fd().as_fd(), first, &fresh)?;
        self.slabs.extend(fresh.into_iter().map(|fd| Map { fd, read: OnceCell::new() }));
        Ok(())
    }

    fn write_at(&mut self, address: u32, words: &[u32]) -> io::Result<()> {
        let slab = address >> 16;
        let position = match self.written.iter().position(|(written, _)| *written == slab) {
            Some(position) => position,
            None => {
                let map = self.slabs.get(slab as usize).ok_or(io::ErrorKind::NotFound)?;
                let words = Words::map(map.fd.as_fd(), SLAB_WORDS)?;
                if self.written.len() >= WRITTEN_MAX {
                    self.written.remove(0);
                }
                self.written.push((slab, words));
                self.written.len() - 1
            }
        };
        let entry = self.written.remove(position);
        entry.1.write((address & 0xffff) as usize, words);
        self.written.push(entry);
        Ok(())
    }

    fn slab(&self, number: u32) -> Option<&Slab> {
        let map = self.slabs.get(number as usize)?;
        if map.read.get().is_none() {
            let words = Words::map(map.fd.as_fd(), SLAB_WORDS).ok()?;
            let _ = map.read.set(words);
        }
        map.read.get().and_then(|words| words.all())
    }
}
