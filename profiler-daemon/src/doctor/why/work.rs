//! Whether it uses any CPU time: what sleeps is not sampled.

use std::time::Duration;

use super::Subject;
use crate::doctor::machine::Finding;

const NAME: &str = "work";

pub(super) fn check(subject: &Subject) -> Finding {
    let Some(before) = cpu(subject) else { return Finding::unknown(NAME, "its CPU time cannot be read") };
    std::thread::sleep(subject.patience);
    let Some(after) = cpu(subject) else { return Finding::unknown(NAME, "it ended just now") };
    let used = after.saturating_sub(before);
    let state = subject.status("State").unwrap_or_default();
    let spent =
        format!("used {used:.2?} of CPU time in {:.1?}, {after:.2?} since it began", subject.patience);
    if !used.is_zero() {
        return Finding::fits(NAME, spent);
    }
    let advice = if state.starts_with(['T', 't']) {
        "Let it go on (SIGCONT, or the debugger that holds it): a stopped process is never sampled."
    } else {
        "Look at a time when it worked: profiles are of CPU time, and who waits for a disk, a network or a lock has none."
    };
    Finding::does_not_fit(NAME, format!("{spent}; state {state}"), advice)
}

/// CPU time of all its threads, ended ones included.
fn cpu(subject: &Subject) -> Option<Duration> {
    // The first number of `schedstat` is of the main thread alone; those of threads are beside it.
    let threads = std::fs::read_dir(subject.path("task")).ok()?;
    let mut sum = Duration::ZERO;
    for thread in threads.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default();
        sum += Duration::from_nanos(ns);
    }
    Some(sum)
}
