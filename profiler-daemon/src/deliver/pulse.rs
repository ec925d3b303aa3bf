//! Whether the uploader still does what it is there for, for whoever watches over the daemon.
//!
//! In: what the pusher is about to do, and until when that may take. Out: how long it is overdue. A server that is away is
//! no fault of the uploader's: a failed push is settled like any other, and a pause is a pause. Not here: what to do about
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::MonoNs;

/// Nothing waits, so nothing is due.
const NEVER: u64 = u64::MAX;

/// The moment by which the pusher will have moved on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(NEVER)))
    }
}

impl Pulse {
    /// For how long the pusher should have moved on; zero while all is well.
    pub fn overdue(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            NEVER => Duration::ZERO,
            due => MonoNs::now().since(MonoNs(due)),
        }
    }

    /// The pusher does something that ends within `time`.
    pub(super) fn busy(&self, time: Duration) {
        self.0.store(MonoNs::now().plus(time).0, Ordering::Relaxed);
    }

    /// The pusher has nothing to do.
    pub(super) fn rest(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }

    /// There is something to do, from now on. To be called before it can be found.
    pub(super) fn asked(&self) {
        // What is busy will come to it.
        let _ = self.0.compare_exchange(NEVER, MonoNs::now().0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(steps: &[fn(&Pulse)], overdue: bool) {
        let pulse = Pulse::default();
        for step in steps {
            step(&pulse);
        }
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(!pulse.overdue().is_zero(), overdue);
    }

    #[test]
    fn who_has_nothing_to_do_is_never_overdue() {
        check(&[], false);
        check(&[Pulse::asked, Pulse::rest], false);
    }

    #[test]
    fn who_does_not_begin_is_overdue() {
        check(&[Pulse::asked], true);
    }

    #[test]
    fn who_is_busy_has_time_however_much_comes() {
        check(&[|pulse| pulse.busy(Duration::from_mins(1)), Pulse::asked], false);
        check(&[|pulse| pulse.busy(Duration::ZERO)], true);
    }
}
