//! Whether the kernel shows us the addresses of its functions. The agent has them named by the kernel, whatever it shows; a replay cannot.

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::{Finding, Place, read};

/// Lines that are looked at: all are zero, or next to none is.
const LINES_MAX: usize = 64;

pub(super) fn check(place: &Place) -> Finding {
    let hidden = |what: String| {
        Finding::fits(
            "kallsyms",
            format!("{what}: the kernel is asked for names instead, and a replay has none"),
        )
    };
    let file = match File::open(place.root.join("proc/kallsyms")) {
        Ok(file) => file,
        Err(error) => return hidden(format!("/proc/kallsyms cannot be read: {error}")),
    };
    let mut lines = BufReader::new(file).lines().take(LINES_MAX).map_while(Result::ok);
    let shown = |line: String| line.split(' ').next().is_some_and(|at| at.bytes().any(|digit| digit != b'0'));
    if lines.any(shown) {
        return Finding::fits("kallsyms", "addresses are shown");
    }
    let restrict = read(place, "proc/sys/kernel/kptr_restrict").unwrap_or_else(|_| "unknown".to_owned());
    hidden(format!("all addresses are zero (kernel.kptr_restrict is {restrict})"))
}
