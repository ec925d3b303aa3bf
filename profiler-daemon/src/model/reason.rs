//! Why something cannot be known, or was lost.

use std::fmt;

/// A reason is an answer, not an error: as a frame it is weighed and drawn like any other, as a loss it is
/// counted under `profiler_samples_lost_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    // Frames that are missing.
    /// No mapping of the process covers the address.
    NoMapping,
    /// The address lies in memory that no file backs (JIT-compiled code, mostly).
    AnonymousMapping,
    /// Nothing is known of the process: it was gone before anything could be read.
    UnknownProcess,
    /// The walk met a frame pointer that leads nowhere: code that has none called us, and there was no unwind table for it, or
    /// not yet.
    NoFramePointer,
    /// The stack could not be read.
    StackUnreadable,
    /// The stack is deeper than the walk goes.
    StackTooDeep,
    /// The code says how to go on in a way that a walk cannot follow.
    NoUnwindRule,
    // Samples that are lost.
    /// The sample ring was full.
    RingFull,
    /// The kernel or the hypervisor skipped the tick.
    TickSkipped,
    /// The kernel side had no scratch memory.
    NoScratch,
    /// A record of the ring made no sense.
    Malformed,
    /// A queue inside the daemon was full.
    QueueFull,
    /// The payload waited in vain and was dropped as the oldest.
    SpoolFull,
    /// The file that kept it while it waited is damaged or gone.
    SpoolTorn,
    /// The server refused the payload for good.
    Refused,
    /// It waited for longer than the server accepts.
    TooOld,
    /// Nobody can say whether the server has it, and it was asked to be sent at most once.
    Unknown,
    /// It could not be sent before the daemon had to stop.
    Stopped,
}

impl Reason {
    /// Every reason for which weight is lost; the others stand in its place as frames.
    pub const LOSSES: [Self; 11] = [
        Self::RingFull,
        Self::TickSkipped,
        Self::NoScratch,
        Self::Malformed,
        Self::QueueFull,
        Self::SpoolFull,
        Self::SpoolTorn,
        Self::Refused,
        Self::TooOld,
        Self::Unknown,
        Self::Stopped,
    ];

    /// The name in metrics, and in brackets in a flame graph.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMapping => "no mapping",
            Self::AnonymousMapping => "anonymous code",
            Self::UnknownProcess => "process unknown",
            Self::NoFramePointer => "no frame pointer",
            Self::StackUnreadable => "stack unreadable",
            Self::StackTooDeep => "stack too deep",
            Self::NoUnwindRule => "no unwind rule",
            Self::RingFull => "ring full",
            Self::TickSkipped => "tick skipped",
            Self::NoScratch => "no scratch memory",
            Self::Malformed => "malformed record",
            Self::QueueFull => "queue full",
            Self::SpoolFull => "spool full",
            Self::SpoolTorn => "spool torn",
            Self::Refused => "refused by server",
            Self::TooOld => "too old for server",
            Self::Unknown => "unknown if delivered",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
