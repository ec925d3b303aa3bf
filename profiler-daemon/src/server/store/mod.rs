//! The last hour of profiles, in memory, under a byte bound.
//!
//! In: profiles as `push` read them. Out: totals per service and time, and one merged tree. Profiles are kept in
//! segments of a few minutes by arrival, each with its own dictionary, and a segment is dropped whole when all in
//! it is older than is kept, or when memory is short: so nothing is counted, and no dictionary outlives what it named.
//! Nothing here runs by itself: what is too old goes when someone pushes or asks.

mod segment;
mod series;
mod tree;

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

pub(super) use segment::{FunctionId, ROOT, Segment, StackId};
pub(super) use series::{Labels, ProfileType, Series, Written};
pub(super) use tree::Tree;

use crate::time::{WallNs, Window};

/// What the store keeps, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long after its end a window is kept.
    pub(super) keep: Duration,
    /// Memory for all segments, bytes.
    pub(super) memory_bytes_max: usize,
    /// Series in one segment.
    pub(super) series_max: usize,
}

/// A new segment is begun after this long: a twelfth of the hour, so that what is dropped at once is little.
const SEGMENT_SPAN: Duration = Duration::from_secs(300);
/// A segment is also ended when it takes this part of the memory, for the same reason. A smaller part would make busy
/// machines learn their stacks anew with every push.
const SEGMENT_PART: usize = 4;

/// What was dropped to make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    /// Windows of series that had grown too old.
    pub(super) by_age: u64,
    /// Windows of series that went early because memory was short.
    pub(super) by_bytes: u64,
}

/// Which part of the store a question is about.
#[derive(Clone, Debug)]
pub(super) struct Selection<'a> {
    /// What the values count.
    pub(super) profile_type: &'a str,
    /// Only this service, or all.
    pub(super) service: Option<&'a str>,
    /// Windows whose middle lies in here.
    pub(super) range: Range<WallNs>,
}

impl Selection<'_> {
    /// True if that window of that series is part of it.
    pub(super) fn wants(&self, window: Window, series: &Series) -> bool {
        self.range.contains(&middle(window))
            && series.profile_type().as_str() == self.profile_type
            && self.service.is_none_or(|service| series.service() == service)
    }
}

/// The last hour of profiles.
#[derive(Debug)]
pub(super) struct Store {
    bounds: Bounds,
    /// Oldest arrival first; the last one grows.
    segments: VecDeque<Aged>,
    /// One key for the life of the store, so that nobody can choose what collides.
    digests: RandomState,
    /// Counts changes of what can be asked for.
    version: u64,
}

#[derive(Debug)]
struct Aged {
    segment: Segment,
    began: WallNs,
    /// End of the youngest window in it.
    newest: WallNs,
    /// What was pushed: labels, time and bytes.
    digests: HashSet<u64>,
}

impl Aged {
    fn bytes(&self) -> usize {
        self.segment.bytes() + self.digests.capacity() * 9
    }
}

/// The end of a window.
pub(super) fn end(window: Window) -> WallNs {
    WallNs(window.start.0.saturating_add_unsigned(window.duration_ns))
}

fn middle(window: Window) -> WallNs {
    WallNs(window.start.0.saturating_add_unsigned(window.duration_ns / 2))
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Store {
    /// An empty store.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, segments: VecDeque::new(), digests: RandomState::new(), version: 0 }
    }

    /// What a profile of these labels, time and bytes is known by.
    pub(super) fn digest(&self, labels: &Labels, time_nanos: i64, bytes: &[u8]) -> u64 {
        self.digests.hash_one((labels, time_nanos, bytes))
    }

    /// True if that very profile is here.
    pub(super) fn holds(&self, digest: u64) -> bool {
        self.segments.iter().any(|aged| aged.digests.contains(&digest))
    }

    /// The segment that grows, with room for more.
    pub(super) fn open(&mut self, now: WallNs) -> &mut Segment {
        let full = self.segments.back().is_none_or(|newest| {
            now.0.saturating_sub(newest.began.0) > nanoseconds(SEGMENT_SPAN)
                || newest.bytes() > self.bounds.memory_bytes_max / SEGMENT_PART
        });
        if full {
            self.segments.push_back(Aged {
                segment: Segment::default(),
                began: now,
                newest: WallNs(i64::MIN),
                digests: HashSet::new(),
            });
        }
        &mut self.segments.back_mut().expect("one was pushed if there was none").segment
    }

    /// True if the open segment can take all of `series`.
    pub(super) fn has_room_for<'a>(&self, series: impl Iterator<Item = &'a Series>) -> bool {
        let Some(newest) = self.segments.back() else { return true };
        let new: HashSet<&Series> = series.filter(|series| !newest.segment.knows(series)).collect();
        newest.segment.series_count() + new.len() <= self.bounds.series_max
    }

    /// Says that a profile was put into the open segment, and drops what is now too much.
    pub(super) fn close(&mut self, digest: Option<u64>, window: Window, now: WallNs) -> Evicted {
        if let Some(newest) = self.segments.back_mut() {
            newest.newest = newest.newest.max(end(window));
            newest.digests.extend(digest);
        }
        self.version += 1;
        self.evict(now)
    }

    /// Drops what is too old, then what is too much, the oldest first.
    pub(super) fn evict(&mut self, now: WallNs) -> Evicted {
        let mut evicted = Evicted::default();
        let oldest = WallNs(now.0.saturating_sub(nanoseconds(self.bounds.keep)));
        self.segments.retain(|aged| {
            let stays = aged.newest >= oldest;
            if !stays {
                evicted.by_age += aged.segment.stored_count() as u64;
            }
            stays
        });
        // The last one stays, whatever it weighs: one profile is bounded by itself.
        while self.segments.len() > 1 && self.bytes() > self.bounds.memory_bytes_max {
            if let Some(gone) = self.segments.pop_front() {
                evicted.by_bytes += gone.segment.stored_count() as u64;
            }
        }
        if evicted != Evicted::default() {
            self.version += 1;
        }
        evicted
    }

    /// Memory in use, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.segments.iter().map(Aged::bytes).sum()
    }

    /// Another number after every change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Every window of every series: when, whose, how much.
    pub(super) fn windows(&self) -> impl Iterator<Item = (Window, &Series, u64)> {
        self.segments
            .iter()
            .flat_map(|aged| aged.segment.stored())
            .map(|(stored, series)| (stored.window, series, stored.total))
    }

    /// All that `selection` is about as one tree.
    pub(super) fn merge(&self, selection: &Selection<'_>) -> Tree {
        let mut tree = Tree::default();
        for aged in &self.segments {
            tree.add(&aged.segment, |stored, series| selection.wants(stored.window, series));
        }
        tree
    }
}
