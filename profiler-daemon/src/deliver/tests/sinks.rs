//! Places to deliver to that are no Pyroscope of today.

use super::*;
use crate::pprof::{self, Profile};

/// A profile of the service of that number, as long as it can be read, and its payload.
fn real(number: u64) -> Payload {
    let profile = Profile {
        time_nanos: 1_700_000_000_000_000_000 + i64::try_from(number).unwrap(),
        duration_nanos: 10_000_000_000,
        string_table: vec![String::new(), format!("profile of {number}")],
        ..Profile::default()
    };
    let window = Window { start: WallNs(profile.time_nanos), duration_ns: 10_000_000_000 };
    Payload { window, body: profile.encode_to_vec(), ..payload(number) }
}

/// An uploader to a Pyroscope that is well, and to `sink` beside it.
struct Beside {
    uploader: Uploader,
    meters: Meters,
}

impl Beside {
    async fn start(sink: SinkConfig) -> Self {
        let server = Server::start(|_, _| Reply::Bytes(answer(200, ""))).await;
        let interval = Duration::from_millis(20);
        let config = Config { server: server.address, sinks: vec![sink], interval, ..Config::default() };
        let meters = Meters::default();
        let uploader = start(&config, &meters, Counters::default()).unwrap();
        Self { uploader, meters }
    }

    /// Waits until `sink` has so much, and ends. What it has, and what it will not have, by reason.
    async fn finish(self, delivered: f64) -> Meters {
        let Self { uploader, meters } = self;
        let of = |name: &str| {
            let page = meters.render();
            let line = page.lines().find(|line| line.starts_with(name));
            line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        };
        let wait = async {
            while of("profiler_sink_delivered_weight_total") < delivered
                || of("profiler_sink_waiting_weight") > 0.0
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(MINUTE, wait).await.unwrap();
        tokio::task::spawn_blocking(|| uploader.finish()).await.unwrap();
        meters
    }
}

#[tokio::test]
async fn an_older_pyroscope_gets_each_profile_in_a_request_of_its_own() {
    let server = Server::start(|number, request| match (number, request.line.contains("name=4%7B")) {
        // Before 2.2 that is how a limit is told.
        (0, _) => {
            Reply::Bytes(answer_with(422, "Keep-Alive: timeout=60", "push rate limit (4 MiB) exceeded"))
        }
        (_, true) => Reply::Bytes(answer_with(422, "Keep-Alive: timeout=60", "cannot be parsed")),
        _ => Reply::Bytes(answer(200, "Keep-Alive: timeout=60")),
    })
    .await;
    let house = Beside::start(SinkConfig::Ingest { server: format!("{}/base", server.address) }).await;
    house.uploader.send(vec![real(1), real(2), real(4)]);
    let meters = house.finish(3.0).await;
    let record = server.record();
    assert_eq!((record.seen.len(), record.connections), (4, 1));
    let again = record.seen.iter().filter(|request| request.line == record.seen[0].line).collect::<Vec<_>>();
    assert_eq!((again.len(), &again[0].body), (2, &again[1].body), "the same bytes");
    for request in &record.seen {
        let number: u64 =
            request.line.split_once("name=").unwrap().1.split_once("%7B%7D").unwrap().0.parse().unwrap();
        assert_eq!(
            request.line,
            format!(
                "POST /base/ingest?name={number}%7B%7D&format=pprof&from=1700000000&until=1700000011\
                 &spyName=profiler-daemon HTTP/1.1"
            )
        );
        assert!(!request.headers.contains_key("content-encoding"), "that is not undone there");
        assert_eq!(pprof::gunzip(&request.body, 10_000).unwrap(), real(number).body);
    }
    let lost =
        value(&meters, "profiler_sink_lost_weight_total{reason=\"refused by server\",sink=\"ingest\"}");
    assert_eq!(lost, 4.0, "{}", meters.render());
}
