//! Whether the kernel knows its own types. Our programs ask it for the task that runs, which it gives to whom it can tell what a task is;
//! the agent does not read the file by which it tells others, so that one may be hidden.

use super::{Finding, Place};

pub(super) fn check(place: &Place) -> Finding {
    if place.root.join("sys/kernel/btf/vmlinux").exists() {
        return Finding::fits("btf", "the kernel knows its types");
    }
    Finding::unknown(
        "btf",
        "/sys/kernel/btf/vmlinux is not there: it is hidden, which does no harm, or the kernel was built without CONFIG_DEBUG_INFO_BTF \
         and loads no program of ours",
    )
}
