//! What this machine allows: what a profiler needs of the kernel, of the clock, of the disk and of the network.
//!
//! In: where to look. Out: one finding per check, each with one sentence of advice where something is to be changed. One
//! check per file, one line in [`CHECKS`]. Not here: whether programs can be loaded; that is found out by loading them, which
//! `app` does. A file that is not there is a finding, never an error.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Health;

mod btf;
mod clock;
mod disk;
mod files;
mod kallsyms;
mod kernel;
mod lockdown;
mod memlock;
mod memory;
mod paranoid;
mod processes;
mod server;
mod tracefs;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Place {
    /// The root below which `proc` and `sys` are.
    pub root: PathBuf,
    /// Where state is kept, if anywhere.
    pub data_dir: Option<PathBuf>,
    /// Bytes that are left free there.
    pub free_bytes_min: u64,
    /// What all of us may have in memory together, bytes.
    pub memory_bytes_max: u64,
    /// What that cannot be less than.
    pub memory_bytes_least: u64,
    /// Where is pushed to, if not to ourselves.
    pub server: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: Cow<'static, str>,
    /// What it comes to.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

type Check = fn(&Place) -> Finding;

/// All checks, in the order in which they matter.
const CHECKS: [Check; 13] = [
    kernel::check,
    lockdown::check,
    paranoid::check,
    processes::check,
    kallsyms::check,
    btf::check,
    tracefs::check,
    memlock::check,
    files::check,
    memory::check,
    clock::check,
    disk::check,
    server::check,
];

/// Runs all of them.
pub fn examine(place: &Place) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(place)).collect()
}

/// What they come to together: the worst of them, where what is to be changed is worse than what is not known.
pub fn health(findings: &[Finding]) -> Health {
    let has = |health| findings.iter().any(|finding| finding.health == health);
    match (has(Health::DoesNotFit), has(Health::Unknown)) {
        (true, _) => Health::DoesNotFit,
        (false, true) => Health::Unknown,
        (false, false) => Health::Fits,
    }
}

impl Finding {
    /// All is well.
    pub fn fits(check: &'static str, found: impl Into<String>) -> Self {
        Self { check: check.into(), health: Health::Fits, found: found.into(), advice: String::new() }
    }

    /// Something is to be changed.
    pub fn does_not_fit(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), health: Health::DoesNotFit, found: found.into(), advice: advice.into() }
    }

    /// It could not be found out.
    pub fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self { check: check.into(), health: Health::Unknown, found: found.into(), advice: String::new() }
    }

    /// In a line, and another for the advice.
    pub fn text(&self) -> String {
        let Self { check, health, found, advice } = self;
        let word = word(*health);
        let advice = if advice.is_empty() { String::new() } else { format!("\n{:20}{advice}", "") };
        format!("{check:9} {word:8}  {found}{advice}")
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let Self { check, health, found, advice } = self;
        json!({ "check": check, "health": word(*health), "found": found, "advice": advice })
    }

    /// The same, from JSON; nothing if it is none.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |key| value.get(key)?.as_str().map(str::to_owned);
        let known = [Health::Fits, Health::DoesNotFit, Health::Unknown];
        let health = known.into_iter().find(|health| value["health"] == word(*health))?;
        Some(Self { check: text("check")?.into(), health, found: text("found")?, advice: text("advice")? })
    }
}

const fn word(health: Health) -> &'static str {
    match health {
        Health::Fits => "ok",
        Health::DoesNotFit => "change",
        Health::Unknown => "unknown",
    }
}

/// The text of a file below the root, trimmed.
fn read(place: &Place, path: impl AsRef<Path>) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(place.root.join(path))?.trim().to_owned())
}

#[cfg(test)]
mod tests;
