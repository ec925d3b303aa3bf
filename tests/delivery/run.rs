//! One cell: its server, its wire, its agents; and what is right.
//!
//! In: a cell. Out: what was counted, and each thing that is wrong with it, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::cells::{Cell, Fault, Policy};
use crate::receiver::{Books, Received};
use crate::relay::{Mischief, Relay};
use crate::servers::{Server, certificates};

/// Later than this, and what failed may have failed for that.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(15);
/// How long the last lines of a server may be on their way to the books.
const BOOKS_MAX: Duration = Duration::from_secs(2);

/// What one agent counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) fed: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) late: Duration,
    /// Its meters in the middle and at the end.
    half: BTreeMap<String, f64>,
    end: BTreeMap<String, f64>,
}

/// What came of a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) fed: u64,
    pub(crate) failed: u64,
    pub(crate) late: Duration,
    pub(crate) received: Received,
    opened: u64,
    reused: u64,
    broken: u64,
    how: BTreeMap<String, u64>,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

/// Whom to start, and how often each pushes.
pub(crate) struct Orders {
    pub(crate) client: String,
    pub(crate) interval: Duration,
    pub(crate) agents: u32,
    pub(crate) pushes: u32,
}

impl Orders {
    /// Starts agents that push to `server`.
    pub(crate) async fn start(&self, server: &str) -> Child {
        let Self { client, interval, agents, pushes } = self;
        let interval_us = u64::try_from(interval.as_micros()).expect("an interval of hours at most");
        let orders = json!({
            "server": server, "client": client, "interval_us": interval_us, "agents": agents, "pushes": pushes,
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_profiler-test-agents"))
            .env("SSL_CERT_FILE", certificates().join("certificate.pem"))
            .env_remove("SSL_CERT_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("agents start");
        let mut input = child.stdin.take().expect("it was piped");
        input.write_all(orders.to_string().as_bytes()).await.expect("agents listen");
        child
    }
}

/// What the agents say at their end.
pub(crate) async fn seen(agents: Child) -> Vec<Seen> {
    let output = agents.wait_with_output().await.expect("agents end");
    assert!(output.status.success(), "the agents ended with {}", output.status);
    let said: Value = serde_json::from_slice(&output.stdout).expect("agents speak JSON");
    said.as_array().expect("a list").iter().map(Seen::read).collect()
}

impl Seen {
    fn read(value: &Value) -> Self {
        let number = |name: &str| value[name].as_u64().expect(name);
        let meters = |name: &str| {
            let meters = value[name].as_object().into_iter().flatten();
            meters.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
        };
        Self {
            fed: number("fed"),
            delivered: number("delivered"),
            lost: number("lost"),
            late: Duration::from_micros(number("late_us")),
            half: meters("half"),
            end: meters("end"),
        }
    }

    /// Attempts that failed, by how.
    fn failures(&self) -> impl Iterator<Item = (&str, u64)> {
        attempts(&self.end).filter(|(how, _)| *how != "ok")
    }

    fn failed(&self) -> u64 {
        self.failures().map(|(_, count)| count).sum()
    }

    /// Connections opened for the second half of the pushes.
    fn opened_late(&self) -> u64 {
        used(&self.end, "fresh") - used(&self.half, "fresh")
    }

    fn guard(&self) -> Duration {
        let seconds = self.end.get("profiler_keepalive_guard_seconds").copied().unwrap_or_default();
        Duration::from_secs_f64(seconds)
    }
}

fn attempts(meters: &BTreeMap<String, f64>) -> impl Iterator<Item = (&str, u64)> {
    meters.iter().filter_map(|(name, &count)| {
        let labels = name.strip_prefix("profiler_push_attempts_total{")?;
        Some((labels.split("result=\"").nth(1)?.split('"').next()?, whole(count)))
    })
}

fn used(meters: &BTreeMap<String, f64>, conn: &str) -> u64 {
    let label = format!("conn=\"{conn}\"");
    let count = meters
        .iter()
        .filter(|(name, _)| name.starts_with("profiler_push_connections_total{") && name.contains(&label));
    count.map(|(_, &count)| whole(count)).sum()
}

/// A count, which metrics write as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it counts what happened in a minute"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

/// Runs `cell` with so many agents, each of which pushes `times` as often as usual.
pub(crate) fn run(cell: &Cell, agents: u32, times: u32) -> Report {
    // A thread and a runtime for each: no cell waits for another.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(experiment(cell, agents, times))
}

async fn experiment(cell: &Cell, agents: u32, times: u32) -> Report {
    let mut server = Server::start(&cell.setting(agents), Arc::new(Books::default())).await;
    let delay = Duration::from_millis(cell.rtt_ms) / 2;
    let mischief = cell.mischief(agents);
    let relay = match mischief {
        Mischief::None if delay.is_zero() => None,
        _ => Some(Relay::start(server.address, delay, mischief).await),
    };
    let address = relay.as_ref().map_or(server.address, |relay| relay.address);
    let client = match cell.policy {
        Policy::Retire => "retire",
        Policy::Trim => "trim",
    };
    let orders =
        Orders { client: client.to_owned(), interval: cell.interval(), agents, pushes: cell.pushes(times) };
    let running = orders.start(&format!("{}://{address}", server.scheme)).await;
    let seen = match &relay {
        Some(relay) if cell.fault == Fault::Restart => {
            tokio::join!(seen(running), async {
                relay.cut().await;
                server.restart();
            })
            .0
        }
        _ => seen(running).await,
    };
    let fed: u64 = seen.iter().map(|seen| seen.fed).sum();
    let waited = Instant::now();
    while server.received().profiles < fed && waited.elapsed() < BOOKS_MAX {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut report = Report {
        fed,
        failed: seen.iter().map(Seen::failed).sum(),
        late: seen.iter().map(|seen| seen.late).max().unwrap_or_default(),
        received: server.received(),
        opened: seen.iter().map(|seen| used(&seen.end, "fresh")).sum(),
        reused: seen.iter().map(|seen| used(&seen.end, "reused")).sum(),
        broken: relay.map_or(0, |relay| relay.broken()),
        ..Report::default()
    };
    for (how, count) in seen.iter().flat_map(Seen::failures) {
        *report.how.entry(how.to_owned()).or_default() += count;
    }
    report.faults =
        judge(cell, &seen, &report).into_iter().map(|fault| format!("{cell}: {fault}; {report}")).collect();
    report
}

/// Everything that is wrong.
fn judge(cell: &Cell, seen: &[Seen], report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    let Report { fed, failed, received, .. } = report;
    let (delivered, lost) =
        seen.iter().fold((0, 0), |(delivered, lost), seen| (delivered + seen.delivered, lost + seen.lost));
    if received.profiles != *fed || lost > 0 {
        faults.push(format!("of {fed} profiles {} arrived, {lost} were given up", received.profiles));
    }
    if delivered != *fed {
        faults.push(format!("of {fed} profiles {delivered} were taken for delivered"));
    }
    if received.doubles > 0 {
        faults.push(format!("{} profiles came again with other bytes", received.doubles));
    }
    if received.repeats > *failed {
        faults.push(format!("{} bodies came again, but only {failed} attempts failed", received.repeats));
    }
    if cell.fault == Fault::None && !cell.program.is_proxy() {
        let foreseeable = |seen: &&Seen| seen.failed() > u64::from(cell.lies());
        let count = seen.iter().filter(foreseeable).count();
        if count > 0 {
            faults.push(format!("attempts of {count} agents failed that could be foreseen"));
        }
        let opened_late: u64 = seen.iter().filter(|seen| keeps(cell, seen)).map(Seen::opened_late).sum();
        if opened_late > 0 {
            faults.push(format!("{opened_late} connections were opened where one could be kept"));
        }
    }
    faults
}

/// One connection is enough for all pushes of that agent's second half.
fn keeps(cell: &Cell, seen: &Seen) -> bool {
    let Some(says) = cell.says() else { return false };
    !cell.lies() && cell.interval() + seen.guard() + LATE_MAX < Duration::from_secs(says)
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fed, failed, late, received, opened, reused, broken, how, faults: _ } = self;
        let Received { profiles, repeats, doubles } = received;
        write!(
            out,
            "fed {fed}, received {profiles}, repeated {repeats}, doubled {doubles}, failed {failed} {how:?}, \
             opened {opened}, reused {reused}, broken {broken}, late {late:?}"
        )
    }
}
