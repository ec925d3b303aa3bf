//! Whether processes of others may be looked at, tried on some of those that run.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::{Finding, Place};

const NAME: &str = "processes";

/// Processes that are tried. Of a few, one or the other may be out of anybody's reach, by a security module.
const TRIED_MAX: usize = 64;

/// What is tried, by whom it may be done, and what is lost without.
const TRIALS: [(&str, Trial, &str, &str); 3] = [
    ("maps", |process| std::fs::read(process.join("maps")).map(drop), "CAP_SYS_PTRACE", "code is not known"),
    (
        "exe",
        |process| std::fs::read_link(process.join("exe")).map(drop),
        "CAP_SYS_PTRACE",
        "programs have no names",
    ),
    (
        "map_files",
        first_mapped,
        "CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH",
        "files that were deleted have no names",
    ),
];

type Trial = fn(&Path) -> io::Result<()>;

/// Finds the first file that is mapped, by a handle that only names it: who serves its file system may not answer.
fn first_mapped(process: &Path) -> io::Result<()> {
    let mut files = std::fs::read_dir(process.join("map_files"))?;
    let Some(file) = files.next() else { return Ok(()) };
    open(file?.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}

pub(super) fn check(place: &Place) -> Finding {
    let entries = std::fs::read_dir(place.root.join("proc")).into_iter().flatten().flatten();
    let is_process = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let processes = entries.filter(|entry| is_process(&entry.file_name())).map(|entry| entry.path());
    let processes: Vec<_> = processes.filter(|process| has_memory(process)).take(TRIED_MAX).collect();
    if processes.is_empty() {
        return Finding::unknown(NAME, "none is seen (is /proc mounted?)");
    }
    for (file, trial, capability, lost) in TRIALS {
        if let Some((refused, tried)) = is_refused(processes.iter().map(|process| trial(process))) {
            return Finding::does_not_fit(
                NAME,
                format!("/proc/PID/{file} of {refused} of {tried} may not be read"),
                format!(
                    "Give {capability}, or run this as the user of the service, who has it: without it, of other users' processes {lost}."
                ),
            );
        }
    }
    Finding::fits(NAME, format!("{} were tried, and may be looked at", processes.len()))
}

/// False for a thread of the kernel, of which there are a hundred before the first process and which has none of what is tried; and for
/// what has ended. Everybody may read with what a process was started.
fn has_memory(process: &Path) -> bool {
    std::fs::read(process.join("cmdline")).is_ok_and(|arguments| !arguments.is_empty())
}

/// How many of the tries were refused, and how many say something, if that is most of them. One that has ended says nothing.
pub(super) fn is_refused(tried: impl Iterator<Item = io::Result<()>>) -> Option<(usize, usize)> {
    let is_refusal = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let (mut refused, mut granted) = (0, 0);
    for tried in tried {
        match tried {
            Ok(()) => granted += 1,
            Err(error) => refused += usize::from(is_refusal(&error)),
        }
    }
    (refused > granted).then_some((refused, refused + granted))
}
