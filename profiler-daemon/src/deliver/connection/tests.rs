//! The keeper of the connection against a server that lives in simulated time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn advertises(timeout: Duration) -> Said {
    Said { keep_alive: KeepAlive { timeout: Some(timeout), requests: None }, closes: false }
}

fn takes_more(timeout: Duration, requests: u64) -> Said {
    Said { keep_alive: KeepAlive { timeout: Some(timeout), requests: Some(requests) }, closes: false }
}

/// A keeper and its clock.
struct Scene {
    keeper: Keeper,
    now: Instant,
}

impl Scene {
    fn new(interval: Duration) -> Self {
        Self { keeper: Keeper::new(interval), now: Instant::now() }
    }

    /// Waits, then pushes: what carried it, and what was told.
    fn push(&mut self, after: Duration, took: Duration, said: Said) -> (Carrier, Option<Notice>) {
        self.now += after;
        let carrier = self.keeper.begin(self.now);
        self.now += took;
        self.keeper.first_byte(self.now);
        (carrier, self.keeper.answered(said))
    }

    #[track_caller]
    fn check(&mut self, after: Duration, said: Said, carrier: Carrier) {
        assert_eq!(self.push(after, ms(1), said).0, carrier);
    }
}

#[test]
fn where_nothing_is_advertised_each_push_has_its_own_connection() {
    let mut scene = Scene::new(ms(10_000));
    scene.check(ms(0), Said::default(), Carrier::Fresh(Opened::First));
    assert_eq!(scene.keeper.retire_at(), None, "it is not kept at all");
    scene.check(ms(0), Said::default(), Carrier::Fresh(Opened::NotAdvertised));
    scene.check(ms(10_000), Said::default(), Carrier::Fresh(Opened::NotAdvertised));
}

#[test]
fn an_advertised_connection_is_kept_while_it_is_safe() {
    let mut scene = Scene::new(ms(10_000));
    scene.check(ms(0), advertises(ms(120_000)), Carrier::Fresh(Opened::First));
    for _ in 0..100 {
        scene.check(ms(9_999), advertises(ms(120_000)), Carrier::Kept);
    }
}

#[test]
fn the_last_safe_moment_is_the_timeout_less_the_guard_after_the_request_began() {
    // 2 % of 20 s, and an answer that took 100 ms.
    let safe = ms(20_000 - 400 - 100);
    for (gap, carrier) in
        [(safe, Carrier::Kept), (safe + Duration::from_nanos(1), Carrier::Fresh(Opened::PastTimeout))]
    {
        let mut scene = Scene::new(ms(10_000));
        scene.push(ms(0), ms(100), advertises(ms(20_000)));
        assert_eq!(scene.push(gap - ms(100), ms(1), advertises(ms(20_000))).0, carrier);
    }
}

#[test]
fn a_short_timeout_has_a_guard_of_fifty_milliseconds() {
    let mut scene = Scene::new(ms(100));
    scene.push(ms(0), ms(0), advertises(ms(1_000)));
    assert_eq!(scene.keeper.fit().unwrap().guard, ms(50));
}

#[test]
fn the_slowest_of_sixteen_answers_counts_and_then_is_forgotten() {
    let mut scene = Scene::new(ms(1_000));
    scene.push(ms(0), ms(700), advertises(ms(100_000)));
    for _ in 0..15 {
        scene.push(ms(300), ms(1), advertises(ms(100_000)));
        assert_eq!(scene.keeper.fit().unwrap().guard, ms(2_700));
    }
    scene.push(ms(300), ms(1), advertises(ms(100_000)));
    assert_eq!(scene.keeper.fit().unwrap().guard, ms(2_001));
}

#[test]
fn the_connection_is_retired_before_the_server_can_close_it() {
    let mut scene = Scene::new(ms(1_000));
    let begun = scene.now;
    scene.push(ms(0), ms(10), advertises(ms(5_000)));
    assert_eq!(scene.keeper.retire_at(), Some(begun + ms(5_000 - 100 - 10)));
    scene.keeper.retired();
    assert_eq!(scene.keeper.retire_at(), None);
    scene.check(ms(1_000), advertises(ms(5_000)), Carrier::Fresh(Opened::PastTimeout));
}

#[test]
fn a_connection_that_will_not_be_used_again_is_retired_at_once() {
    let mut scene = Scene::new(ms(10_000));
    let begun = scene.now;
    scene.push(ms(0), ms(10), advertises(ms(10_000)));
    assert_eq!(scene.keeper.retire_at(), Some(begun));
}

#[test]
fn requests_of_one_interval_share_a_connection_that_will_not_last() {
    let mut scene = Scene::new(ms(10_000));
    scene.check(ms(0), advertises(ms(10_000)), Carrier::Fresh(Opened::First));
    scene.check(ms(0), advertises(ms(10_000)), Carrier::Kept);
}

#[test]
fn the_number_of_requests_is_counted_down() {
    let mut scene = Scene::new(ms(10));
    scene.check(ms(0), takes_more(ms(60_000), 2), Carrier::Fresh(Opened::First));
    scene.check(ms(10), takes_more(ms(60_000), 1), Carrier::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 0), Carrier::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 2), Carrier::Fresh(Opened::RequestsSpent));
}

#[test]
fn a_number_that_never_falls_is_counted_down_all_the_same() {
    let mut scene = Scene::new(ms(10));
    scene.check(ms(0), takes_more(ms(60_000), 2), Carrier::Fresh(Opened::First));
    scene.check(ms(10), takes_more(ms(60_000), 2), Carrier::Kept);
    scene.check(ms(10), advertises(ms(60_000)), Carrier::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 2), Carrier::Fresh(Opened::RequestsSpent));
    scene.check(ms(10), takes_more(ms(60_000), 2), Carrier::Kept);
}

#[test]
fn connection_close_is_honoured_whatever_else_is_said() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), Said { closes: true, ..advertises(ms(60_000)) });
    scene.check(ms(10), advertises(ms(60_000)), Carrier::Fresh(Opened::ServerCloses));
}

#[test]
fn after_a_failure_the_connection_is_fresh() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.now += ms(10);
    assert_eq!(scene.keeper.begin(scene.now), Carrier::Kept);
    scene.keeper.failed();
    scene.check(ms(10), advertises(ms(60_000)), Carrier::Fresh(Opened::Failed));
}

#[test]
fn an_answer_that_stops_advertising_ends_the_reuse() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.check(ms(10), Said::default(), Carrier::Kept);
    scene.check(ms(10), advertises(ms(60_000)), Carrier::Fresh(Opened::NotAdvertised));
}

#[test]
fn a_timeout_smaller_than_the_guard_keeps_nothing() {
    for timeout in [ms(0), ms(49), ms(50)] {
        let mut scene = Scene::new(ms(10));
        scene.push(ms(0), ms(1), advertises(timeout));
        scene.check(ms(1), advertises(timeout), Carrier::Fresh(Opened::PastTimeout));
    }
}

#[test]
fn a_mismatch_is_told_once_and_again_when_the_server_changes() {
    let mut scene = Scene::new(ms(10_000));
    let mut told = |timeout_ms| scene.push(ms(10_000), ms(20), advertises(ms(timeout_ms))).1;
    assert!(matches!(told(10_000), Some(Notice::Mismatch(_))));
    assert_eq!(told(10_000), None);
    assert!(matches!(told(9_000), Some(Notice::Mismatch(_))));
    assert_eq!(told(9_000), None);
    assert!(matches!(told(12_000), Some(Notice::Fits(_))));
    assert_eq!(told(12_000), None);
    assert_eq!(told(60_000), None, "it fitted before");
    assert!(matches!(told(10_000), Some(Notice::Mismatch(_))));
}

#[test]
fn a_slow_answer_that_comes_and_goes_is_told_at_most_once() {
    let mut scene = Scene::new(ms(10_000));
    let mut told = Vec::new();
    for push in 0..200 {
        let took = if push % 40 == 0 { ms(4_000) } else { ms(20) };
        told.extend(scene.push(ms(10_000), took, advertises(ms(12_000))).1);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!scene.keeper.mismatch(), "the gauge tells how it is now");
}

#[test]
fn the_mismatch_says_what_to_set() {
    let fit = Fit { timeout: ms(10_000), guard: ms(203), interval: ms(10_000) };
    assert_eq!(
        Notice::Mismatch(fit).to_string(),
        "keep-alive: the server keeps idle connections 10 s, pushes come every 10 s (guard 0.203 s): each push opens \
         its own connection, closed by us before the server can; set the server's idle timeout to 12 s or more, or \
         --interval to 9.7 s or less"
    );
}

#[test]
fn an_interval_far_below_the_wish_is_not_proposed() {
    let fit = Fit { timeout: ms(2_000), guard: ms(60), interval: ms(10_000) };
    let said = Notice::Mismatch(fit).to_string();
    assert!(said.ends_with("set the server's idle timeout to 12 s or more"), "{said}");
}

/// A path and a server that closes `timeout` after it received the last request, exactly.
struct Server {
    timeout: Duration,
    /// Of the way there; the way back is as long.
    one_way: Duration,
    /// How much one way may be longer at times.
    stall: Duration,
}

/// Deterministic numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bound.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Pushes every `interval`, give or take `jitter`, and returns the share of pushes after the first that reused a
/// connection. Panics if a request arrives when the server has closed, or closes, its connection.
#[track_caller]
fn simulate(server: &Server, interval: Duration, jitter: Duration, pushes: u32) -> f64 {
    let mut dice = Dice(u64::from(interval.subsec_nanos()) ^ 0x5eed);
    let mut keeper = Keeper::new(interval);
    let start = Instant::now();
    let mut closes_at: Option<Instant> = None;
    let mut reused = 0;
    for push in 0..pushes {
        let write = start + interval * push + dice.below(jitter);
        if keeper.retire_at().is_some_and(|at| at <= write) {
            keeper.retired();
            closes_at = None;
        }
        let carrier = keeper.begin(write);
        let way = server.one_way + if push % 20 == 3 { server.stall } else { Duration::ZERO };
        let arrives = match carrier {
            Carrier::Kept => {
                reused += 1;
                let arrives = write + way;
                let fin = closes_at.unwrap();
                assert!(arrives < fin, "push {push} arrives {:?} after the FIN", arrives - fin);
                arrives
            }
            // SYN and its answer come first.
            Carrier::Fresh(_) => write + way * 3,
        };
        closes_at = Some(arrives + server.timeout);
        keeper.first_byte(arrives + way);
        keeper.answered(advertises(server.timeout));
    }
    f64::from(reused) / f64::from(pushes - 1)
}

#[test]
fn no_request_meets_the_servers_fin_and_what_fits_is_reused() {
    let interval = ms(10_000);
    let ratios = [
        0.4, 0.8, 0.9, 0.96, 0.98, 0.99, 0.998, 0.9999, 1.0, 1.0001, 1.002, 1.005, 1.01, 1.02, 1.021, 1.025,
        1.03, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 12.0,
    ];
    for ratio in ratios {
        for jitter in [ms(0), ms(1), ms(10), ms(50)] {
            for one_way in [0, 1, 5, 20, 50, 150].map(ms) {
                let timeout = interval.mul_f64(ratio);
                let server = Server { timeout, one_way, stall: Duration::ZERO };
                let share = simulate(&server, interval, jitter, 400);
                // A fresh push takes four ways to its first byte; jitter moves two pushes apart.
                let room = timeout.saturating_sub(ms(50).max(timeout / 50) + one_way * 4 + jitter);
                if interval <= room {
                    assert!(share >= 0.99, "T/N {ratio}, jitter {jitter:?}, one way {one_way:?}: {share}");
                }
            }
        }
    }
}

#[test]
fn a_path_that_stalls_does_not_cost_a_push() {
    // No longer than 2 % of the timeout: what was never seen before, only the fixed part of the guard covers.
    for stall in [30, 60, 200].map(ms) {
        for ratio in [1.0, 1.005, 1.01, 1.02, 1.03, 1.05, 1.1, 1.3] {
            let server = Server { timeout: ms(10_000).mul_f64(ratio), one_way: ms(10), stall };
            simulate(&server, ms(10_000), ms(5), 1_000);
        }
    }
}

#[test]
fn short_intervals_against_short_timeouts() {
    for timeout_ms in (900..2_200).step_by(7) {
        for jitter in [ms(0), ms(1), ms(20)] {
            let server = Server { timeout: ms(timeout_ms), one_way: ms(1), stall: Duration::ZERO };
            let share = simulate(&server, ms(1_000), jitter, 300);
            if timeout_ms >= 1_100 {
                assert!(share >= 0.99, "timeout {timeout_ms} ms, jitter {jitter:?}: {share}");
            }
        }
    }
}
