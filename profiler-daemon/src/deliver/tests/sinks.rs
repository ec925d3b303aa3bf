//! Places to deliver to that are no Pyroscope of today.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// Delivers to a Pyroscope that is well, and to a sink beside it.
struct Beside {
    outboxes: Vec<Outbox>,
    running: Vec<JoinHandle<Outcome>>,
    meters: Meters,
}

impl Beside {
    async fn start(sink: SinkConfig) -> Self {
        let server = Server::start(|_, _| Reply::Bytes(answer(200, ""))).await;
        let interval = Duration::from_millis(20);
        let config = Config { server: server.address, sinks: vec![sink], interval, ..Config::default() };
        let meters = Meters::default();
        let all = outlets::open(&config, &meters, Counters::default()).unwrap();
        let (pushers, outboxes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let running = pushers.into_iter().map(|pusher| tokio::spawn(pusher.run())).collect();
        Self { outboxes, running, meters }
    }

    fn send(&self, payloads: &[Payload]) {
        self.outboxes.iter().for_each(|outbox| outbox.send(payloads.to_vec()));
    }

    /// Waits until a metric is so much.
    async fn reached(&self, name: &str, wanted: f64) {
        let wait = async {
            while value(&self.meters, name) < wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(MINUTE, wait).await.unwrap();
    }

    /// Waits until so many attempts of the folder have failed.
    async fn failed(&self, attempts: f64) {
        let name = "profiler_sink_attempts_total{result=\"canceled\",conn=\"fresh\",sink=\"directory\"}";
        self.reached(name, attempts).await;
    }

    /// Waits until the sink of that name has so much and nothing waits for it, and ends.
    async fn finish(self, sink: &str, delivered: f64) -> Meters {
        self.reached(&format!("profiler_sink_delivered_weight_total{{sink=\"{sink}\"}}"), delivered).await;
        let Self { outboxes, running, meters } = self;
        outboxes.iter().for_each(|outbox| outbox.close(MINUTE));
        for pusher in running {
            pusher.await.unwrap();
        }
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
    house.send(&[real(1), real(2), real(4)]);
    let meters = house.finish("ingest", 3.0).await;
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

/// Every file below `folder`, by its path from there.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(days) = fs::read_dir(folder) else { return BTreeMap::new() };
    let inside = days.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap());
    inside
        .map(|file| {
            let path = file.unwrap().path();
            (path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Where the profile of the service of that number is kept.
fn path(number: u64) -> String {
    let sum = crc32fast::hash(format!("__name__\0process_cpu\0service_name\0{number}\0").as_bytes());
    format!("2023-11-14/{number}-221320.000-{sum:08x}.pb.gz")
}

#[track_caller]
fn check_files(folder: &Path, numbers: &[u64]) {
    let files = files(folder);
    assert!(
        files.keys().eq(numbers.iter().map(|&number| path(number)).collect::<BTreeSet<_>>().iter()),
        "{files:?}"
    );
    for &number in numbers {
        let pprof = pprof::gunzip(&files[&path(number)], 10_000).unwrap();
        let Profile { mut string_table, comment, time_nanos, .. } = Profile::decode(&*pprof).unwrap();
        assert_eq!(string_table.pop(), Some(format!("service_name={number}")));
        assert_eq!((string_table[1].as_str(), comment.len()), (format!("profile of {number}").as_str(), 1));
        assert_eq!(time_nanos, real(number).window.start.0);
    }
}

fn directory(folder: &Path) -> SinkConfig {
    SinkConfig::Directory { folder: folder.to_owned() }
}

#[tokio::test]
async fn a_folder_has_a_file_for_each_profile() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("to/be/made");
    let house = Beside::start(directory(&folder)).await;
    house.send(&[real(1), real(2)]);
    house.send(&[real(4)]);
    // The same again is the same file.
    house.send(&[real(1)]);
    house.finish("directory", 8.0).await;
    check_files(&folder, &[1, 2, 4]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("profiles");
    fs::write(&folder, "a file").unwrap();
    let house = Beside::start(directory(&folder)).await;
    house.send(&[real(1)]);
    house.failed(3.0).await;
    house.send(&[real(2)]);
    fs::remove_file(&folder).unwrap();
    house.finish("directory", 3.0).await;
    check_files(&folder, &[1, 2]);
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_up_nobody_else() {
    let place = tempfile::tempdir().unwrap();
    // Whoever opens a pipe to write waits until someone reads.
    let (day, name) =
        path(1).split_once('/').map(|(day, name)| (place.path().join(day), name.to_owned())).unwrap();
    fs::create_dir(&day).unwrap();
    let pipe = day.join(format!(".{name}.part"));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let house = Beside::start(directory(place.path())).await;
    house.send(&[real(1)]);
    sleep(Duration::from_millis(50)).await;
    house.send(&[real(2)]);
    house.reached("profiler_delivered_weight_total", 3.0).await;
    assert_eq!(value(&house.meters, "profiler_sink_delivered_weight_total{sink=\"directory\"}"), 0.0);
    house.failed(1.0).await;
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    fs::remove_file(&pipe).unwrap();
    house.finish("directory", 3.0).await;
    drop(reader);
    check_files(place.path(), &[1, 2]);
}
