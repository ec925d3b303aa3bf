//! Whether the kernel shows us the addresses of its functions.

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::{Finding, Place, read};

/// Lines that are looked at: all are zero, or next to none is.
const LINES_MAX: usize = 64;

pub(super) fn check(place: &Place) -> Finding {
    let file = match File::open(place.root.join("proc/kallsyms")) {
        Ok(file) => file,
        Err(error) => {
            return Finding::does_not_fit(
                "kallsyms",
                format!("/proc/kallsyms cannot be read: {error}"),
                "Leave ProtectKernelTunables out of the unit, which hides it: without it functions of the kernel have no names.",
            );
        }
    };
    let mut lines = BufReader::new(file).lines().take(LINES_MAX).map_while(Result::ok);
    let shown = |line: String| line.split(' ').next().is_some_and(|at| at.bytes().any(|digit| digit != b'0'));
    if lines.any(shown) {
        return Finding::fits("kallsyms", "addresses are shown");
    }
    let restrict = read(place, "proc/sys/kernel/kptr_restrict").unwrap_or_else(|_| "unknown".to_owned());
    Finding::does_not_fit(
        "kallsyms",
        format!("all addresses are zero (kernel.kptr_restrict is {restrict})"),
        if restrict == "2" {
            "Set kernel.kptr_restrict to 1: at 2 nobody sees addresses, and functions of the kernel have no names."
        } else {
            "Give CAP_SYSLOG (and leave ProtectKernelLogs out of the unit): without it functions of the kernel have no names."
        },
    )
}
