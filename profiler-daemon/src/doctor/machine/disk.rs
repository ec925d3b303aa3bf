//! Whether what waits to be pushed can be kept over a restart.

use rustix::fs::{Access, access, statvfs};

use super::{Finding, Place};

pub(super) fn check(place: &Place) -> Finding {
    let Some(folder) = &place.data_dir else {
        return Finding::fits(
            "disk",
            "none is used: what waits to be pushed is in memory only (data_dir is not set)",
        );
    };
    let shown = folder.display();
    let found = match statvfs(folder) {
        Ok(found) => found,
        Err(error) => {
            return Finding::does_not_fit(
                "disk",
                format!("{shown}: {error}"),
                "Make the folder, or name another as data_dir: without it a restart loses what waits.",
            );
        }
    };
    if let Err(error) = access(folder, Access::WRITE_OK) {
        return Finding::does_not_fit(
            "disk",
            format!("{shown} cannot be written: {error}"),
            "Give the folder to the user that the daemon runs as, or run this check as that user.",
        );
    }
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let (free_mib, min_mib) = (free >> 20, place.free_bytes_min >> 20);
    if free < place.free_bytes_min {
        return Finding::does_not_fit(
            "disk",
            format!("{free_mib} MiB are free in {shown}, and {min_mib} MiB are left to others"),
            "Free some space, or lower spool_free_bytes_min: what waits to be pushed is kept in memory until then.",
        );
    }
    Finding::fits("disk", format!("{free_mib} MiB are free in {shown}"))
}
