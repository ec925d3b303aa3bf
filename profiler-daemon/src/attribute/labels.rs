//! The labels of each process, made once.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::sources::{Facts, owner_labels, printable, service_name};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::model::{Comm, Labels};
use crate::processes::Process;

/// Processes and services whose labels are remembered: more than run on most machines. Beyond, all are made anew.
const REMEMBERED_MAX: usize = 1 << 13;

/// The service of what comes when a window has as many series as it may have.
const REST: &str = "(other services)";

/// Labels by what they are made of. Equal labels share one piece of memory.
#[derive(Debug)]
pub(super) struct LabelCache {
    hostname: Arc<str>,
    series_max: usize,
    by_facts: FxHashMap<u64, Arc<Labels>>,
    /// All labels there are, once.
    known: FxHashSet<Arc<Labels>>,
    over_max: Counter,
    series_over_max: Counter,
}

impl LabelCache {
    pub(super) fn new(hostname: &str, series_max: usize, meters: &Meters) -> Self {
        Self {
            hostname: printable(hostname).into(),
            series_max,
            by_facts: FxHashMap::default(),
            known: FxHashSet::default(),
            over_max: meters.counter(
                "profiler_labels_forgotten",
                "Times that labels were made anew because there were too many",
            ),
            series_over_max: meters.counter(
                "profiler_series_over_max",
                "Processes that were merged into the series of other services, because there were too many series",
            ),
        }
    }

    /// The labels of a process; of one that nothing is known of, those that the name of its thread gives.
    pub(super) fn of(&mut self, process: Option<&Process>, comm: Comm) -> Arc<Labels> {
        let Some(process) = process else {
            return self.made(&Facts { kernel_thread: false, cgroup: None, executable: None, comm });
        };
        let facts = Facts {
            kernel_thread: process.kernel_thread,
            cgroup: process.cgroup.as_deref(),
            executable: process.executable.as_deref(),
            comm,
        };
        if facts.executable.is_none() && !facts.kernel_thread {
            // The thread may have to lend its name, so the process's own facts do not tell.
            return self.made(&facts);
        }
        if let Some(labels) = self.by_facts.get(&process.facts) {
            return Arc::clone(labels);
        }
        let labels = self.made(&facts);
        self.by_facts.insert(process.facts, Arc::clone(&labels));
        labels
    }

    /// Forgets all labels if there are too many; to be called between windows.
    pub(super) fn sweep(&mut self) {
        if self.by_facts.len() > REMEMBERED_MAX || self.known.len() >= self.series_max {
            self.by_facts = FxHashMap::default();
            self.known = FxHashSet::default();
            self.over_max.inc();
        }
    }

    fn made(&mut self, facts: &Facts<'_>) -> Arc<Labels> {
        let labels = self.labels(service_name(facts), owner_labels(facts));
        if let Some(known) = self.known.get(&labels) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.series_max {
            self.series_over_max.inc();
            return Arc::new(self.labels(REST.into(), Vec::new()));
        }
        let labels = Arc::new(labels);
        self.known.insert(Arc::clone(&labels));
        labels
    }

    fn labels(&self, service: Arc<str>, owners: Vec<(&'static str, Arc<str>)>) -> Labels {
        let own = [("service_name", service), ("hostname", Arc::clone(&self.hostname))];
        // A server refuses a label without a value.
        let pairs = own.into_iter().chain(owners).filter(|(_, value)| !value.is_empty());
        Labels::new(pairs.map(|(name, value)| (name.into(), value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES_MAX: usize = 100;

    fn facts(cgroup: &str) -> Facts<'_> {
        let comm = Comm::new(b"thread");
        Facts { kernel_thread: false, cgroup: Some(cgroup), executable: Some(b"/bin/app"), comm }
    }

    #[test]
    fn equal_labels_are_one_and_owners_are_among_them() {
        let mut cache = LabelCache::new("host", SERIES_MAX, &Meters::default());
        let first = cache.made(&facts("0::/system.slice/nginx.service"));
        assert!(Arc::ptr_eq(&first, &cache.made(&facts("0::/system.slice/nginx.service/worker"))));
        let expected = [
            ("hostname", "host"),
            ("service_name", "nginx"),
            ("systemd_slice", "system.slice"),
            ("systemd_unit", "nginx.service"),
        ];
        assert_eq!(first.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_too_much_is_merged_and_counted_until_the_next_window() {
        let meters = Meters::default();
        let mut cache = LabelCache::new("host", SERIES_MAX, &meters);
        for number in 0..SERIES_MAX {
            cache.made(&facts(&format!("0::/system.slice/a{number}.service")));
        }
        let rest = cache.made(&facts("0::/system.slice/late.service"));
        assert_eq!(rest.get("service_name"), Some(REST));
        assert_eq!(rest, cache.made(&facts("0::/system.slice/later.service")));
        assert_eq!(cache.made(&facts("0::/system.slice/a7.service")).get("service_name"), Some("a7"));
        assert!(meters.render().contains("profiler_series_over_max_total 2"), "{}", meters.render());
        cache.sweep();
        let late = cache.made(&facts("0::/system.slice/late.service"));
        assert_eq!(late.get("service_name"), Some("late"));
    }
}
