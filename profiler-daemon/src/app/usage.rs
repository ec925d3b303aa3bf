//! What the daemon itself uses, read when somebody asks.
//!
//! In: `/proc` of this process and of its children, who are on a roll because not every kernel lists them. Out: gauges, and the sum
//! that the governor goes by.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::gauge::Gauge;

/// Gauges about this process and its children.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    cpu: Gauge<f64, AtomicU64>,
    children_cpu: Gauge<f64, AtomicU64>,
    anonymous: Gauge<f64, AtomicU64>,
    children_anonymous: Gauge<f64, AtomicU64>,
    roll: Roll,
    files: Gauge<f64, AtomicU64>,
}

impl Usage {
    pub(super) fn new(roll: Roll, meters: &Meters) -> Self {
        Self {
            roll,
            children_anonymous: meters.gauge(
                "profiler_children_anonymous_bytes",
                "Anonymous memory of the children that run, bytes",
            ),
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
        let Times { own, ended_children, .. } = times("self").unwrap_or_default();
        self.cpu.set(own.as_secs_f64());
        self.children_cpu.set(ended_children.as_secs_f64());
        self.anonymous.set(anonymous_bytes("self"));
        self.children_anonymous.set(self.roll.anonymous_bytes());
        self.files.set(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64);
    }
}

/// Anonymous memory as `/proc/PID/status` has it; nothing of who is not there.
fn anonymous_bytes(process: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
    });
    kib.unwrap_or(0.0) * 1024.0
}

/// CPU time as `/proc/PID/stat` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    parent: u32,
    own: Duration,
    /// Of children that ended and were waited for.
    ended_children: Duration,
}

fn times(process: &str) -> Option<Times> {
    parse(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields are counted behind the name, which may hold anything: the parent is the 4th, user and system time the 14th and 15th, those
/// of ended children the two after them.
fn parse(stat: &str) -> Option<Times> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect();
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let sum = |first: usize| {
        Some(Duration::from_secs_f64((*fields.get(first - 4)? + *fields.get(first - 3)?) as f64 / ticks))
    };
    Some(Times { parent: u32::try_from(*fields.first()?).ok()?, own: sum(14)?, ended_children: sum(16)? })
}

/// The children that were started. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Roll(Arc<Mutex<Vec<u32>>>);

impl Roll {
    /// A child was started.
    pub(super) fn add(&self, pid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }

    /// Those that run, with their times. Whoever was waited for is struck off: its number may be somebody else's by now.
    fn running(&self) -> Vec<(u32, Times)> {
        let mut running = Vec::new();
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pids.retain(|&pid| match times(&pid.to_string()) {
            Some(times) if times.parent == std::process::id() => {
                running.push((pid, times));
                true
            }
            _ => false,
        });
        running
    }

    /// Anonymous memory of the children that run.
    fn anonymous_bytes(&self) -> f64 {
        self.running().into_iter().map(|(pid, _)| anonymous_bytes(&pid.to_string())).sum()
    }

    /// CPU time of this process and of all children, those that ended included.
    pub(super) fn cpu(&self) -> Duration {
        let Times { own, ended_children, .. } = times("self").unwrap_or_default();
        let children = self.running().into_iter().map(|(_, times)| times.own + times.ended_children);
        own + ended_children + children.sum::<Duration>()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!(
            "7 (a) b (c)) S 3 7 7 0 -1 4194304 1 2 3 4 {ticks} {ticks} {} 0 20 0 1 0 5 6 7",
            3 * ticks
        );
        let expected =
            Times { parent: 3, own: Duration::from_secs(2), ended_children: Duration::from_secs(3) };
        assert_eq!(parse(&stat), Some(expected));
        assert_eq!(parse("7 (a) S 3 7"), None);
    }

    #[test]
    fn a_child_counts_while_it_runs_and_after_it_was_waited_for() {
        let roll = Roll::default();
        let before = roll.cpu();
        // A quarter of a second of work, and then sleep.
        let burn = "t=$(date +%s%N); while [ $(($(date +%s%N) - t)) -lt 250000000 ]; do :; done; sleep 60";
        let mut child = std::process::Command::new("sh").args(["-c", burn]).spawn().unwrap();
        roll.add(child.id());
        while roll.cpu() < before + Duration::from_millis(50) {
            assert!(child.try_wait().unwrap().is_none(), "it ended and never counted");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(roll.anonymous_bytes() > 0.0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(roll.cpu() >= before + Duration::from_millis(50));
    }

    #[test]
    fn whoever_asks_strikes_off_who_ended() {
        let asks: [fn(&Roll); 2] = [|roll| _ = roll.cpu(), |roll| _ = roll.anonymous_bytes()];
        for ask in asks {
            let roll = Roll::default();
            let mut child = std::process::Command::new("true").spawn().unwrap();
            roll.add(child.id());
            roll.add(1); // not ours
            child.wait().unwrap();
            ask(&roll);
            assert_eq!(roll.0.lock().unwrap().len(), 0);
        }
    }
}
