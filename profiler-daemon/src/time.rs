//! Moments, windows, and the one anchor that relates the kernel's clock to the wall.
//!
//! Only this file and tokio look at a clock.

use std::time::Duration;

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

/// Relates the two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The moment, monotonic.
    pub mono: MonoNs,
    /// The same moment, by the wall.
    pub wall: WallNs,
}

impl Anchor {
    /// Both clocks now.
    pub fn now() -> Self {
        Self { mono: MonoNs::now(), wall: WallNs::now() }
    }

    /// `moment` by the wall.
    pub fn wall(self, moment: MonoNs) -> WallNs {
        let ahead = i128::from(moment.0) - i128::from(self.mono.0) + i128::from(self.wall.0);
        WallNs(i64::try_from(ahead).unwrap_or(i64::MAX))
    }
}
