//! How fast a backlog may go out.
//!
//! In: how much was sent, and when. Out: the moment before which nothing more should be. Not here: what is sent.
//!
//! A Pyroscope takes 4 MiB of profiles a second and 2 MiB at once from one tenant, by default, and counts them before
//! compression; what comes faster is refused with 429. After an outage an agent has more than that to send.

use std::time::Duration;

use tokio::time::Instant;

/// What a second may carry, bytes before compression: half of what one tenant is allowed by default.
const BYTES_PER_S: u64 = 2 << 20;
/// What may go at once after a pause, bytes before compression: half of that, too.
const BURST_BYTES_MAX: u64 = 1 << 20;

/// A bucket that fills at [`BYTES_PER_S`].
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl Pace {
    /// So many bytes, before compression, were sent now. No more before the moment that is returned, if any.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let took = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / BYTES_PER_S);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + took;
        self.full_at = Some(full_at);
        let burst = Duration::from_nanos(BURST_BYTES_MAX * 1_000_000_000 / BYTES_PER_S);
        full_at.checked_sub(burst).filter(|&due| due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `bytes` so many times, as soon as it may, and checks how long that took.
    #[track_caller]
    fn check(bytes: usize, times: u32, took_ms: u64) {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut now = start;
        for _ in 0..times {
            now = pace.sent(bytes, now).unwrap_or(now);
        }
        assert_eq!(now - start, Duration::from_millis(took_ms));
    }

    #[test]
    fn a_window_of_the_usual_size_is_never_held_up() {
        check(100 << 10, 10, 0);
    }

    #[test]
    fn a_backlog_goes_out_at_half_the_servers_limit() {
        check(1 << 20, 61, 30_000);
    }

    #[test]
    fn a_huge_one_is_waited_for() {
        check(16 << 20, 1, 7_500);
    }

    #[test]
    fn what_was_not_used_does_not_add_up() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.sent(1 << 20, start), None);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(pace.sent(1 << 20, later), None);
        assert_eq!(pace.sent(1 << 20, later), Some(later + Duration::from_millis(500)));
    }
}
