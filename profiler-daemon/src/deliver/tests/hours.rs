//! Hours of bad weather on a paused clock: outages, storms of refusals, servers that come and go.
//!
//! A window comes each ten seconds, as in life. Whatever the server did for hours, once it is well each window is
//! accepted once, the oldest first, and until then it is not asked more often than it can bear.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::SystemTime;

use super::*;
use crate::deliver::answer::{Answer, FailureKind};

const INTERVAL: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3_600);
/// Windows in an hour.
const HOURLY: u64 = 360;

/// What was seen of it.
struct Weathered {
    /// When each request came, since the beginning.
    asked: Vec<Duration>,
    /// The windows as they were accepted.
    accepted: Vec<u64>,
    meters: Meters,
}

impl Weathered {
    /// Requests that came within `range` of hours.
    fn asked_in(&self, from: Duration, until: Duration) -> usize {
        self.asked.iter().filter(|&&at| (from..until).contains(&at)).count()
    }

    /// The shortest time between two requests that came before `until`.
    fn shortest_gap(&self, until: Duration) -> Duration {
        let before: Vec<_> = self.asked.iter().take_while(|&&at| at < until).collect();
        before.windows(2).map(|two| *two[1] - *two[0]).min().unwrap()
    }
}

/// Delivers `hours` of windows to a server whose answer, at a time since the beginning, is what `weather` says, and good
/// afterwards. Each window must be accepted once, soon after the weather is good, the oldest first.
async fn check(hours: u32, weather: impl Fn(Duration) -> Option<Turn> + Send + 'static) -> Weathered {
    let passed = pass(hours, weather).await;
    assert!(passed.accepted.is_sorted(), "{:?}", passed.accepted);
    passed
}

/// Pushes as in life.
fn config() -> Config {
    Config { server: "http://server.example".to_owned(), interval: INTERVAL, ..Config::default() }
}

/// The same in any order.
async fn pass(hours: u32, weather: impl Fn(Duration) -> Option<Turn> + Send + 'static) -> Weathered {
    let (begun, ends) = (Instant::now(), HOUR * hours);
    let (accepted, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (seen_good, seen) = (Arc::clone(&accepted), Arc::clone(&asked));
    let house = House::of(&config(), move |raw| {
        let at = begun.elapsed();
        seen.lock().unwrap().push(at);
        let bad = if at < ends { weather(at) } else { None };
        bad.unwrap_or_else(|| {
            seen_good.lock().unwrap().extend(services(raw));
            Turn::status(200, None)
        })
    });
    let windows = HOURLY * u64::from(hours);
    pour(&house, windows).await;
    // What waited is there soon after: no pause but one that was asked for is longer than the interval.
    let all: Vec<u64> = (1..=windows).collect();
    let wait = async {
        while accepted.lock().unwrap().len() < all.len() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let late = timeout(Duration::from_secs(330), wait).await.is_err();
    assert!(!late, "{} of {windows} were accepted", accepted.lock().unwrap().len());
    let accepted = accepted.lock().unwrap().clone();
    let mut sorted = accepted.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, all, "each once");
    let (outcome, meters) = house.finish(MINUTE).await;
    super::check(&outcome, all.iter().sum(), &[]);
    let asked = asked.lock().unwrap().clone();
    Weathered { accepted, asked, meters }
}

/// One window after the other, each of one service, and each of another weight.
async fn pour(house: &House, windows: u64) {
    for window in 1..=windows {
        house.send(&[window]);
        sleep(INTERVAL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn six_hours_without_a_server() {
    let (back, came) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (is_back, seen) = (Arc::clone(&back), Arc::clone(&came));
    let house = House::of(&config(), move |raw| {
        if !*is_back.lock().unwrap() {
            return Turn::Failed(FailureKind::Connect);
        }
        seen.lock().unwrap().extend(services(raw));
        Turn::status(200, None)
    });
    pour(&house, 6 * HOURLY).await;
    let tried = attempts(&house.meters, "connect");
    assert!((2_160.0..=4_400.0).contains(&tried), "each pause is five to ten seconds: {tried}");
    *back.lock().unwrap() = true;
    let begun = Instant::now();
    let (outcome, meters) = house.finish(5 * MINUTE).await;
    super::check(&outcome, (1..=6 * HOURLY).sum(), &[]);
    assert!(begun.elapsed() <= MINUTE, "{:?}", begun.elapsed());
    let came = came.lock().unwrap().clone();
    assert_eq!(came, (1..=6 * HOURLY).collect::<Vec<_>>(), "each once, the oldest first");
    assert_eq!(over(&meters), (tried + 1.0, 2_159.0), "over one connection");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_proxies_without_a_server_behind_them() {
    let statuses = [502, 503, 504, 503];
    let passed = check(2, move |at| {
        let status = statuses[usize::try_from(at.as_secs() / 60).unwrap() % statuses.len()];
        (at < HOUR).then(|| Turn::Answered(Answer { status, html: true, ..Answer::default() }))
    })
    .await;
    let asked = passed.asked_in(Duration::ZERO, HOUR);
    assert!((360..=730).contains(&asked), "{asked}");
}

/// An hour of refusals with that wish, which is one for 90 s. The refused go behind the others, as it may be theirs alone.
async fn check_wish(wish: impl Fn() -> String + Send + 'static) {
    let passed = pass(2, move |at| (at < HOUR).then(|| Turn::status(429, Some(&wish())))).await;
    let gap = passed.shortest_gap(HOUR);
    // A date is of whole seconds.
    assert!(gap >= Duration::from_secs(89), "{gap:?}");
    let asked = passed.asked_in(Duration::ZERO, HOUR);
    assert!((20..=41).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_too_many_requests_with_a_wish_in_seconds() {
    check_wish(|| "90".to_owned()).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_too_many_requests_with_a_wish_by_the_clock() {
    // The clock on the wall does not know of the pause.
    check_wish(|| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(91))).await;
}

#[tokio::test(start_paused = true)]
async fn two_hours_of_too_many_requests_without_a_wish() {
    let passed = pass(3, |at| (at < 2 * HOUR).then(|| Turn::status(429, None))).await;
    let asked = passed.asked_in(Duration::ZERO, 2 * HOUR);
    assert!((720..=1_460).contains(&asked), "each pause is five to ten seconds: {asked}");
}

#[tokio::test(start_paused = true)]
async fn two_hours_in_which_one_in_ten_is_over_a_limit_of_its_own() {
    let is_over = |window: &u64| window.is_multiple_of(10);
    let taken = Arc::new(Mutex::new(HashMap::new()));
    let (seen, begun) = (Arc::clone(&taken), Instant::now());
    let house = House::of(&config(), move |raw| {
        let windows = services(raw);
        if windows.iter().any(is_over) {
            return Turn::status(429, None);
        }
        seen.lock().unwrap().extend(windows.into_iter().map(|window| (window, begun.elapsed())));
        Turn::status(200, None)
    });
    pour(&house, 2 * HOURLY).await;
    // The others do not wait for them.
    let taken = taken.lock().unwrap().clone();
    for window in (1..2 * HOURLY - 1).filter(|window| !is_over(window)) {
        let late = taken[&window] - INTERVAL * u32::try_from(window - 1).unwrap();
        assert!(late <= INTERVAL, "window {window} was {late:?} late");
    }
    // And they are given up once others were taken thirty times between two tries.
    let refused = value(&house.meters, "profiler_samples_lost_total{reason=\"refused by server\"}");
    let waits = value(&house.meters, "profiler_waiting_weight");
    assert!(refused > 0.0 && waits < 20_000.0, "{refused} were refused, {waits} wait");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_a_wish_to_be_left_alone_for_a_year() {
    let passed = check(2, |at| (at < HOUR).then(|| Turn::status(503, Some("31536000")))).await;
    assert_eq!(passed.asked_in(Duration::ZERO, HOUR), 12, "it is asked each five minutes all the same");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_a_server_that_is_up_every_other_minute() {
    let passed =
        check(1, |at| (at.as_secs() / 60 % 2 == 1).then_some(Turn::Failed(FailureKind::Reset))).await;
    assert!(attempts(&passed.meters, "rst") >= 30.0);
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_a_server_that_hangs_up_every_other_ten_seconds() {
    let passed = check(1, |at| (at.as_secs() / 10 % 2 == 1).then_some(Turn::Failed(FailureKind::Eof))).await;
    assert!((720..1_500).contains(&passed.asked.len()), "{}", passed.asked.len());
}

#[tokio::test(start_paused = true)]
async fn two_hours_of_a_server_that_swallows_everything() {
    let passed = check(3, |at| (at < 2 * HOUR).then_some(Turn::Silent)).await;
    // Ten seconds of waiting for an answer, five to ten of pause.
    let asked = passed.asked_in(Duration::ZERO, 2 * HOUR);
    assert!((360..=490).contains(&asked), "{asked}");
    assert!(attempts(&passed.meters, "timeout") >= 360.0);
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_a_server_that_speaks_something_else() {
    let garbage = Turn::Failed(FailureKind::Garbage);
    let passed = check(1, move |at| (at.as_secs() / 600 % 2 == 0).then(|| garbage.clone())).await;
    assert!(attempts(&passed.meters, "garbage") >= 180.0);
}
