//! Whether processes of others may be looked at, tried on some of those that run.

use std::io;
use std::path::Path;

use super::{Finding, Place};

const NAME: &str = "processes";

/// Processes that are tried. Of a few, one or the other may be out of anybody's reach, by a security module.
const TRIED_MAX: usize = 64;

/// What is tried, by whom it may be done, and what is lost without.
const TRIALS: [(&str, Trial, &str, &str); 3] = [
    ("maps", |process| std::fs::read(process.join("maps")).map(drop), "CAP_SYS_PTRACE", "code is not known"),
    (
        "exe",
        |process| std::fs::File::open(process.join("exe")).map(drop),
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

/// Opens the first file that is mapped.
fn first_mapped(process: &Path) -> io::Result<()> {
    let mut files = std::fs::read_dir(process.join("map_files"))?;
    files.next().map_or(Ok(()), |file| std::fs::File::open(file?.path()).map(drop))
}

pub(super) fn check(place: &Place) -> Finding {
    let entries = std::fs::read_dir(place.root.join("proc")).into_iter().flatten().flatten();
    let is_process = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let processes = entries.filter(|entry| is_process(&entry.file_name())).map(|entry| entry.path());
    let processes: Vec<_> = processes.take(TRIED_MAX).collect();
    if processes.is_empty() {
        return Finding::unknown(NAME, "none is seen (is /proc mounted?)");
    }
    for (file, trial, capability, lost) in TRIALS {
        // One that has ended, or is the kernel's and has no such file, says nothing.
        let refused = processes.iter().map(|process| trial(process)).filter(|tried| {
            tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        });
        let refused = refused.count();
        if refused * 2 > processes.len() {
            return Finding::does_not_fit(
                NAME,
                format!("/proc/PID/{file} of {refused} of {} may not be read", processes.len()),
                format!(
                    "Give {capability}, or run this as the user of the service, who has it: without it, of other users' processes {lost}."
                ),
            );
        }
    }
    Finding::fits(NAME, format!("{} were tried, and may be looked at", processes.len()))
}
