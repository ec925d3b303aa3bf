//! Reads the configuration again while everything runs.
//!
//! In: the word to do so. Out: what can change without a start is changed; what cannot is named; a configuration that is
//! wrong changes nothing, and is told and counted. Not here: when.

use std::fmt;

use super::Failure;
use crate::attribute::Relabel;
use crate::config::{self, Config};
use crate::deliver::Access;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Counters, Meters, label};

/// Gives the configuration as it is now.
type Again = Box<dyn Fn() -> Result<Config, Failure> + Send>;

/// What was started with, and what may change of it.
pub(super) struct Reload {
    started_with: Config,
    access: Access,
    relabel: Relabel,
    again: Again,
    reloads: Counters,
    successful: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    pub(super) fn new(
        started_with: Config,
        access: Access,
        relabel: Relabel,
        again: Again,
        meters: &Meters,
    ) -> Self {
        let successful = meters.gauge(
            "profiler_config_last_reload_successful",
            "One unless the configuration was wrong when last read",
        );
        successful.set(1.0);
        Self {
            started_with,
            access,
            relabel,
            again,
            reloads: meters
                .counters("profiler_config_reloads", "Times the configuration was read again, by result"),
            successful,
        }
    }

    /// Reads it again.
    pub(super) fn reload(&self) {
        let (result, successful) = match self.read() {
            Ok(waiting) if waiting.is_empty() => {
                tracing::info!("the configuration was read again");
                ("applied", 1.0)
            }
            Ok(waiting) => {
                tracing::warn!(
                    "the configuration was read again; what changed of these waits for the next start: {}",
                    waiting.join(", ")
                );
                ("restart_needed", 1.0)
            }
            Err(problems) => {
                tracing::error!("the configuration is wrong, and stays as it was:\n{problems}");
                ("refused", 0.0)
            }
        };
        self.reloads.get_or_create(&label("result", result)).inc();
        self.successful.set(successful);
    }

    /// Applies what can be; the keys of what cannot.
    fn read(&self) -> Result<Vec<&'static str>, String> {
        let newer = (self.again)().map_err(|failure| failure.to_string())?;
        let access = Access::read(&newer.access).map_err(|problems| problems.join("\n"))?;
        let relabel = Relabel::parse(&newer.relabel).map_err(|problems| problems.join("\n"))?;
        self.access.replace_headers(&access);
        self.relabel.replace(&relabel);
        Ok(config::change(&self.started_with, &newer).at_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reload to `newer` is counted as.
    #[track_caller]
    fn check(newer: Result<Config, Failure>, result: &str, successful: &str) {
        let newer = std::sync::Mutex::new(Some(newer));
        let again =
            move || newer.lock().map_or(None, |mut newer| newer.take()).unwrap_or_else(|| unreachable!());
        let meters = Meters::default();
        Reload::new(Config::default(), Access::default(), Relabel::default(), Box::new(again), &meters)
            .reload();
        let page = meters.render();
        assert!(page.contains(&format!("profiler_config_reloads_total{{result=\"{result}\"}} 1")), "{page}");
        assert!(page.contains(&format!("profiler_config_last_reload_successful {successful}")), "{page}");
    }

    #[test]
    fn what_can_change_does() {
        let mut newer = Config::default();
        newer.access.tenant = Some("other".to_owned());
        check(Ok(newer), "applied", "1.0");
    }

    #[test]
    fn what_cannot_change_waits() {
        check(Ok(Config { frequency_hz: 49, ..Config::default() }), "restart_needed", "1.0");
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        check(Err(Failure::Usage("no".to_owned())), "refused", "0.0");
        let mut newer = Config::default();
        newer.access.bearer_token_file = Some("/nowhere".into());
        check(Ok(newer), "refused", "0.0");
    }
}
