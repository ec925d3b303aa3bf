//! The labels of each process, made once.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Config;
use super::relabel::{Pairs, Relabel};
use super::sources::{Facts, USER, owner_labels, printable, service_name};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::model::{Comm, Labels};
use crate::processes::Process;

/// Processes and services whose labels are remembered: more than run on most machines. Beyond, all are made anew.
const REMEMBERED_MAX: usize = 1 << 13;

/// Labels of one series at most. A Pyroscope takes 30 by default, of which delivery needs one for the profile's name.
const LABELS_MAX: usize = 29;

/// The service of what has none, after rules took it away: servers tell series by it.
const NO_SERVICE: &str = "unknown";

/// The service of what comes when a window has as many series as it may have.
const REST: &str = "(other services)";

/// Labels by what they are made of. Equal labels share one piece of memory.
#[derive(Debug)]
pub(super) struct LabelCache {
    hostname: Arc<str>,
    users: BTreeMap<u32, String>,
    relabel: Relabel,
    relabel_version: u64,
    series_max: usize,
    /// `None`: not to be profiled.
    by_facts: FxHashMap<u64, Option<Arc<Labels>>>,
    /// All labels there are, once.
    known: FxHashSet<Arc<Labels>>,
    over_max: Counter,
    series_over_max: Counter,
    labels_over_max: Counter,
}

impl LabelCache {
    pub(super) fn new(config: &Config, meters: &Meters) -> Self {
        Self {
            hostname: printable(&config.hostname).into(),
            users: config.users.clone(),
            relabel: config.relabel.clone(),
            relabel_version: config.relabel.version(),
            series_max: config.series_max,
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
            labels_over_max: meters.counter(
                "profiler_labels_over_max",
                "Labels that were left out, because a server refuses a series with so many",
            ),
        }
    }

    /// The labels of a process; of one that nothing is known of, those that the name of its thread gives. `None` if it is not to be
    /// profiled.
    pub(super) fn of(&mut self, process: Option<&Process>, comm: Comm) -> Option<Arc<Labels>> {
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
            return labels.clone();
        }
        let labels = self.made(&facts);
        self.by_facts.insert(process.facts, labels.clone());
        labels
    }

    /// Forgets all labels if there are too many or the rules have changed; to be called between windows.
    pub(super) fn sweep(&mut self) {
        let version = self.relabel.version();
        if std::mem::replace(&mut self.relabel_version, version) != version {
            self.by_facts = FxHashMap::default();
            self.known = FxHashSet::default();
        }
        if self.by_facts.len() > REMEMBERED_MAX || self.known.len() >= self.series_max {
            self.by_facts = FxHashMap::default();
            self.known = FxHashSet::default();
            self.over_max.inc();
        }
    }

    fn made(&mut self, facts: &Facts<'_>) -> Option<Arc<Labels>> {
        let pairs = self.relabel.apply(self.pairs(service_name(facts), owner_labels(facts)))?;
        let labels = self.bounded(pairs);
        if let Some(known) = self.known.get(&labels) {
            return Some(Arc::clone(known));
        }
        if self.known.len() >= self.series_max {
            self.series_over_max.inc();
            return Some(Arc::new(Labels::new(self.pairs(REST.into(), Vec::new()))));
        }
        let labels = Arc::new(labels);
        self.known.insert(Arc::clone(&labels));
        Some(labels)
    }

    fn pairs(&self, service: Arc<str>, owners: Vec<(&'static str, Arc<str>)>) -> Pairs {
        let own = [("service_name", service), ("hostname", Arc::clone(&self.hostname))];
        // A server refuses a label without a value.
        let pairs = own.into_iter().chain(owners).filter(|(_, value)| !value.is_empty());
        pairs
            .map(|(name, value)| (name.into(), if name == USER { self.user(value) } else { value }))
            .collect()
    }

    /// The name of the user with this number, where it is known.
    fn user(&self, number: Arc<str>) -> Arc<str> {
        let name = number.parse().ok().and_then(|number: u32| self.users.get(&number));
        name.map_or(number, |name| printable(name).into())
    }

    /// As many of `pairs` as a server takes, the name of the service among them; of the others the last by name go.
    fn bounded(&self, mut pairs: Pairs) -> Labels {
        let service = pairs.remove("service_name").unwrap_or_else(|| NO_SERVICE.into());
        while pairs.len() >= LABELS_MAX {
            pairs.pop_last();
            self.labels_over_max.inc();
        }
        pairs.insert("service_name".into(), service);
        Labels::new(pairs)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const SERIES_MAX: usize = 100;

    fn cache(relabel: &str, meters: &Meters) -> LabelCache {
        let relabel = Relabel::parse(relabel).unwrap();
        let users = BTreeMap::from([(1000, "ada".to_owned())]);
        let config = Config {
            hostname: "host".to_owned(),
            series_max: SERIES_MAX,
            relabel,
            users,
            ..Config::default()
        };
        LabelCache::new(&config, meters)
    }

    fn facts(cgroup: &str) -> Facts<'_> {
        let comm = Comm::new(b"thread");
        Facts { kernel_thread: false, cgroup: Some(cgroup), executable: Some(b"/bin/app"), comm }
    }

    #[test]
    fn equal_labels_are_one_and_owners_are_among_them() {
        let mut cache = cache("", &Meters::default());
        let first = cache.made(&facts("0::/system.slice/nginx.service")).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.made(&facts("0::/system.slice/nginx.service/worker")).unwrap()));
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
        let mut cache = cache("", &meters);
        for number in 0..SERIES_MAX {
            cache.made(&facts(&format!("0::/system.slice/a{number}.service")));
        }
        let rest = cache.made(&facts("0::/system.slice/late.service")).unwrap();
        assert_eq!(rest.get("service_name"), Some(REST));
        assert_eq!(rest, cache.made(&facts("0::/system.slice/later.service")).unwrap());
        assert_eq!(
            cache.made(&facts("0::/system.slice/a7.service")).unwrap().get("service_name"),
            Some("a7")
        );
        assert!(meters.render().contains("profiler_series_over_max_total 2"), "{}", meters.render());
        cache.sweep();
        let late = cache.made(&facts("0::/system.slice/late.service")).unwrap();
        assert_eq!(late.get("service_name"), Some("late"));
    }

    #[test]
    fn a_user_is_known_by_name_or_by_number() {
        let mut cache = cache("", &Meters::default());
        let mut user = |cgroup: &str| cache.made(&facts(cgroup)).unwrap().get("user").map(str::to_owned);
        assert_eq!(user("0::/user.slice/user-1000.slice/session-3.scope").as_deref(), Some("ada"));
        assert_eq!(
            user("0::/user.slice/user-1001.slice/user@1001.service/app.slice").as_deref(),
            Some("1001")
        );
        assert_eq!(user("0::/system.slice/nginx.service"), None);
    }

    #[test]
    fn rules_change_labels_or_leave_a_process_out_and_change_between_windows() {
        let drop = r#"[{ source_labels = ["systemd_unit"], regex = "nginx.*", action = "drop" }]"#;
        let mut cache = cache(drop, &Meters::default());
        let nginx = facts("0::/system.slice/nginx.service");
        assert_eq!(cache.made(&nginx), None);
        assert!(cache.made(&facts("0::/system.slice/ssh.service")).is_some());
        let all_in_one = r#"[{ regex = "hostname", action = "labelkeep" }]"#;
        cache.relabel.replace(&Relabel::parse(all_in_one).unwrap());
        cache.sweep();
        let labels = cache.made(&nginx).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("hostname", "host"), ("service_name", "unknown")]);
    }

    #[test]
    fn labels_beyond_what_a_server_takes_are_left_out_and_counted() {
        let rules: Vec<_> = (10..50)
            .map(|number| format!(r#"{{ target_label = "l{number}", replacement = "x" }}"#))
            .collect();
        let meters = Meters::default();
        let mut cache = cache(&format!("[{}]", rules.join(",")), &meters);
        let labels = cache.made(&facts("0::/system.slice/nginx.service")).unwrap();
        assert_eq!(labels.iter().len(), LABELS_MAX);
        assert_eq!(labels.get("service_name"), Some("nginx"));
        // Forty of the rules, and four of ours.
        assert!(meters.render().contains("profiler_labels_over_max_total 15"), "{}", meters.render());
    }
}
