//! No push fails because of how its connection is held, whatever the server's timeout.
//!
//! Many pushers against a real server (Go's) that closes idle connections just when the next push comes, and
//! beside them, in the same run, an HTTP client with its defaults, which shows that the danger is there.
//!
//! Needs `go`. Says aloud when it is missing, and fails instead when `TEST_REQUIRE_GO=1`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Once};
use std::time::Duration;

use profiler_daemon::deliver::{Config, Outbox, Pusher, start};
use profiler_daemon::meters::Meters;
use profiler_daemon::model::{Format, Labels, Payload, Weight};
use profiler_daemon::time::{WallNs, Window};
use profiler_tests::harness::gate::{self, Missing};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

const SECOND: Duration = Duration::from_secs(1);
/// Agents side by side, per server.
const AGENTS: u32 = 50;
/// What each of them pushes.
const PUSHES: u32 = 40;
const ALL: u32 = AGENTS * PUSHES;

/// The Go server, built and running.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// `None`, aloud, where it cannot be built.
    fn start(arguments: &[&str]) -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/keepalive");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keepalive-server");
        static BUILT: Once = Once::new();
        BUILT.call_once(|| {
            let build = Command::new("go")
                .args(["build", "-o"])
                .args([&program, Path::new(".")])
                .current_dir(source)
                .env("GOTOOLCHAIN", "local")
                .status();
            match build {
                Ok(status) => assert!(status.success(), "the Go server does not build"),
                Err(error) => println!("go does not start: {error}"),
            }
        });
        if !program.exists() {
            let test = std::thread::current().name().unwrap_or("a test against a server in Go").to_owned();
            gate::skip(
                &test,
                &Missing { required_by: "TEST_REQUIRE_GO", what: "go does not start".to_owned() },
            );
            return None;
        }
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { process, address: address.trim().to_owned() })
    }

    /// Connections that it has accepted, and pushes.
    async fn stats(&self) -> (u32, u32) {
        let text = reqwest::get(format!("{}/stats", self.address)).await.unwrap().text().await.unwrap();
        let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |name: &str| u32::try_from(stats[name].as_u64().unwrap()).unwrap();
        // This very question came over a connection of its own.
        (number("connections") - 1, number("pushes"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn payload(push: u32) -> Payload {
    let name = (Arc::from("service_name"), Arc::from("keepalive"));
    Payload {
        window: Window { start: WallNs(i64::from(push)), duration_ns: 1_000_000_000 },
        labels: Arc::new(Labels::new([name])),
        format: Format::Pprof,
        body: vec![7; 4_096],
        weight: Weight(1),
    }
}

/// What many agents saw together.
#[derive(Debug, Default)]
struct Sum {
    fresh: u32,
    reused: u32,
    failed: u32,
    delivered: u64,
}

impl Sum {
    fn add(&mut self, meters: &Meters) {
        for line in meters.render().lines() {
            let Some((name, count)) = line.rsplit_once(' ') else { continue };
            let count = || count.parse::<u32>().unwrap();
            if !name.starts_with("profiler_push_attempts_total{") {
                continue;
            }
            if !name.contains("result=\"ok\"") {
                self.failed += count();
            } else if name.contains("conn=\"fresh\"") {
                self.fresh += count();
            } else {
                self.reused += count();
            }
        }
    }
}

/// Pushes once per interval, from its own moment within it on.
async fn feed(outbox: Outbox, agent: u32) {
    let mut ticks = interval_at(Instant::now() + SECOND / AGENTS * agent, SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for push in 0..PUSHES {
        ticks.tick().await;
        outbox.send(vec![payload(push)]);
    }
    outbox.close(5 * SECOND);
    // Kept until everything is delivered: a pusher without its outbox ends.
    tokio::time::sleep(SECOND).await;
}

/// Our agents against one server.
async fn ours(address: &str) -> Sum {
    let mut running = Vec::new();
    for agent in 0..AGENTS {
        let config = Config { server: address.to_owned(), interval: SECOND, ..Config::default() };
        let meters = Meters::default();
        let (pusher, outbox) =
            Pusher::new(&config, &meters, meters.counters("profiler_samples_lost", "")).unwrap();
        tokio::spawn(feed(outbox, agent));
        running.push((tokio::spawn(pusher.run()), meters));
    }
    let mut sum = Sum::default();
    for (pusher, meters) in running {
        sum.delivered += pusher.await.unwrap().delivered.0;
        sum.add(&meters);
    }
    sum
}

/// As many clients with their library's defaults, whose intervals sweep a millisecond around the timeout. How
/// many of their pushes failed.
async fn defaults(address: &str) -> u32 {
    let mut running = Vec::new();
    for agent in 0..AGENTS {
        let url = format!("{address}/push.v1.PusherService/Push");
        running.push(tokio::spawn(async move {
            let client = reqwest::Client::new();
            // A timer fires up to a millisecond late, and the gap is longer than the sleep by what is around it.
            let interval = SECOND - Duration::from_millis(2) + Duration::from_millis(2) * agent / AGENTS;
            tokio::time::sleep(SECOND / AGENTS * agent).await;
            let mut failed = 0;
            for _ in 0..PUSHES {
                let sent = client.post(&url).body(vec![7; 4_096]).send().await;
                failed += u32::from(sent.is_err());
                tokio::time::sleep(interval).await;
            }
            failed
        }));
    }
    let mut failed = 0;
    for agent in running {
        failed += agent.await.unwrap();
    }
    failed
}

#[test]
fn no_push_meets_the_servers_fin() {
    let arguments: [&[&str]; 4] = [
        &["-idle=1s", "-advertise=timeout=1"],
        &["-idle=2s", "-advertise=timeout=2"],
        &["-idle=1s"],
        &["-idle=1s", "-advertise=timeout=1"],
    ];
    let Some(servers) = arguments.into_iter().map(Server::start).collect::<Option<Vec<_>>>() else { return };
    let [same, twice, silent, plain] =
        servers.try_into().unwrap_or_else(|_| unreachable!("four were started"));
    rustls::crypto::ring::default_provider().install_default().unwrap();

    // The others have a thread of their own, so that they do not slow ours down, nor ours them.
    let others = plain.address.clone();
    let others = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(defaults(&others))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (on_same, on_twice, on_silent) =
            tokio::join!(ours(&same.address), ours(&twice.address), ours(&silent.address));
        let sums =
            [("timeout = interval", &on_same), ("twice the interval", &on_twice), ("silent", &on_silent)];
        for (server, sum) in sums {
            println!("{server}: {sum:?}");
            assert_eq!(sum.failed, 0, "{server}");
            assert_eq!((sum.fresh + sum.reused, sum.delivered), (ALL, u64::from(ALL)), "{server}");
        }
        assert_eq!(on_same.reused, 0, "no connection can last until the next push");
        assert!(on_twice.reused >= (ALL - AGENTS) * 99 / 100, "{on_twice:?}");
        assert_eq!(on_silent.reused, 0);
        // The servers saw the same.
        for (server, sum) in [(&same, &on_same), (&twice, &on_twice), (&silent, &on_silent)] {
            assert_eq!(server.stats().await, (sum.fresh, ALL));
        }
    });
    let failed = others.join().unwrap();
    println!("an HTTP client's defaults: {failed} of {ALL} failed, one in {}", ALL / failed.max(1));
    assert!(failed > 0, "the danger was not there");
}

/// The machine's trust is read from the environment, which only a process of its own can have changed.
#[test]
fn an_encrypted_connection_is_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("certificate.pem");
    let arguments =
        ["-idle=60s", "-advertise=timeout=60", &format!("-certificate={}", certificate.display())];
    let Some(server) = Server::start(&arguments) else { return };
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "push_to_an_encrypted_server", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", &certificate)
        .env_remove("SSL_CERT_DIR")
        .env("ENCRYPTED_SERVER", &server.address)
        .status()
        .unwrap();
    assert!(child.success());
}

#[test]
#[ignore = "the other half of another test"]
fn push_to_an_encrypted_server() {
    let server = env::var("ENCRYPTED_SERVER").unwrap();
    let meters = Meters::default();
    let config = Config { server, ..Config::default() };
    let uploader = start(&config, &meters, meters.counters("profiler_samples_lost", "")).unwrap();
    for push in 0..5 {
        uploader.send(vec![payload(push)]);
        while !meters.render().contains(&format!("profiler_delivered_weight_total {}\n", push + 1)) {
            std::thread::yield_now();
        }
    }
    assert_eq!(uploader.finish().delivered, Weight(5));
    let mut sum = Sum::default();
    sum.add(&meters);
    assert_eq!((sum.fresh, sum.reused, sum.failed), (1, 4, 0), "{}", meters.render());
}
