//! Every bound that both sides obey, each with the sentence that says why that number.

/// User frames of one sample at most. Deeper stacks end with [`crate::unwind::End::Truncated`] and keep
/// their leaf end. 512 is four times what `perf` keeps by default.
pub const USER_FRAMES_MAX: usize = 512;

/// Kernel frames of one sample at most: the kernel itself stops at `kernel.perf_event_max_stack` = 127.
pub const KERNEL_FRAMES_MAX: usize = 127;

/// Bytes of a task's name as the kernel keeps it (`TASK_COMM_LEN`), zero-padded.
pub const COMM_BYTES: usize = 16;

/// Words of user stack read at once. 1 KiB holds about twenty common frames; a window never crosses a page,
/// because the page above may not be there.
pub const WINDOW_WORDS: usize = 128;

/// Bytes of the sample ring: at 99 Hz a record of 50 frames is about 440 bytes, so 8 MiB hold more than
/// three seconds of 64 saturated processors. A power of two and a multiple of the page.
pub const SAMPLE_RING_BYTES: u32 = 8 << 20;

/// Unread bytes at which the kernel side wakes the reader: an eighth of the ring.
pub const SAMPLE_RING_WAKEUP_BYTES: u64 = (SAMPLE_RING_BYTES / 8) as u64;
