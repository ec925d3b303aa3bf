//! The one tracker of processes: which code is mapped where, and which files hold it.
//!
//! In: what happened to processes, in two steps. [`Tracker::pin`] takes each event as it arrives, in any order,
//! and holds on to what the process would take with it: its files, its cgroup. [`Tracker::apply`] takes them in
//! time order, so that a sample is read against the mappings of its own moment.
//! Out: [`Process`]: facts for labels, and addresses settled to files. [`Present`]: what is mapped now, ahead of the samples.
//! Not here: labels, names, samples. A process that is gone already costs a module without a file, never an
//! error.

use std::time::Duration;

mod debug_files;
mod files;
mod mappings;
mod modules;
mod perf_maps;
mod present;
mod process;
mod tracker;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod replay_tests;

pub use debug_files::find_debug_files;
pub use mappings::{Mapped, Mappings};
pub use present::Present;
pub use process::Process;
pub use tracker::Tracker;

/// The bounds of the tracker.
#[derive(Clone, Debug)]
pub struct Config {
    /// Executable mappings of one process that are kept: as many as the kernel lets a process have by default.
    pub mappings_max: usize,
    /// Executable mappings that are kept of all processes together, 40 bytes each; a table that forks share
    /// counts once. Thirty thousand are common.
    pub mappings_total_max: usize,
    /// Processes that are known: four times the kernel's common limit.
    pub processes_max: usize,
    /// Processes that have ended and are kept for samples that come late.
    pub ended_max: usize,
    /// Files that are held open. The limit of open files has to be higher.
    pub modules_open_max: usize,
    /// Files with the names of code that processes made, held open: those of processes that ended a while ago among them.
    pub perf_maps_open_max: usize,
    /// Files that are known, open or not.
    pub modules_known_max: usize,
    /// How long a file is held that no process maps any more: long enough for a compiler that is run again and
    /// again, short enough for a disk that is to be unmounted.
    pub module_idle: Duration,
}

/// What one of each takes, bytes, with its share of the tables it is found by. A process has its paths, which its threads share.
const MAPPING_BYTES: u64 = 56;
const PROCESS_BYTES: u64 = 384;
const MODULE_BYTES: u64 = 512;

impl Config {
    /// What the tracker takes at most, bytes.
    pub fn bytes_max(&self) -> u64 {
        self.mappings_total_max as u64 * MAPPING_BYTES
            + (self.processes_max + self.ended_max) as u64 * PROCESS_BYTES
            + self.modules_known_max as u64 * MODULE_BYTES
    }

    /// The usual bounds, or as much of each as makes no more than `bytes` together.
    pub fn within(bytes: u64) -> Self {
        let usual = Self::default();
        let all = u128::from(usual.bytes_max());
        let part = |most: usize| {
            usize::try_from(most as u128 * u128::from(bytes) / all).map_or(most, |part| part.min(most))
        };
        Self {
            mappings_total_max: part(usual.mappings_total_max),
            processes_max: part(usual.processes_max),
            ended_max: part(usual.ended_max),
            modules_known_max: part(usual.modules_known_max),
            ..usual
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mappings_max: 1 << 16,
            mappings_total_max: 1 << 20,
            processes_max: 1 << 17,
            ended_max: 512,
            modules_open_max: 1 << 12,
            perf_maps_open_max: 1 << 10,
            modules_known_max: 1 << 14,
            module_idle: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_made_smaller_together() {
        let usual = Config::default();
        assert_eq!(Config::within(u64::MAX).processes_max, usual.processes_max);
        let quarter = Config::within(usual.bytes_max() / 4);
        assert_eq!(quarter.processes_max, usual.processes_max / 4);
        assert_eq!(quarter.mappings_max, usual.mappings_max, "that of one process is the kernel's own");
        assert!(quarter.bytes_max() <= usual.bytes_max() / 4);
    }
}
