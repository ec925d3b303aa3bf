//! Whether as many files may be open as are held for names.

use super::{Finding, Place, read};

/// What is held at most: files of code, those with the names of code made at run time, and some for each processor.
const NEEDED: u64 = 6 << 10;

pub(super) fn check(place: &Place) -> Finding {
    let Ok(limits) = read(place, "proc/self/limits") else {
        return Finding::unknown("files", "/proc/self/limits cannot be read");
    };
    // Three words, then the limit that is, then that to which it is raised.
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("unknown");
    if hard.parse::<u64>().is_ok_and(|files| files < NEEDED) {
        return Finding::does_not_fit(
            "files",
            format!("at most {hard} may be open"),
            format!("Set LimitNOFILE to {NEEDED} or more in the unit: files beyond it have no names."),
        );
    }
    Finding::fits("files", format!("{hard} may be open"))
}
