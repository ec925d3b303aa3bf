//! What `deliver` counts.
//!
//! In: events. Out: metrics. Not here: totals that something depends on; those are in `waiting`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::connection::{Keeper, Opened};
use crate::meters::{Counters, Meters, label, prometheus_client};
use crate::model::{Reason, Weight};

type Value = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Handles of the meters. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    attempts: Counters,
    connections_used: Counters,
    retries: Counter,
    opened: Counters,
    closed: Counters,
    server_timeout: Value,
    guard: Value,
    mismatch: Value,
    delivered: Counter,
    waiting_weight: Value,
    waiting_bytes: Value,
    lost: Counters,
}

/// Who closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// We.
    Client,
    /// The server, or whatever is in between.
    Server,
}

impl Tally {
    /// Registers all of them but `lost`, which every room shares.
    pub(super) fn new(meters: &Meters, lost: Counters) -> Self {
        Self {
            attempts: meters.counters("profiler_push_attempts", "Pushes that were tried, by how each ended."),
            connections_used: meters.counters(
                "profiler_push_connections",
                "Pushes that were tried, by the connection: a fresh one, or one that was reused.",
            ),
            retries: meters.counter("profiler_push_retries", "Pushes that were tried again."),
            opened: meters
                .counters("profiler_connections_opened", "Connections opened for a push, by reason."),
            closed: meters.counters("profiler_connection_closed", "Connections closed, by who did it."),
            server_timeout: meters.gauge(
                "profiler_keepalive_server_timeout_seconds",
                "How long the server says that it keeps an idle connection; 0 if it does not say.",
            ),
            guard: meters.gauge(
                "profiler_keepalive_guard_seconds",
                "How much of the server's timeout is kept clear of pushes.",
            ),
            mismatch: meters.gauge(
                "profiler_keepalive_mismatch",
                "1 if pushes come too seldom for the server's timeout, so that each opens a connection.",
            ),
            delivered: meters.counter("profiler_delivered_weight", "Samples that the server has taken."),
            waiting_weight: meters.gauge("profiler_waiting_weight", "Samples that wait to be pushed."),
            waiting_bytes: meters.gauge("profiler_waiting_bytes", "Memory used by what waits to be pushed."),
            lost,
        }
    }

    /// A push was tried and ended with `result`.
    pub(super) fn attempt(&self, result: &str, reused: bool) {
        let conn = if reused { "reused" } else { "fresh" };
        self.attempts.get_or_create(&label("result", result)).inc();
        self.connections_used.get_or_create(&label("conn", conn)).inc();
    }

    /// A push is tried again.
    pub(super) fn retry(&self) {
        self.retries.inc();
    }

    /// A connection is opened.
    pub(super) fn opened(&self, why: Opened) {
        self.opened.get_or_create(&label("reason", why.as_str())).inc();
    }

    /// A connection is closed.
    pub(super) fn closed(&self, by: By) {
        let by = match by {
            By::Client => "client",
            By::Server => "server",
        };
        self.closed.get_or_create(&label("by", by)).inc();
    }

    /// How the connection is kept now.
    pub(super) fn keep_alive(&self, keeper: &Keeper) {
        let fit = keeper.fit();
        self.server_timeout.set(fit.map_or(0.0, |fit| fit.timeout.as_secs_f64()));
        self.guard.set(fit.map_or(0.0, |fit| fit.guard.as_secs_f64()));
        self.mismatch.set(f64::from(u8::from(keeper.mismatch())));
    }

    /// The server took this much.
    pub(super) fn delivered(&self, weight: Weight) {
        self.delivered.inc_by(weight.0);
    }

    /// So much waits now.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; what fits in memory is exact in it")]
    pub(super) fn waiting(&self, weight: Weight, bytes: usize) {
        self.waiting_weight.set(weight.0 as f64);
        self.waiting_bytes.set(bytes as f64);
    }

    /// So much will not be delivered.
    pub(super) fn lost(&self, reason: Reason, weight: Weight) {
        self.lost.get_or_create(&label("reason", reason.as_str())).inc_by(weight.0);
    }
}

/// The group that a status belongs to, as a result of an attempt.
pub(super) const fn status_result(status: u16) -> &'static str {
    match status {
        200..300 => "ok",
        300..400 => "http_3xx",
        400..500 => "http_4xx",
        500..600 => "http_5xx",
        _ => "http_other",
    }
}
