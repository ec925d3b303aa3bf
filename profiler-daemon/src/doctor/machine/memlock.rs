//! Whether maps fit into locked memory, where the kernel counts them so (before 5.11).

use super::{Finding, Place, read};

/// What the maps take at most, bytes: ring, tables, scratch.
const NEEDED: u64 = 128 << 20;

pub(super) fn check(place: &Place) -> Finding {
    let Ok(limits) = read(place, "proc/self/limits") else {
        return Finding::unknown("memlock", "/proc/self/limits cannot be read");
    };
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("unknown");
    let counted = read(place, "proc/sys/kernel/osrelease").is_ok_and(|release| {
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 11)
    });
    if counted && hard.parse::<u64>().is_ok_and(|bytes| bytes < NEEDED) {
        return Finding::does_not_fit(
            "memlock",
            format!("at most {hard} bytes may be locked"),
            "Set LimitMEMLOCK=infinity in the unit: this kernel counts eBPF maps as locked memory.",
        );
    }
    let why = if counted { "" } else { "; this kernel does not count maps there" };
    Finding::fits("memlock", format!("{hard}{why}"))
}
