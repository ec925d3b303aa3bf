//! Whether the kernel has what the programs need.

use super::{Finding, Place, read};

/// The first kernel that the programs are made for, and the first that walks stacks at the lower cost (`bpf_loop`).
const FIRST: (u32, u32) = (5, 15);
const FIRST_FAST: (u32, u32) = (5, 17);

pub(super) fn check(place: &Place) -> Finding {
    let Ok(release) = read(place, "proc/sys/kernel/osrelease") else {
        return Finding::unknown("kernel", "its version cannot be read (is /proc mounted?)");
    };
    match version(&release) {
        None => Finding::unknown("kernel", format!("{release} is no version that is understood")),
        Some(version) if version < FIRST => Finding::does_not_fit(
            "kernel",
            format!("Linux {release}"),
            "Boot Linux 5.15 or newer: what came before lacks what the programs need.",
        ),
        Some(version) if version < FIRST_FAST => {
            Finding::fits("kernel", format!("Linux {release}; from 5.17 on programs are loaded faster"))
        }
        Some(_) => Finding::fits("kernel", format!("Linux {release}")),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
