//! The kernel's own threads: one series for all of them.

use super::Facts;

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    facts.kernel_thread.then(|| "kernel".to_string())
}
