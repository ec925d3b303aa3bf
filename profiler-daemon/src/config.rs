//! File, environment and flags become one configuration.
//!
//! Precedence: defaults < file (TOML) < environment (`PROFILER_*`) < flags. All problems are reported at once, each
//! with key, value, place and what would be accepted. Not here: what a room does with its part.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attribute::Relabel;
use crate::deliver::{AccessConfig, Ambiguous, SinkConfig, WhenShort};

mod keys;

use keys::{KEYS, Kind};

/// What `run` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Base URL of the Pyroscope server; `None` starts the embedded one.
    pub server: Option<String>,
    /// What that server asks of those who push to it.
    pub access: AccessConfig,
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
    /// How much of the machine profiling may cost before less is sampled; without it, whatever it takes.
    pub cpu_max: Option<Share>,
    /// Most kernel memory for unwind tables, bytes; nothing for frame pointers alone.
    pub unwind_bytes_max: u64,
    /// Most memory for all of us together, bytes; without it, what the bounds of all parts add up to.
    pub memory_max: Option<u64>,
    /// Where the embedded server listens.
    pub listen: SocketAddr,
    /// Where the agent's metrics and health are.
    pub admin_listen: SocketAddr,
    /// A file with the token that who asks for figures has to show; without one, whoever reaches the port may.
    pub token_file: Option<PathBuf>,
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
    /// What is to become of labels: rules, as TOML.
    pub relabel: String,
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
            access: AccessConfig::default(),
            sinks: Vec::new(),
            interval: Duration::from_secs(10),
            keepalive_timeout: None,
            keepalive_policy: WhenShort::default(),
            delivery: Ambiguous::default(),
            http2: false,
            frequency_hz: 19,
            cpu_max: None,
            unwind_bytes_max: crate::capture::UNWIND_BYTES_MAX,
            memory_max: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 4040)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 4041)),
            token_file: None,
            data_dir: None,
            // Some days at a usual rate, 30 kB each 10 s: more than any server's patience by default.
            spool_bytes_max: 512 << 20,
            // What a machine needs to be logged into and put right.
            spool_free_bytes_min: 256 << 20,
            // A Pyroscope's own default.
            reject_older_than: Duration::from_secs(3600),
            inlines: true,
            relabel: String::new(),
            hostname: None,
            off_file: PathBuf::from("/etc/profiler-daemon/disabled"),
            kernel_log_level: 0,
        }
    }
}

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

/// A share of a machine's processors, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// As people write it: `1%`, `0.25 %`; more than nothing, no more than all.
    pub fn parse(text: &str) -> Option<Self> {
        let percent: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
        let hundredths = (percent * 100.0).round();
        (1..=10_000).find(|whole| f64::from(*whole) == hundredths).map(Self)
    }

    /// CPU seconds per second on a machine of `processors`.
    pub fn of_machine(self, processors: usize) -> f64 {
        f64::from(self.0) / 10_000.0 * processors as f64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", f64::from(self.0) / 100.0)
    }
}

/// A sampling frequency, Hz.
pub fn frequency(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|hz| (1..=999).contains(hz))
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody said anything.
    Default,
    /// A file of systemd's credentials.
    Credential(PathBuf),
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
            Self::Default => out.write_str("default"),
            Self::Credential(path) => write!(out, "credential {}", path.display()),
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

/// A configuration, and where each value of it came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    places: BTreeMap<&'static str, Place>,
}

impl Resolved {
    /// A TOML file that would give the same configuration but for its secrets, each value with its place.
    pub fn show(&self) -> String {
        let line = |key: &keys::Key| {
            let place = self.places.get(key.name).unwrap_or(&Place::Default);
            match (key.show)(&self.config) {
                Some(value) => format!("{} = {value}  # {place}\n", key.name),
                None => format!("# {} is not set\n", key.name),
            }
        };
        KEYS.iter().map(line).collect()
    }
}

/// What a new file means for a daemon that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Keys whose new value waits for the next start.
    pub at_start: Vec<&'static str>,
}

/// What `newer` changes.
pub fn change(older: &Config, newer: &Config) -> Change {
    let differs = |key: &&keys::Key| (key.show)(older) != (key.show)(newer);
    let waits = KEYS.iter().filter(|key| key.kind == Kind::AtStart).filter(differs);
    Change { at_start: waits.map(|key| key.name).collect() }
}

/// A file with every key, what it accepts and its default, all of them comments.
pub fn default_file() -> String {
    let config = Config::default();
    let mut file = String::from(
        "# Configuration of profiler-daemon, TOML. The environment (PROFILER_KEY) wins over this file, flags over both.\n\
         # `profiler-daemon config check` tells everything that is wrong, `config show` what comes of it.\n",
    );
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        let value = (key.show)(&config).unwrap_or_else(|| "…".to_owned());
        let live = if key.kind == Kind::Live { "; read again at a reload" } else { "" };
        file += &format!("\n# {}{live}\n# {} = {value}\n", key.accepted, key.name);
    }
    file
}

/// Puts the layers together. `flags` are pairs of key (with underscores) and text, as given.
pub fn resolve(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(&'static str, String)],
) -> Result<Resolved, Problems> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    let mut places = BTreeMap::new();
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
            places.insert("data_dir", Place::Environment(variable.clone()));
        }
        // Secrets that systemd's `LoadCredential=` put there.
        if variable == "CREDENTIALS_DIRECTORY" {
            let access = &mut config.access;
            let known = [
                ("password", "password_file", &mut access.password_file),
                ("bearer-token", "bearer_token_file", &mut access.bearer_token_file),
                ("client-key", "client_key_file", &mut access.client_key_file),
                ("token", "token_file", &mut config.token_file),
            ];
            for (name, key, place) in known {
                let file = Path::new(&text).join(name);
                if file.exists() {
                    *place = Some(file.clone());
                    places.insert(key, Place::Credential(file));
                }
            }
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
            Some(known) if known.kind == Kind::Secret && !matches!(place, Place::Environment(_)) => {
                problems
                    .push(format!("{place}: {key} is a secret: give a file that has it, with {key}_file"));
            }
            Some(known) if (known.set)(&mut config, &text).is_none() => {
                problems.push(format!("{place}: {key} = {text:?} is not {}", known.accepted));
            }
            Some(known) => {
                places.insert(known.name, place);
            }
        }
    }
    if let Err(found) = Relabel::parse(&config.relabel) {
        let place = places.get("relabel").unwrap_or(&Place::Default);
        problems.extend(found.into_iter().map(|problem| format!("{place}: {problem}")));
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
    if problems.is_empty() { Ok(Resolved { config, places }) } else { Err(Problems(problems)) }
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
        resolve(Some(&path), environment, &flags).map(|resolved| resolved.config)
    }

    #[test]
    fn what_is_shown_has_places_and_no_secrets() {
        let environment = [
            ("PROFILER_PASSWORD", "sesame"),
            ("PROFILER_SERVER", "http://a:sesame@b"),
            ("PROFILER_USER", "me"),
        ];
        let environment = environment.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let shown = resolve(None, environment, &[("frequency", "49".to_owned())]).unwrap().show();
        for line in [
            "frequency = 49  # flag --frequency",
            "password = \"(hidden)\"  # environment PROFILER_PASSWORD",
            "server = \"http://b\"  # environment PROFILER_SERVER",
            "interval = \"10s\"  # default",
            "# tenant is not set",
        ] {
            assert!(shown.contains(&format!("{line}\n")), "{line} is not in:\n{shown}");
        }
        assert!(!shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let config = resolve_all("interval = \"30s\"\nsinks = \"ingest=http://a\"\n", &[], &[]).unwrap();
        let shown = Resolved { config: config.clone(), places: BTreeMap::new() }.show();
        assert_eq!(resolve_all(&shown, &[], &[]).unwrap(), config, "{shown}");
    }

    #[test]
    fn the_default_file_changes_nothing_with_or_without_its_comments() {
        let file = default_file();
        assert_eq!(resolve_all(&file, &[], &[]).unwrap(), Config::default());
        let values = |line: &&str| KEYS.iter().any(|key| line.starts_with(&format!("{} = ", key.name)));
        let lines = file.lines().map(|line| line.trim_start_matches("# "));
        let set: Vec<_> = lines.filter(values).filter(|line| !line.contains('…')).collect();
        assert!(set.len() > 10, "{file}");
        assert_eq!(resolve_all(&set.join("\n"), &[], &[]).unwrap(), Config::default());
    }

    #[test]
    fn secrets_come_from_the_environment_or_from_files() {
        check_problems("password = \"sesame\"", &[], &[], &["password is a secret: give a file"]);
        check_problems(
            "",
            &[],
            &[("bearer_token", "sesame")],
            &["flag --bearer-token: bearer_token is a secret"],
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bearer-token"), "sesame").unwrap();
        let environment = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
        let config = resolve_all("headers = { X-A = \"b\" }", &environment, &[]).unwrap();
        assert_eq!(config.access.bearer_token_file, Some(folder.path().join("bearer-token")));
        assert_eq!(config.access.headers[0].0, "X-A");
    }

    #[test]
    fn a_change_says_what_waits_for_the_next_start() {
        let older = resolve_all("tenant = \"a\"", &[], &[]).unwrap();
        let newer = resolve_all("tenant = \"b\"\nfrequency = 49\ninterval = \"1s\"", &[], &[]).unwrap();
        assert_eq!(change(&older, &newer).at_start, ["interval", "frequency"]);
        assert_eq!(change(&older, &older), Change::default());
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

    #[track_caller]
    fn check_share(text: &str, expected: Option<(&str, f64)>) {
        let share = Share::parse(text);
        assert_eq!(
            share.map(|share| share.to_string()).as_deref(),
            expected.map(|(shown, _)| shown),
            "{text}"
        );
        assert_eq!(share.map(|share| share.of_machine(4)), expected.map(|(_, of_four)| of_four), "{text}");
    }

    #[test]
    fn a_share_is_of_all_processors() {
        check_share("1%", Some(("1%", 0.04)));
        check_share(" 0.25 % ", Some(("0.25%", 0.01)));
        check_share("100%", Some(("100%", 4.0)));
        for text in ["1", "0%", "-1%", "101%", "%", "NaN%", "inf%", "much"] {
            check_share(text, None);
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
    fn rules_are_tables_and_all_that_is_wrong_with_them_is_told() {
        let file = "[[relabel]]\nregex = \"a\"\naction = \"labeldrop\"\n[[relabel]]\ntarget_label = \"b\"\n";
        let config = resolve_all(file, &[], &[]).unwrap();
        let shown = Resolved { config: config.clone(), places: BTreeMap::new() }.show();
        assert_eq!(resolve_all(&shown, &[], &[]).unwrap(), config, "{shown}");
        check_problems(
            "[[relabel]]\nregex = \"(\"\n[[relabel]]\naction = \"jump\"\n",
            &[("PROFILER_FREQUENCY", "0")],
            &[],
            &["frequency", "rule 1: regex", "rule 1: target_label", "rule 2: action = \"jump\""],
        );
        check_problems(
            "",
            &[("PROFILER_RELABEL", "[{ separator = 3, action = \"keep\" }]")],
            &[],
            &["environment PROFILER_RELABEL: relabel, rule 1"],
        );
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
