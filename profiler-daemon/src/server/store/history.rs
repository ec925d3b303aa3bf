//! The segments and partitions, and what becomes of them.
//!
//! In: profiles, questions, and the news of what is on the disk. Out: answers, and what is to be written next. A push
//! changes the head at once; `Unsaved` is what its answer waits for. When the disk fails, the head goes back to what is
//! known to be on it, and whoever waits is told: what was answered with success is there after any crash, and what was
//! refused counts once when it is pushed again.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::folder::{Entry, Folder, PartitionFile};
use super::journal::{self, Done, Journal, Work};
use super::partition::{FileError, Partition};
use super::passage::Passage;
use super::safety::Safety;
use super::segment::{Mark, Segment};
use super::series::{Labels, Series};
use super::tree::Tree;
use super::{Bounds, Digest, Evicted, Selection, StoreError, end};
use crate::time::{WallNs, Window};

/// In memory a new segment is begun after this long: a twelfth of the hour, so that what is dropped at once is little.
const SPAN_IN_MEMORY: Duration = Duration::from_secs(300);
/// On disk: a question about a day reads 24 files, and a process that is started again reads one journal.
const SPAN_ON_DISK: Duration = Duration::from_secs(3600);
/// A segment is also ended when it takes this part of the memory, for the same reason. A smaller part would make busy
/// machines learn their stacks anew with every push.
const SEGMENT_PART: usize = 4;
/// On disk there are two at most: the one that grows, and the one that is being written.
const SEGMENT_PART_ON_DISK: usize = 2;
/// Segments that have ended and cannot be written as partitions: so many are held, then pushes are refused.
const UNCLOSED_MAX: usize = 2;

/// A segment that has ended.
#[derive(Debug)]
struct Past {
    seq: u64,
    content: Content,
    /// First start and last end of its windows.
    span: (WallNs, WallNs),
    /// What was pushed, as long as it may be pushed again.
    digests: HashSet<Digest>,
}

#[derive(Debug)]
enum Content {
    Memory(Arc<Segment>),
    File { file: PartitionFile, damaged: Cell<bool> },
}

/// The segment that grows.
#[derive(Debug)]
struct Head {
    seq: u64,
    segment: Segment,
    began: WallNs,
    span: (WallNs, WallNs),
    digests: HashSet<Digest>,
    /// How much of it is in the journal.
    saved: Mark,
    /// The number of the next batch.
    batch: u32,
}

const NOTHING_YET: (WallNs, WallNs) = (WallNs(i64::MAX), WallNs(i64::MIN));

impl Head {
    fn new(seq: u64, began: WallNs) -> Self {
        Self {
            seq,
            segment: Segment::default(),
            began,
            span: NOTHING_YET,
            digests: HashSet::new(),
            saved: Mark::default(),
            batch: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.segment.bytes() + digest_bytes(&self.digests)
    }
}

fn digest_bytes(digests: &HashSet<Digest>) -> usize {
    digests.capacity() * (size_of::<Digest>() + 1)
}

fn wider(span: (WallNs, WallNs), window: Window) -> (WallNs, WallNs) {
    (span.0.min(window.start), span.1.max(end(window)))
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Past {
    fn memory_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Memory(segment) => segment.bytes(),
            Content::File { .. } => size_of::<PartitionFile>() + 100,
        };
        content + digest_bytes(&self.digests)
    }

    fn windows_count(&self) -> u64 {
        match &self.content {
            Content::Memory(segment) => segment.stored.len() as u64,
            Content::File { .. } => 0,
        }
    }
}

/// What is being written.
#[derive(Debug)]
struct Writing {
    seq: u64,
    /// What is saved when it is written.
    mark: Option<Mark>,
    /// The changes that are safe then.
    version: u64,
}

/// All history.
#[derive(Debug)]
pub(in crate::server) struct Store {
    bounds: Bounds,
    folder: Option<Folder>,
    /// Oldest arrival first.
    past: VecDeque<Past>,
    head: Head,
    /// Segments that are to be written as partitions.
    to_close: VecDeque<u64>,
    writing: Option<Writing>,
    safety: Safety,
    /// Counts changes of what can be asked for.
    version: u64,
    set_aside: u64,
}

impl Store {
    /// What is in the folder of `bounds`, or nothing; and who writes to it.
    pub(in crate::server) fn open(
        bounds: Bounds,
        now: WallNs,
    ) -> Result<(Self, Option<Journal>), StoreError> {
        let mut store = Self {
            folder: None,
            past: VecDeque::new(),
            head: Head::new(1, now),
            to_close: VecDeque::new(),
            writing: None,
            safety: Safety::default(),
            version: 0,
            set_aside: 0,
            bounds,
        };
        let Some(path) = store.bounds.folder.clone() else { return Ok((store, None)) };
        let named = path.display().to_string();
        let failed = |error| StoreError::Folder { folder: named.clone(), error };
        let folder = Folder::new(&path).map_err(failed)?;
        for entry in folder.entries().map_err(failed)? {
            match entry {
                Entry::Partition(file) => store.found(file, now),
                Entry::Journal { seq, path } => {
                    if store.past.iter().any(|past| past.seq == seq) {
                        fs::remove_file(path).map_err(failed)?;
                        continue;
                    }
                    match journal::recover(&path) {
                        Ok(recovered) => store.recovered(seq, recovered),
                        Err(error) if error.is_in_use() => return Err(StoreError::InUse(named)),
                        Err(FileError::Io(error)) => return Err(failed(error)),
                        Err(error) => {
                            store.set_aside += 1;
                            tracing::warn!("{} is set aside: {error}", path.display());
                            folder.set_aside(&path);
                            store.head = Head::new(seq + 1, now);
                        }
                    }
                }
            }
        }
        let newest = store.past.back().map_or(0, |past| past.seq);
        if store.head.seq <= newest {
            store.head = Head::new(newest + 1, now);
        }
        let journal = Journal::start(folder.clone()).map_err(failed)?;
        store.folder = Some(folder);
        Ok((store, Some(journal)))
    }

    /// A partition from before this process.
    fn found(&mut self, file: PartitionFile, now: WallNs) {
        let (seq, span) = (file.seq, file.span);
        let mut digests = HashSet::new();
        if span.1.0 >= now.0.saturating_sub(nanoseconds(self.bounds.age_max)) {
            // If it is damaged, the first question finds that.
            let known = guarded(|| Partition::open(&file.path)?.digests());
            digests.extend(known.unwrap_or_default());
        }
        let content = Content::File { file, damaged: Cell::new(false) };
        self.past.push_back(Past { seq, content, span, digests });
    }

    /// A journal from before this process; one that is not the newest was about to become a partition.
    fn recovered(&mut self, seq: u64, recovered: journal::Recovered) {
        let journal::Recovered { segment, began, next } = recovered;
        self.end_head();
        self.head = Head {
            seq,
            span: segment.span().unwrap_or(NOTHING_YET),
            digests: segment.digests.iter().copied().collect(),
            saved: segment.mark(),
            segment,
            began,
            batch: next,
        };
    }

    /// What a profile of these labels, time and bytes is known by.
    pub(in crate::server) fn digest(labels: &Labels, time_nanos: i64, bytes: &[u8]) -> Digest {
        let mut hash = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for (name, value) in labels {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        part(&time_nanos.to_le_bytes());
        part(bytes);
        let mut digest = Digest::default();
        digest.copy_from_slice(&hash.finish().as_ref()[..size_of::<Digest>()]);
        digest
    }

    /// True if that very profile is here.
    pub(in crate::server) fn holds(&self, digest: &Digest) -> bool {
        self.head.digests.contains(digest) || self.past.iter().any(|past| past.digests.contains(digest))
    }

    /// The segment that grows, with room for more.
    pub(in crate::server) fn open_segment(&mut self, now: WallNs) -> &mut Segment {
        // On disk a segment ends between two batches: see `next_work`.
        if self.folder.is_none() && self.is_full(now) {
            self.end_head();
        }
        if self.head.segment.stored.is_empty() && self.head.digests.is_empty() {
            self.head.began = now;
        }
        &mut self.head.segment
    }

    fn is_full(&self, now: WallNs) -> bool {
        let (span, part) = match self.folder {
            Some(_) => (SPAN_ON_DISK, SEGMENT_PART_ON_DISK),
            None => (SPAN_IN_MEMORY, SEGMENT_PART),
        };
        now.0.saturating_sub(self.head.began.0) > nanoseconds(span)
            || self.head.bytes() > self.bounds.memory_bytes_max / part
    }

    /// Begins a new head; the old one becomes past, unless it is empty.
    fn end_head(&mut self) {
        let next = Head::new(self.head.seq + 1, self.head.began);
        let ended = std::mem::replace(&mut self.head, next);
        if ended.segment.stored.is_empty() && ended.digests.is_empty() {
            return;
        }
        if self.bounds.folder.is_some() {
            self.to_close.push_back(ended.seq);
        }
        self.past.push_back(Past {
            seq: ended.seq,
            content: Content::Memory(Arc::new(ended.segment)),
            span: ended.span,
            digests: ended.digests,
        });
    }

    /// True if the open segment can take all of `series`.
    pub(in crate::server) fn has_room_for<'a>(&self, series: impl Iterator<Item = &'a Series>) -> bool {
        let segment = &self.head.segment;
        let new: HashSet<&Series> = series.filter(|series| !segment.knows(series)).collect();
        segment.series_count() + new.len() <= self.bounds.series_max
    }

    /// True if nothing more can be taken before ended segments are on the disk.
    pub(in crate::server) fn is_stuck(&self) -> bool {
        self.to_close.len() > UNCLOSED_MAX
    }

    /// Says that a profile was put into the open segment, and drops what is now too much.
    pub(in crate::server) fn close(
        &mut self,
        digest: Option<Digest>,
        window: Window,
        now: WallNs,
    ) -> Evicted {
        self.head.span = wider(self.head.span, window);
        self.head.segment.digests.extend(digest);
        self.head.digests.extend(digest);
        self.version += 1;
        self.evict(now)
    }

    /// Drops what is too old, then what is too much, the oldest first.
    pub(in crate::server) fn evict(&mut self, now: WallNs) -> Evicted {
        let mut evicted =
            Evicted { files_damaged: std::mem::take(&mut self.set_aside), ..Evicted::default() };
        let before = self.past.len();
        let oldest = WallNs(now.0.saturating_sub(nanoseconds(self.bounds.keep)));
        let again = WallNs(now.0.saturating_sub(nanoseconds(self.bounds.age_max)));
        let folder = self.folder.clone();
        self.past.retain_mut(|past| {
            if past.span.1 < again && !past.digests.is_empty() {
                past.digests = HashSet::new();
            }
            match &past.content {
                Content::Memory(_) if folder.is_some() => true,
                Content::Memory(_) => {
                    let stays = past.span.1 >= oldest;
                    evicted.by_age += if stays { 0 } else { past.windows_count() };
                    stays
                }
                Content::File { file, damaged } if damaged.get() => {
                    evicted.files_damaged += 1;
                    if let Some(folder) = &folder {
                        folder.set_aside(&file.path);
                    }
                    false
                }
                Content::File { file, .. } => {
                    let stays = past.span.1 >= oldest;
                    if !stays {
                        evicted.files_by_age += 1;
                        remove(file);
                    }
                    stays
                }
            }
        });
        if self.folder.is_none() {
            // The head stays, whatever it weighs: one profile is bounded by itself.
            while self.bytes() > self.bounds.memory_bytes_max {
                let Some(gone) = self.past.pop_front() else { break };
                evicted.by_bytes += gone.windows_count();
            }
            if self.head.span.1 < oldest && self.head.span != NOTHING_YET {
                evicted.by_age += self.head.segment.stored.len() as u64;
                self.head = Head::new(self.head.seq + 1, now);
                self.version += 1;
            }
        }
        while self.disk_bytes() > self.bounds.disk_bytes_max && self.drop_oldest_file() {
            evicted.files_by_bytes += 1;
        }
        if self.past.len() != before {
            self.version += 1;
        }
        evicted
    }

    /// Drops the oldest files until enough is free: asked for after a file was written.
    fn make_room(&mut self) -> u64 {
        let mut dropped = 0;
        let short = |store: &Self| {
            let (free, all) = store.folder.as_ref().and_then(Folder::free_bytes)?;
            Some(free < store.bounds.disk_free_bytes_min.min(all / 20))
        };
        while short(self) == Some(true) && self.drop_oldest_file() {
            dropped += 1;
        }
        dropped
    }

    fn drop_oldest_file(&mut self) -> bool {
        let place = self.past.iter().position(|past| matches!(past.content, Content::File { .. }));
        let Some(Past { content: Content::File { file, .. }, .. }) =
            place.and_then(|place| self.past.remove(place))
        else {
            return false;
        };
        remove(&file);
        self.version += 1;
        true
    }

    /// Memory in use, bytes.
    pub(in crate::server) fn bytes(&self) -> usize {
        self.head.bytes() + self.past.iter().map(Past::memory_bytes).sum::<usize>()
    }

    /// Bytes of all partitions.
    pub(in crate::server) fn disk_bytes(&self) -> u64 {
        let files = self.past.iter().filter_map(|past| match &past.content {
            Content::Memory(_) => None,
            Content::File { file, .. } => Some(file.bytes),
        });
        files.sum()
    }

    /// Another number after every change; what a push has changed is safe when this is.
    pub(in crate::server) fn version(&self) -> u64 {
        self.version
    }

    /// How far changes are safe. In memory nothing more can happen to them.
    pub(in crate::server) fn safety(&self) -> Safety {
        match self.folder {
            Some(_) => self.safety.clone(),
            None => Safety { saved: u64::MAX, ..Safety::default() },
        }
    }

    /// What is to be written next, if anything; `done` is to be told how it went before this is asked again.
    pub(in crate::server) fn next_work(&mut self, now: WallNs) -> Option<Work> {
        let mark = self.head.segment.mark();
        if mark != self.head.saved {
            let bytes = super::batch::write(&self.head.segment, &self.head.saved);
            let Head { seq, batch, began, .. } = self.head;
            self.writing = Some(Writing { seq, mark: Some(mark), version: self.version });
            return Some(Work::Append { seq, number: batch, began, bytes });
        }
        self.safety.saved = self.version;
        if self.is_full(now) {
            self.end_head();
        }
        let seq = *self.to_close.front()?;
        let segment = self.past.iter().find_map(|past| match &past.content {
            Content::Memory(segment) if past.seq == seq => Some(Arc::clone(segment)),
            Content::Memory(_) | Content::File { .. } => None,
        })?;
        self.writing = Some(Writing { seq, mark: None, version: self.version });
        Some(Work::Close { seq, segment })
    }

    /// How what `next_work` gave was done. Returns partitions dropped, and whether to go on.
    pub(in crate::server) fn done(&mut self, done: Done) -> (Evicted, bool) {
        let mut evicted = Evicted::default();
        let Some(Writing { seq, mark, version }) = self.writing.take() else { return (evicted, false) };
        match done {
            Done::Appended => {
                if let Some(mark) = mark {
                    self.head.saved = mark;
                    self.head.batch += 1;
                }
                self.safety.saved = version;
            }
            Done::Closed { seq, file } => {
                self.to_close.retain(|&waiting| waiting != seq);
                if let Some(place) = self.past.iter().position(|past| past.seq == seq) {
                    match file {
                        Some(file) => {
                            let content = Content::File { file, damaged: Cell::new(false) };
                            self.past[place].content = content;
                        }
                        None => drop(self.past.remove(place)),
                    }
                }
                evicted.files_by_free = self.make_room();
            }
            Done::Failed { error, full } => {
                tracing::warn!("history cannot be written: {error}");
                if mark.is_some() && seq == self.head.seq {
                    self.head.segment.go_back_to(&self.head.saved);
                    self.head.digests = self.head.segment.digests.iter().copied().collect();
                    self.head.span = self.head.segment.span().unwrap_or(NOTHING_YET);
                    self.version += 1;
                    self.safety.failed = self.version;
                    self.safety.why = error;
                }
                if full && self.drop_oldest_file() {
                    evicted.files_by_free += 1;
                }
                return (evicted, false);
            }
        }
        (evicted, true)
    }

    /// Gives every wanted window of every series to `then`; with a `passage` those that weigh something in its stacks,
    /// and that.
    pub(in crate::server) fn windows(
        &self,
        selection: &Selection<'_>,
        passage: Option<&Passage<'_>>,
        mut then: impl FnMut(Window, &Series, u64),
    ) {
        for past in self.past.iter().filter(|past| selection.may_want(past.span)) {
            match &past.content {
                Content::Memory(segment) => sound(segment.windows(selection, passage, &mut then)),
                Content::File { damaged, .. } if damaged.get() => {}
                Content::File { file, damaged } => {
                    let read = || Partition::open(&file.path)?.windows(selection, passage, &mut then);
                    note(file, damaged, guarded(read));
                }
            }
        }
        sound(self.head.segment.windows(selection, passage, &mut then));
    }

    /// Gives every wanted series to `then`, more than once if it is in several segments. Segments that reach into the
    /// range are looked at whole.
    pub(in crate::server) fn series(&self, selection: &Selection<'_>, mut then: impl FnMut(&Series)) {
        let mut wanted = |series: &Series| {
            if selection.wants_series(series) {
                then(series);
            }
        };
        for past in self.past.iter().filter(|past| selection.may_want(past.span)) {
            match &past.content {
                Content::Memory(segment) => segment.series.iter().for_each(&mut wanted),
                Content::File { damaged, .. } if damaged.get() => {}
                Content::File { file, damaged } => {
                    let read = guarded(|| {
                        Partition::open(&file.path)?.series().for_each(&mut wanted);
                        Ok(())
                    });
                    note(file, damaged, read);
                }
            }
        }
        if selection.may_want(self.head.span) {
            self.head.segment.series.iter().for_each(wanted);
        }
    }

    /// All that `selection` is about as one tree. A file that turns out to be damaged gives nothing.
    pub(in crate::server) fn merge(&self, selection: &Selection<'_>) -> Tree {
        loop {
            let mut tree = Tree::default();
            if self.add_all(selection, &mut tree) {
                return tree;
            }
        }
    }

    /// False if a file was found damaged on the way, which will not be read again.
    fn add_all(&self, selection: &Selection<'_>, tree: &mut Tree) -> bool {
        for past in self.past.iter().filter(|past| selection.may_want(past.span)) {
            match &past.content {
                Content::Memory(segment) => sound(segment.merge(selection, tree)),
                Content::File { damaged, .. } if damaged.get() => {}
                Content::File { file, damaged } => {
                    note(file, damaged, guarded(|| Partition::open(&file.path)?.merge(selection, tree)));
                    if damaged.get() {
                        return false;
                    }
                }
            }
        }
        if selection.may_want(self.head.span) {
            sound(self.head.segment.merge(selection, tree));
        }
        true
    }
}

/// Rows in memory were checked when they came, or written by us.
fn sound(merged: Result<(), super::rows::Damaged>) {
    merged.expect("a segment in memory is sound");
}

/// redb promises errors for damaged files; its debug builds panic instead, and a file must not end the server.
fn guarded<T>(read: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or(Err(FileError::Damaged(super::rows::Damaged)))
}

fn note(file: &PartitionFile, damaged: &Cell<bool>, read: Result<(), FileError>) {
    if let Err(error) = read {
        tracing::warn!("{} is set aside: {error}", file.path.display());
        damaged.set(true);
    }
}

fn remove(file: &PartitionFile) {
    if let Err(error) = fs::remove_file(&file.path) {
        tracing::warn!("{} cannot be removed: {error}", file.path.display());
    }
}
