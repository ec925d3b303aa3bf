//! One parcel that waits, and what it takes to keep it.
//!
//! In: a parcel and the file that holds it, or what was found of it on disk. Out: sums. Not here: the queue.

use std::sync::Arc;

use crate::deliver::parcel::Parcel;
use crate::deliver::spool::{Found, Head, Key, room};
use crate::model::Weight;
use crate::time::WallNs;

/// A parcel that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) weight: Weight,
    pub(super) time: WallNs,
    pub(super) body: Body,
    /// The file that holds it: its own, or that of the parcel it was taken out of, which goes when none of these needs it
    /// any more.
    pub(super) file: Option<Arc<File>>,
}

/// Where a parcel's body is.
#[derive(Debug)]
pub(super) enum Body {
    /// Here.
    Memory(Parcel),
    /// On disk only; what is not written there stays here.
    Disk { family: u32, turned_away: u32, let_before: Option<u64> },
    /// In the uploader's hands, this many bytes of it.
    Hand(usize),
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) key: Key,
    /// Bytes of disk that it takes.
    pub(super) room: u64,
}

/// What waits: its weight, and what it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) weight: Weight,
    /// Memory, bytes.
    pub(super) memory: usize,
    /// Memory of those that have no file of their own, bytes.
    pub(super) unwritten: usize,
    /// Disk of those that have one, bytes.
    pub(super) disk: u64,
}

impl Load {
    pub(super) fn add(&mut self, entry: &Entry) {
        let Self { weight, memory, unwritten, disk } = self;
        let (entry_memory, entry_disk) = (entry.memory(), entry.disk());
        *weight += entry.weight;
        *memory += entry_memory;
        *unwritten += if entry.is_written() { 0 } else { entry_memory };
        *disk += entry_disk;
    }

    pub(super) fn take(&mut self, entry: &Entry) {
        let Self { weight, memory, unwritten, disk } = self;
        let (entry_memory, entry_disk) = (entry.memory(), entry.disk());
        weight.0 -= entry.weight.0;
        *memory -= entry_memory;
        *unwritten -= if entry.is_written() { 0 } else { entry_memory };
        *disk -= entry_disk;
    }
}

impl Entry {
    /// What it costs to keep, bytes.
    fn memory(&self) -> usize {
        let body = match &self.body {
            Body::Memory(parcel) => parcel.size(),
            Body::Disk { .. } => 0,
            Body::Hand(bytes) => *bytes,
        };
        size_of::<Self>() + body
    }

    fn disk(&self) -> u64 {
        self.own_file().map_or(0, |file| file.room)
    }

    pub(super) fn is_written(&self) -> bool {
        self.own_file().is_some()
    }

    fn own_file(&self) -> Option<&File> {
        self.file.as_deref().filter(|file| file.key == self.key)
    }

    /// `parcel`, which is known by `key` from now on.
    pub(super) fn new(mut parcel: Parcel, key: Key, file: Option<Arc<File>>) -> Self {
        parcel.key = Some(key);
        let (weight, time) = (parcel.weight(), parcel.time);
        Self { key, weight, time, body: Body::Memory(parcel), file }
    }

    /// What an earlier life has left.
    pub(super) fn found(Found { head, length }: Found) -> Self {
        let file = File { key: head.key, room: room(length) };
        let Head { key, time, weight, turned_away, .. } = head;
        let body = Body::Disk { family: 0, turned_away, let_before: None };
        Self { key, weight, time, body, file: Some(Arc::new(file)) }
    }

    /// It lets the others before it.
    pub(super) fn lets_before(&self) -> bool {
        match &self.body {
            Body::Memory(Parcel { let_before, .. }) | Body::Disk { let_before, .. } => let_before.is_some(),
            Body::Hand(_) => false,
        }
    }

    /// Its body leaves the memory: it is on disk.
    pub(super) fn cool(&mut self) {
        if let Body::Memory(Parcel { family, turned_away, let_before, .. }) = self.body {
            self.body = Body::Disk { family, turned_away, let_before };
        }
    }

    /// Its body is back.
    pub(super) fn warm(&mut self, mut parcel: Parcel) {
        if let Body::Disk { family, turned_away, let_before } = self.body {
            (parcel.family, parcel.turned_away, parcel.let_before) = (family, turned_away, let_before);
            self.body = Body::Memory(parcel);
        }
    }
}
