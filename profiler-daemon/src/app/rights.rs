//! Rights that profiling can do without, and is worse for it.
//!
//! In: what this process may. Out: a sentence for each that is missing, once, at the start. Not here: those without which there is no
//! profiling at all; who needs them says so.

use rustix::thread::{CapabilitySet, capabilities};

/// Each with what is missing in its absence.
const WANTED: [(CapabilitySet, &str, &str); 3] = [
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "processes of other users have no files, so no names"),
    (
        CapabilitySet::DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "programs that only their owners may read have no names",
    ),
    (
        CapabilitySet::CHECKPOINT_RESTORE,
        "CAP_CHECKPOINT_RESTORE",
        "programs that were deleted or replaced, or never had a path, have no names",
    ),
];

/// Says what is missing.
pub(super) fn say_what_is_missing() {
    // Where that cannot be asked, nothing is known to be missing.
    let held = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective);
    for line in missing(held) {
        tracing::warn!("{line}");
    }
}

fn missing(held: CapabilitySet) -> Vec<String> {
    // Root without a capability of its own kind mostly has the one that contains it.
    let has = |wanted| held.contains(wanted) || (held.contains(CapabilitySet::SYS_ADMIN) && is_part(wanted));
    let missing = WANTED.iter().filter(|(wanted, ..)| !has(*wanted));
    missing.map(|(_, name, what)| format!("{name} is missing: {what}")).collect()
}

/// True for a capability that was once a part of `CAP_SYS_ADMIN`, which still does for it.
fn is_part(capability: CapabilitySet) -> bool {
    capability == CapabilitySet::CHECKPOINT_RESTORE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(held: CapabilitySet, expected: &[&str]) {
        let lines = missing(held);
        let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn who_may_everything_lacks_nothing() {
        check(CapabilitySet::all(), &[]);
    }

    #[test]
    fn what_is_missing_is_named() {
        check(CapabilitySet::all() - CapabilitySet::SYS_PTRACE, &["CAP_SYS_PTRACE"]);
        let held = CapabilitySet::all() - CapabilitySet::SYS_ADMIN - CapabilitySet::CHECKPOINT_RESTORE;
        check(held, &["CAP_CHECKPOINT_RESTORE"]);
        check(CapabilitySet::empty(), &WANTED.map(|(_, name, _)| name));
    }

    #[test]
    fn the_administrators_capability_does_for_what_was_taken_out_of_it() {
        check(CapabilitySet::SYS_ADMIN, &["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    }
}
