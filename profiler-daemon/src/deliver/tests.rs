//! Delivery to real servers on loopback: good ones, bad ones, and ones that are not there.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod connections;
mod hours;
mod kept;
mod promises;
mod script;
mod server;
mod sinks;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub(super) use self::script::Script;
use self::script::Turn;
use self::server::{Ended, Reply, Server, answer, answer_with};
use super::way::Way;
use super::*;
use crate::model::{Format, Labels, Reason, Weight};
use crate::time::{WallNs, Window};

const MINUTE: Duration = Duration::from_secs(60);

/// A pusher that runs, and what can be read of it.
struct House {
    outbox: Outbox,
    meters: Meters,
    running: JoinHandle<Outcome>,
}

impl House {
    /// Pushes to `address` each 20 ms or so: pauses are no longer then either.
    fn new(address: &str) -> Self {
        Self::with(&Config {
            server: address.to_owned(),
            interval: Duration::from_millis(20),
            ..Config::default()
        })
    }

    fn with(config: &Config) -> Self {
        Self::made(config, |pusher| pusher)
    }

    /// What each request meets is what `turn` says of its body.
    fn of(config: &Config, turn: impl FnMut(&[u8]) -> Turn + Send + 'static) -> Self {
        let script = Script::new(config.request_timeout(), turn);
        Self::made(config, |pusher| pusher.by(Way::Script(script)))
    }

    fn made(config: &Config, change: impl FnOnce(Pusher) -> Pusher) -> Self {
        let meters = Meters::default();
        let lost = meters.counters("profiler_samples_lost", "Lost.");
        let (pusher, outbox) = Pusher::new(config, &meters, lost).unwrap();
        Self { outbox, meters, running: tokio::spawn(change(pusher).run()) }
    }

    /// Hands over one payload per weight, of the service of that number.
    fn send(&self, weights: &[u64]) {
        self.outbox.send(weights.iter().map(|&weight| payload(weight)).collect());
    }

    /// Ends, and checks that the books balance.
    #[track_caller]
    fn finish(self, grace: Duration) -> impl Future<Output = (Outcome, Meters)> {
        self.outbox.close(grace);
        async {
            let outcome = timeout(2 * MINUTE, self.running).await.unwrap().unwrap();
            assert_eq!(value(&self.meters, "profiler_waiting_bytes"), 0.0);
            assert_eq!(value(&self.meters, "profiler_waiting_weight"), 0.0);
            let delivered = value(&self.meters, "profiler_delivered_weight_total");
            assert_eq!(delivered, f64::from(u32::try_from(outcome.delivered.0).unwrap()));
            (outcome, self.meters)
        }
    }
}

fn payload(weight: u64) -> Payload {
    let name = (Arc::from("service_name"), Arc::from(weight.to_string()));
    Payload {
        window: Window { start: WallNs(1), duration_ns: 2 },
        labels: Arc::new(Labels::new([name])),
        format: Format::Pprof,
        body: format!("profile of {weight}").into_bytes(),
        weight: Weight(weight),
    }
}

/// The services in a request.
fn services(raw: &[u8]) -> Vec<u64> {
    let request = wire::PushRequest::decode(raw).unwrap();
    let service = |series: &wire::RawProfileSeries| series.labels[1].value.parse().unwrap();
    request.series.iter().map(service).collect()
}

/// A metric as the page shows it; zero if it is not there yet.
fn value(meters: &Meters, name: &str) -> f64 {
    let page = meters.render();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The sum of the lines of a family whose labels have these words.
fn sum(meters: &Meters, family: &str, words: &str) -> f64 {
    let page = meters.render();
    let lines = page.lines().filter(|line| line.starts_with(&format!("{family}{{")) && line.contains(words));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

fn attempts(meters: &Meters, result: &str) -> f64 {
    sum(meters, "profiler_push_attempts_total", &format!("result=\"{result}\""))
}

/// Attempts over fresh connections, and over reused ones.
fn over(meters: &Meters) -> (f64, f64) {
    let over = |conn: &str| sum(meters, "profiler_push_attempts_total", &format!("conn=\"{conn}\""));
    (over("fresh"), over("reused"))
}

#[track_caller]
fn check(outcome: &Outcome, delivered: u64, lost: &[(Reason, u64)]) {
    assert_eq!(outcome.delivered, Weight(delivered));
    let expected: Vec<_> = lost.iter().map(|&(reason, weight)| (reason, Weight(weight))).collect();
    assert_eq!(
        outcome.lost.0.iter().map(|(&reason, &weight)| (reason, weight)).collect::<Vec<_>>(),
        expected
    );
}

/// Waits until the server has seen so many requests.
async fn seen(server: &Server, requests: usize) {
    let wait = async {
        while server.record().seen.len() < requests {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(MINUTE, wait).await.unwrap();
}

/// Waits until so many connections have ended.
async fn ended(server: &Server, connections: usize) {
    let wait = async {
        while server.record().ended.len() < connections {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(MINUTE, wait).await.unwrap();
}

#[tokio::test]
async fn a_window_goes_out_as_one_request() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, ""))).await;
    let house = House::new(&format!("{}/base/", server.address));
    house.send(&[1, 2, 3]);
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 6, &[]);
    assert_eq!(attempts(&meters, "ok"), 1.0);
    let record = server.record();
    let [request] = record.seen.as_slice() else { panic!("{record:?}") };
    assert_eq!(request.line, "POST /base/push.v1.PusherService/Push HTTP/1.1");
    for (name, value) in [
        ("content-type", "application/proto"),
        ("content-encoding", "gzip"),
        ("connection", "keep-alive"),
        ("user-agent", concat!("profiler-daemon/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(request.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(services(&request.raw()), [1, 2, 3]);
}

#[tokio::test]
async fn a_server_in_trouble_gets_the_same_bytes_again() {
    let statuses = [503, 502, 504, 408, 401, 403, 200];
    let server = Server::start(move |number, _| Reply::Bytes(answer(statuses[number], ""))).await;
    let house = House::new(&server.address);
    house.send(&[1, 2]);
    seen(&server, 7).await;
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 3, &[]);
    let record = server.record();
    assert!(record.seen.iter().all(|request| request.body == record.seen[0].body));
    assert_eq!(sum(&meters, "profiler_push_retries_total", "ambiguous"), 3.0);
    assert_eq!(sum(&meters, "profiler_push_retries_total", "never_applied"), 3.0);
    assert_eq!((attempts(&meters, "http_5xx"), attempts(&meters, "http_4xx")), (3.0, 3.0));
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let server = Server::start(|number, _| match number {
        0 => Reply::Bytes(answer(429, "Retry-After: 1")),
        _ => Reply::Bytes(answer(200, "")),
    })
    .await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 2).await;
    let record = server.record();
    assert!(record.seen[1].at - record.seen[0].at >= Duration::from_secs(1));
    check(&house.finish(MINUTE).await.0, 1, &[]);
}

#[tokio::test]
async fn one_bad_profile_does_not_take_the_others_with_it() {
    for status in [400, 413, 422, 500] {
        let server = Server::start(move |_, request| {
            let bad = services(&request.raw()).contains(&4);
            Reply::Bytes(answer_with(if bad { status } else { 200 }, "Keep-Alive: timeout=60", "4 is bad"))
        })
        .await;
        let house = House::new(&server.address);
        house.send(&[1, 2, 4, 8]);
        let (outcome, _) = {
            let answered = async {
                while value(&house.meters, "profiler_waiting_weight") > 0.0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(MINUTE, answered).await.unwrap();
            house.finish(MINUTE).await
        };
        check(&outcome, 11, &[(Reason::Refused, 4)]);
        let record = server.record();
        let all = record.seen[0].raw();
        let mut alone: Vec<_> = record.seen[1..].iter().map(|request| request.raw()).collect();
        alone.sort_by_key(|raw| services(raw));
        alone.dedup();
        assert_eq!(alone.concat(), all, "the same bytes per profile, status {status}");
    }
}

#[tokio::test]
async fn a_profile_that_breaks_the_server_is_given_up_and_the_next_one_goes() {
    let server = Server::start(|_, request| {
        let bad = services(&request.raw()).contains(&1);
        Reply::Bytes(answer(if bad { 500 } else { 200 }, ""))
    })
    .await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 4).await;
    house.send(&[2]);
    seen(&server, 5).await;
    check(&house.finish(MINUTE).await.0, 2, &[(Reason::Refused, 1)]);
    assert_eq!(server.record().seen.len(), 5);
}

#[tokio::test]
async fn a_server_that_refuses_everything_is_not_flooded() {
    let server = Server::start(|_, _| Reply::Bytes(answer_with(400, "", "too old"))).await;
    let house = House::new(&server.address);
    for requests in 9..=12 {
        house.send(&[1; 300]);
        seen(&server, requests).await;
    }
    check(&house.finish(MINUTE).await.0, 0, &[(Reason::Refused, 1_200)]);
    assert_eq!(server.record().seen.len(), 12, "eight refusals are believed, and then each first one");
}

#[tokio::test]
async fn what_is_no_pyroscope_is_asked_once_per_window() {
    for (status, headers) in [
        (404, "Content-Type: text/plain"),
        (404, "Content-Type: text/html; charset=utf-8"),
        (405, ""),
        (415, ""),
        (501, ""),
        (400, "Content-Type: text/html"),
        (200, "Content-Type: text/html"),
        (302, "Location: http://127.0.0.1:1/"),
        (307, "Location: /elsewhere"),
    ] {
        let server = Server::start(move |_, _| Reply::Bytes(answer_with(status, headers, "<html>"))).await;
        let house = House::new(&server.address);
        house.send(&[1, 2]);
        seen(&server, 1).await;
        check(&house.finish(MINUTE).await.0, 0, &[(Reason::Refused, 3)]);
        assert_eq!(server.record().seen.len(), 1, "{status} {headers}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_tried_again() {
    for garbage in
        ["SSH-2.0-OpenSSH_9.2\r\n", "\0\0\0\0", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\n\u{1}: x\r\n\r\n"]
    {
        let server = Server::start(move |number, _| match number {
            0 => Reply::Last(garbage.as_bytes().to_vec()),
            _ => Reply::Bytes(answer(200, "")),
        })
        .await;
        let house = House::new(&server.address);
        house.send(&[1]);
        seen(&server, 2).await;
        let (outcome, meters) = house.finish(MINUTE).await;
        check(&outcome, 1, &[]);
        assert_eq!(attempts(&meters, "garbage"), 1.0, "{garbage:?}: {}", meters.render());
    }
}

#[tokio::test]
async fn a_connection_that_ends_instead_of_an_answer_is_replaced() {
    for (reply, result) in [(Reply::Last(Vec::new()), "eof"), (Reply::Reset, "rst")] {
        let server = Server::start(move |number, _| match number {
            1 => reply.clone(),
            _ => Reply::Bytes(answer(200, "Keep-Alive: timeout=60")),
        })
        .await;
        let house = House::new(&server.address);
        house.send(&[1]);
        seen(&server, 1).await;
        house.send(&[2]);
        seen(&server, 3).await;
        let (outcome, meters) = house.finish(MINUTE).await;
        check(&outcome, 3, &[]);
        let record = server.record();
        assert_eq!(record.connections, 2);
        assert_eq!(record.seen[1].body, record.seen[2].body);
        assert_eq!(record.seen[2].connection, 1);
        assert_eq!(attempts(&meters, result), 1.0, "{}", meters.render());
    }
}

#[tokio::test]
async fn an_accepted_push_is_not_repeated_because_its_answer_was_cut() {
    let cut = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let server = Server::start(move |_, _| Reply::Last(cut.clone())).await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 1).await;
    house.send(&[2]);
    seen(&server, 2).await;
    check(&house.finish(MINUTE).await.0, 3, &[]);
    assert_eq!((server.record().seen.len(), server.record().connections), (2, 2));
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let server = Server::start(move |_, _| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        Reply::Endless(head, b"4\r\nmore\r\n".repeat(1_000))
    })
    .await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 1).await;
    let begun = Instant::now();
    check(&house.finish(MINUTE).await.0, 1, &[]);
    assert!(begun.elapsed() < Duration::from_secs(2), "it does not take until the timeout");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_after_the_timeout() {
    let server = Server::start(|number, _| match number {
        0 => Reply::Silence,
        _ => Reply::Bytes(answer(200, "")),
    })
    .await;
    let house = House::new(&server.address);
    let begun = Instant::now();
    house.send(&[1]);
    seen(&server, 2).await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 1, &[]);
    assert!(attempts(&meters, "timeout") >= 1.0);
}

/// An address at which nobody listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_server_costs_what_it_may_and_no_more() {
    let config = Config { server: nowhere(), waiting_bytes_max: 20_000, ..Config::default() };
    let house = House::with(&config);
    for _ in 0..360 {
        house.send(&[1; 10]);
        sleep(Duration::from_secs(10)).await;
        assert!(value(&house.meters, "profiler_waiting_bytes") <= 20_000.0);
    }
    let tried = attempts(&house.meters, "connect");
    // Each pause is five to ten seconds once it has grown.
    assert!((360.0..=730.0).contains(&tried), "{tried}");
    let waits = value(&house.meters, "profiler_waiting_weight");
    let (outcome, meters) = house.finish(Duration::from_secs(5)).await;
    let dropped = value(&meters, "profiler_samples_lost_total{reason=\"spool full\"}");
    assert!(waits > 0.0 && dropped > 0.0);
    assert_eq!(waits + dropped, 3_600.0);
    assert_eq!(value(&meters, "profiler_samples_lost_total{reason=\"stopped\"}"), waits);
    assert_eq!(outcome.lost.0.values().copied().sum::<Weight>(), Weight(3_600));
}

#[tokio::test]
async fn what_waited_is_delivered_when_the_server_comes() {
    let address = nowhere();
    let house = House::new(&address);
    for weight in 1..=10 {
        house.send(&[weight]);
        sleep(Duration::from_millis(5)).await;
    }
    let listener = tokio::net::TcpListener::bind(address.strip_prefix("http://").unwrap()).await.unwrap();
    let _server = Server::on(listener, |_, _| Reply::Bytes(answer(200, "")));
    check(&house.finish(MINUTE).await.0, 55, &[]);
}

#[tokio::test]
async fn the_end_comes_within_its_grace() {
    let server = Server::start(|_, _| Reply::Silence).await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 1).await;
    house.send(&[2]);
    let begun = Instant::now();
    check(&house.finish(Duration::from_millis(100)).await.0, 0, &[(Reason::Stopped, 3)]);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_pause() {
    let server = Server::start(|number, _| match number {
        0 => Reply::Bytes(answer(503, "Retry-After: 300")),
        _ => Reply::Bytes(answer(200, "")),
    })
    .await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 1).await;
    sleep(Duration::from_millis(20)).await;
    check(&house.finish(MINUTE).await.0, 1, &[]);
}

#[tokio::test]
async fn a_pusher_ends_when_nobody_is_left_to_feed_it() {
    let House { outbox, running, .. } = House::new(&nowhere());
    outbox.send(vec![payload(1)]);
    drop(outbox);
    let outcome = timeout(MINUTE, running).await.unwrap().unwrap();
    check(&outcome, 0, &[(Reason::Stopped, 1)]);
}

#[tokio::test]
async fn credentials_in_the_address_are_sent() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, ""))).await;
    let house = House::new(&server.address.replace("http://", "http://user:secret@"));
    house.send(&[1]);
    check(&house.finish(MINUTE).await.0, 1, &[]);
    let sent = server.record().seen[0].headers.get("authorization").cloned();
    assert_eq!(sent.as_deref(), Some("Basic dXNlcjpzZWNyZXQ="));
}

#[tokio::test]
async fn encryption_with_a_server_that_has_none_is_a_failed_connection() {
    let server = Server::start(|_, _| Reply::Silence).await;
    let address = server.address.replace("http://", "https://");
    let config = Config { server: address, interval: Duration::from_millis(20), ..Config::default() };
    match Pusher::new(&config, &Meters::default(), Counters::default()) {
        Ok((pusher, outbox)) => {
            outbox.send(vec![payload(1)]);
            outbox.close(Duration::from_millis(300));
            check(&pusher.run().await, 0, &[(Reason::Stopped, 1)]);
        }
        Err(StartError::Certificates { .. }) => println!("skipped: this machine trusts no certificates"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_uploader_pushes_from_a_thread_of_its_own() {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(|_, _| Reply::Bytes(answer(200, "Keep-Alive: timeout=60"))));
    let config = Config { server: server.address.clone(), ..Config::default() };
    let others = times_they_ran("uploader");
    let uploader = start(&config, &Meters::default(), Counters::default()).unwrap();
    uploader.send(vec![payload(1), payload(2)]);
    runtime.block_on(seen(&server, 1));
    uploader.send(vec![payload(4)]);
    runtime.block_on(seen(&server, 2));
    std::thread::sleep(Duration::from_millis(100));
    let before = times_they_ran("uploader");
    std::thread::sleep(Duration::from_millis(1_500));
    let after = times_they_ran("uploader");
    // Another test may have started one of its own meanwhile.
    let mut ours = before.iter().filter(|(thread, _)| !others.contains_key(*thread));
    let slept = ours.any(|(thread, times)| after.get(thread) == Some(times));
    assert!(slept, "nothing wakes it while its connection is idle: {before:?}, {after:?}");
    check(&uploader.finish(), 7, &[]);
}

/// How often the threads of this name gave up the processor, which is as often as each was woken.
fn times_they_ran(name: &str) -> std::collections::BTreeMap<std::ffi::OsString, u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let times = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        status.starts_with(&format!("Name:\t{name}\n")).then_some(())?;
        Some((task.file_name(), count.trim().parse().ok()?))
    };
    tasks.filter_map(|task| times(task.ok()?)).collect()
}

#[test]
fn an_uploader_for_no_address_does_not_start() {
    let config = Config { server: "localhost:4040".to_owned(), ..Config::default() };
    let error = start(&config, &Meters::default(), Counters::default()).unwrap_err();
    assert!(matches!(error, StartError::Address { .. }), "{error}");
}
