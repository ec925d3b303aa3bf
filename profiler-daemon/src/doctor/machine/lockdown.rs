//! Whether the kernel is locked against reading its memory, which eBPF programs do.

use super::{Finding, Place, read};

pub(super) fn check(place: &Place) -> Finding {
    // The file marks the mode in force: `none [integrity] confidentiality`. Kernels without the feature have no file.
    let modes = read(place, "sys/kernel/security/lockdown").unwrap_or_default();
    let mode =
        modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(mode, _)| mode);
    if mode == "confidentiality" {
        return Finding::does_not_fit(
            "lockdown",
            "confidentiality",
            "Boot with lockdown=integrity or none: in this mode no eBPF program may read memory, whoever loads it.",
        );
    }
    Finding::fits("lockdown", mode)
}
