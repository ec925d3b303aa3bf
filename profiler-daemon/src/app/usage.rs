//! What the daemon itself uses, read when somebody asks.

use std::sync::atomic::AtomicU64;

use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::gauge::Gauge;

/// Gauges about this process and its children.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    cpu: Gauge<f64, AtomicU64>,
    children_cpu: Gauge<f64, AtomicU64>,
    anonymous: Gauge<f64, AtomicU64>,
    files: Gauge<f64, AtomicU64>,
}

impl Usage {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            cpu: meters.gauge("profiler_cpu_seconds", "CPU time of the agent, seconds"),
            children_cpu: meters.gauge(
                "profiler_ended_children_cpu_seconds",
                "CPU time of children that have ended, seconds",
            ),
            anonymous: meters.gauge("profiler_anonymous_bytes", "Anonymous memory of the agent, bytes"),
            files: meters.gauge("profiler_open_files", "Files the agent holds open"),
        }
    }

    pub(super) fn refresh(&self) {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields are counted behind the name, which may hold anything; user and system time are the 14th and 15th.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| {
                rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect()
            })
            .unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0.0);
        self.cpu.set((field(14) + field(15)) / ticks);
        self.children_cpu.set((field(16) + field(17)) / ticks);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let anonymous = status.lines().find_map(|line| {
            line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
        });
        self.anonymous.set(anonymous.unwrap_or(0.0) * 1024.0);
        self.files.set(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64);
    }
}
