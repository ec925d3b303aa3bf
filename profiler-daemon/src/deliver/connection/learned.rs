//! What was seen of a server that closes idle connections: after how long, and after how long it had not.
//!
//! In: ages at which connections were closed, or were still there. Out: whether an age is safe. An age is the time
//! since a connection's last request was begun. Not here: connections, clocks, what the server says.
//!
//! Closes that lie close together make a band. Three make it settled: one alone may be a deploy or a server that
//! sheds load. A single close trusted as the timeout lost 17 of 1,280 pushes where three lost none.

use std::time::Duration;

/// So many closes that agree say what the timeout is.
const CLOSES_AGREED: u32 = 3;
/// A band that is not settled is forgotten after so many pushes.
const BAND_PUSHES_MAX: u64 = 64;
/// Bands at most. The one that was seen longest ago goes.
const BANDS_MAX: usize = 6;
/// Every so many pushes a settled band is looked at again, by leaving a connection to it.
const PROBE_PUSHES: u64 = 20;
/// After so many pushes a connection that fell silent is no lesson any more: three hours at ten seconds.
const SILENT_PUSHES_MAX: u64 = 1_000;
/// What agrees: 5 % and this.
const AGREES_WITHIN: Duration = Duration::from_millis(20);

/// How much is kept clear of requests before a server's timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// The smallest: what a busy machine may take to get from the decision to the write.
    pub least: Duration,
    /// What path and server may take: the longest of the last times to first byte.
    pub net: Duration,
}

impl Margin {
    /// It grows with the timeout, because servers with long ones look at them seldom.
    const SHARE: u32 = 50;

    /// The guard before `timeout`.
    pub fn of(self, timeout: Duration) -> Duration {
        self.least.max(timeout / Self::SHARE) + self.net
    }
}

/// A server's idle timeout as it was learned once. It is worth one close: a single one that agrees confirms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The age at which it closed connections.
    pub timeout: Duration,
}

/// Closes that agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Band {
    min: Duration,
    max: Duration,
    closes: u32,
    /// The number of the push before the last of them.
    last: u64,
}

impl Band {
    const fn is_settled(&self) -> bool {
        self.closes >= CLOSES_AGREED
    }

    /// The earliest close that has to be expected: as far below the earliest seen as the latest was above.
    fn bound(&self) -> Duration {
        self.min.saturating_sub(self.max - self.min)
    }

    fn agrees(&self, age: Duration) -> bool {
        let within = age / 20 + AGREES_WITHIN;
        age + within >= self.min && age <= self.max + within
    }
}

/// Whether a connection of some age may carry a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server was seen to keep connections for longer.
    Safe,
    /// It was seen to close them at about this age, and often enough.
    Danger,
    /// It was seen to close one at about this age, or it is time to look again.
    Suspect,
    /// Nothing is known of this age.
    Unproven,
}

/// The timeout that closes have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The earliest close that has to be expected.
    pub timeout: Duration,
    /// Time between the earliest and the latest that were seen.
    pub spread: Duration,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Learned {
    bands: Vec<Band>,
    /// A connection of this age was still there.
    proven: Duration,
    /// A connection of this age was used again.
    used: Duration,
    /// A connection of this age took a request and never acknowledged it, and when that was.
    silent: Option<(Duration, u64)>,
    /// A connection of this age took a request, and then was closed instead of answering it.
    doubt: Option<Duration>,
    hint: Option<Hint>,
    pushes: u64,
    probed: u64,
}

impl Learned {
    /// Nothing is known but perhaps what was learned by another.
    pub(super) fn new(hint: Option<Hint>) -> Self {
        Self { hint, ..Self::default() }
    }

    /// A push is about to be made. What is too old is forgotten.
    pub(super) fn pushed(&mut self) {
        self.pushes += 1;
        let now = self.pushes;
        self.bands.retain(|band| band.is_settled() || band.last + BAND_PUSHES_MAX >= now);
        self.silent = self.silent.filter(|&(_, since)| since + SILENT_PUSHES_MAX >= now);
    }

    /// The other end closed an idle connection of this age.
    pub(super) fn closed(&mut self, age: Duration, margin: Margin) {
        self.hint = self.hint.filter(|hint| age <= hint.timeout + margin.of(hint.timeout));
        self.proven = self.proven.min(age.saturating_sub(margin.of(age)));
        let last = self.pushes;
        match self.bands.iter_mut().find(|band| band.agrees(age)) {
            Some(band) => {
                band.min = band.min.min(age);
                band.max = band.max.max(age);
                band.closes = band.closes.saturating_add(1);
                band.last = last;
            }
            None => {
                if self.bands.len() == BANDS_MAX
                    && let Some(oldest) = (0..BANDS_MAX).min_by_key(|&at| self.bands[at].last)
                {
                    self.bands.remove(oldest);
                }
                self.bands.push(Band { min: age, max: age, closes: 1, last });
            }
        }
        if let Some(Hint { timeout }) = self.hint
            && let Some(band) = self.bands.iter_mut().find(|band| band.agrees(age) && band.agrees(timeout))
        {
            band.closes = band.closes.max(CLOSES_AGREED);
            self.hint = None;
        }
        if self.bands.iter().any(|band| band.is_settled() && band.agrees(age)) {
            // What closed a single connection earlier was not the timeout: this one outlived it.
            self.bands.retain(|band| band.closes > 1 || age <= band.max + margin.of(band.max));
        }
    }

    /// A connection of this age was still there.
    pub(super) fn survived(&mut self, age: Duration, margin: Margin) {
        self.outlived(age, margin);
        self.proven = self.proven.max(age);
    }

    fn outlived(&mut self, age: Duration, margin: Margin) {
        self.bands.retain(|band| age <= band.max + margin.of(band.max));
        self.hint = self.hint.filter(|hint| age <= hint.timeout + margin.of(hint.timeout));
        self.doubt = self.doubt.filter(|&doubt| age < doubt);
    }

    /// A connection of this age was used again, and the request was answered.
    pub(super) fn used(&mut self, age: Duration, margin: Margin) {
        self.survived(age, margin);
        self.used = self.used.max(age);
    }

    /// A connection of this age was closed instead of answering a request that someone had acknowledged. That is no
    /// close of an idle connection, but until one is seen to outlive this age, nobody's word on it is enough: behind
    /// something that acknowledges for the server, every race that is lost looks like this.
    pub(super) fn doubted(&mut self, age: Duration, margin: Margin) {
        self.proven = self.proven.min(age.saturating_sub(margin.of(age)));
        self.doubt = Some(age);
    }

    /// Whether an age is one that only a connection which was left alone can prove.
    pub(super) fn doubts(&self, age: Duration, margin: Margin) -> bool {
        self.doubt.is_some_and(|doubt| age + margin.of(doubt) >= doubt)
    }

    /// A request on a connection of this age was never acknowledged, though the server answers on others: something
    /// in between had forgotten the connection, and told nobody. A connection that is left alone cannot show that.
    pub(super) fn fell_silent(&mut self, age: Duration, margin: Margin) {
        self.silent = Some((age, self.pushes));
        self.used = self.used.min(age.saturating_sub(margin.of(age)));
    }

    /// The age at which a connection was found silent.
    pub(super) fn silent(&self) -> Option<Duration> {
        self.silent.map(|(age, _)| age)
    }

    /// The timeout, if closes have shown it.
    pub(super) fn bound(&self) -> Option<Bound> {
        let closes = self.bands.iter().filter(|band| band.is_settled());
        let closes = closes.map(|band| Bound { timeout: band.bound(), spread: band.max - band.min });
        let silent = self.silent.map(|(timeout, _)| Bound { timeout, spread: Duration::ZERO });
        closes.chain(silent).min_by_key(|bound| bound.timeout)
    }

    /// What is worth remembering.
    pub(super) fn hint(&self) -> Option<Hint> {
        let settled = self.bands.iter().filter(|band| band.is_settled()).map(|band| band.min);
        settled.min().map(|timeout| Hint { timeout }).or(self.hint)
    }

    /// The longest age that was seen to be safe where no close was.
    pub(super) const fn proven(&self) -> Duration {
        self.proven
    }

    /// Whether a connection of this age may carry a request.
    pub(super) fn verdict(&self, age: Duration, margin: Margin) -> Verdict {
        // Below the age at which it was silent, too, it may have been: only use shows where it was not. Nothing
        // forgets a connection within the time that we may be late by.
        if self.silent.is_some() && age > self.used.max(margin.least) {
            return Verdict::Danger;
        }
        let near = |band: &&Band| {
            let guard = margin.of(band.min);
            band.bound() <= age + guard && age <= band.max + guard
        };
        if let Some(band) = self.bands.iter().find(near) {
            return if band.is_settled() && !self.may_probe() { Verdict::Danger } else { Verdict::Suspect };
        }
        let closes: u32 = self.bands.iter().map(|band| band.closes).sum();
        let earliest = self.bands.iter().min_by_key(|band| band.min);
        let before_all = earliest.is_some_and(|band| age + margin.of(band.min) <= band.bound());
        if self.proven >= age || (closes >= CLOSES_AGREED && before_all) {
            Verdict::Safe
        } else {
            Verdict::Unproven
        }
    }

    /// Whether it is time to leave a connection to a band that is settled, to see whether it still holds.
    pub(super) const fn may_probe(&self) -> bool {
        self.pushes >= self.probed + PROBE_PUSHES
    }

    /// A connection is left to see what becomes of it.
    pub(super) const fn probed(&mut self) {
        self.probed = self.pushes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Margin = Margin { least: ms(50), net: ms(10) };

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn seen(closed: &[u64], survived: &[u64]) -> Learned {
        let mut learned = Learned::new(None);
        learned.pushed();
        survived.iter().for_each(|&age| learned.survived(ms(age), MARGIN));
        closed.iter().for_each(|&age| learned.closed(ms(age), MARGIN));
        learned
    }

    #[track_caller]
    fn check(closed: &[u64], survived: &[u64], age: u64, verdict: Verdict) {
        assert_eq!(seen(closed, survived).verdict(ms(age), MARGIN), verdict);
    }

    #[test]
    fn nothing_is_known_at_first() {
        check(&[], &[], 1, Verdict::Unproven);
    }

    #[test]
    fn an_age_that_was_survived_is_safe_and_a_longer_one_is_not_known() {
        check(&[], &[1_250], 1_250, Verdict::Safe);
        check(&[], &[1_250], 1_251, Verdict::Unproven);
    }

    #[test]
    fn one_close_makes_its_neighbourhood_suspect_and_three_dangerous() {
        check(&[1_000], &[], 1_000, Verdict::Suspect);
        check(&[1_000, 1_000, 1_000], &[], 1_000, Verdict::Danger);
        // 50 ms and 10 ms are the guard.
        check(&[1_000, 1_000, 1_000], &[], 940, Verdict::Danger);
        check(&[1_000, 1_000, 1_000], &[], 939, Verdict::Safe);
        check(&[1_000, 1_000, 1_000], &[], 1_061, Verdict::Unproven);
    }

    #[test]
    fn one_close_proves_nothing_about_shorter_ages() {
        check(&[1_000], &[], 500, Verdict::Unproven);
        check(&[1_000, 1_000], &[], 500, Verdict::Unproven);
    }

    #[test]
    fn a_spread_of_closes_is_expected_below_the_earliest_too() {
        let learned = seen(&[1_000, 1_020, 1_040], &[]);
        assert_eq!(learned.bound(), Some(Bound { timeout: ms(960), spread: ms(40) }));
        assert_eq!(learned.verdict(ms(899), MARGIN), Verdict::Safe);
        assert_eq!(learned.verdict(ms(901), MARGIN), Verdict::Danger);
    }

    #[test]
    fn a_close_takes_back_what_was_proven() {
        check(&[1_000], &[5_000], 4_000, Verdict::Unproven);
        check(&[1_000], &[5_000], 940, Verdict::Suspect);
        check(&[1_000], &[5_000], 939, Verdict::Safe);
    }

    #[test]
    fn a_single_early_close_does_not_outweigh_a_settled_timeout() {
        check(&[400, 1_500, 1_500], &[], 1_000, Verdict::Unproven);
        check(&[400, 1_500, 1_500, 1_500], &[], 1_000, Verdict::Safe);
        // Two are no accident.
        check(&[400, 400, 1_500, 1_500, 1_500], &[], 1_000, Verdict::Unproven);
    }

    #[test]
    fn a_survivor_takes_back_the_closes_below_it() {
        let mut learned = seen(&[1_000, 1_000, 1_000], &[]);
        learned.survived(ms(1_061), MARGIN);
        assert_eq!((learned.bound(), learned.verdict(ms(1_000), MARGIN)), (None, Verdict::Safe));
    }

    #[test]
    fn a_single_close_is_forgotten_after_a_while_and_three_are_not() {
        let (mut one, mut three) = (seen(&[1_000], &[]), seen(&[1_000, 1_000, 1_000], &[]));
        for _ in 0..=BAND_PUSHES_MAX {
            one.pushed();
            three.pushed();
        }
        assert_eq!(one.verdict(ms(1_000), MARGIN), Verdict::Unproven);
        assert!(three.bound().is_some());
        assert_eq!(three.verdict(ms(1_000), MARGIN), Verdict::Suspect, "it is time to look again");
        three.probed();
        assert_eq!(three.verdict(ms(1_000), MARGIN), Verdict::Danger);
    }

    #[test]
    fn a_hint_is_confirmed_by_one_close_and_forgotten_when_contradicted() {
        let hint = Some(Hint { timeout: ms(1_000) });
        let mut learned = Learned::new(hint);
        learned.closed(ms(1_010), MARGIN);
        assert!(learned.bound().is_some());
        let mut learned = Learned::new(hint);
        learned.closed(ms(500), MARGIN);
        assert_eq!(learned.bound(), None);
        assert_eq!(learned.hint(), hint, "it may still be so");
        learned.survived(ms(1_061), MARGIN);
        assert_eq!(learned.hint(), None);
    }

    #[test]
    fn a_connection_that_fell_silent_is_believed_at_once_and_for_long() {
        let mut learned = seen(&[], &[5_000]);
        learned.used(ms(400), MARGIN);
        learned.fell_silent(ms(1_000), MARGIN);
        assert_eq!(learned.verdict(ms(1_000), MARGIN), Verdict::Danger);
        assert_eq!(learned.verdict(ms(401), MARGIN), Verdict::Danger, "it may have been silent then");
        assert_eq!(learned.verdict(ms(400), MARGIN), Verdict::Safe, "it was not");
        learned.survived(ms(9_000), MARGIN);
        assert_eq!(learned.verdict(ms(1_000), MARGIN), Verdict::Danger, "no sentinel can see it");
        for _ in 0..=SILENT_PUSHES_MAX {
            learned.pushed();
        }
        assert_eq!(learned.verdict(ms(1_000), MARGIN), Verdict::Safe);
    }

    #[test]
    fn closes_at_any_age_stay_within_their_bound() {
        let mut learned = Learned::new(None);
        for step in 1..100 {
            learned.closed(ms(1 << (step % 30)), MARGIN);
            assert!(learned.bands.len() <= BANDS_MAX);
        }
    }
}
