//! Every key of the configuration: one entry each, in the order in which people read them.
//!
//! In: a text, as a file, a variable or a flag has it. Out: a value in its place, and the way back: how it is shown.

use std::path::PathBuf;
use std::time::Duration;

use super::{Config, Share, duration, frequency, size};
use crate::deliver::{self, Ambiguous, Secret, SinkConfig, WhenShort};

/// One key.
pub(super) struct Key {
    /// Its name in the file; with dashes, that of its flag.
    pub(super) name: &'static str,
    /// What would be accepted.
    pub(super) accepted: &'static str,
    /// Puts a value in its place, if the text is one.
    pub(super) set: fn(&mut Config, &str) -> Option<()>,
    /// The value as TOML, without secrets; `None` where there is none.
    pub(super) show: fn(&Config) -> Option<String>,
    /// How it is treated.
    pub(super) kind: Kind,
}

/// How a key is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read when the daemon starts.
    AtStart,
    /// Read again at a reload.
    Live,
    /// Taken from the environment only, where neither a list of processes nor a file that is copied around shows it.
    Secret,
}

/// Puts `value` in its place, if there is one.
fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn put_path(place: &mut Option<PathBuf>, text: &str) -> Option<()> {
    put(place, (!text.is_empty()).then(|| Some(PathBuf::from(text))))
}

fn headers(text: &str) -> Option<Vec<(String, Secret)>> {
    let table: toml::Table = format!("headers = {text}").parse().ok()?;
    let headers = table.get("headers")?.as_table()?;
    let pair =
        |(name, value): (&String, &toml::Value)| Some((name.clone(), Secret(value.as_str()?.to_owned())));
    headers.iter().map(pair).collect()
}

/// `text` as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn hidden(_: &Secret) -> String {
    quoted("(hidden)")
}

fn time(duration: Duration) -> Option<String> {
    Some(quoted(&humantime::format_duration(duration).to_string()))
}

fn path(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| quoted(&path.display().to_string()))
}

/// All of them.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "server",
        accepted: "an http:// or https:// URL",
        set: |config, text| {
            let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
            (!host.is_empty() && !host.starts_with('/') && !text.contains(char::is_whitespace))
                .then(|| config.server = Some(text.to_owned()))
        },
        show: |config| config.server.as_deref().map(|url| quoted(&deliver::shown(url))),
        kind: Kind::AtStart,
    },
    Key {
        name: "sinks",
        accepted: "a list such as pyroscope=http://one:4040, ingest=http://older:4040, directory=/srv/profiles",
        set: |config, text| put(&mut config.sinks, text.split(',').map(SinkConfig::parse).collect()),
        show: |config| {
            (!config.sinks.is_empty())
                .then(|| quoted(&config.sinks.iter().map(SinkConfig::shown).collect::<Vec<_>>().join(", ")))
        },
        kind: Kind::AtStart,
    },
    Key {
        name: "user",
        accepted: "a name without a colon",
        set: |config, text| {
            (!text.is_empty() && !text.contains(':')).then(|| config.access.user = Some(text.to_owned()))
        },
        show: |config| config.access.user.as_deref().map(quoted),
        kind: Kind::Live,
    },
    Key {
        name: "password",
        accepted: "a password",
        set: |config, text| put(&mut config.access.password, Some(Some(Secret(text.to_owned())))),
        show: |config| config.access.password.as_ref().map(hidden),
        kind: Kind::Secret,
    },
    Key {
        name: "password_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.access.password_file, text),
        show: |config| path(&config.access.password_file),
        kind: Kind::Live,
    },
    Key {
        name: "bearer_token",
        accepted: "a token",
        set: |config, text| put(&mut config.access.bearer_token, Some(Some(Secret(text.to_owned())))),
        show: |config| config.access.bearer_token.as_ref().map(hidden),
        kind: Kind::Secret,
    },
    Key {
        name: "bearer_token_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.access.bearer_token_file, text),
        show: |config| path(&config.access.bearer_token_file),
        kind: Kind::Live,
    },
    Key {
        name: "tenant",
        accepted: "a name",
        set: |config, text| (!text.is_empty()).then(|| config.access.tenant = Some(text.to_owned())),
        show: |config| config.access.tenant.as_deref().map(quoted),
        kind: Kind::Live,
    },
    Key {
        name: "headers",
        accepted: "a table of names and texts, such as { X-Team = \"profiling\" }",
        set: |config, text| put(&mut config.access.headers, headers(text)),
        show: |config| {
            let names =
                config.access.headers.iter().map(|(name, value)| format!("{name} = {}", hidden(value)));
            (!config.access.headers.is_empty())
                .then(|| format!("{{ {} }}", names.collect::<Vec<_>>().join(", ")))
        },
        kind: Kind::Live,
    },
    Key {
        name: "ca_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.access.ca_file, text),
        show: |config| path(&config.access.ca_file),
        kind: Kind::AtStart,
    },
    Key {
        name: "client_certificate_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.access.client_certificate_file, text),
        show: |config| path(&config.access.client_certificate_file),
        kind: Kind::AtStart,
    },
    Key {
        name: "client_key_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.access.client_key_file, text),
        show: |config| path(&config.access.client_key_file),
        kind: Kind::AtStart,
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
        show: |config| time(config.interval),
        kind: Kind::AtStart,
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
        show: |config| config.keepalive_timeout.map_or_else(|| Some(quoted("auto")), time),
        kind: Kind::AtStart,
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
        show: |config| {
            Some(quoted(match config.keepalive_policy {
                WhenShort::Retire => "retire",
                WhenShort::Trim => "trim",
            }))
        },
        kind: Kind::AtStart,
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
        show: |config| {
            Some(quoted(match config.delivery {
                Ambiguous::AtLeastOnce => "at-least-once",
                Ambiguous::AtMostOnce => "at-most-once",
            }))
        },
        kind: Kind::AtStart,
    },
    Key {
        name: "http2",
        accepted: "true or false",
        set: |config, text| put(&mut config.http2, text.parse().ok()),
        show: |config| Some(config.http2.to_string()),
        kind: Kind::AtStart,
    },
    Key {
        name: "frequency",
        accepted: "a whole number of Hz from 1 to 999",
        set: |config, text| put(&mut config.frequency_hz, frequency(text)),
        show: |config| Some(config.frequency_hz.to_string()),
        kind: Kind::AtStart,
    },
    Key {
        name: "unwind_bytes_max",
        accepted: "a size, such as 16MiB, or 0",
        set: |config, text| put(&mut config.unwind_bytes_max, size(text)),
        show: |config| Some(quoted(&config.unwind_bytes_max.to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "memory_max",
        accepted: "a size, such as 640MiB, or off",
        set: |config, text| match text.trim() {
            "off" => put(&mut config.memory_max, Some(None)),
            text => put(&mut config.memory_max, size(text).map(Some)),
        },
        show: |config| {
            Some(quoted(&config.memory_max.map_or_else(|| "off".to_owned(), |bytes| bytes.to_string())))
        },
        kind: Kind::AtStart,
    },
    Key {
        name: "cpu_max",
        accepted: "a share of all processors from 0.01% to 100%, such as 1%, or off",
        set: |config, text| match text.trim() {
            "off" => put(&mut config.cpu_max, Some(None)),
            text => put(&mut config.cpu_max, Share::parse(text).map(Some)),
        },
        show: |config| {
            Some(quoted(&config.cpu_max.map_or_else(|| "off".to_owned(), |share| share.to_string())))
        },
        kind: Kind::Live,
    },
    Key {
        name: "listen",
        accepted: "an address and a port, such as 127.0.0.1:4040",
        set: |config, text| put(&mut config.listen, text.parse().ok()),
        show: |config| Some(quoted(&config.listen.to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "admin_listen",
        accepted: "an address and a port, such as 127.0.0.1:4041",
        set: |config, text| put(&mut config.admin_listen, text.parse().ok()),
        show: |config| Some(quoted(&config.admin_listen.to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "token_file",
        accepted: "a path",
        set: |config, text| put_path(&mut config.token_file, text),
        show: |config| path(&config.token_file),
        kind: Kind::Live,
    },
    Key {
        name: "data_dir",
        accepted: "a path",
        set: |config, text| (!text.is_empty()).then(|| config.data_dir = Some(PathBuf::from(text))),
        show: |config| path(&config.data_dir),
        kind: Kind::AtStart,
    },
    Key {
        name: "spool_bytes_max",
        accepted: "a size, such as 512MiB",
        set: |config, text| put(&mut config.spool_bytes_max, size(text)),
        show: |config| Some(quoted(&config.spool_bytes_max.to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "spool_free_bytes_min",
        accepted: "a size, such as 256MiB, or 0",
        set: |config, text| put(&mut config.spool_free_bytes_min, size(text)),
        show: |config| Some(quoted(&config.spool_free_bytes_min.to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "reject_older_than",
        accepted: "a duration, such as 1h, or 0 for no limit",
        set: |config, text| {
            let age = if text.trim() == "0" { Some(Duration::ZERO) } else { duration(text) };
            put(&mut config.reject_older_than, age)
        },
        show: |config| {
            if config.reject_older_than.is_zero() {
                Some(quoted("0"))
            } else {
                time(config.reject_older_than)
            }
        },
        kind: Kind::AtStart,
    },
    Key {
        name: "inlines",
        accepted: "true or false",
        set: |config, text| put(&mut config.inlines, text.parse().ok()),
        show: |config| Some(config.inlines.to_string()),
        kind: Kind::AtStart,
    },
    Key {
        name: "relabel",
        accepted: "rules as Prometheus has them, a table [[relabel]] for each, at the end of the file",
        set: |config, text| put(&mut config.relabel, Some(text.to_owned())),
        show: |config| (!config.relabel.trim().is_empty()).then(|| config.relabel.clone()),
        kind: Kind::Live,
    },
    Key {
        name: "hostname",
        accepted: "a name",
        set: |config, text| (!text.is_empty()).then(|| config.hostname = Some(text.to_owned())),
        show: |config| config.hostname.as_deref().map(quoted),
        kind: Kind::AtStart,
    },
    Key {
        name: "off_file",
        accepted: "a path",
        set: |config, text| (!text.is_empty()).then(|| config.off_file = PathBuf::from(text)),
        show: |config| Some(quoted(&config.off_file.display().to_string())),
        kind: Kind::AtStart,
    },
    Key {
        name: "kernel_log_level",
        accepted: "a number from 0 (off) to 5 (trace)",
        set: |config, text| put(&mut config.kernel_log_level, text.parse().ok().filter(|level| *level <= 5)),
        show: |config| Some(config.kernel_log_level.to_string()),
        kind: Kind::AtStart,
    },
];
