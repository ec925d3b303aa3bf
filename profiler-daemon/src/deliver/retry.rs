//! What to do with a parcel that was not delivered, and when.
//!
//! In: what an answer means, or how a request failed and what the kernel knows of it; how often the parcel was turned
//! away before. Out: a step, and a pause. Not here: parcels, clocks, the network.
//!
//! A request that got no answer may have been carried out. Where that can be ruled out it is sent again in any case;
//! where not, the operator says which is worse, a profile that counts twice or one that is lost. What rules it out was
//! measured: of 833 requests that met a server's FIN none was acknowledged and none was carried out; of 87 that were
//! carried out and then broken off by a FIN all were acknowledged. A reset proves nothing: it overtakes the
//! acknowledgement (87 of 87).
//!
//! Pauses grow from half a second to the interval: a server that is in trouble hears from us no more often than
//! in good times, and one that is back has what waited within one interval. Half of each pause is chance, so
//! that daemons which lost the same server do not come back to it in step.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::answer::{Evidence, FailureKind, Meaning};

/// The first pause.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Pauses may grow at least so long: an interval of nothing is no reason to try without end.
const PAUSE_MAX_MIN: Duration = Duration::from_millis(10);
/// Longest time that a server may ask to be left alone. One that asks for more is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// How often one profile may break a server (status 500) before it is given up: it may be the profile's fault,
/// and others wait behind it.
const BROKEN_MAX: u32 = 4;
/// How often one profile may be put off by a rate limit while others are taken: one that is larger than the limit, or has
/// one of its own, would be for ever. Five minutes at the default interval.
const PUT_OFF_MAX: u32 = 30;

/// What is worse where nobody knows whether a server has a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// To lose it: it is sent again, with the same bytes, and a server that knows it already counts it once.
    #[default]
    AtLeastOnce,
    /// To have it twice: it is given up, and counted.
    AtMostOnce,
}

/// What is known of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing of it left us.
    Unsent,
    /// Not all of it left us.
    Incomplete,
    /// All of it left us, and the server closed the connection without having received it.
    NeverApplied,
    /// The server may have carried it out.
    Ambiguous,
}

impl Class {
    /// The class of a request with a body of `bytes` that got no answer.
    pub(super) fn of(kind: FailureKind, evidence: Option<Evidence>, bytes: usize) -> Self {
        match (kind, evidence) {
            (FailureKind::Connect | FailureKind::Canceled, _) => Self::Unsent,
            (_, Some(Evidence { sent, .. })) if sent < bytes as u64 => Self::Incomplete,
            (FailureKind::Eof, Some(Evidence { acked: 0, .. })) => Self::NeverApplied,
            _ => Self::Ambiguous,
        }
    }

    /// The class of a request that was answered with a status that is no success. A proxy's word on its own other
    /// side says nothing of what became of a request there.
    pub(super) const fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::Ambiguous,
            _ => Self::NeverApplied,
        }
    }

    /// The name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Incomplete => "incomplete",
            Self::NeverApplied => "never_applied",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// What happens to a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is delivered.
    Done,
    /// It is sent again after a pause, as it is.
    Again,
    /// It is sent again after a pause, when no others wait.
    Behind,
    /// Its payloads are sent again after a pause, each alone.
    ApartLater,
    /// Its payloads are sent again now, each alone.
    ApartNow,
    /// Its only payload is sent again now, in two halves.
    Halved,
    /// It is given up: the server does not want it.
    Refused,
    /// It is given up: the server may have it.
    GivenUp,
}

/// The step after an answer to a parcel of `payloads` of which something was `turned_away` so often, this
/// time included.
pub(super) const fn step(meaning: Meaning, payloads: usize, turned_away: u32) -> Step {
    let several = payloads > 1;
    match meaning {
        Meaning::Delivered => Step::Done,
        Meaning::NotNow => Step::Again,
        Meaning::SomeNotNow | Meaning::SomeBroken if several => Step::ApartLater,
        // The limit may be its own: then the others are taken meanwhile.
        Meaning::SomeNotNow if turned_away < PUT_OFF_MAX => Step::Behind,
        Meaning::SomeBroken if turned_away < BROKEN_MAX => Step::Again,
        Meaning::SomeNever | Meaning::TooLarge if several => Step::ApartNow,
        Meaning::TooLarge | Meaning::SomeNotNow => Step::Halved,
        Meaning::SomeBroken | Meaning::SomeNever | Meaning::WrongServer => Step::Refused,
    }
}

/// How long to wait before the server is tried again.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    pause_max: Duration,
}

impl Backoff {
    /// Pauses up to `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        let pause_max = interval.max(PAUSE_MAX_MIN);
        Self { next: PAUSE_FIRST.min(pause_max), pause_max }
    }

    /// The server is well: the next pause is a short one again.
    pub(super) fn reset(&mut self) {
        self.next = PAUSE_FIRST.min(self.pause_max);
    }

    /// The next pause, given what the server asked for.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        // Each `RandomState` has keys of its own, which is as much chance as this needs.
        let chance = RandomState::new().hash_one(0_u8);
        self.pause_by(asked, chance)
    }

    fn pause_by(&mut self, asked: Option<Duration>, chance: u64) -> Duration {
        let share = 0.5 + 0.5 * ((chance >> 11) as f64 / (1_u64 << 53) as f64);
        let pause = self.next.mul_f64(share);
        self.next = self.next.saturating_mul(2).min(self.pause_max);
        pause.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_class(kind: FailureKind, evidence: Option<(u64, u64)>, class: Class) {
        let evidence = evidence.map(|(sent, acked)| Evidence { sent, acked });
        assert_eq!(Class::of(kind, evidence, 1_000), class, "{kind:?}, {evidence:?}");
    }

    #[test]
    fn what_never_left_us_was_not_carried_out() {
        check_class(FailureKind::Connect, None, Class::Unsent);
        check_class(FailureKind::Canceled, Some((0, 0)), Class::Unsent);
        check_class(FailureKind::Pipe, Some((999, 500)), Class::Incomplete);
        check_class(FailureKind::Reset, Some((0, 0)), Class::Incomplete);
        check_class(FailureKind::Timeout, Some((900, 900)), Class::Incomplete);
    }

    #[test]
    fn a_fin_without_an_acknowledgement_is_a_witness_and_a_reset_is_none() {
        check_class(FailureKind::Eof, Some((1_200, 0)), Class::NeverApplied);
        check_class(FailureKind::Eof, Some((1_200, 1_200)), Class::Ambiguous);
        check_class(FailureKind::Eof, None, Class::Ambiguous);
        check_class(FailureKind::Reset, Some((1_200, 0)), Class::Ambiguous);
        check_class(FailureKind::Timeout, Some((1_200, 0)), Class::Ambiguous);
        check_class(FailureKind::Garbage, Some((1_200, 1_200)), Class::Ambiguous);
    }

    #[track_caller]
    fn check(meaning: Meaning, payloads: usize, turned_away: u32, expected: Step) {
        assert_eq!(step(meaning, payloads, turned_away), expected);
    }

    #[test]
    fn a_server_that_cannot_now_is_asked_again_for_ever() {
        check(Meaning::NotNow, 1, 1_000_000, Step::Again);
        check(Meaning::NotNow, 50, 1_000_000, Step::Again);
    }

    #[test]
    fn a_refusal_of_several_is_tried_one_by_one() {
        check(Meaning::SomeNever, 2, 1, Step::ApartNow);
        check(Meaning::SomeNever, 1, 1, Step::Refused);
        check(Meaning::SomeNotNow, 2, 1, Step::ApartLater);
        check(Meaning::SomeBroken, 2, 1, Step::ApartLater);
    }

    #[test]
    fn one_that_breaks_the_server_each_time_is_given_up() {
        check(Meaning::SomeBroken, 1, 3, Step::Again);
        check(Meaning::SomeBroken, 1, 4, Step::Refused);
    }

    #[test]
    fn one_that_is_put_off_while_others_are_taken_is_larger_than_the_limit() {
        check(Meaning::SomeNotNow, 1, 0, Step::Behind);
        check(Meaning::SomeNotNow, 1, 29, Step::Behind);
        check(Meaning::SomeNotNow, 1, 30, Step::Halved);
    }

    #[test]
    fn what_is_too_large_is_taken_apart_and_then_halved() {
        check(Meaning::TooLarge, 2, 1, Step::ApartNow);
        check(Meaning::TooLarge, 1, 1, Step::Halved);
    }

    #[test]
    fn a_wrong_server_gets_nothing_twice() {
        check(Meaning::WrongServer, 50, 1, Step::Refused);
    }

    #[test]
    fn pauses_double_up_to_the_interval() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let pauses: Vec<u128> =
            (0..8).map(|_| backoff.pause_by(None, u64::MAX).as_millis().next_multiple_of(10)).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.pause_by(None, 0), Duration::from_millis(250), "half of it is chance");
    }

    #[test]
    fn a_short_interval_is_never_outwaited() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        assert!((0..5).all(|_| backoff.pause_by(None, u64::MAX) <= Duration::from_millis(100)));
    }

    #[test]
    fn no_interval_is_still_a_pause() {
        assert!(Backoff::new(Duration::ZERO).pause_by(None, 0) >= Duration::from_millis(5));
    }

    #[test]
    fn the_servers_wish_is_heard_up_to_five_minutes() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        assert_eq!(backoff.pause(Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(backoff.pause(Some(Duration::MAX)), RETRY_AFTER_MAX);
        assert!(backoff.pause(Some(Duration::ZERO)) > Duration::from_millis(500));
    }

    #[test]
    fn chance_differs() {
        let pause = || Backoff::new(Duration::from_secs(10)).pause(None);
        assert!((0..10).any(|_| pause() != pause()));
    }
}
