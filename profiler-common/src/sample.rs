//! One sample as it lies in the ring.

use crate::limits::COMM_BYTES;

/// What opens every record of the ring; `kernel_frames` kernel addresses follow, then `user_frames` user
/// ones, each a `u64`, leaf first; and then, with [`HAS_STACK`], the stack itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleHeader {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// The process (thread group).
    pub tgid: u32,
    /// The thread.
    pub tid: u32,
    /// Name of the thread, zero-padded; any bytes.
    pub comm: [u8; COMM_BYTES],
    /// The processor.
    pub cpu: u16,
    /// Kernel addresses that follow.
    pub kernel_frames: u16,
    /// User addresses that follow the kernel ones.
    pub user_frames: u16,
    /// How the user walk ended: an [`crate::unwind::End`] as a number, and perhaps [`WANTS_TABLES`] and [`HAS_STACK`].
    pub ended: u16,
    /// Busy ticks of this processor that the sample stands for: itself, and those before it that were left out.
    pub weight: u64,
}
wire!(SampleHeader: 48 bytes, time @ 0, tgid @ 8, tid @ 12, comm @ 16, cpu @ 32,
    kernel_frames @ 34, user_frames @ 36, ended @ 38, weight @ 40);

/// The walk would have had use for tables that are not there and were not asked for. Beside [`SampleHeader::ended`].
pub const WANTS_TABLES: u16 = 1 << 15;

/// The walk did without something that is on its way, so the rest of the record is what it could have used: the registers it
/// began with ([`STACK_REGS_WORDS`] words: ip, sp, fp, and those of [`crate::unwind::walk::Links`]), then the words of the user stack from sp, rounded down to a word, upwards, as
/// many as could be read. Beside [`SampleHeader::ended`].
pub const HAS_STACK: u16 = 1 << 14;

/// Words of registers before the words of a stack.
pub const STACK_REGS_WORDS: usize = 5;
