//! History: the head in memory, and what came before it in memory or on disk.
//!
//! In: profiles as `push` read them. Out: what they weighed per series and window, and one merged tree. Profiles are kept
//! in segments by arrival, each with its own dictionary, so a late push finds its place like any other, nothing is
//! counted, and no dictionary outlives what it named. Without a folder a segment spans minutes and is dropped whole when
//! all in it is older than is kept, or when memory is short. With a folder it spans an hour, every push is in its journal
//! before it is answered, and when it ends it becomes a partition: a file, dropped whole when it is too old, when there
//! are too many bytes, or when the disk runs short.
//! Nothing here runs by itself: what is too old goes when someone pushes or asks.

mod batch;
mod blob;
mod folder;
mod history;
mod journal;
mod partition;
mod passage;
mod rows;
mod safety;
mod segment;
mod series;
mod tree;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use history::Store;
pub(super) use journal::Journal;
pub(super) use passage::Passage;
pub(super) use safety::Safety;
pub(super) use segment::{FunctionId, ROOT, Segment, StackId};
pub(super) use series::{Labels, ProfileType, Series, Written};
pub(super) use tree::{Tree, TreeFunction, TreeNode};

use super::selector::Matcher;
use crate::time::{WallNs, Window};

/// What a profile is known by: a hash of its labels, time and bytes that nobody can make collide.
pub(super) type Digest = [u8; 16];

/// What the store keeps, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Where history is kept; without it, in memory.
    pub(super) folder: Option<PathBuf>,
    /// How long after its end a window is kept.
    pub(super) keep: Duration,
    /// Memory for all segments, bytes.
    pub(super) memory_bytes_max: usize,
    /// Bytes of all files.
    pub(super) disk_bytes_max: u64,
    /// Bytes that stay free on the disk, if that is not more than a twentieth of it.
    pub(super) disk_free_bytes_min: u64,
    /// Series in one segment.
    pub(super) series_max: usize,
    /// How old a profile may be when it is pushed: so long it can be pushed again.
    pub(super) age_max: Duration,
}

/// What was dropped to make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    /// Windows of series in memory that had grown too old.
    pub(super) by_age: u64,
    /// Windows of series that went early because memory was short.
    pub(super) by_bytes: u64,
    /// Partitions that had grown too old.
    pub(super) files_by_age: u64,
    /// Partitions that went early because there were too many bytes.
    pub(super) files_by_bytes: u64,
    /// Partitions that went early because the disk was short.
    pub(super) files_by_free: u64,
    /// Partitions and journals that could not be read and were set aside.
    pub(super) files_damaged: u64,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The folder.
    #[error("{folder}: {error}")]
    Folder {
        /// Which.
        folder: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// Two processes would each think that they know what is in it.
    #[error("{0} is in use by another server: stop that, or choose another --data-dir")]
    InUse(String),
}

/// Which part of the store a question is about.
#[derive(Clone, Debug)]
pub(super) struct Selection<'a> {
    /// What the values count; any, without.
    pub(super) profile_type: Option<&'a str>,
    /// Only this service, or all.
    pub(super) service: Option<&'a str>,
    /// Only series that fulfil all of these.
    pub(super) matchers: &'a [Matcher],
    /// Windows that begin in here.
    pub(super) range: Range<WallNs>,
}

impl Selection<'_> {
    /// True if `series` is part of it.
    pub(super) fn wants_series(&self, series: &Series) -> bool {
        self.profile_type.is_none_or(|wanted| series.profile_type().as_str() == wanted)
            && self.service.is_none_or(|service| series.service() == service)
            && self
                .matchers
                .iter()
                .all(|matcher| matcher.takes(series.value_of(matcher.name()).unwrap_or_default()))
    }

    /// True if `window` is part of it.
    pub(super) fn wants_window(&self, window: Window) -> bool {
        self.range.contains(&window.start)
    }

    /// True if a window that lies in `span` may be part of it.
    fn may_want(&self, span: (WallNs, WallNs)) -> bool {
        span.0 < self.range.end && span.1 >= self.range.start
    }
}

/// Asks `store` for all it has; what it weighs.
pub(super) fn check(store: &Store) -> u64 {
    let all = Selection { profile_type: None, service: None, matchers: &[], range: ALWAYS };
    let mut windows = 0_u64;
    store.windows(&all, None, |_, _, value| windows = windows.saturating_add(value));
    let tree = store.merge(&all);
    for node in &tree.nodes {
        assert!(node.own <= node.total && node.total <= tree.nodes[node.parent as usize].total);
    }
    tree.total()
}

/// True if `bytes` are a batch of a journal, its first.
pub(super) fn read_batch(bytes: &[u8]) -> bool {
    let mut segment = Segment::default();
    if batch::read(bytes, &mut segment).is_err() {
        return false;
    }
    let all = Selection { profile_type: None, service: None, matchers: &[], range: ALWAYS };
    segment.merge(&all, &mut Tree::default()).expect("what was read is sound");
    true
}

/// All time.
const ALWAYS: Range<WallNs> = WallNs(i64::MIN)..WallNs(i64::MAX);

/// The end of a window.
pub(super) fn end(window: Window) -> WallNs {
    WallNs(window.start.0.saturating_add_unsigned(window.duration_ns))
}
