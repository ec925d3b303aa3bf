//! Whether perf events are open to who has CAP_PERFMON, as they are on the kernel that distributions start from.

use super::{Finding, Place, read};

/// Up to here the kernel asks for CAP_PERFMON. Above, those of Debian (default 3) and Ubuntu (4) ask for CAP_SYS_ADMIN.
const KNOWN_MAX: i32 = 2;

pub(super) fn check(place: &Place) -> Finding {
    let level =
        read(place, "proc/sys/kernel/perf_event_paranoid").ok().and_then(|text| text.parse::<i32>().ok());
    match level {
        None => Finding::unknown("perf", "kernel.perf_event_paranoid cannot be read (is /proc mounted?)"),
        Some(level) if level > KNOWN_MAX => Finding::does_not_fit(
            "perf",
            format!(
                "kernel.perf_event_paranoid is {level}: perf events only for CAP_SYS_ADMIN, which the service lacks"
            ),
            "Set kernel.perf_event_paranoid=2, as kernels come, in /etc/sysctl.d and by sysctl.",
        ),
        Some(level) => Finding::fits("perf", format!("kernel.perf_event_paranoid is {level}")),
    }
}
