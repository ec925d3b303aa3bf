//! Why a process has no data, or poor data.
//!
//! In: a process id, and `/proc`. Out: one finding per check, in the order in which one would ask: is it there, may it be looked
//! at, does it work at all, what is its program, what code is it that no file has. One check per file, one line in [`CHECKS`]. Not
//! here: what rules make of its labels, which `app` knows. A process that ends meanwhile is a finding, never an error.

use std::path::PathBuf;
use std::time::Duration;

use super::machine::Finding;

mod access;
mod code;
mod elf;
mod presence;
mod program;
mod work;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where the proc file system is.
    pub proc: PathBuf,
    /// The process.
    pub pid: u32,
    /// How long it is watched.
    pub patience: Duration,
}

impl Subject {
    /// A file of the process.
    fn path(&self, name: &str) -> PathBuf {
        self.proc.join(self.pid.to_string()).join(name)
    }

    /// A line of its `status`, without its name.
    fn status(&self, name: &str) -> Option<String> {
        let status = std::fs::read(self.path("status")).ok()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }
}

type Check = fn(&Subject) -> Finding;

/// What follows once it is known to be there, in the order in which one would ask.
const CHECKS: [Check; 4] = [access::check, work::check, program::check, code::check];

/// Runs the checks. If it is not there, or is the kernel's, nothing else is asked; the second value says so.
pub fn examine(subject: &Subject) -> (Vec<Finding>, bool) {
    let (first, goes_on) = presence::check(subject);
    let mut findings = vec![first];
    if goes_on {
        findings.extend(CHECKS.iter().map(|check| check(subject)));
    }
    (findings, goes_on)
}

#[cfg(test)]
mod tests;
