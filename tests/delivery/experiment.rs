//! An experiment: one server, one wire, and agents that push through it.
//!
//! In: how each of them is. Out: what each of them saw. Not here: whether that is right.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::receiver::{Books, Received};
use crate::relay::{Mischief, Relay};
use crate::servers::{Server, Setting, certificates};

/// How long the last lines of a server may be on their way to the books.
const BOOKS_MAX: Duration = Duration::from_secs(2);

/// What is set up.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    pub(crate) setting: Setting,
    /// Of the wire, there and back.
    pub(crate) rtt: Duration,
    pub(crate) mischief: Mischief,
    /// The server is killed and started again when the wire is cut.
    pub(crate) restarts: bool,
    pub(crate) orders: Orders,
}

/// What the agents do.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Which client: ours by its policy, or another.
    pub(crate) client: String,
    pub(crate) interval: Duration,
    /// Over how long the agents' moments within an interval are spread.
    pub(crate) spread: Duration,
    /// By how much their intervals differ.
    pub(crate) sweep: Duration,
    pub(crate) agents: u32,
    pub(crate) pushes: u32,
    /// The least guard.
    pub(crate) guard: Duration,
    pub(crate) http2: bool,
    pub(crate) at_most_once: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) seen: Vec<Seen>,
    pub(crate) received: Received,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// What the wire broke.
    pub(crate) broken: u64,
}

/// What one agent counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) fed: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// How late its feeder was at worst.
    pub(crate) late: Duration,
    /// How often, of the last third of its pushes, one came later after the one before than it should have.
    pub(crate) stumbles: u64,
    /// Its meters when two thirds were pushed, and at the end.
    then: BTreeMap<String, f64>,
    end: BTreeMap<String, f64>,
}

impl Experiment {
    /// Does it, on a thread and a runtime of its own: no experiment waits for another.
    pub(crate) fn run(&self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.work())
    }

    async fn work(&self) -> Outcome {
        let mut server = Server::start(&self.setting, Arc::new(Books::default())).await;
        let relay = Relay::start(server.address, self.rtt / 2, self.mischief).await;
        let straight = self.rtt.is_zero() && self.mischief == Mischief::None && self.orders.is_ours();
        let address = if straight { server.address } else { relay.address };
        let scheme = server.scheme;
        let work = self.orders.follow(format!("{scheme}://{address}"));
        let seen = if self.restarts {
            let restart = async {
                relay.cut().await;
                server.restart();
            };
            tokio::join!(work, restart).0
        } else {
            work.await
        };
        let fed: u64 = seen.iter().map(|seen| seen.fed).sum();
        let waited = Instant::now();
        while server.received().profiles < fed && waited.elapsed() < BOOKS_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let fresh = seen.iter().map(|seen| seen.fresh()).sum();
        Outcome {
            received: server.received(),
            connections: if straight { fresh } else { relay.connections() },
            broken: relay.broken(),
            seen,
        }
    }
}

impl Orders {
    /// The agents are real ones, which count for themselves.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.client.as_str(), "retire" | "trim")
    }

    /// Agents that push to `server` until they are done.
    async fn follow(&self, server: String) -> Vec<Seen> {
        let Self { client, interval, spread, sweep, agents, pushes, guard, http2, at_most_once } = self;
        let us = |time: &Duration| u64::try_from(time.as_micros()).expect("hours at most");
        let orders = json!({
            "server": server, "client": client, "interval_us": us(interval), "spread_us": us(spread),
            "sweep_us": us(sweep),
            "agents": agents, "pushes": pushes, "guard_us": us(guard), "http2": http2,
            "at_most_once": at_most_once,
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
        drop(input);
        let output = child.wait_with_output().await.expect("agents end");
        assert!(output.status.success(), "the agents ended with {}", output.status);
        let said: Value = serde_json::from_slice(&output.stdout).expect("agents speak JSON");
        said.as_array().expect("a list").iter().map(Seen::read).collect()
    }
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
            stumbles: number("stumbles"),
            then: meters("then"),
            end: meters("end"),
        }
    }

    /// Attempts that failed, by how.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&str, u64)> {
        let attempts = self.end.iter().filter_map(|(name, &count)| {
            let labels = name.strip_prefix("profiler_push_attempts_total{")?;
            Some((labels.split("result=\"").nth(1)?.split('"').next()?, whole(count)))
        });
        attempts.filter(|(how, _)| *how != "ok")
    }

    /// Connections that were opened, by why.
    pub(crate) fn opened(&self) -> impl Iterator<Item = (&str, u64)> {
        self.end.iter().filter_map(|(name, &count)| {
            let labels = name.strip_prefix("profiler_connections_opened_total{")?;
            Some((labels.split("reason=\"").nth(1)?.split('"').next()?, whole(count)))
        })
    }

    /// Attempts that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures().map(|(_, count)| count).sum()
    }

    /// Attempts on a fresh connection.
    pub(crate) fn fresh(&self) -> u64 {
        sum(&self.end, "profiler_push_attempts_total{", "conn=\"fresh\"")
    }

    /// Attempts on a fresh connection in the last third.
    pub(crate) fn fresh_late(&self) -> u64 {
        self.fresh() - sum(&self.then, "profiler_push_attempts_total{", "conn=\"fresh\"")
    }

    /// Attempts on a connection that was kept.
    pub(crate) fn reused(&self) -> u64 {
        sum(&self.end, "profiler_push_attempts_total{", "conn=\"reused\"")
    }

    /// Attempts on a connection that was kept and that nobody answered on.
    pub(crate) fn fell_silent(&self) -> u64 {
        let of_reused = self.end.iter().filter(|(name, _)| name.contains("conn=\"reused\""));
        let meters = of_reused.map(|(name, &count)| (name.clone(), count)).collect();
        sum(&meters, "profiler_push_attempts_total{", "result=\"timeout\"")
    }

    /// Attempts after others that the server may have carried out.
    pub(crate) fn ambiguous(&self) -> u64 {
        sum(&self.end, "profiler_push_retries_total{", "class=\"ambiguous\"")
    }

    /// Profiles that the server may have or not.
    pub(crate) fn unknown(&self) -> u64 {
        sum(&self.end, "profiler_profiles_unknown_total", "")
    }

    /// How long it takes the server to keep connections; `None` if no timeout is known.
    pub(crate) fn known(&self) -> Option<Duration> {
        let timeouts =
            self.end.iter().filter(|(name, _)| name.starts_with("profiler_keepalive_server_timeout"));
        let seconds = timeouts.map(|(_, &seconds)| seconds).fold(0.0, f64::max);
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }

    /// The guard that it keeps.
    pub(crate) fn guard(&self) -> Duration {
        guard(&self.end)
    }

    /// The guard grew in the last third, because of an answer that was slower than those before.
    pub(crate) fn grew_careful(&self) -> bool {
        guard(&self.end) > guard(&self.then)
    }
}

fn guard(meters: &BTreeMap<String, f64>) -> Duration {
    Duration::from_secs_f64(meters.get("profiler_keepalive_guard_seconds").copied().unwrap_or_default())
}

/// All counts of a family that have a label.
fn sum(meters: &BTreeMap<String, f64>, family: &str, label: &str) -> u64 {
    let counts = meters.iter().filter(|(name, _)| name.starts_with(family) && name.contains(label));
    counts.map(|(_, &count)| whole(count)).sum()
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
