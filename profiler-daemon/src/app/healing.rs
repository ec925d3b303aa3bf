//! When `/proc` is read again, after the kernel has lost records about processes.
//!
//! In: that some were lost, and how long the reading takes, which is done in parts. Out: whether to begin. Where records are lost again
//! and again, on a machine that starts processes faster than we are given time to hear of them, reading all of `/proc` each time
//! would take that time too. Not here: the reading (`processes`).

use std::time::Duration;

use crate::time::MonoNs;

/// After a reading passes so many times what it took before the next one begins: they take half of the reader's time at most.
const REST_TIMES: u32 = 1;

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Healing {
    is_owed: bool,
    took: Duration,
    not_before: MonoNs,
}

impl Healing {
    /// Records were lost.
    pub(super) fn owe(&mut self) {
        self.is_owed = true;
    }

    /// When something is to be read, at the earliest; never, if nothing is. `is_begun` while a reading is under way.
    pub(super) fn due(&self, is_begun: bool) -> MonoNs {
        match (is_begun, self.is_owed) {
            (true, _) => MonoNs(0),
            (false, true) => self.not_before,
            (false, false) => MonoNs(u64::MAX),
        }
    }

    /// Whether a reading begins now.
    pub(super) fn begins(&mut self, now: MonoNs, is_begun: bool) -> bool {
        let begins = !is_begun && self.is_owed && now >= self.not_before;
        if begins {
            *self = Self::default();
        }
        begins
    }

    /// A part of the reading began `began` and took until `now`.
    pub(super) fn spent(&mut self, began: MonoNs, now: MonoNs) {
        self.took += now.since(began);
        self.not_before = now.plus(self.took * REST_TIMES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_is_healed_at_once_and_what_follows_does_not_take_all_our_time() {
        let mut healing = Healing::default();
        assert!(!healing.begins(MonoNs(5), false), "nothing was lost");
        assert_eq!(healing.due(false), MonoNs(u64::MAX));
        healing.owe();
        assert!(healing.begins(MonoNs(5), false));
        healing.spent(MonoNs(5), MonoNs(6));
        healing.owe();
        assert!(!healing.begins(MonoNs(50), true), "one is under way");
        assert_eq!(healing.due(true), MonoNs(0));
        healing.spent(MonoNs(50), MonoNs(51));
        assert_eq!(healing.due(false), MonoNs(53), "both parts are paid for");
        assert!(!healing.begins(MonoNs(52), false));
        assert!(healing.begins(MonoNs(53), false));
        assert!(!healing.begins(MonoNs(1000), false), "nothing was lost since");
    }
}
