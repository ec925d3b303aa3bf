//! Where the labels of a process come from.
//!
//! In: the facts of a process. Out: the value of `service_name`, and whose it is beside that. One source per file, asked in the order of one
//! list; the first that knows an answer gives it.

use std::sync::Arc;

use crate::model::Comm;

mod cgroup;
mod comm;
mod container;
mod executable;
mod kernel;
mod systemd;

/// Bytes of a label's value at most: what a Pyroscope server takes by default.
const VALUE_BYTES_MAX: usize = 2048;

/// What sources know of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// True for a task without user memory.
    pub(super) kernel_thread: bool,
    /// Contents of `/proc/PID/cgroup`.
    pub(super) cgroup: Option<&'a str>,
    /// Path of the executable.
    pub(super) executable: Option<&'a [u8]>,
    /// Name of the thread, for want of anything better.
    pub(super) comm: Comm,
}

type Source = fn(&Facts<'_>) -> Option<String>;

/// The sources, in order of precedence. The last one always knows an answer.
const SOURCES: [Source; 5] =
    [kernel::service, systemd::service, container::service, executable::service, comm::service];

/// The value of `service_name`: printable, not empty, and not too long.
pub(super) fn service_name(facts: &Facts<'_>) -> Arc<str> {
    let names = SOURCES.iter().filter_map(|source| source(facts));
    names
        .map(|name| printable(&name))
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
        .into()
}

/// The label that names a user; sources give the number, which a name is found for.
pub(super) const USER: &str = "user";

/// Says whose a process is, by name and value.
type Owner = fn(&Facts<'_>) -> Vec<(&'static str, String)>;

/// Who knows more of whom a process belongs to, beside the name of its service.
const OWNERS: [Owner; 2] = [systemd::labels, container::labels];

/// The labels beside `service_name`, as printable and bounded as that.
pub(super) fn owner_labels(facts: &Facts<'_>) -> Vec<(&'static str, Arc<str>)> {
    if facts.kernel_thread {
        return Vec::new();
    }
    let labels = OWNERS.iter().flat_map(|owner| owner(facts));
    labels.map(|(name, value)| (name, printable(&value).into())).collect()
}

/// `value` without control characters, and cut where a server would refuse it.
pub(super) fn printable(value: &str) -> String {
    let mut printable: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    printable.truncate(printable.floor_char_boundary(VALUE_BYTES_MAX));
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroup: &str, executable: &str, expected: &str) {
        let facts = Facts {
            kernel_thread: false,
            cgroup: Some(cgroup),
            executable: (!executable.is_empty()).then_some(executable.as_bytes()),
            comm: Comm::new(b"thread"),
        };
        assert_eq!(&*service_name(&facts), expected);
    }

    #[test]
    fn a_service_comes_first() {
        check("0::/system.slice/nginx.service", "/usr/sbin/nginx", "nginx");
    }

    #[test]
    fn a_container_comes_before_its_executable() {
        check(
            "0::/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope",
            "/usr/sbin/nginx",
            "0123456789ab",
        );
    }

    #[test]
    fn a_session_is_known_by_its_executable() {
        check("0::/user.slice/user-1000.slice/session-3.scope", "/usr/bin/vim.basic", "vim.basic");
    }

    #[test]
    fn a_program_of_a_desktop_is_not_its_user_manager() {
        check(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Maps-77.scope",
            "/usr/bin/gnome-maps",
            "gnome-maps",
        );
    }

    #[test]
    fn the_name_of_a_thread_is_the_last_resort() {
        check("0::/", "", "thread");
    }

    #[test]
    fn a_kernel_thread_is_of_the_kernel_wherever_it_runs() {
        let facts = Facts {
            kernel_thread: true,
            cgroup: Some("0::/system.slice/nginx.service"),
            executable: None,
            comm: Comm::new(b"kworker/0:1"),
        };
        assert_eq!(&*service_name(&facts), "kernel");
    }

    #[test]
    fn a_process_without_any_name_has_one_all_the_same() {
        let facts = Facts { kernel_thread: false, cgroup: None, executable: None, comm: Comm::new(b"") };
        assert_eq!(&*service_name(&facts), "unknown");
    }

    #[test]
    fn a_hostile_name_is_printable_and_bounded() {
        check("0::/", "/tmp/a\nb\u{7f}\u{1b}[31m", "a?b??[31m");
        let long = "ä".repeat(3000);
        check("0::/", &long, &"ä".repeat(1024));
    }
}
