//! Whether its files may be looked at, and from which namespace.

use std::io::ErrorKind;

use super::Subject;
use crate::doctor::machine::Finding;

const NAME: &str = "access";

pub(super) fn check(subject: &Subject) -> Finding {
    for (file, needed) in [("maps", "CAP_SYS_PTRACE (or CAP_PERFMON)"), ("exe", "CAP_SYS_PTRACE")] {
        let read = match file {
            "exe" => std::fs::read_link(subject.path(file)).map(drop),
            _ => std::fs::read(subject.path(file)).map(drop),
        };
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Finding::does_not_fit(
                    NAME,
                    format!("/proc/{}/{file} may not be read", subject.pid),
                    format!(
                        "Ask as root. If root may not either, a security module forbids it; the agent needs {needed}."
                    ),
                );
            }
            Err(error) => return Finding::unknown(NAME, format!("/proc/{}/{file}: {error}", subject.pid)),
        }
    }
    // One number in each namespace that it is in, ours first.
    let numbers = subject.status("NSpid").unwrap_or_default();
    match numbers.split_whitespace().collect::<Vec<_>>().as_slice() {
        [_, .., inner] => Finding::fits(
            NAME,
            format!(
                "may be looked at; in a pid namespace of its own, where it is {inner} (profiles have {})",
                subject.pid
            ),
        ),
        _ => Finding::fits(NAME, "may be looked at"),
    }
}
