//! Every bound that both sides obey, each with the sentence that says why that number.

/// User frames of one sample at most. Deeper stacks end with [`crate::unwind::End::Truncated`] and keep
/// their leaf end. 512 is four times what `perf` keeps by default.
pub const USER_FRAMES_MAX: usize = 512;

/// Frames that one program walks where the kernel has no `bpf_loop`, before it calls the next: a chain has 33 programs at most,
/// and with 16 frames each those are enough for all.
pub const FRAMES_PER_PROGRAM: usize = 16;

/// Frames that are walked each time `bpf_loop` calls: so many share the cost of a call. A verifier looks at each call of the step, and once
/// at the step itself.
pub const FRAMES_PER_TURN: usize = 16;

/// Kernel frames of one sample at most: the kernel itself stops at `kernel.perf_event_max_stack` = 127.
pub const KERNEL_FRAMES_MAX: usize = 127;

/// Bytes of a task's name as the kernel keeps it (`TASK_COMM_LEN`), zero-padded.
pub const COMM_BYTES: usize = 16;

/// Words of user stack that a walk reads at first. 1 KiB holds about twenty common frames: all, of many stacks.
pub const WINDOW_FIRST_WORDS: usize = 128;

/// Words of user stack read at once from then on, 2 KiB. Each read costs as much as copying four where caches are warm; at 99 Hz stack
/// and window are in none, and much of a whole page is copied for nothing: a walk by tables then takes a tenth longer. A window never
/// crosses a page, because the page above may not be there.
pub const WINDOW_WORDS: usize = 256;

/// Rows that a processor remembers from one walk to the next: what some twenty stacks are made of, in two pages.
pub const RECENT_ROWS: usize = 512;

/// Rows that a processor remembers in the order of stacks: 64 KiB of stack, which is some ten deep ones, in four pages.
pub const TRAIL_ROWS: usize = 1024;

/// Bytes of the sample ring at most: four seconds of 512 saturated processors at 99 Hz with 330-byte records.
/// The daemon asks for less on smaller machines. A power of two and a multiple of the page.
pub const SAMPLE_RING_BYTES_MAX: u32 = 64 << 20;

/// Bytes of the sample ring at least: half of it holds three of the longest records, those with a stack.
pub const SAMPLE_RING_BYTES_MIN: u32 = 512 << 10;

/// Busy ticks that one sample stands for at most: at the usual 19 Hz a processor then has a sample in three seconds, below which a
/// profile of a minute says nothing.
pub const STRETCH_MAX: u64 = 64;

/// Slabs of unwind tables at most: 64 MiB. Tables of all that runs on a large machine are some 40 MiB.
pub const SLABS_MAX: usize = 256;

/// Lines of four processes whose mappings the kernel side knows; what finds no room on its two lines is walked by frame pointer. 512 KiB:
/// with 10,000 processes, more than a busy machine runs, one in several thousand finds none.
pub const PROCESS_LINES: u32 = 1 << 13;

/// Pages of user stack that a sample brings along at most, the first of them from the stack pointer on: 60 to 64 KiB. At their starts
/// half the stacks of Node.js and of chromium are deeper than 12 KiB, and none of them than 56. Each page is copied in less than a tenth of
/// what a walk by tables costs, and where a stack ends earlier no page is.
pub const STACK_PAGES_MAX: usize = 16;

/// Pages of these that may be missing one after the other before the next that is there: a frame that is larger than that and was not touched yet
/// ends the stack. Each costs a read that fails.
pub const STACK_PAGES_MISSING_MAX: usize = 2;

/// Words of those pages.
pub const STACK_WORDS_MAX: usize = STACK_PAGES_MAX * 512;

/// Nanoseconds between two samples with a stack of one process on average, at most: code without a table that will ever come
/// must not cost a copied stack with every sample.
pub const STACK_INTERVAL_NS: u64 = 50_000_000;

/// Nanoseconds that a process may be ahead of [`STACK_INTERVAL_NS`]: 200 stacks at once, a second of two processors at 99 Hz, which is
/// what the table of a large library takes.
pub const STACK_AHEAD_NS: u64 = 200 * STACK_INTERVAL_NS;

/// Processes at most that are remembered as having sent stacks; the one that did so least recently is forgotten.
pub const STACK_PROCESSES_MAX: u32 = 1 << 12;

/// Nanoseconds between two samples of a processor that wake the reader because they want tables, at least: new programs start
/// by the hundred, and a table takes longer than that to build.
pub const WANT_INTERVAL_NS: u64 = 20_000_000;
