//! Whether this machine has room for what we may have in memory.

use super::{Finding, Place, read};

/// Of a machine's memory, a profiler is to have no more than one part in so many, at its worst.
const PARTS: u64 = 2;

pub(super) fn check(place: &Place) -> Finding {
    let text = read(place, "proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let Some(total) = kib.map(|kib| kib << 10) else {
        return Finding::unknown(
            "memory",
            "/proc/meminfo does not say how much there is (is /proc mounted?)",
        );
    };
    let found = format!("at most {} MiB of {} MiB", place.memory_bytes_max >> 20, total >> 20);
    if place.memory_bytes_max > total / PARTS {
        let most = (total / PARTS).max(place.memory_bytes_least).div_ceil(1 << 20);
        let advice =
            format!("Set memory_max to {most} MiB; `config show` lists what takes it, at its worst.");
        return Finding::does_not_fit("memory", found, advice);
    }
    Finding::fits("memory", found)
}
