//! The peer: `perf record -a -g`, and the `perf script` without which nobody can read it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::meter::{Reading, own_ended_children_s};
use crate::host;

/// What perf cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Perf {
    /// `perf record` while it records, percent of one core.
    pub steady_percent: f64,
    /// Its start and end, seconds.
    pub ends_s: f64,
    /// `perf script`, seconds.
    pub script_s: f64,
    /// Both, spread over the recording, percent of one core.
    pub whole_percent: f64,
    /// Wake-ups of `perf record` per second.
    pub wakeups_per_second: f64,
    /// Anonymous memory of `perf record`, bytes.
    pub anonymous: u64,
    /// Its part of memory it shares, bytes.
    pub proportional: u64,
}

/// Records for `seconds`, then reads.
pub(super) fn measure(frequency_hz: u32, seconds: u64) -> Result<Perf> {
    let file = host::target_dir().join("bench.perf.data");
    let before_s = own_ended_children_s();
    let mut record = Command::new("perf");
    record.args(["record", "-q", "-a", "-g", "-F", &frequency_hz.to_string(), "-o"]).arg(&file);
    record.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = record.spawn().context("perf cannot be started")?;
    std::thread::sleep(Duration::from_secs(2));
    let first = Reading::of(child.id());
    std::thread::sleep(Duration::from_secs(seconds));
    let last = Reading::of(child.id());
    host::output(Command::new("sh").args(["-c", "kill -INT \"$1\"", "sh", &child.id().to_string()]))
        .context("perf ended before it was told to")?;
    child.wait()?;
    let record_s = own_ended_children_s() - before_s;

    let before_script_s = own_ended_children_s();
    let mut script = Command::new("perf");
    script.args(["script", "-i"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    script.status().context("perf script cannot be started")?;
    let script_s = own_ended_children_s() - before_script_s;
    let _ = std::fs::remove_file(&file);
    let recorded_s = last.at.duration_since(first.at).as_secs_f64() + 2.0;
    Ok(Perf {
        steady_percent: last.cpu_percent_since(&first),
        ends_s: record_s - (last.cpu_s - first.cpu_s),
        script_s,
        whole_percent: (record_s + script_s) * 100.0 / recorded_s,
        wakeups_per_second: last.wakeups_per_second_since(&first),
        anonymous: last.anonymous_without(""),
        proportional: last.proportional(),
    })
}
