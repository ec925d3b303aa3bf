//! The keeper of the connection against a server that lives in simulated time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn config(interval: Duration) -> Config {
    Config { interval, guard_min: ms(50), timeout: None, when_short: WhenShort::Retire, hint: None }
}

fn advertises(timeout: Duration) -> Said {
    Said { keep_alive: KeepAlive { timeout: Some(timeout), requests: None }, closes: false }
}

fn takes_more(timeout: Duration, requests: u64) -> Said {
    Said { keep_alive: KeepAlive { timeout: Some(timeout), requests: Some(requests) }, closes: false }
}

/// What a test says of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Kept,
    Fresh(Opened),
}

impl From<Carrier> for By {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Kept(_) => Self::Kept,
            Carrier::Fresh(_, why) => Self::Fresh(why),
        }
    }
}

/// A keeper and its clock.
struct Scene {
    keeper: Keeper,
    now: Instant,
}

impl Scene {
    fn new(interval: Duration) -> Self {
        Self::with(config(interval))
    }

    fn with(config: Config) -> Self {
        Self { keeper: Keeper::new(config), now: Instant::now() }
    }

    /// Waits, then pushes: what carried it, and what was told.
    fn push(&mut self, after: Duration, took: Duration, said: Said) -> (By, Option<Notice>) {
        self.now += after;
        let begun = self.now;
        let carrier = self.keeper.begin(begun);
        self.now += took;
        self.keeper.answered(begun, self.now, said);
        (carrier.into(), self.keeper.notice())
    }

    #[track_caller]
    fn check(&mut self, after: Duration, said: Said, carrier: By) {
        assert_eq!(self.push(after, ms(1), said).0, carrier);
    }

    /// The server closes the connection that is held, or the one that was left last.
    fn close_held(&mut self, after: Duration) {
        self.now += after;
        let id = self.keeper.holds().unwrap();
        self.keeper.closed(id, self.now);
    }
}

#[test]
fn a_server_that_says_nothing_is_looked_at_before_it_is_trusted() {
    let mut scene = Scene::new(ms(10_000));
    let silent = Said::default();
    scene.check(ms(0), silent, By::Fresh(Opened::First));
    scene.check(ms(10_000), silent, By::Fresh(Opened::Probing));
    assert_eq!((scene.keeper.connections(), scene.keeper.basis()), (2, Basis::Probing));
    // The first is still there after 12.5 s.
    let (carrier, told) = scene.push(ms(10_000), ms(1), silent);
    assert_eq!(carrier, By::Kept);
    assert!(matches!(told, Some(Notice::Proven(..))), "{told:?}");
    assert_eq!((scene.keeper.connections(), scene.keeper.basis()), (1, Basis::Proven));
    for _ in 0..100 {
        scene.check(ms(10_000), silent, By::Kept);
    }
    scene.check(ms(12_600), silent, By::Fresh(Opened::Probing));
}

#[test]
fn three_closes_say_what_the_timeout_is() {
    let mut scene = Scene::new(ms(10_000));
    for close in 0..3 {
        scene.push(ms(10_000), ms(1), Said::default());
        assert_eq!(scene.keeper.basis(), Basis::Probing, "after {close} closes");
        scene.close_held(ms(11_000));
    }
    assert_eq!(scene.keeper.fit().unwrap().timeout, ms(11_001));
    assert!(matches!(scene.keeper.notice(), Some(Notice::Fits(_))));
    scene.check(ms(0), Said::default(), By::Fresh(Opened::ServerClosed));
    scene.check(ms(10_000), Said::default(), By::Kept);
    scene.check(ms(10_000), Said::default(), By::Kept);
}

#[test]
fn a_hint_needs_one_close() {
    let hint = Some(Hint { timeout: ms(11_000) });
    let mut scene = Scene::with(Config { hint, ..config(ms(10_000)) });
    scene.check(ms(0), Said::default(), By::Fresh(Opened::First));
    scene.close_held(ms(11_000));
    assert_eq!(scene.keeper.basis(), Basis::Bounded);
}

#[test]
fn what_was_configured_wins_and_is_contradicted_aloud() {
    let timeout = Some(ms(20_000));
    let mut scene = Scene::with(Config { timeout, ..config(ms(10_000)) });
    scene.push(ms(0), ms(1), advertises(ms(5_000)));
    scene.check(ms(10_000), advertises(ms(5_000)), By::Kept);
    for _ in 0..3 {
        scene.close_held(ms(8_000));
        scene.push(ms(2_000), ms(1), Said::default());
    }
    let mut scene = Scene::with(Config { timeout, ..config(ms(10_000)) });
    let mut told = Vec::new();
    for _ in 0..5 {
        told.extend(scene.push(ms(2_000), ms(1), Said::default()).1);
        scene.close_held(ms(8_000));
    }
    let [Notice::Disagrees(fit, bound)] = told[..] else { panic!("{told:?}") };
    assert_eq!((fit.basis, bound.timeout), (Basis::Configured, ms(8_001)));
}

#[test]
fn a_header_that_promises_too_much_is_believed_no_longer() {
    let mut scene = Scene::new(ms(10_000));
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(scene.push(ms(10_000), ms(1), advertises(ms(60_000))).1);
        scene.close_held(ms(11_000));
    }
    assert!(matches!(told[..], [Notice::Disagrees(..)]), "{told:?}");
    let fit = scene.keeper.fit().unwrap();
    assert_eq!((fit.basis, fit.timeout), (Basis::Bounded, ms(11_001)));
}

#[test]
fn an_idle_race_that_was_lost_is_a_lesson_and_a_lost_answer_is_none() {
    let fresh = By::Fresh;
    for (omen, next) in [
        (Omen::Closed, fresh(Opened::DangerBand)),
        (Omen::Doubtful, fresh(Opened::Probing)),
        (Omen::None, By::Kept),
    ] {
        let mut scene = Scene::new(ms(10_000));
        scene.push(ms(0), ms(1), advertises(ms(60_000)));
        scene.now += ms(9_999);
        assert!(matches!(scene.keeper.begin(scene.now), Carrier::Kept(_)));
        scene.keeper.failed(omen);
        scene.check(ms(0), advertises(ms(60_000)), By::Fresh(Opened::Retry));
        scene.check(ms(10_000), advertises(ms(60_000)), next);
    }
}

#[test]
fn a_doubt_is_cleared_by_a_connection_that_outlives_it() {
    for said in [Said::default(), advertises(ms(60_000))] {
        let mut scene = Scene::new(ms(10_000));
        while scene.push(ms(10_000), ms(1), said).0 != By::Kept {}
        scene.now += ms(9_999);
        assert!(matches!(scene.keeper.begin(scene.now), Carrier::Kept(_)));
        scene.keeper.failed(Omen::Doubtful);
        scene.check(ms(0), said, By::Fresh(Opened::Retry));
        scene.check(ms(10_000), said, By::Fresh(Opened::Probing));
        // It was left at the first of these, and is still there at the second.
        scene.check(ms(10_000), said, By::Kept);
        scene.check(ms(10_000), said, By::Kept);
    }
}

#[test]
fn behind_what_acknowledges_for_the_server_a_header_that_lies_costs_one_attempt() {
    let (mut scene, mut failed) = (Scene::new(ms(10_000)), 0);
    for _ in 0..50 {
        scene.now += ms(10_000);
        // The server closes after ten seconds less a little, and that takes longer to be seen.
        while let Carrier::Kept(_) = scene.keeper.begin(scene.now) {
            failed += 1;
            scene.keeper.failed(Omen::Doubtful);
        }
        scene.keeper.answered(scene.now, scene.now + ms(40), advertises(ms(60_000)));
        for id in scene.keeper.sentinels.iter().map(|left| left.id).collect::<Vec<_>>() {
            scene.keeper.closed(id, scene.now);
        }
    }
    assert_eq!(failed, 1);
}

#[test]
fn silence_is_a_lesson_only_if_the_server_answers_elsewhere() {
    for answers in [true, false] {
        let mut scene = Scene::new(ms(10_000));
        scene.push(ms(0), ms(1), advertises(ms(60_000)));
        scene.now += ms(9_999);
        scene.keeper.begin(scene.now);
        scene.keeper.failed(Omen::Silent);
        if !answers {
            scene.keeper.begin(scene.now);
            scene.keeper.failed(Omen::None);
        }
        scene.push(ms(0), ms(1), advertises(ms(60_000)));
        let next = if answers { By::Fresh(Opened::DangerBand) } else { By::Kept };
        scene.check(ms(9_999), advertises(ms(60_000)), next);
    }
}

#[test]
fn a_request_that_changed_connections_on_its_way_is_a_close_seen() {
    let mut scene = Scene::new(ms(10_000));
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.now += ms(9_999);
    scene.keeper.begin(scene.now);
    scene.keeper.replaced();
    scene.keeper.answered(scene.now, scene.now, advertises(ms(60_000)));
    scene.check(ms(10_000), advertises(ms(60_000)), By::Fresh(Opened::DangerBand));
}

#[test]
fn pushes_are_trimmed_where_a_tenth_is_enough_and_that_is_wanted() {
    for (timeout, trimmed) in [(10_000, 9_796), (9_500, 9_306), (9_000, 10_000), (60_000, 10_000)] {
        let mut scene = Scene::with(Config { when_short: WhenShort::Trim, ..config(ms(10_000)) });
        scene.push(ms(0), ms(1), advertises(ms(timeout)));
        assert_eq!(scene.keeper.interval(), ms(trimmed), "timeout {timeout}");
        let reused = scene.push(ms(trimmed), ms(1), advertises(ms(timeout))).0 == By::Kept;
        assert_eq!(reused, timeout != 9_000);
        let mut scene = Scene::new(ms(10_000));
        scene.push(ms(0), ms(1), advertises(ms(timeout)));
        assert_eq!(scene.keeper.interval(), ms(10_000));
    }
}

#[test]
fn nothing_is_trimmed_to_the_age_at_which_a_connection_had_fallen_silent() {
    let mut scene = Scene::with(Config { when_short: WhenShort::Trim, ..config(ms(10_000)) });
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.now += ms(9_999);
    scene.keeper.begin(scene.now);
    scene.keeper.failed(Omen::Silent);
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    assert_eq!(scene.keeper.interval(), ms(10_000));
    scene.check(ms(9_999), advertises(ms(60_000)), By::Fresh(Opened::DangerBand));
}

#[test]
fn a_late_push_is_allowed_for_when_the_interval_is_trimmed() {
    let mut scene = Scene::with(Config { when_short: WhenShort::Trim, ..config(ms(10_000)) });
    scene.push(ms(0), ms(1), advertises(ms(10_000)));
    scene.push(ms(9_805), ms(1), advertises(ms(10_000)));
    assert_eq!(scene.keeper.interval(), ms(9_786));
}

#[test]
fn there_are_never_more_than_three_sentinels() {
    let mut scene = Scene::new(ms(10_000));
    for _ in 0..50 {
        scene.push(ms(1), ms(1), Said::default());
        assert!(scene.keeper.connections() <= 1 + SENTINELS_MAX);
    }
    assert_eq!(scene.keeper.take_closing().len(), 50 - 1 - SENTINELS_MAX);
}

#[test]
fn an_advertised_connection_is_kept_while_it_is_safe() {
    let mut scene = Scene::new(ms(10_000));
    scene.check(ms(0), advertises(ms(120_000)), By::Fresh(Opened::First));
    for _ in 0..100 {
        scene.check(ms(9_999), advertises(ms(120_000)), By::Kept);
    }
}

#[test]
fn the_last_safe_moment_is_the_timeout_less_the_guard_after_the_request_began() {
    // 2 % of 20 s, and an answer that took 100 ms.
    let safe = ms(20_000 - 400 - 100);
    for (gap, carrier) in [(safe, By::Kept), (safe + Duration::from_nanos(1), By::Fresh(Opened::PastTimeout))]
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
    let due = begun + ms(5_000 - 100 - 10);
    assert_eq!(scene.keeper.deadline(), Some(due));
    scene.keeper.time_passed(due);
    assert_eq!((scene.keeper.deadline(), scene.keeper.take_closing().len()), (None, 1));
    scene.check(ms(1_000), advertises(ms(5_000)), By::Fresh(Opened::PastTimeout));
}

#[test]
fn a_connection_that_will_not_be_used_again_is_retired_at_once() {
    let mut scene = Scene::new(ms(10_000));
    let begun = scene.now;
    scene.push(ms(0), ms(10), advertises(ms(10_000)));
    assert_eq!(scene.keeper.deadline(), Some(begun));
}

#[test]
fn requests_of_one_interval_share_a_connection_that_will_not_last() {
    let mut scene = Scene::new(ms(10_000));
    scene.check(ms(0), advertises(ms(10_000)), By::Fresh(Opened::First));
    scene.check(ms(0), advertises(ms(10_000)), By::Kept);
}

#[test]
fn the_number_of_requests_is_counted_down() {
    let mut scene = Scene::new(ms(10));
    scene.check(ms(0), takes_more(ms(60_000), 2), By::Fresh(Opened::First));
    scene.check(ms(10), takes_more(ms(60_000), 1), By::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 0), By::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 2), By::Fresh(Opened::RequestsSpent));
}

#[test]
fn a_number_that_never_falls_is_counted_down_all_the_same() {
    let mut scene = Scene::new(ms(10));
    scene.check(ms(0), takes_more(ms(60_000), 2), By::Fresh(Opened::First));
    scene.check(ms(10), takes_more(ms(60_000), 2), By::Kept);
    scene.check(ms(10), advertises(ms(60_000)), By::Kept);
    scene.check(ms(10), takes_more(ms(60_000), 2), By::Fresh(Opened::RequestsSpent));
    scene.check(ms(10), takes_more(ms(60_000), 2), By::Kept);
}

#[test]
fn connection_close_is_honoured_whatever_else_is_said() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), Said { closes: true, ..advertises(ms(60_000)) });
    scene.check(ms(10), advertises(ms(60_000)), By::Fresh(Opened::ServerCloses));
}

#[test]
fn after_a_failure_the_connection_is_fresh() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.now += ms(10);
    assert_eq!(By::from(scene.keeper.begin(scene.now)), By::Kept);
    scene.keeper.failed(Omen::None);
    scene.check(ms(10), advertises(ms(60_000)), By::Fresh(Opened::Retry));
}

#[test]
fn an_answer_that_stops_advertising_leaves_what_was_seen() {
    let mut scene = Scene::new(ms(10));
    scene.push(ms(0), ms(1), advertises(ms(60_000)));
    scene.check(ms(10), Said::default(), By::Kept);
    scene.check(ms(12), advertises(ms(60_000)), By::Fresh(Opened::Probing));
}

#[test]
fn a_timeout_smaller_than_the_guard_keeps_nothing() {
    for timeout in [ms(0), ms(49), ms(50)] {
        let mut scene = Scene::new(ms(10));
        scene.push(ms(0), ms(1), advertises(timeout));
        scene.check(ms(1), advertises(timeout), By::Fresh(Opened::PastTimeout));
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
    let fit = Fit { timeout: ms(10_000), basis: Basis::Advertised, guard: ms(203), interval: ms(10_000) };
    assert_eq!(
        Notice::Mismatch(fit).to_string(),
        "keep-alive: the server keeps idle connections 10 s, pushes come every 10 s (guard 0.203 s): each push opens \
         its own connection, closed by us before the server can; set the server's idle timeout to 12 s or more, or \
         --interval to 9.7 s or less"
    );
}

#[test]
fn an_interval_far_below_the_wish_is_not_proposed() {
    let fit = Fit { timeout: ms(2_000), basis: Basis::Advertised, guard: ms(60), interval: ms(10_000) };
    let said = Notice::Mismatch(fit).to_string();
    assert!(said.ends_with("set the server's idle timeout to 12 s or more"), "{said}");
}
