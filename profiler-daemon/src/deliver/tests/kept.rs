//! Delivery with a disk: what a run leaves to the next, what is too large, and what is refused for good.

use std::collections::BTreeMap;

use super::*;
use crate::pprof;

/// Pushes to `address` each 20 ms or so, with `folder` for what waits and what is refused.
fn config(address: &str, folder: &std::path::Path) -> Config {
    Config {
        server: address.to_owned(),
        interval: Duration::from_millis(20),
        spool: Some(spool::Config { folder: folder.join("spool"), bytes_max: 64 << 20, free_bytes_min: 0 }),
        quarantine: Some(folder.join("quarantine")),
        ..Config::default()
    }
}

/// A profile of so many stacks, each of one sample.
fn stacks(count: usize) -> Payload {
    let sample = |at: usize| pprof::Sample {
        location_id: vec![1 + at as u64],
        value: vec![1 + i64::try_from(at).unwrap()],
        label: vec![],
    };
    let location = |at: usize| pprof::Location { id: 1 + at as u64, ..Default::default() };
    let profile = pprof::Profile {
        sample: (0..count).map(sample).collect(),
        location: (0..count).map(location).collect(),
        time_nanos: 1_000,
        duration_nanos: 1_000_000_000,
        period: 1,
        string_table: vec![String::new()],
        ..Default::default()
    };
    let weight = Weight((1..=count as u64).sum());
    Payload { body: Message::encode_to_vec(&profile), weight, ..payload(1) }
}

/// Values of the profiles in a request, by the start of their windows.
fn values(raw: &[u8]) -> BTreeMap<i64, Vec<i64>> {
    let request = wire::PushRequest::decode(raw).unwrap();
    let of = |raw: &wire::RawSample| {
        let profile: pprof::Profile = Message::decode(&*raw.raw_profile).unwrap();
        (profile.time_nanos, profile.sample.iter().map(|sample| sample.value[0]).collect())
    };
    request.series.iter().flat_map(|series| series.samples.iter().map(of)).collect()
}

#[tokio::test]
async fn what_a_run_leaves_the_next_one_sends_with_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| match number {
        0 => Reply::Silence,
        _ => Reply::Bytes(answer(200, "")),
    })
    .await;
    let house = House::with(&config(&server.address, place.path()));
    house.send(&[1, 2]);
    seen(&server, 1).await;
    house.send(&[4]);
    let (outcome, _) = house.finish(Duration::from_millis(50)).await;
    assert_eq!((outcome.kept, outcome.lost.0.len()), (Weight(7), 0));
    let house = House::with(&config(&server.address, place.path()));
    house.send(&[8]);
    seen(&server, 4).await;
    let (outcome, meters) = house.finish(MINUTE).await;
    assert_eq!((outcome.recovered, outcome.kept), (Weight(7), Weight(0)));
    check(&outcome, 15, &[]);
    assert_eq!(value(&meters, "profiler_spool_bytes{sink=\"pyroscope\"}"), 0.0);
    let record = server.record();
    assert_eq!(record.seen[0].body, record.seen[1].body);
    let came: Vec<Vec<u64>> = record.seen.iter().skip(1).map(|seen| services(&seen.raw())).collect();
    assert_eq!(came, [vec![1, 2], vec![4], vec![8]]);
}

#[tokio::test]
async fn at_the_end_a_server_in_trouble_is_tried_once_more_and_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::Bytes(answer(503, "Retry-After: 30"))).await;
    let house = House::with(&config(&server.address, place.path()));
    house.send(&[1]);
    seen(&server, 1).await;
    sleep(Duration::from_millis(20)).await;
    let begun = Instant::now();
    let (outcome, _) = house.finish(MINUTE).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((outcome.kept, server.record().seen.len()), (Weight(1), 2));
}

/// A server takes no more than `bytes_max`: what it has in the end is `delivered`, in profiles whose windows differ.
async fn check_too_large(bytes_max: usize, answered: &'static str, stacks_sent: usize, delivered: u64) {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(move |_, request| {
        let large = request.raw().len() > bytes_max;
        Reply::Bytes(if large { answer_with(413, answered, "too large") } else { answer(200, "") })
    })
    .await;
    let house = House::with(&config(&server.address, place.path()));
    house.outbox.send(vec![stacks(stacks_sent)]);
    let waits = async {
        while value(&house.meters, "profiler_waiting_weight") > 0.0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(MINUTE, waits).await.unwrap();
    let all: u64 = (1..=stacks_sent as u64).sum();
    let (outcome, _) = house.finish(MINUTE).await;
    let lost: &[_] = if delivered < all { &[(Reason::Refused, all - delivered)] } else { &[] };
    check(&outcome, delivered, lost);
    let record = server.record();
    let taken = record.seen.iter().map(|seen| seen.raw()).filter(|raw| raw.len() <= bytes_max);
    let mut starts = BTreeMap::new();
    for (start, values) in taken.flat_map(|raw| values(&raw)) {
        assert_eq!(starts.insert(start, values), None, "two profiles begin at the same time");
    }
    let sum: i64 = starts.values().flatten().sum();
    assert_eq!(u64::try_from(sum).unwrap(), delivered);
}

#[tokio::test]
async fn what_is_too_large_is_halved_until_it_is_not() {
    check_too_large(400, "", 200, (1..=200).sum()).await;
    check_too_large(400, "Content-Type: text/html", 50, (1..=50).sum()).await;
}

#[tokio::test]
async fn what_is_too_large_with_a_single_stack_is_refused() {
    check_too_large(20, "", 1, 0).await;
    check_too_large(20, "", 300, 0).await;
}

#[tokio::test]
async fn what_is_refused_for_good_can_be_looked_at() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::Bytes(answer_with(400, "", "no such tenant"))).await;
    let house = House::with(&config(&server.address, place.path()));
    house.outbox.send(vec![stacks(3)]);
    seen(&server, 1).await;
    let kept = async {
        while value(&house.meters, "profiler_quarantine_kept_total") < 1.0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(MINUTE, kept).await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(place.path().join("quarantine"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let [profile, text] = names.as_slice() else { panic!("{names:?}") };
    assert!(std::fs::read_to_string(text).unwrap().contains("status 400\nthe server said: no such tenant\n"));
    let bytes = pprof::gunzip(&std::fs::read(profile).unwrap(), 1 << 20).unwrap();
    let profile: pprof::Profile = Message::decode(&*bytes).unwrap();
    assert_eq!(profile.sample.len(), 3);
    check(&house.finish(MINUTE).await.0, 0, &[(Reason::Refused, 6)]);
}

#[test]
fn a_slow_sink_holds_back_no_other() {
    let place = tempfile::tempdir().unwrap();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let silent = runtime.block_on(Server::start(|_, _| Reply::Silence));
    let down = nowhere();
    let first = runtime.block_on(Server::start(|_, _| Reply::Bytes(answer(200, ""))));
    let last = runtime.block_on(Server::start(|_, _| Reply::Bytes(answer(200, ""))));
    let sink = |server: &str| SinkConfig::Pyroscope { server: server.to_owned() };
    let sinks = vec![sink(&silent.address), sink(&down), sink(&last.address)];
    let meters = Meters::default();
    let config = Config { sinks, ..config(&first.address, place.path()) };
    let uploader = start(&config, &meters, Counters::default()).unwrap();
    for number in 1..=3 {
        uploader.send(vec![payload(number)]);
        runtime.block_on(seen(&first, usize::try_from(number).unwrap()));
        runtime.block_on(seen(&last, usize::try_from(number).unwrap()));
    }
    let outcome = uploader.finish_within(Duration::from_millis(200));
    check(&outcome, 6, &[]);
    assert_eq!(outcome.kept, Weight(0), "of the first");
    let of = |name: &str| value(&meters, &format!("profiler_sink_delivered_weight_total{{sink=\"{name}\"}}"));
    assert_eq!([of("pyroscope-2"), of("pyroscope-3"), of("pyroscope-4")], [0.0, 0.0, 6.0]);
    assert_eq!(value(&meters, "profiler_delivered_weight_total"), 6.0);
    let files = |name: &str| std::fs::read_dir(place.path().join("spool").join(name)).unwrap().count() - 1;
    assert_eq!(["pyroscope", "pyroscope-2", "pyroscope-3", "pyroscope-4"].map(files), [0, 3, 3, 0]);
}
