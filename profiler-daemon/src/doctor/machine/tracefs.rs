//! Whether trace events can be read. Others need that; we sample by a clock and hear of processes from perf, so that it is good to
//! know only.

use super::{Finding, Place};

pub(super) fn check(place: &Place) -> Finding {
    let there = ["sys/kernel/tracing/events", "sys/kernel/debug/tracing/events"]
        .iter()
        .any(|path| std::fs::read_dir(place.root.join(path)).is_ok());
    Finding::fits("tracefs", if there { "there, and not needed" } else { "not there for us, and not needed" })
}
