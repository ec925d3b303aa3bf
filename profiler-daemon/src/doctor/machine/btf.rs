//! Whether the kernel describes its types. Others need that; for us it is good to know only, since nothing of ours is made to fit a
//! kernel's types.

use super::{Finding, Place};

pub(super) fn check(place: &Place) -> Finding {
    let there = place.root.join("sys/kernel/btf/vmlinux").exists();
    Finding::fits("btf", if there { "there, and not needed" } else { "not there, and not needed" })
}
