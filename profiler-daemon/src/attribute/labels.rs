//! The labels of each process, made once.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::sources::{Facts, printable, service_name};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::model::{Comm, Labels};
use crate::processes::Process;

/// Processes and services whose labels are remembered: more than run on most machines. Beyond, all are made anew.
const REMEMBERED_MAX: usize = 1 << 13;

/// Labels by what they are made of. Equal labels share one piece of memory.
#[derive(Debug)]
pub(super) struct LabelCache {
    names: [Arc<str>; 2],
    hostname: Arc<str>,
    by_facts: FxHashMap<u64, Arc<Labels>>,
    by_service: FxHashMap<Arc<str>, Arc<Labels>>,
    over_max: Counter,
}

impl LabelCache {
    pub(super) fn new(hostname: &str, meters: &Meters) -> Self {
        Self {
            names: ["service_name", "hostname"].map(Arc::from),
            hostname: printable(hostname).into(),
            by_facts: FxHashMap::default(),
            by_service: FxHashMap::default(),
            over_max: meters.counter(
                "profiler_labels_forgotten",
                "Times that labels were made anew because there were too many",
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
        if self.by_facts.len().max(self.by_service.len()) > REMEMBERED_MAX {
            self.by_facts = FxHashMap::default();
            self.by_service = FxHashMap::default();
            self.over_max.inc();
        }
    }

    fn made(&mut self, facts: &Facts<'_>) -> Arc<Labels> {
        let service = service_name(facts);
        if let Some(labels) = self.by_service.get(&service) {
            return Arc::clone(labels);
        }
        let [service_key, hostname_key] = self.names.clone();
        let pairs = [(service_key, Arc::clone(&service)), (hostname_key, Arc::clone(&self.hostname))];
        // A server refuses a label without a value.
        let labels = Arc::new(Labels::new(pairs.into_iter().filter(|(_, value)| !value.is_empty())));
        self.by_service.insert(service, Arc::clone(&labels));
        labels
    }
}
