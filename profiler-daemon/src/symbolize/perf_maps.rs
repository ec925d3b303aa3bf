//! Names of code that was made at run time, from the file that says what it is: a perf map.
//!
//! In: modules of that kind, and addresses in their processes. Out: names. A map grows while its process runs, and what it says of
//! an address may change: so its names are remembered for as long as it is as it was, and asked for again when it is not. What
//! they cost is bounded by bytes: of a map, whose newest part says most of what still holds, and of all maps of a batch, for the
//! namer reads them anew for each question. Not here: how they are found and held (`processes`), and what is in them (the namer).

use std::os::fd::{AsFd, OwnedFd};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::Symbolizer;
use super::cache::Cache;
use super::client::{Asked, Reply};
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Meters, label};
use crate::model::Module;

/// Bytes of one map that are read for a question, the last ones: a large server's is a tenth of it.
const MAP_BYTES_MAX: u64 = 64 << 20;
/// Bytes of maps that are read for one batch: half a second of the namer's time. What is beyond has no names in this window.
const BATCH_BYTES_MAX: u64 = 256 << 20;

/// What is known of the maps that the last batch went through.
#[derive(Debug)]
pub(super) struct PerfMaps {
    /// By the number of the module. What a batch does not go through is forgotten, and with it what its process was.
    known: FxHashMap<u32, Seen>,
    bytes_left: u64,
    meters: PerfMapMeters,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Where its names are remembered: another place each time it has changed.
    slot: u32,
    state: State,
    in_batch: bool,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    bytes: u64,
    changed: (i64, u32),
}

impl State {
    fn of(file: &OwnedFd) -> Option<Self> {
        // What the kernel knows is enough: who serves a file system may not answer.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let is = statx(file, "", flags, StatxFlags::SIZE | StatxFlags::MTIME).ok()?;
        Some(Self { bytes: is.stx_size, changed: (is.stx_mtime.tv_sec, is.stx_mtime.tv_nsec) })
    }
}

impl PerfMaps {
    pub(super) fn new(meters: &PerfMapMeters) -> Self {
        Self { known: FxHashMap::default(), bytes_left: BATCH_BYTES_MAX, meters: meters.clone() }
    }

    /// The slot for the names of `module` as its map is now.
    pub(super) fn slot(&mut self, module: &Module, cache: &mut Cache) -> u32 {
        let seen = self.known.get_mut(&module.id);
        if let Some(seen) = &seen
            && seen.in_batch
        {
            return seen.slot;
        }
        let state = module.file.as_ref().and_then(State::of).unwrap_or(State { bytes: 0, changed: (0, 0) });
        if let Some(seen) = seen
            && seen.state == state
        {
            seen.in_batch = true;
            return seen.slot;
        }
        let slot = cache.slot(module);
        self.known.insert(module.id, Seen { slot, state, in_batch: true });
        slot
    }

    /// The bytes of the map of `module` that are to be read for a question; `None` if enough was read for this batch.
    fn part(&mut self, module: &Module) -> Option<(u64, u64)> {
        let bytes = self.known.get(&module.id)?.state.bytes;
        let most = bytes.min(MAP_BYTES_MAX);
        let Some(left) = self.bytes_left.checked_sub(most) else {
            self.meters.over_max.get_or_create(&label("what", "batch")).inc();
            return None;
        };
        if most < bytes {
            self.meters.over_max.get_or_create(&label("what", "map")).inc();
        }
        self.bytes_left = left;
        self.meters.read_bytes.inc_by(most);
        Some((bytes - most, bytes))
    }

    /// A batch ends.
    pub(super) fn end(&mut self) {
        self.known.retain(|_, seen| std::mem::take(&mut seen.in_batch));
        self.bytes_left = BATCH_BYTES_MAX;
    }
}

impl Symbolizer {
    /// What the map of `module` calls the code at `addresses`, which ascend.
    pub(super) fn ask_perf_map(&mut self, module: &Module, addresses: &[u64]) -> Reply {
        let Some(file) = &module.file else { return Reply::Refused };
        let Some(part) = self.perf_maps.part(module) else { return Reply::Unavailable };
        self.client.ask(Asked::PerfMap { module: module.id, file: file.as_fd(), part }, addresses)
    }
}

#[derive(Clone, Debug)]
pub(super) struct PerfMapMeters {
    read_bytes: Counter,
    over_max: Counters,
}

impl PerfMapMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            read_bytes: meters.counter(
                "profiler_perf_maps_read_bytes",
                "Bytes of perf maps that were read for names of code made at run time",
            ),
            over_max: meters.counters(
                "profiler_perf_maps_over_max",
                "Questions about code made at run time that met a bound: of one map, of a batch",
            ),
        }
    }
}
