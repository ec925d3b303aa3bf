//! The books: weight captured = weight delivered + weight waiting + weight lost, by reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::Balance;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Gauges, Meters, label};
use crate::model::{Lost, Reason, Weight};

/// Counts weight as it passes, for `/metrics` and for the last line of a run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Books {
    ticks: Counter,
    idle: Counter,
    skipped: Counter,
    captured: Counter,
    elsewhere: Counter,
    lost: Counters,
    waiting: Gauges,
    waiting_by: Arc<[AtomicU64; 2]>,
}

/// Where weight can wait inside the agent; the uploader counts its own.
#[derive(Clone, Copy, Debug)]
pub enum Room {
    /// Sent by the kernel side, not yet handed to the workshop.
    Reader,
    /// Handed to the workshop, not yet to the uploader.
    Workshop,
}

impl Books {
    /// Registers the meters.
    pub fn new(meters: &Meters) -> Self {
        Self {
            ticks: meters.counter("profiler_ticks", "Ticks of the sampling clock on all processors"),
            idle: meters.counter("profiler_samples_idle", "Ticks that found the processor idle"),
            skipped: meters.counter(
                "profiler_ticks_skipped",
                "Ticks that ran no program, by the events' own counters: a processor halted or taken away by the hypervisor",
            ),
            captured: meters.counter("profiler_samples_captured", "Samples of busy processors, lost ones included"),
            elsewhere: meters.counter(
                "profiler_samples_elsewhere",
                "Samples captured of processes that were not asked for (record with a command or pids, rules that leave them out)",
            ),
            lost: meters.counters("profiler_samples_lost", "Samples captured that will not be delivered"),
            waiting: meters.gauges("profiler_samples_waiting", "Samples captured and not yet delivered or lost"),
            waiting_by: Arc::new([AtomicU64::new(0), AtomicU64::new(0)]),
        }
    }

    /// The counters by reason, for rooms that lose weight themselves.
    pub fn lost_counters(&self) -> Counters {
        self.lost.clone()
    }

    /// What the kernel side did since the last time.
    pub fn captured(&self, balance: &Balance) {
        self.ticks.inc_by(balance.ticks);
        self.idle.inc_by(balance.idle);
        self.skipped.inc_by(balance.skipped);
        self.captured.inc_by(balance.ticks.saturating_sub(balance.idle));
        self.lose(&balance.lost);
        let malformed = balance.lost.0.get(&Reason::Malformed).map_or(0, |weight| weight.0);
        self.wait(Room::Reader, i128::from(balance.sent) - i128::from(malformed));
    }

    /// Weight that was lost after it was sent by the kernel side.
    pub fn lose_sent(&self, room: Room, reason: Reason, weight: Weight) {
        self.wait(room, -i128::from(weight.0));
        let mut lost = Lost::default();
        lost.add(reason, weight);
        self.lose(&lost);
    }

    /// Weight of processes nobody asked for.
    pub fn elsewhere(&self, weight: Weight) {
        self.wait(Room::Reader, -i128::from(weight.0));
        self.elsewhere.inc_by(weight.0);
    }

    /// Weight goes from one room to the next; `None` is out of the agent's middle.
    pub fn pass(&self, from: Room, to: Option<Room>, weight: Weight) {
        self.wait(from, -i128::from(weight.0));
        if let Some(to) = to {
            self.wait(to, i128::from(weight.0));
        }
    }

    fn lose(&self, lost: &Lost) {
        for (reason, weight) in &lost.0 {
            self.lost.get_or_create(&label("reason", reason.as_str())).inc_by(weight.0);
        }
    }

    fn wait(&self, room: Room, by: i128) {
        let (cell, name) = match room {
            Room::Reader => (&self.waiting_by[0], "reader"),
            Room::Workshop => (&self.waiting_by[1], "workshop"),
        };
        // The samples of a balance may have been read before it: wrapping arithmetic lets the difference be
        // negative for that moment.
        let step = u64::try_from(by.rem_euclid(1 << 64)).unwrap_or_default();
        let now = cell.fetch_add(step, Ordering::Relaxed).wrapping_add(step).cast_signed();
        self.waiting.get_or_create(&label("where", name)).set(now as f64);
    }

    /// Weight captured so far.
    pub fn captured_total(&self) -> u64 {
        self.captured.get()
    }

    /// Weight of other processes so far.
    pub fn elsewhere_total(&self) -> u64 {
        self.elsewhere.get()
    }

    /// Weight lost so far, by reason.
    pub fn lost_total(&self) -> Vec<(Reason, u64)> {
        Reason::LOSSES
            .into_iter()
            .map(|reason| (reason, self.lost.get_or_create(&label("reason", reason.as_str())).get()))
            .filter(|(_, weight)| *weight > 0)
            .collect()
    }
}
