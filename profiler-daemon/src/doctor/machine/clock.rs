//! Whether the clock on the wall can be right: servers refuse profiles of the future and of long ago.

use super::{Finding, Place};
use crate::time::WallNs;

/// Before this moment (the first of 2025) there was no such daemon, nanoseconds since the epoch.
const BEFORE_US: WallNs = WallNs(1_735_689_600_000_000_000);

pub(super) fn check(_: &Place) -> Finding {
    of(WallNs::now())
}

pub(super) fn of(now: WallNs) -> Finding {
    if now < BEFORE_US {
        return Finding::does_not_fit(
            "clock",
            "it is set to a time before this program was written",
            "Set the clock, and have it kept (timedatectl set-ntp true): servers refuse profiles that are too old.",
        );
    }
    Finding::fits("clock", "plausible")
}
