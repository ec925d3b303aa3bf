//! What the server costs: `cargo test --release --lib server::tests::cost -- --ignored --nocapture`.

use std::fmt::Write as _;

use http::Method;
use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::server::meters::ServerMeters;
use crate::server::query::{Host, Question, Resolved};
use crate::server::store::Store;

fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap()
}

/// 40 series with 50 stacks of 30 frames each: ten seconds of two busy CPUs at 99 Hz, no stack twice.
fn window(start: i64) -> PushRequest {
    let mut series = Vec::new();
    for service in 0..40 {
        let stacks: Vec<_> = (0..50)
            .map(|stack| {
                let mut frames = String::new();
                for depth in 0..30 {
                    let branch = if depth < 10 { 0 } else { stack % (depth * 2) };
                    write!(
                        frames,
                        "crate_{service}::module::function_{depth}_{branch}@/usr/lib/lib{service}.so;"
                    )
                    .unwrap();
                }
                (frames, 10_101_010)
            })
            .collect();
        let stacks: Vec<_> = stacks.iter().map(|(stack, value)| (stack.as_str(), *value)).collect();
        let mut profile = profile(&stacks);
        profile.time_nanos = start;
        series.extend(request(&format!("service-{service}"), &[profile.encode_to_vec()]).series);
    }
    PushRequest { series }
}

#[test]
#[ignore = "a measurement"]
fn five_minutes_of_a_busy_machine() {
    let config = Config::default();
    let meters = ServerMeters::new(&Meters::default());
    let (mut store, _) = Store::open(config.bounds(), WallNs::now()).unwrap();
    let headers = [("content-type", "application/proto"), ("content-encoding", "gzip")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let accepted = connect::accept(&Method::POST, &headers.into_iter().collect()).unwrap();
    let now = WallNs::now().0;
    let mut spent = Duration::ZERO;
    let pushes = 30;
    for push in 0..pushes {
        let body = gzip(&window(now - (pushes - push) * 10_000_000_000).encode_to_vec());
        let began = cpu();
        let answer =
            push::answer(accepted, &body, config.body_bytes_max, &config.limits, &mut store, &meters);
        spent += cpu() - began;
        assert_eq!(answer.status(), 200);
    }
    let each = spent / u32::try_from(pushes).unwrap();
    println!("a push of 40 series: {each:?}, {:.3} % of a core each 10 s", each.as_secs_f64() * 10.0);
    println!("five minutes in memory: {} kB", store.bytes() / 1000);
    let asked = || Resolved::new(Question::default(), WallNs::now(), &store).unwrap();
    let began = cpu();
    let bytes = query::services(&asked(), WallNs::now(), &Host::this(false), &store).len();
    println!("services: {:?}, {} kB", cpu() - began, bytes / 1000);
    let began = cpu();
    let bytes = query::flamegraph(&asked(), &store).1.len();
    println!("flamegraph: {:?}, {} kB", cpu() - began, bytes / 1000);
}
