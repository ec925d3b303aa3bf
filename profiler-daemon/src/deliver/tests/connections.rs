//! How connections are kept, seen from the server.

use super::*;

#[tokio::test]
async fn an_advertised_connection_carries_everything() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, "Keep-Alive: timeout=60"))).await;
    let house = House::new(&server.address);
    let standing = house.outbox.standing();
    assert!(standing.to_string().contains("not known yet"), "{standing}");
    for push in 1..=20 {
        house.send(&[push]);
        seen(&server, usize::try_from(push).unwrap()).await;
    }
    let words = "the server keeps idle connections 60 s, pushes every 0.02 s fit";
    assert!(standing.to_string().contains(words), "{standing}");
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 210, &[]);
    assert_eq!(server.record().connections, 1);
    assert_eq!((attempts(&meters, "ok"), over(&meters)), (20.0, (1.0, 19.0)));
    assert_eq!(value(&meters, "profiler_keepalive_server_timeout_seconds{source=\"advertised\"}"), 60.0);
    assert_eq!(value(&meters, "profiler_keepalive_mismatch"), 0.0);
}

#[tokio::test]
async fn requests_one_right_after_the_other_share_a_connection_too() {
    let server =
        Server::start(|_, _| Reply::Bytes(answer_with(200, "Keep-Alive: timeout=60", "stored"))).await;
    let house = House::new(&server.address);
    let large = |weight| Payload { body: vec![7; 600 << 10], ..payload(weight) };
    house.outbox.send((1..=30).map(large).collect());
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 465, &[]);
    let record = server.record();
    assert_eq!((record.seen.len(), record.connections), (30, 1), "two do not fit into one request");
    assert_eq!(over(&meters).1, 29.0);
}

#[tokio::test]
async fn where_nothing_is_advertised_a_connection_is_used_again_once_one_has_lasted() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, ""))).await;
    let interval = Duration::from_millis(300);
    let house = House::with(&Config { server: server.address.clone(), interval, ..Config::default() });
    for push in 1..=8 {
        house.send(&[push as u64]);
        seen(&server, push).await;
        sleep(interval).await;
    }
    let (_, meters) = house.finish(MINUTE).await;
    let record = server.record();
    // A busy machine makes the third push later than the sentinel that would have allowed for it.
    assert!(record.connections <= 4, "{record:?}");
    assert!(over(&meters).1 >= 4.0, "{}", meters.render());
    assert!(record.ended.iter().all(|ended| matches!(ended, Ended::ByClient { .. })), "{record:?}");
    assert_eq!(value(&meters, "profiler_keepalive_state{state=\"proven\"}"), 1.0);
    assert_eq!(sum(&meters, "profiler_connection_closed_total", "by=\"client\""), record.connections as f64);
}

#[tokio::test]
async fn what_was_learned_of_a_server_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let hint_file = Some(folder.path().join("hints.json"));
    let server = Server::start(|_, _| Reply::Later(answer(200, ""), Duration::from_millis(200))).await;
    let interval = Duration::from_millis(20);
    for (life, closes) in [(0, 3), (1, 1)] {
        let before = server.record().ended.len();
        let config = Config {
            server: server.address.clone(),
            interval,
            hint_file: hint_file.clone(),
            ..Config::default()
        };
        let house = House::with(&config);
        for push in 1..=closes {
            house.send(&[1]);
            ended(&server, before + push).await;
        }
        while value(&house.meters, "profiler_keepalive_state{state=\"bounded\"}") == 0.0 {
            sleep(Duration::from_millis(1)).await;
        }
        let timeout = value(&house.meters, "profiler_keepalive_server_timeout_seconds{source=\"bounded\"}");
        assert!((0.1..1.0).contains(&timeout), "life {life}: {timeout}");
        assert_eq!(value(&house.meters, "profiler_connection_close_age_seconds_count"), closes as f64);
        house.finish(MINUTE).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_by_us_before_its_time() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, "Keep-Alive: timeout=1"))).await;
    let house = House::new(&server.address);
    house.send(&[1]);
    seen(&server, 1).await;
    ended(&server, 1).await;
    let Ended::ByClient { after_last_request } = server.record().ended[0] else { panic!() };
    assert!(after_last_request >= Duration::from_millis(500), "{after_last_request:?}");
    assert!(after_last_request < Duration::from_secs(1), "{after_last_request:?}");
    house.finish(MINUTE).await;
}

#[tokio::test]
async fn a_connection_that_cannot_last_is_closed_at_once() {
    let server = Server::start(|_, _| Reply::Bytes(answer(200, "Keep-Alive: timeout=10"))).await;
    let config = Config { server: server.address.clone(), ..Config::default() };
    let house = House::with(&config);
    house.send(&[1]);
    ended(&server, 1).await;
    let Ended::ByClient { after_last_request } = server.record().ended[0] else { panic!() };
    assert!(after_last_request < Duration::from_secs(5), "{after_last_request:?}");
    let (_, meters) = house.finish(MINUTE).await;
    assert_eq!(value(&meters, "profiler_keepalive_mismatch"), 1.0);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_early_costs_no_push() {
    let server = Server::start(|number, _| match number {
        0 => Reply::Later(answer(200, "Keep-Alive: timeout=60"), Duration::ZERO),
        _ => Reply::Bytes(answer(200, "Keep-Alive: timeout=60")),
    })
    .await;
    let house = House::new(&server.address);
    house.send(&[1]);
    ended(&server, 1).await;
    // The FIN has been sent; it is ours to see when it is processed.
    sleep(Duration::from_millis(50)).await;
    house.send(&[2]);
    seen(&server, 2).await;
    let (outcome, meters) = house.finish(MINUTE).await;
    check(&outcome, 3, &[]);
    assert_eq!(attempts(&meters, "ok"), 2.0);
    assert_eq!(value(&meters, "profiler_connections_opened_total{reason=\"server_closed\"}"), 1.0);
}
