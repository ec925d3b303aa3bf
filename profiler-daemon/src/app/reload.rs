//! Reads the configuration again while everything runs.
//!
//! In: the word to do so. Out: what can change without a start is changed; what cannot is named; a configuration that is
//! wrong changes nothing, and is told and counted. Not here: when.

use std::fmt;
use std::sync::Arc;

use super::Failure;
use super::steering::Ceiling;
use crate::attribute::Relabel;
use crate::children::Keeper;
use crate::config::{self, Config};
use crate::deliver::Access;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Counters, Meters, label};
use crate::token::{Gate, Token};

/// Gives the configuration as it is now.
type Again = Box<dyn Fn() -> Result<Config, Failure> + Send>;

/// What is in the files that a configuration names, and in its rules.
#[derive(Debug)]
pub(super) struct Secrets {
    /// Who we are to the server.
    pub(super) access: Access,
    /// Who may ask for figures and look at the page.
    pub(super) token: Option<Token>,
    /// The rules for labels.
    pub(super) relabel: Relabel,
}

impl Secrets {
    /// Reads them. Everything that is wrong, a line each.
    pub(super) fn read(config: &Config) -> Result<Self, String> {
        let mut problems = Vec::new();
        let mut told = |found: Vec<String>| problems.extend(found);
        let access = Access::read(&config.access).map_err(&mut told).ok();
        let token = config.token_file.as_deref().map(Token::read).transpose();
        let token = token.map_err(|problem| told(vec![problem])).ok();
        let relabel = Relabel::parse(&config.relabel).map_err(&mut told).ok();
        let (Some(access), Some(token), Some(relabel)) = (access, token, relabel) else {
            return Err(problems.join("\n"));
        };
        // The embedded server lets in who has the token that keeps others from its page.
        let access = match (&config.server, &token) {
            (None, Some(token)) => access.with_authorization(&token.authorization()),
            _ => access,
        };
        Ok(Self { access, token, relabel })
    }
}

/// What changes without a start: each is shared with whoever goes by it.
pub(super) struct Live {
    pub(super) access: Access,
    pub(super) relabel: Relabel,
    /// Who may ask for figures.
    pub(super) gate: Gate,
    /// What all of us may cost.
    pub(super) ceiling: Ceiling,
    /// Processors of this machine, of which `cpu_max` is a share.
    pub(super) processors: usize,
    /// The embedded server, which has to know who may look at its page.
    pub(super) server: Option<Arc<Keeper>>,
}

impl Live {
    fn apply(&self, config: &Config, Secrets { access, token, relabel }: Secrets) {
        self.relabel.replace(&relabel);
        self.ceiling.set(config.cpu_max.map(|share| share.of_machine(self.processors)));
        if let Some(server) = &self.server {
            server.say(token.as_ref().map_or("", Token::text).to_owned());
        }
        self.access.replace_headers(&access);
        self.gate.replace(token);
    }
}

/// What was started with, and what may change of it.
pub(super) struct Reload {
    started_with: Config,
    live: Live,
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
    pub(super) fn new(started_with: Config, live: Live, again: Again, meters: &Meters) -> Self {
        let successful = meters.gauge(
            "profiler_config_last_reload_successful",
            "One unless the configuration was wrong when last read",
        );
        successful.set(1.0);
        Self {
            started_with,
            live,
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
        let secrets = Secrets::read(&newer)?;
        self.live.apply(&newer, secrets);
        Ok(config::change(&self.started_with, &newer).at_start)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;
    use crate::config::Share;

    /// What a reload to `newer` is counted as, and what the gate asks for after it.
    #[track_caller]
    fn check(newer: Result<Config, Failure>, result: &str, successful: &str) -> Option<String> {
        let newer = Mutex::new(Some(newer));
        let again = move || newer.lock().unwrap().take().unwrap();
        let (meters, gate) = (Meters::default(), Gate::new(Token::new("what-it-was-before").ok()));
        let live = Live {
            access: Access::default(),
            relabel: Relabel::default(),
            gate: gate.clone(),
            ceiling: Ceiling::new(None),
            processors: 2,
            server: None,
        };
        Reload::new(Config::default(), live, Box::new(again), &meters).reload();
        let page = meters.render();
        assert!(page.contains(&format!("profiler_config_reloads_total{{result=\"{result}\"}} 1")), "{page}");
        assert!(page.contains(&format!("profiler_config_last_reload_successful {successful}")), "{page}");
        gate.token().map(|token| token.text().to_owned())
    }

    #[test]
    fn what_can_change_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(file.path(), "what-it-is-from-now-on").unwrap();
        let mut newer = Config { token_file: Some(file.path().to_owned()), ..Config::default() };
        newer.access.tenant = Some("other".to_owned());
        newer.cpu_max = Share::parse("1%");
        assert_eq!(check(Ok(newer), "applied", "1.0").as_deref(), Some("what-it-is-from-now-on"));
        assert_eq!(check(Ok(Config::default()), "applied", "1.0"), None);
    }

    #[test]
    fn what_cannot_change_waits() {
        check(Ok(Config { frequency_hz: 49, ..Config::default() }), "restart_needed", "1.0");
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let before = Some("what-it-was-before");
        assert_eq!(check(Err(Failure::Usage("no".to_owned())), "refused", "0.0").as_deref(), before);
        let mut newer = Config::default();
        newer.access.bearer_token_file = Some("/nowhere".into());
        assert_eq!(check(Ok(newer), "refused", "0.0").as_deref(), before);
        let newer = Config { token_file: Some("/nowhere".into()), ..Config::default() };
        assert_eq!(check(Ok(newer), "refused", "0.0").as_deref(), before);
    }

    #[test]
    fn all_that_is_wrong_with_files_and_rules_is_told() {
        let mut config = Config { token_file: Some("/nowhere/token".into()), ..Config::default() };
        config.access.ca_file = Some("/nowhere/ca".into());
        config.relabel = "[{ action = \"jump\" }]".to_owned();
        let problems = Secrets::read(&config).unwrap_err();
        for words in ["/nowhere/token", "/nowhere/ca", "jump"] {
            assert!(problems.contains(words), "{problems}");
        }
    }
}
