//! Whether there is such a process, and one with memory of its own.

use super::Subject;
use crate::doctor::machine::Finding;

const NAME: &str = "process";

/// The finding, and whether there is more to ask.
pub(super) fn check(subject: &Subject) -> (Finding, bool) {
    let pid = subject.pid;
    let Some(name) = subject.status("Name") else {
        let advice = "Ask for one that `ps -e` lists; what it did until its end is in the profiles of that time. If it is there for others, \
                      /proc is mounted with hidepid: ask as root.";
        return (Finding::does_not_fit(NAME, format!("there is no process {pid}"), advice), false);
    };
    if subject.status("Tgid").is_some_and(|leader| leader != pid.to_string()) {
        let leader = subject.status("Tgid").unwrap_or_default();
        let advice = format!("Ask for {leader}: profiles are of processes, with all their threads.");
        return (
            Finding::does_not_fit(NAME, format!("{pid} ({name}) is a thread of {leader}"), advice),
            false,
        );
    }
    if subject.status("State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        let advice = "Its parent has to wait for it: it has ended, and uses no CPU time any more.";
        return (Finding::does_not_fit(NAME, format!("{pid} ({name}) is a zombie"), advice), false);
    }
    // Only what has memory of its own has a size.
    if subject.status("VmSize").is_none() {
        let found = format!(
            "{pid} ({name}) is a thread of the kernel: it is in the service `kernel`, by its functions"
        );
        return (Finding::fits(NAME, found), false);
    }
    (Finding::fits(NAME, format!("{pid} is {name}")), true)
}
