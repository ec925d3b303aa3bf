//! Agents side by side, as a program of its own: what trusts a certificate only by its environment, has its own
//! descriptors and its own place among the processes, and cannot slow down the servers that it pushes to.
//!
//! In: orders as one JSON object on standard input. Out: what the agents saw as one JSON object on standard output.
//! Not here: servers, and what their books say.
//!
//! Each agent is a real `Pusher` and a feeder which hands it one profile per interval. Beside them there are clients
//! as one would write them without thinking of idle connections, to compare with.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use profiler_daemon::deliver::{Ambiguous, Config, Outbox, Pusher, WhenShort};
use profiler_daemon::meters::Meters;
use profiler_daemon::model::{Format, Labels, Payload, Weight};
use profiler_daemon::pprof::{self, Message};
use profiler_daemon::server::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use profiler_daemon::time::{WallNs, Window};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

/// How long what waits may take at the end: a server that was away is back by then.
const GRACE: Duration = Duration::from_secs(40);

/// A timer may be late by a millisecond, and nobody minds.
const STUMBLE: Duration = Duration::from_millis(2);

/// What to do.
#[derive(Clone, Debug)]
struct Orders {
    server: String,
    client: String,
    interval: Duration,
    /// Over how long their moments within an interval are spread.
    spread: Duration,
    /// By how much the agents' intervals differ.
    sweep: Duration,
    agents: u32,
    pushes: u32,
    /// The least guard.
    guard: Duration,
    http2: bool,
    at_most_once: bool,
}

/// What one agent saw.
#[derive(Debug, Default)]
struct Seen {
    fed: u32,
    delivered: u64,
    lost: u64,
    late: Duration,
    /// How often, of the last pushes, it came later after the one before than it should have.
    stumbles: u32,
    /// The meters when it has learnt what there is to learn, and at the end.
    then: BTreeMap<String, f64>,
    end: BTreeMap<String, f64>,
}

fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("orders");
    let orders = Orders::read(&serde_json::from_str(&text).expect("orders are JSON"));
    rustls::crypto::ring::default_provider().install_default().expect("nobody was first");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = LocalSet::new().block_on(&runtime, all(orders));
    let seen: Vec<Value> = seen.iter().map(Seen::write).collect();
    // Whoever asked may be gone: then nobody wants to know.
    let _ = writeln!(std::io::stdout(), "{}", Value::from(seen));
}

impl Orders {
    fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| u32::try_from(value[name].as_u64().expect(name)).expect(name);
        let time = |name: &str| Duration::from_micros(value[name].as_u64().expect(name));
        Self {
            server: text("server"),
            client: text("client"),
            interval: time("interval_us"),
            spread: time("spread_us"),
            sweep: time("sweep_us"),
            agents: number("agents"),
            pushes: number("pushes"),
            guard: time("guard_us"),
            http2: value["http2"].as_bool().expect("http2"),
            at_most_once: value["at_most_once"].as_bool().expect("at_most_once"),
        }
    }

    /// The interval of one agent: clocks differ a little.
    fn interval(&self, agent: u32) -> Duration {
        self.interval - self.sweep / 2 + self.sweep * agent / self.agents
    }

    /// When it pushes first.
    fn first(&self, agent: u32) -> Instant {
        Instant::now() + self.spread * agent / self.agents
    }
}

impl Seen {
    fn write(&self) -> Value {
        let Self { fed, delivered, lost, late, stumbles, then, end } = self;
        let late_us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        json!({
            "fed": fed, "delivered": delivered, "lost": lost, "late_us": late_us, "stumbles": stumbles,
            "then": then, "end": end,
        })
    }
}

async fn all(orders: Orders) -> Vec<Seen> {
    let orders = Arc::new(orders);
    let running: Vec<_> = (0..orders.agents)
        .map(|agent| {
            let orders = Arc::clone(&orders);
            tokio::task::spawn_local(async move {
                match orders.client.as_str() {
                    "retire" | "trim" => ours(&orders, agent).await,
                    _ => theirs(&orders, agent).await,
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    for agent in running {
        seen.push(agent.await.expect("an agent does not panic"));
    }
    seen
}

async fn ours(orders: &Orders, agent: u32) -> Seen {
    let config = Config {
        server: orders.server.clone(),
        interval: orders.interval(agent),
        when_short: if orders.client == "trim" { WhenShort::Trim } else { WhenShort::Retire },
        ambiguous: if orders.at_most_once { Ambiguous::AtMostOnce } else { Ambiguous::AtLeastOnce },
        guard_min: orders.guard,
        http2: orders.http2,
        grace: GRACE,
        ..Config::default()
    };
    let meters = Meters::default();
    let lost = meters.counters("profiler_samples_lost", "");
    let (pusher, outbox) = Pusher::new(&config, &meters, lost).expect("a pusher");
    let pusher = tokio::task::spawn_local(pusher.run());
    let mut seen = Seen::default();
    feed(orders, agent, &outbox, &meters, &mut seen).await;
    outbox.close(GRACE);
    // The outbox is kept until then: a pusher without one ends at once.
    let outcome = pusher.await.expect("a pusher does not panic");
    seen.delivered = outcome.delivered.0;
    seen.lost = outcome.lost.0.values().map(|weight| weight.0).sum();
    seen.end = counters(&meters);
    seen
}

/// One profile per interval, from the agent's own moment within it on.
async fn feed(orders: &Orders, agent: u32, outbox: &Outbox, meters: &Meters, seen: &mut Seen) {
    let mut next = orders.first(agent);
    let since = WallNs::now();
    let mut late_before = Duration::ZERO;
    for push in 0..orders.pushes {
        sleep_until(next).await;
        let learnt = orders.pushes * 2 / 3;
        if push == learnt {
            seen.then = counters(meters);
        }
        outbox.send(vec![payload(since, agent, push)]);
        // Now the pusher runs, if nobody else does: how late it is counts.
        tokio::task::yield_now().await;
        let late = next.elapsed();
        seen.late = seen.late.max(late);
        seen.stumbles += u32::from(push >= learnt && late > late_before + STUMBLE);
        late_before = late;
        seen.fed += 1;
        next += outbox.cadence().interval();
    }
    // The last one is on its way for as long as those before it were.
    sleep_until(next).await;
}

fn payload(since: WallNs, agent: u32, push: u32) -> Payload {
    let label = |name: &str, value: &str| (Arc::from(name), Arc::from(value));
    let window = Window { start: WallNs(since.0 + i64::from(push)), duration_ns: 1_000_000_000 };
    Payload {
        window,
        labels: Arc::new(Labels::new([label("service_name", "grid"), label("agent", &agent.to_string())])),
        format: Format::Pprof,
        body: profile(window).encode_to_vec(),
        weight: Weight(1),
    }
}

/// A profile with one sample.
fn profile(window: Window) -> pprof::Profile {
    let cpu = pprof::ValueType { r#type: 1, unit: 2 };
    pprof::Profile {
        string_table: ["", "cpu", "nanoseconds", "work"].map(str::to_owned).into(),
        sample_type: vec![cpu],
        period_type: Some(cpu),
        period: 10_000_000,
        time_nanos: window.start.0,
        duration_nanos: i64::try_from(window.duration_ns).unwrap_or(i64::MAX),
        mapping: vec![pprof::Mapping { id: 1, has_functions: true, ..Default::default() }],
        function: vec![pprof::Function { id: 1, name: 3, ..Default::default() }],
        location: vec![pprof::Location {
            id: 1,
            mapping_id: 1,
            line: vec![pprof::Line { function_id: 1, line: 0 }],
            ..Default::default()
        }],
        sample: vec![pprof::Sample { location_id: vec![1], value: vec![10_000_000], label: vec![] }],
        ..Default::default()
    }
}

/// Every series of the meters with its value.
fn counters(meters: &Meters) -> BTreeMap<String, f64> {
    let text = meters.render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            Some((line.rsplit_once(' ')?.0.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?))
        })
        .collect()
}

/// A client that pushes once per interval and does not look back: with the library's defaults, with a pool that
/// forgets idle connections after a time set by hand, or with a connection per push.
async fn theirs(orders: &Orders, agent: u32) -> Seen {
    let builder = reqwest::Client::builder().no_proxy();
    let builder = match orders.client.as_str() {
        "defaults" => builder,
        "fresh" => builder.pool_max_idle_per_host(0),
        by_hand => {
            let ms =
                by_hand.strip_prefix("idle:").and_then(|ms| ms.parse().ok()).expect("a client that is known");
            builder.pool_idle_timeout(Duration::from_millis(ms))
        }
    };
    let client = builder.build().expect("a client");
    let url = format!("{}/push.v1.PusherService/Push", orders.server);
    let mut seen = Seen::default();
    let mut next = orders.first(agent);
    let since = WallNs::now();
    for push in 0..orders.pushes {
        sleep_until(next).await;
        seen.late = seen.late.max(next.elapsed());
        let sent = client
            .post(&url)
            .header("content-type", "application/proto")
            .header("content-encoding", "gzip")
            .timeout(Duration::from_secs(10))
            .body(body(&payload(since, agent, push)))
            .send()
            .await;
        let done = sent.is_ok_and(|answer| answer.status().is_success());
        seen.delivered += u64::from(done);
        seen.lost += u64::from(!done);
        seen.fed += 1;
        next += orders.interval(agent);
        next = next.max(Instant::now());
    }
    seen
}

/// The request that carries `payload`.
fn body(payload: &Payload) -> Vec<u8> {
    let labels = payload
        .labels
        .iter()
        .map(|(name, value)| LabelPair { name: name.to_owned(), value: value.to_owned() });
    let sample = RawSample { raw_profile: payload.body.clone(), id: String::new() };
    let series = RawProfileSeries { labels: labels.collect(), samples: vec![sample] };
    pprof::gzip(&PushRequest { series: vec![series] }.encode_to_vec())
}
