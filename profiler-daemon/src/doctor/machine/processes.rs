//! Whether processes of others may be looked at, tried on the first of all.

use std::io;

use super::{Finding, Place};

const NAME: &str = "processes";

pub(super) fn check(place: &Place) -> Finding {
    let first = place.root.join("proc/1");
    let first_mapped = || -> io::Result<()> {
        let mut files = std::fs::read_dir(first.join("map_files"))?;
        // A process without files has nothing that could be refused.
        files.next().map_or(Ok(()), |file| std::fs::File::open(file?.path()).map(drop))
    };
    let tried = [
        ("maps", std::fs::read(first.join("maps")).map(drop), "CAP_SYS_PTRACE", "their code is not known"),
        (
            "exe",
            std::fs::File::open(first.join("exe")).map(drop),
            "CAP_SYS_PTRACE",
            "their programs have no names",
        ),
        (
            "map_files",
            first_mapped(),
            "CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH",
            "files that were deleted have no names",
        ),
    ];
    for (file, tried, capability, lost) in tried {
        match tried {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Finding::does_not_fit(
                    NAME,
                    format!("/proc/1/{file} may not be read"),
                    format!(
                        "Give {capability}, or run this as the user of the service, who has it: without it, of other users' processes {lost}."
                    ),
                );
            }
            Err(error) => {
                return Finding::unknown(
                    NAME,
                    format!("/proc/1/{file}: {error} (is /proc mounted, with hidepid?)"),
                );
            }
        }
    }
    Finding::fits(NAME, "those of others may be looked at")
}
