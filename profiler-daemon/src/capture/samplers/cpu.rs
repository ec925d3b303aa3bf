//! Ticks of a processor's clock, idle or not: a sample of the idle task is dropped by the program, so that ticks
//! can be compared with programs run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::capture::sys::{self, Attributes};

/// The program's name in the object.
pub(in crate::capture) const PROGRAM: &str = "cpu";

const TYPE_SOFTWARE: u32 = 1;
const SOFTWARE_CPU_CLOCK: u64 = 0;
const DISABLED: u64 = 1;

/// Starts the clock of processor `cpu`, `period_ns` between two ticks, `program` at each. Closing the event stops it.
///
/// A fixed period instead of a frequency: the kernel has nothing to adjust at each tick.
pub(in crate::capture) fn attach(cpu: u32, period_ns: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: TYPE_SOFTWARE,
        config: SOFTWARE_CPU_CLOCK,
        sample_period: period_ns,
        flags: DISABLED,
        ..Attributes::default()
    };
    let event = sys::perf_event_open(attributes, cpu)?;
    sys::set_program(event.as_fd(), program)?;
    sys::enable(event.as_fd())?;
    Ok(event)
}
