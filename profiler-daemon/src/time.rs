//! Moments, windows, and the one anchor that relates the kernel's clock to the wall.
//!
//! Only this file and tokio look at a clock.

use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A moment on the kernel's monotonic clock, nanoseconds. Only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoNs(pub u64);

/// A moment on the wall clock, nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallNs(pub i64);

/// A stretch of time in which samples were taken. Consecutive windows touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// When it began, by the wall.
    pub start: WallNs,
    /// How long it was, nanoseconds.
    pub duration_ns: u64,
}

impl MonoNs {
    /// Now, on the clock of the samples (`CLOCK_MONOTONIC`).
    pub fn now() -> Self {
        Self(nanoseconds(ClockId::Monotonic))
    }

    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment less `earlier`, or the first there is.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This moment and `later` more.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl WallNs {
    /// Now.
    pub fn now() -> Self {
        Self(i64::try_from(nanoseconds(ClockId::Realtime)).unwrap_or(i64::MAX))
    }
}

/// Milliseconds since the epoch: of `now`, `now-1h`, a date like `2026-01-31 12:00:00` (UTC), or a number of seconds,
/// milliseconds, microseconds or nanoseconds, told apart by its size.
pub fn moment_ms(text: &str, now: WallNs) -> Option<i64> {
    const MS: i64 = 1_000_000;
    if let Some(back) = text.strip_prefix("now") {
        if back.is_empty() {
            return Some(now.0 / MS);
        }
        let back = humantime::parse_duration(back.strip_prefix('-')?).ok()?;
        return (now.0 / MS).checked_sub(i64::try_from(back.as_millis()).ok()?);
    }
    let Ok(number) = text.parse::<i64>() else {
        let date = humantime::parse_rfc3339_weak(text).ok()?;
        return i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok();
    };
    Some(match number {
        ..10_000_000_000 => number.checked_mul(1000)?,
        10_000_000_000..10_000_000_000_000 => number,
        10_000_000_000_000..10_000_000_000_000_000 => number / 1000,
        10_000_000_000_000_000.. => number / MS,
    })
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// How long this machine was suspended since it was started: what `CLOCK_BOOTTIME`, on which `/proc` gives the
/// start of a process, is ahead of the monotonic clock.
pub fn suspended() -> Duration {
    let mono = nanoseconds(ClockId::Monotonic);
    Duration::from_nanos(nanoseconds(ClockId::Boottime).saturating_sub(mono))
}

/// How often both clocks are looked at for one anchor.
const LOOKS: u32 = 3;

/// Relates the two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The moment, monotonic.
    pub mono: MonoNs,
    /// The same moment, by the wall.
    pub wall: WallNs,
}

impl Anchor {
    /// Both clocks now. Whoever looks may be kept from running between the two: of some looks the quickest counts.
    pub fn now() -> Self {
        let look = |_| {
            let anchor = Self { mono: MonoNs::now(), wall: WallNs::now() };
            (MonoNs::now().since(anchor.mono), anchor)
        };
        let first = look(0);
        (1..LOOKS).map(look).fold(first, |best, other| if other.0 < best.0 { other } else { best }).1
    }

    /// `moment` by the wall.
    pub fn wall(self, moment: MonoNs) -> WallNs {
        let ahead = i128::from(moment.0) - i128::from(self.mono.0) + i128::from(self.wall.0);
        WallNs(i64::try_from(ahead).unwrap_or(i64::MAX))
    }
}

/// Gives windows their place on the wall clock so that consecutive ones touch: each starts where the last one ended,
/// unless the wall clock was set meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowClock {
    end: Option<(MonoNs, WallNs)>,
    set_ns: Option<i64>,
}

/// How far the wall clock may drift from the monotonic one within a window; more means that it was set.
const DRIFT_NS_MAX: u64 = 100_000_000;

impl WindowClock {
    /// The window from `opened` to `closed`, by an anchor taken now.
    pub fn window(&mut self, opened: MonoNs, closed: MonoNs, anchor: Anchor) -> Window {
        let by_anchor = anchor.wall(opened);
        let start = match self.end {
            Some((mono, wall)) if mono == opened => {
                let ahead = by_anchor.0.saturating_sub(wall.0);
                let is_set = ahead.unsigned_abs() > DRIFT_NS_MAX;
                self.set_ns = is_set.then_some(ahead);
                if is_set { by_anchor } else { wall }
            }
            _ => by_anchor,
        };
        let duration_ns = closed.0.saturating_sub(opened.0);
        let end = start.0.saturating_add(i64::try_from(duration_ns).unwrap_or(i64::MAX));
        self.end = Some((closed, WallNs(end)));
        Window { start, duration_ns }
    }

    /// How far the wall clock was set ahead in the last window, nanoseconds, below zero if it was set back; nothing if it was not, or if
    /// that was asked before. A machine that was suspended looks the same.
    pub fn take_set_ns(&mut self) -> Option<i64> {
        self.set_ns.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of a second window from 1000 to 2000 after a first from 0 to 1000, the wall clock being `skew` ahead
    /// of what it was.
    #[track_caller]
    fn check_second_start(skew: i64, expected: i64) {
        let mut clock = WindowClock::default();
        let anchor = Anchor { mono: MonoNs(0), wall: WallNs(5_000) };
        assert_eq!(clock.window(MonoNs(0), MonoNs(1_000), anchor).start, WallNs(5_000));
        let anchor = Anchor { mono: MonoNs(0), wall: WallNs(5_000 + skew) };
        let second = clock.window(MonoNs(1_000), MonoNs(2_000), anchor);
        assert_eq!((second.start, second.duration_ns), (WallNs(expected), 1_000));
        let set = (expected != 6_000).then_some(skew);
        assert_eq!((clock.take_set_ns(), clock.take_set_ns()), (set, None));
    }

    #[test]
    fn windows_touch_though_the_clock_drifts() {
        check_second_start(0, 6_000);
        check_second_start(77, 6_000);
        check_second_start(-77, 6_000);
    }

    #[test]
    fn a_window_follows_a_clock_that_was_set_and_says_so() {
        check_second_start(3_600_000_000_000, 3_600_000_006_000);
        check_second_start(-3_600_000_000_000, -3_599_999_994_000);
    }

    #[track_caller]
    fn check_moment(text: &str, expected: Option<i64>) {
        assert_eq!(moment_ms(text, WallNs(1_795_360_230_123_456_789)), expected, "{text:?}");
    }

    #[test]
    fn a_moment_is_told_in_many_ways() {
        check_moment("now", Some(1_795_360_230_123));
        check_moment("now-1h 30m", Some(1_795_354_830_123));
        for number in ["1795360230", "1795360230000", "1795360230000000", "1795360230000000000"] {
            check_moment(number, Some(1_795_360_230_000));
        }
        check_moment("2026-11-22T12:30:30Z", Some(1_795_350_630_000));
        check_moment("2026-11-22 12:30:30", Some(1_795_350_630_000));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "yesterday",
            "now+1h",
            "now-",
            "now-9999999999999999y",
            "1e9",
            "0x10",
            "99999999999999999999",
        ] {
            check_moment(text, None);
        }
        check_moment("1969-12-31 23:59:59", None);
    }
}
