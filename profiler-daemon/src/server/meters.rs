//! What the embedded server counts.

use prometheus_client::metrics::counter::Counter;

use super::connection::Phase;
use super::refusal::Refusal;
use super::store::Evicted;
use crate::meters::{Counters, Meters, label, prometheus_client};

type Gauge = prometheus_client::metrics::gauge::Gauge<f64, std::sync::atomic::AtomicU64>;

/// The embedded server's counters.
#[derive(Clone, Debug)]
pub(super) struct ServerMeters {
    requests: Counters,
    profiles: Counter,
    duplicates: Counter,
    refusals: Counters,
    samples_dropped: Counters,
    evictions: Counters,
    partitions_dropped: Counters,
    store_bytes: Gauge,
    disk_bytes: Gauge,
    /// Answers that waited for others to be read.
    pub(super) answers_waited: Counter,
    connections_open: Gauge,
    connections_ended: Counters,
    /// For `/metrics`.
    pub(super) all: Meters,
}

impl ServerMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            requests: meters.counters("profiler_server_requests", "Requests, by status"),
            profiles: meters.counter("profiler_server_profiles", "Profiles stored"),
            duplicates: meters
                .counter("profiler_server_profiles_duplicate", "Profiles pushed again and counted once"),
            refusals: meters.counters("profiler_server_profiles_refused", "Profiles not stored, by reason"),
            samples_dropped: meters.counters(
                "profiler_server_samples_dropped",
                "Samples of stored profiles left out, by reason",
            ),
            evictions: meters.counters(
                "profiler_server_windows_evicted",
                "Windows of series dropped: age, or memory was short",
            ),
            partitions_dropped: meters
                .counters("profiler_server_partitions_dropped", "Partitions of history that went, by reason"),
            store_bytes: meters.gauge("profiler_server_store_bytes", "Memory of the store"),
            disk_bytes: meters.gauge("profiler_server_disk_bytes", "Partitions of history on disk"),
            answers_waited: meters.counter(
                "profiler_server_answers_waited",
                "Answers that waited until readers of others had made room (answers_bytes_max)",
            ),
            connections_open: meters.gauge("profiler_server_connections_open", "Connections open"),
            connections_ended: meters
                .counters("profiler_server_connections_ended", "Connections that ended, by how"),
            all: meters.clone(),
        }
    }

    pub(super) fn answered(&self, status: http::StatusCode) {
        self.requests.get_or_create(&label("code", status.as_str())).inc();
    }

    pub(super) fn taken(&self, duplicate: bool, negative: u64) {
        if duplicate {
            self.duplicates.inc()
        } else {
            self.profiles.inc()
        };
        if negative > 0 {
            self.samples_dropped.get_or_create(&label("reason", "negative value")).inc_by(negative);
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&label("reason", refusal.reason)).inc();
    }

    pub(super) fn evicted(&self, evicted: Evicted) {
        let Evicted { by_age, by_bytes, files_by_age, files_by_bytes, files_by_free, files_damaged } =
            evicted;
        let count = |counters: &Counters, reason, count| {
            if count > 0 {
                counters.get_or_create(&label("reason", reason)).inc_by(count);
            }
        };
        count(&self.evictions, "age", by_age);
        count(&self.evictions, "memory_bytes_max", by_bytes);
        count(&self.partitions_dropped, "age", files_by_age);
        count(&self.partitions_dropped, "disk_bytes_max", files_by_bytes);
        count(&self.partitions_dropped, "disk_free_bytes_min", files_by_free);
        count(&self.partitions_dropped, "damaged", files_damaged);
    }

    pub(super) fn store_bytes(&self, memory: usize, disk: u64) {
        self.store_bytes.set(memory as f64);
        self.disk_bytes.set(disk as f64);
    }

    pub(super) fn connection_opened(&self) {
        self.connections_open.inc();
    }

    pub(super) fn connection_ended(&self, expired: Option<Phase>) {
        self.connections_open.dec();
        self.connection_ended_by(match expired {
            Some(Phase::Idle) => "idle timeout",
            Some(Phase::Reading) => "read timeout",
            Some(Phase::Answering) => "write timeout",
            None => "client or shutdown",
        });
    }

    pub(super) fn connection_refused(&self) {
        self.connection_ended_by("connections_max");
    }

    pub(super) fn connection_unencrypted(&self) {
        self.connection_ended_by("no encryption");
    }

    fn connection_ended_by(&self, how: &str) {
        self.connections_ended.get_or_create(&label("by", how)).inc();
    }
}
