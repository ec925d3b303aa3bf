//! A unit file, as far as we need it: what it starts, as whom, with which rights and which system calls.
//!
//! In: its text. Out: a command that runs with just those, without a service manager. Not here: mounts and memory limits,
//! which need one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// A user without rights or a name, for whom nothing else runs.
pub(crate) const USER: u32 = 64_321;

/// Assignments by key, in order.
pub(crate) struct Unit(Vec<(String, String)>);

impl Unit {
    /// Reads `text`.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with(['#', ';', '[']));
        let pairs = lines.filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect())
    }

    /// All values of `key`, in order.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The one value of `key`.
    #[track_caller]
    pub(crate) fn one(&self, key: &str) -> &str {
        let values: Vec<_> = self.all(key).collect();
        assert_eq!(values.len(), 1, "{key} in the unit");
        values[0]
    }

    /// The capabilities it gives.
    #[track_caller]
    pub(crate) fn capabilities(&self) -> Vec<&str> {
        let capabilities: Vec<_> = self.one("AmbientCapabilities").split(' ').collect();
        assert_eq!(self.one("CapabilityBoundingSet").split(' ').collect::<Vec<_>>(), capabilities);
        capabilities
    }

    /// What it starts, as its user, with `capabilities` and its system calls, other paths put in place of `paths`.
    #[track_caller]
    pub(crate) fn command(&self, capabilities: &[&str], filter: &Path, paths: &[(&str, &str)]) -> Command {
        let set = capabilities.iter().fold("-all".to_owned(), |set, capability| {
            format!("{set},+{}", capability.trim_start_matches("CAP_").to_lowercase())
        });
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}")).arg("--clear-groups");
        for sets in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{sets}={set}"));
        }
        command.arg("--no-new-privs").arg(filter).arg("filtered").arg(self.calls());
        for word in self.one("ExecStart").split(' ') {
            let place = paths.iter().find(|(path, _)| *path == word);
            command.arg(place.map_or(word, |(_, place)| place));
        }
        command
    }

    /// The numbers of the system calls that are allowed, with commas. What is allowed is a list, then lines that take
    /// from it, then lines that add to it, as systemd reads them.
    fn calls(&self) -> String {
        let mut allowed: BTreeSet<String> = BTreeSet::new();
        for words in self.all("SystemCallFilter") {
            let (takes, words) = words.strip_prefix('~').map_or((false, words), |words| (true, words));
            for call in words.split(' ').flat_map(expand) {
                if takes {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
        let numbers = numbers();
        let known: Vec<String> = allowed.iter().filter_map(|call| numbers.get(call).cloned()).collect();
        assert!(known.len() > 150, "only {} system calls are allowed", known.len());
        known.join(",")
    }
}

/// The calls of a group, and of the groups in it, as this machine's systemd has them; a call itself.
fn expand(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let output =
        Command::new("systemd-analyze").args(["syscall-filter", word]).output().expect("it was there");
    let text = String::from_utf8(output.stdout).expect("names are ASCII");
    let words = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    words.flat_map(expand).collect()
}

/// Numbers of system calls by name, from the kernel's headers.
fn numbers() -> BTreeMap<String, String> {
    let file = format!("/usr/include/{}-linux-gnu/asm/unistd_64.h", std::env::consts::ARCH);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let defines = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    defines.map(|(name, number)| (name.to_owned(), number.trim().to_owned())).collect()
}
