//! File, environment and flags become one configuration.
//!
//! Precedence: defaults < file (TOML) < environment (`PROFILER_*`) < flags. All problems are reported at once, each
//! with key, value, place and what would be accepted. Not here: what a room does with its part.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deliver::{Ambiguous, SinkConfig, WhenShort};

/// What `run` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Base URL of the Pyroscope server; `None` starts the embedded one.
    pub server: Option<String>,
    /// Where to push beside that.
    pub sinks: Vec<SinkConfig>,
    /// Time between two pushes.
    pub interval: Duration,
    /// The server's idle timeout, where the operator knows better than the server says or shows.
    pub keepalive_timeout: Option<Duration>,
    /// What to do where pushes come too seldom for the server's timeout.
    pub keepalive_policy: WhenShort,
    /// What is worse where nobody knows whether the server has a profile.
    pub delivery: Ambiguous,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// Ticks per second and processor.
    pub frequency_hz: u32,
    /// Where the embedded server listens.
    pub listen: SocketAddr,
    /// Where the agent's metrics and health are.
    pub admin_listen: SocketAddr,
    /// Where state is kept: what waits to be pushed, and what the server refused. Without it, memory alone.
    pub data_dir: Option<PathBuf>,
    /// Most disk for what waits to be pushed, bytes.
    pub spool_bytes_max: u64,
    /// Bytes that are left free on that disk.
    pub spool_free_bytes_min: u64,
    /// The age from which the server takes no window; zero if it takes all.
    pub reject_older_than: Duration,
    /// Whether inlined functions, files and lines are read from debug information.
    pub inlines: bool,
    /// The value of the label `hostname`.
    pub hostname: Option<String>,
    /// While there is such a file, nothing is profiled.
    pub off_file: PathBuf,
    /// The kernel side's own diagnostics, 0 off … 5 trace.
    pub kernel_log_level: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: None,
            sinks: Vec::new(),
            interval: Duration::from_secs(10),
            keepalive_timeout: None,
            keepalive_policy: WhenShort::default(),
            delivery: Ambiguous::default(),
            http2: false,
            frequency_hz: 19,
            listen: SocketAddr::from(([127, 0, 0, 1], 4040)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 4041)),
            data_dir: None,
            // Some days at a usual rate, 30 kB each 10 s: more than any server's patience by default.
            spool_bytes_max: 512 << 20,
            // What a machine needs to be logged into and put right.
            spool_free_bytes_min: 256 << 20,
            // A Pyroscope's own default.
            reject_older_than: Duration::from_secs(3600),
            inlines: true,
            hostname: None,
            off_file: PathBuf::from("/etc/profiler-daemon/disabled"),
            kernel_log_level: 0,
        }
    }
}

/// One key: its name in the file and as a flag, what it accepts, and how a text becomes a value of it.
struct Key {
    name: &'static str,
    accepted: &'static str,
    set: fn(&mut Config, &str) -> Option<()>,
}

/// Puts `value` in its place, if there is one.
fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

/// Every key there is.
const KEYS: &[Key] = &[
    Key {
        name: "server",
        accepted: "an http:// or https:// URL",
        set: |config, text| {
            let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
            (!host.is_empty() && !host.starts_with('/') && !text.contains(char::is_whitespace))
                .then(|| config.server = Some(text.to_owned()))
        },
    },
    Key {
        name: "sinks",
        accepted: "a list such as pyroscope=http://one:4040, ingest=http://older:4040, directory=/srv/profiles",
        set: |config, text| put(&mut config.sinks, text.split(',').map(SinkConfig::parse).collect()),
    },
    Key {
        name: "interval",
        accepted: "a duration from 1s to 1h, such as 10s or 1500ms",
        set: |config, text| {
            let interval = duration(text)?;
            (Duration::from_secs(1)..=Duration::from_secs(3600))
                .contains(&interval)
                .then(|| config.interval = interval)
        },
    },
    Key {
        name: "keepalive_timeout",
        accepted: "a duration from 1s to 24h, such as 75s, or auto",
        set: |config, text| match text.trim() {
            "auto" => put(&mut config.keepalive_timeout, Some(None)),
            text => {
                let believable = Duration::from_secs(1)..=Duration::from_hours(24);
                let timeout = duration(text).filter(|timeout| believable.contains(timeout));
                put(&mut config.keepalive_timeout, timeout.map(Some))
            }
        },
    },
    Key {
        name: "keepalive_policy",
        accepted: "retire or trim",
        set: |config, text| {
            let policy = match text.trim() {
                "retire" => Some(WhenShort::Retire),
                "trim" => Some(WhenShort::Trim),
                _ => None,
            };
            put(&mut config.keepalive_policy, policy)
        },
    },
    Key {
        name: "delivery",
        accepted: "at-least-once or at-most-once",
        set: |config, text| {
            let delivery = match text.trim() {
                "at-least-once" => Some(Ambiguous::AtLeastOnce),
                "at-most-once" => Some(Ambiguous::AtMostOnce),
                _ => None,
            };
            put(&mut config.delivery, delivery)
        },
    },
    Key {
        name: "http2",
        accepted: "true or false",
        set: |config, text| put(&mut config.http2, text.parse().ok()),
    },
    Key {
        name: "frequency",
        accepted: "a whole number of Hz from 1 to 999",
        set: |config, text| put(&mut config.frequency_hz, frequency(text)),
    },
    Key {
        name: "listen",
        accepted: "an address and a port, such as 127.0.0.1:4040",
        set: |config, text| put(&mut config.listen, text.parse().ok()),
    },
    Key {
        name: "admin_listen",
        accepted: "an address and a port, such as 127.0.0.1:4041",
        set: |config, text| put(&mut config.admin_listen, text.parse().ok()),
    },
    Key {
        name: "data_dir",
        accepted: "a path",
        set: |config, text| (!text.is_empty()).then(|| config.data_dir = Some(PathBuf::from(text))),
    },
    Key {
        name: "spool_bytes_max",
        accepted: "a size, such as 512MiB",
        set: |config, text| put(&mut config.spool_bytes_max, size(text)),
    },
    Key {
        name: "spool_free_bytes_min",
        accepted: "a size, such as 256MiB, or 0",
        set: |config, text| put(&mut config.spool_free_bytes_min, size(text)),
    },
    Key {
        name: "reject_older_than",
        accepted: "a duration, such as 1h, or 0 for no limit",
        set: |config, text| {
            let age = if text.trim() == "0" { Some(Duration::ZERO) } else { duration(text) };
            put(&mut config.reject_older_than, age)
        },
    },
    Key {
        name: "inlines",
        accepted: "true or false",
        set: |config, text| put(&mut config.inlines, text.parse().ok()),
    },
    Key {
        name: "hostname",
        accepted: "a name",
        set: |config, text| (!text.is_empty()).then(|| config.hostname = Some(text.to_owned())),
    },
    Key {
        name: "off_file",
        accepted: "a path",
        set: |config, text| (!text.is_empty()).then(|| config.off_file = PathBuf::from(text)),
    },
    Key {
        name: "kernel_log_level",
        accepted: "a number from 0 (off) to 5 (trace)",
        set: |config, text| put(&mut config.kernel_log_level, text.parse().ok().filter(|level| *level <= 5)),
    },
];

/// A duration as people write it: `10s`, `500ms`, `1m 30s`.
pub fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// A number of bytes as people write it: `512MiB`, `1.5 GB`, `4096`.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        _ => return None,
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, part) = number.split_once('.')?;
    let part =
        part.parse::<u64>().ok()?.checked_mul(unit)? / 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// A sampling frequency, Hz.
pub fn frequency(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|hz| (1..=999).contains(hz))
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Environment(variable) => write!(out, "environment {variable}"),
            Self::Flag(flag) => write!(out, "flag {flag}"),
        }
    }
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// Puts the layers together. `flags` are pairs of key (with underscores) and text, as given.
pub fn resolve(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(&'static str, String)],
) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    let mut layers: Vec<(String, String, Place)> = Vec::new();
    if let Some(path) = file {
        match read_file(path) {
            Ok(values) => {
                layers.extend(values.into_iter().map(|(key, text)| (key, text, Place::File(path.to_owned()))))
            }
            Err(problem) => problems.push(problem),
        }
    }
    for (variable, text) in environment {
        // What systemd's `StateDirectory=` made for us, the first of them: a default like any other.
        if variable == "STATE_DIRECTORY"
            && let Some(folder) = text.split(':').next().filter(|folder| !folder.is_empty())
        {
            config.data_dir = Some(PathBuf::from(folder));
        }
        // `PROFILER_CONFIG` names the file, `PROFILER_LOG` the log's level: neither is a key.
        if let Some(key) = variable.strip_prefix("PROFILER_")
            && !["CONFIG", "LOG", "DAEMON_BIN"].contains(&key)
        {
            layers.push((key.to_ascii_lowercase(), text, Place::Environment(variable.clone())));
        }
    }
    for (key, text) in flags {
        layers.push(((*key).to_owned(), text.clone(), Place::Flag(format!("--{}", key.replace('_', "-")))));
    }
    for (key, text, place) in layers {
        match KEYS.iter().find(|known| known.name == key) {
            None => problems.push(format!("{place}: unknown key {key:?}; known are {}", names())),
            Some(known) if (known.set)(&mut config, &text).is_none() => {
                problems.push(format!("{place}: {key} = {text:?} is not {}", known.accepted));
            }
            Some(_) => {}
        }
    }
    if config.server.is_none() && !config.listen.ip().is_loopback() {
        problems.push(format!(
            "listen = {} would show profiles of every process to the network; the embedded server listens on loopback only",
            config.listen
        ));
    }
    if config.server.is_none() && config.listen == config.admin_listen && config.listen.port() != 0 {
        problems.push(format!(
            "listen and admin_listen are both {}; give one of them another port",
            config.listen
        ));
    }
    if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
}

fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// Keys and texts of a file.
fn read_file(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| format!("{}: {}", path.display(), error.to_string().trim_end()))?;
    Ok(table
        .into_iter()
        .map(|(key, value)| match value {
            toml::Value::String(text) => (key, text),
            other => (key, other.to_string()),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn resolve_all(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Config, Problems> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiler.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let flags: Vec<_> = flags.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        resolve(Some(&path), environment, &flags)
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let config = resolve_all(
            "interval = \"30s\"\nfrequency = 49\nserver = \"http://a:1\"\n",
            &[("PROFILER_FREQUENCY", "50"), ("PROFILER_SERVER", "http://b:2"), ("HOME", "/")],
            &[("server", "https://c")],
        )
        .unwrap();
        assert_eq!(config.interval, Duration::from_secs(30));
        assert_eq!(config.frequency_hz, 50);
        assert_eq!(config.server.as_deref(), Some("https://c"));
    }

    #[track_caller]
    fn check_problems(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
        words: &[&str],
    ) {
        let Problems(problems) = resolve_all(file, environment, flags).unwrap_err();
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.contains(words), "{problem:?} lacks {words:?}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once_with_key_value_and_place() {
        check_problems(
            "interval = \"soon\"\ncolour = 3\n",
            &[("PROFILER_FREQUENCY", "1000")],
            &[("server", "localhost:4040")],
            &[
                "unknown key \"colour\"",
                "interval = \"soon\" is not a duration",
                "environment PROFILER_FREQUENCY: frequency = \"1000\" is not a whole number",
                "flag --server: server = \"localhost:4040\" is not an http://",
            ],
        );
    }

    #[track_caller]
    fn check_size(text: &str, bytes: Option<u64>) {
        assert_eq!(size(text), bytes, "{text}");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        check_size("0", Some(0));
        check_size("4096", Some(4096));
        check_size("512MiB", Some(512 << 20));
        check_size(" 512 mib ", Some(512 << 20));
        check_size("10MB", Some(10_000_000));
        check_size("1.5GiB", Some(3 << 29));
        check_size("64k", Some(64 << 10));
        for text in ["", "MiB", "-1", "1.", "1 fathom", "99999999999TiB", "1e9", "0x10", ".5", "1.2.3"] {
            check_size(text, None);
        }
    }

    #[test]
    fn systemds_state_directory_is_a_default() {
        let environment = [("STATE_DIRECTORY", "/var/lib/profiler:/var/lib/other")];
        let config = resolve_all("", &environment, &[]).unwrap();
        assert_eq!(config.data_dir.as_deref(), Some(Path::new("/var/lib/profiler")));
        let config = resolve_all("data_dir = \"/srv/p\"", &environment, &[]).unwrap();
        assert_eq!(config.data_dir.as_deref(), Some(Path::new("/srv/p")));
    }

    #[test]
    fn sinks_are_a_list() {
        let config = resolve_all("sinks = \"pyroscope=http://a:1, pyroscope=http://b:2\"", &[], &[]).unwrap();
        let sink = |server: &str| SinkConfig::Pyroscope { server: server.to_owned() };
        assert_eq!(config.sinks, [sink("http://a:1"), sink("http://b:2")]);
        check_problems("", &[], &[("sinks", "pyroscope=http://a:1,http://b:2")], &["is not a list such as"]);
    }

    #[test]
    fn no_limit_of_age_is_written_as_nothing() {
        let config = resolve_all("reject_older_than = 0", &[], &[("spool_bytes_max", "1GiB")]).unwrap();
        assert_eq!((config.reject_older_than, config.spool_bytes_max), (Duration::ZERO, 1 << 30));
        check_problems("spool_bytes_max = \"much\"", &[], &[], &["is not a size, such as 512MiB"]);
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_with_its_line() {
        check_problems("interval = \n", &[], &[], &["line 1"]);
    }

    #[test]
    fn the_embedded_server_stays_on_loopback() {
        check_problems("", &[], &[("listen", "0.0.0.0:4040")], &["loopback only"]);
    }

    #[test]
    fn one_port_serves_one_listener() {
        check_problems("", &[], &[("listen", "127.0.0.1:4041")], &["another port"]);
    }
}
