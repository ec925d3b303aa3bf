//! The `Retry-After` header: seconds, or a date.

#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use profiler_daemon::deliver::keep_alive::retry_after;

/// The date of the corpus: 6 November 1994, 08:49:37.
const NOW: Duration = Duration::from_secs(784_111_777);

fuzz_target!(|bytes: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + NOW;
    let Some(wait) = retry_after(bytes, now) else { return };
    assert!(wait <= Duration::from_hours(24));
    // Later, a date is nearer, and a number of seconds is as far.
    let later = retry_after(bytes, now + Duration::from_secs(1));
    assert!(later.is_some_and(|later| later <= wait), "{wait:?}, then {later:?}");
    // No clock is one at which that panics.
    assert!(retry_after(bytes, SystemTime::UNIX_EPOCH).is_some());
});
