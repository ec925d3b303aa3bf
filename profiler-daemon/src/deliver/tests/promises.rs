//! What becomes of a push that the server may have taken or not.

use super::*;

/// Pushes once to a server that does this at the first request and takes all others. The weight that was lost under
/// `Unknown`, and how often the server saw the push.
async fn push(ambiguous: Ambiguous, first: Reply) -> (u64, usize, Meters) {
    let server = Server::start(move |number, _| match number {
        0 => first.clone(),
        _ => Reply::Bytes(answer(200, "")),
    })
    .await;
    let interval = Duration::from_millis(20);
    let house =
        House::with(&Config { server: server.address.clone(), interval, ambiguous, ..Config::default() });
    house.send(&[1, 2]);
    let (outcome, meters) = house.finish(MINUTE).await;
    let lost = outcome.lost.0.get(&Reason::Unknown).map_or(0, |weight| weight.0);
    assert_eq!(outcome.delivered.0 + lost, 3, "{outcome:?}");
    (lost, server.record().seen.len(), meters)
}

#[track_caller]
fn check(pushed: &(u64, usize, Meters), lost: u64, seen: usize) {
    assert_eq!((pushed.0, pushed.1), (lost, seen), "{}", pushed.2.render());
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_unless_once_is_enough() {
    // The request was acknowledged: only the answer is missing.
    for first in
        [Reply::Last(Vec::new()), Reply::Reset, Reply::Bytes(answer(502, "")), Reply::Bytes(answer(504, ""))]
    {
        check(&push(Ambiguous::AtLeastOnce, first.clone()).await, 0, 2);
        let once = push(Ambiguous::AtMostOnce, first).await;
        assert_eq!(value(&once.2, "profiler_profiles_unknown_total"), 2.0);
        assert_eq!(sum(&once.2, "profiler_push_failed_total", "class=\"ambiguous\""), 1.0);
        check(&once, 3, 1);
    }
}

#[tokio::test]
async fn what_was_not_carried_out_is_sent_again_even_so() {
    for status in [401, 408] {
        check(&push(Ambiguous::AtMostOnce, Reply::Bytes(answer(status, ""))).await, 0, 2);
    }
    // Nobody listens at first.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let interval = Duration::from_millis(20);
    let server = format!("http://{address}");
    let house =
        House::with(&Config { server, interval, ambiguous: Ambiguous::AtMostOnce, ..Config::default() });
    house.send(&[5]);
    while sum(&house.meters, "profiler_push_retries_total", "class=\"unsent\"") < 3.0 {
        sleep(Duration::from_millis(5)).await;
    }
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let _server = Server::on(listener, |_, _| Reply::Bytes(answer(200, "")));
    let (outcome, _) = house.finish(MINUTE).await;
    super::check(&outcome, 5, &[]);
}

#[tokio::test]
async fn where_some_may_have_been_taken_once_means_no_more() {
    let first = Reply::Bytes(answer(429, ""));
    check(&push(Ambiguous::AtMostOnce, first.clone()).await, 3, 1);
    check(&push(Ambiguous::AtLeastOnce, first).await, 0, 3);
}
