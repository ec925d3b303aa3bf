//! What `deliver` counts.
//!
//! In: events. Out: metrics. Not here: totals that something depends on; those are in `waiting`.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::connection::{Basis, Keeper, Opened};
use super::retry::Class;
use crate::meters::{Counters, Gauges, Label, Meters, label, prometheus_client};
use crate::model::{Reason, Weight};

type Value = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Upper bounds of the histogram of ages at which servers close connections, seconds: around the timeouts that servers
/// come with.
const CLOSE_AGES_S: [f64; 14] = [0.1, 0.5, 1.0, 2.0, 4.9, 5.1, 6.1, 9.9, 10.1, 15.5, 30.5, 60.5, 75.5, 120.5];

/// Handles of the meters. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    attempts: Counters,
    failed: Counters,
    retries: Counters,
    unknown: Counter,
    opened: Counters,
    closed: Counters,
    close_ages: Histogram,
    window: Gauges,
    server_timeout: Gauges,
    state: Gauges,
    guard: Value,
    mismatch: Value,
    interval: Value,
    delivered: Counter,
    waiting_weight: Value,
    waiting_bytes: Value,
    lost: Counters,
    /// Which sink it is of, where that is not clear.
    sink: Vec<(&'static str, String)>,
}

/// What is counted for each sink but the first.
#[derive(Clone, Debug)]
pub(super) struct SinkMeters {
    attempts: Counters,
    delivered: Counters,
    waiting: Gauges,
    lost: Counters,
}

impl SinkMeters {
    /// Registers them.
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            attempts: meters
                .counters("profiler_sink_attempts", "Pushes that were tried, to sinks beside the first."),
            delivered: meters.counters(
                "profiler_sink_delivered_weight",
                "Samples that a sink beside the first has taken.",
            ),
            waiting: meters
                .gauges("profiler_sink_waiting_weight", "Samples that wait for a sink beside the first."),
            lost: meters.counters(
                "profiler_sink_lost_weight",
                "Samples that will not be delivered to a sink beside the first, by reason.",
            ),
        }
    }
}

/// Who closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// We.
    Client,
    /// The server, or whatever is in between.
    Server,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// In order.
    Fin,
    /// By a reset.
    Rst,
    /// Nothing came of it.
    Timeout,
}

/// What a connection was doing when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    Idle,
    /// It carried a request.
    InFlight,
}

impl Tally {
    /// Registers all of them but `lost`, which every room shares.
    pub(super) fn new(meters: &Meters, lost: Counters) -> Self {
        let close_ages = Histogram::new(CLOSE_AGES_S);
        Self {
            attempts: meters.counters(
                "profiler_push_attempts",
                "Pushes that were tried, by how each ended and by the connection: a fresh one, or a reused one.",
            ),
            failed: meters.counters(
                "profiler_push_failed",
                "Pushes that were given up without an answer, by what is known of the last attempt.",
            ),
            retries: meters.counters(
                "profiler_push_retries",
                "Pushes that were tried again, by what is known of the attempt before.",
            ),
            unknown: meters.counter(
                "profiler_profiles_unknown",
                "Profiles that the server may have or not, and that were not sent again because that was asked for.",
            ),
            opened: meters
                .counters("profiler_connections_opened", "Connections opened for a push, by reason."),
            closed: meters.counters(
                "profiler_connection_closed",
                "Connections closed, by who did it, how, and whether a push was under way.",
            ),
            close_ages: meters.register(
                "profiler_connection_close_age_seconds",
                "Age of idle connections when the server closed them, since their last request was begun.",
                close_ages,
            ),
            window: meters.gauges(
                "profiler_keepalive_window_seconds",
                "Longest age at which a connection is used again, by where that is known from.",
            ),
            server_timeout: meters.gauges(
                "profiler_keepalive_server_timeout_seconds",
                "How long the server keeps an idle connection, by where that is known from.",
            ),
            state: meters.gauges(
                "profiler_keepalive_state",
                "1 for where the server's idle timeout is known from; probing is not yet.",
            ),
            guard: meters.gauge(
                "profiler_keepalive_guard_seconds",
                "How much of the server's timeout is kept clear of pushes.",
            ),
            mismatch: meters.gauge(
                "profiler_keepalive_mismatch",
                "1 if pushes come too seldom for the server's timeout, so that each opens a connection.",
            ),
            interval: meters.gauge(
                "profiler_push_interval_effective_seconds",
                "How often pushes come: as configured, or a little earlier.",
            ),
            delivered: meters.counter("profiler_delivered_weight", "Samples that the server has taken."),
            waiting_weight: meters.gauge("profiler_waiting_weight", "Samples that wait to be pushed."),
            waiting_bytes: meters.gauge("profiler_waiting_bytes", "Memory used by what waits to be pushed."),
            lost,
            sink: Vec::new(),
        }
    }

    /// One for a sink beside the first: what is more than its own four meters is not shown.
    pub(super) fn beside(meters: &SinkMeters, sink: &str) -> Self {
        let sink = label("sink", sink);
        Self {
            attempts: meters.attempts.clone(),
            delivered: meters.delivered.get_or_create(&sink).clone(),
            waiting_weight: meters.waiting.get_or_create(&sink).clone(),
            lost: meters.lost.clone(),
            sink,
            ..Self::new(&Meters::default(), Counters::default())
        }
    }

    fn labels<const N: usize>(&self, labels: [(&'static str, &str); N]) -> Label {
        let own = labels.map(|(name, value)| (name, value.to_owned()));
        own.into_iter().chain(self.sink.clone()).collect()
    }

    /// A push was tried and ended with `result`.
    pub(super) fn attempt(&self, result: &str, reused: bool) {
        let conn = if reused { "reused" } else { "fresh" };
        self.attempts.get_or_create(&self.labels([("result", result), ("conn", conn)])).inc();
    }

    /// A push is tried again.
    pub(super) fn retry(&self, class: Class) {
        self.retries.get_or_create(&label("class", class.as_str())).inc();
    }

    /// So many profiles are given up after a push that the server may have carried out.
    pub(super) fn given_up(&self, class: Class, profiles: usize) {
        self.failed.get_or_create(&label("class", class.as_str())).inc();
        self.unknown.inc_by(profiles as u64);
    }

    /// A connection is opened.
    pub(super) fn opened(&self, why: Opened) {
        self.opened.get_or_create(&label("reason", why.as_str())).inc();
    }

    /// A connection is closed.
    pub(super) fn closed(&self, by: By, how: Ended, phase: Phase) {
        let by = match by {
            By::Client => "client",
            By::Server => "server",
        };
        let how = match how {
            Ended::Fin => "fin",
            Ended::Rst => "rst",
            Ended::Timeout => "timeout",
        };
        let phase = match phase {
            Phase::Idle => "idle",
            Phase::InFlight => "in_flight",
        };
        let labels = vec![("by", by.to_owned()), ("how", how.to_owned()), ("phase", phase.to_owned())];
        self.closed.get_or_create(&labels).inc();
    }

    /// The server closed an idle connection of this age.
    pub(super) fn close_age(&self, age: Duration) {
        self.close_ages.observe(age.as_secs_f64());
    }

    /// How the connection is kept now.
    pub(super) fn keep_alive(&self, keeper: &Keeper) {
        let (basis, fit) = (keeper.basis(), keeper.fit());
        for other in Basis::ALL {
            let here = other == basis;
            let source = label("source", other.as_str());
            let value =
                |value: Option<Duration>| value.filter(|_| here).map_or(0.0, |value| value.as_secs_f64());
            self.state.get_or_create(&label("state", other.as_str())).set(f64::from(u8::from(here)));
            self.window.get_or_create(&source).set(value(keeper.window()));
            self.server_timeout.get_or_create(&source).set(value(fit.map(|fit| fit.timeout)));
        }
        self.guard.set(fit.map_or(0.0, |fit| fit.guard.as_secs_f64()));
        self.mismatch.set(f64::from(u8::from(keeper.mismatch())));
        self.interval.set(keeper.interval().as_secs_f64());
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
        self.lost.get_or_create(&self.labels([("reason", reason.as_str())])).inc_by(weight.0);
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
