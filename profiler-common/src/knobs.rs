//! What the daemon tells the kernel side, and what the kernel side counts for it.

/// The one read-only struct the daemon fills before the programs are loaded.
///
/// `magic` is there so that no constant of the program can ever be equal to this value: the compiler merges
/// equal constants, and a map key that shares its bytes with a patched global would be patched too.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// [`SETTINGS_MAGIC`].
    pub magic: u64,
    /// Nanoseconds between two ticks of a processor; never zero.
    pub period_ns: u64,
    /// Unread bytes in the ring at which the reader is woken.
    pub wakeup_bytes: u64,
    /// Unread bytes in the ring from which on samples bring no stacks: those must not cost other samples their place.
    pub stacks_bytes: u64,
    /// One where the kernel has `bpf_loop` (5.17): the verifier then looks at one step of a walk, however deep
    /// stacks are. Zero for programs that call one another, which is all that 5.15 has.
    pub bpf_loop: u64,
    /// Zero to walk by frame pointer alone.
    pub tables: u64,
}
wire!(Settings: 48 bytes, magic @ 0, period_ns @ 8, wakeup_bytes @ 16, stacks_bytes @ 24, bpf_loop @ 32, tables @ 40);

impl Settings {
    /// As words, in the order of the fields: the form in which the loader patches it.
    pub const fn to_words(self) -> [u64; 6] {
        [self.magic, self.period_ns, self.wakeup_bytes, self.stacks_bytes, self.bpf_loop, self.tables]
    }
}

/// What the daemon may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Busy ticks of a processor that one sample stands for; its weight says so. Zero, as before anything was written, is one.
    pub stretch: u64,
}
wire!(Knobs: 8 bytes, stretch @ 0);

impl Default for Knobs {
    fn default() -> Self {
        Self { stretch: 1 }
    }
}

/// "profiler" in ASCII.
pub const SETTINGS_MAGIC: u64 = 0x7265_6c69_666f_7270;

/// What one processor counted since the programs were attached. Monotonic; user space takes differences.
///
/// A tick that never ran a program shows in the time between two that did. What the processor did at that moment nobody knows; the next sample is the best witness there is: a
/// virtual machine's halted processor is woken late and found idle, one that was taken away is found busy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Programs run.
    pub runs: u64,
    /// When a program last ran: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_run: u64,
    /// Samples of the idle task, dropped.
    pub idle: u64,
    /// Ticks that ran no program, next to a sample of the idle task.
    pub skipped_idle: u64,
    /// Ticks that ran no program, between two samples of other tasks.
    pub skipped_busy: u64,
    /// Weight that went into the ring.
    pub sent: u64,
    /// Weight lost because the ring was full.
    pub ring_full: u64,
    /// Weight lost because a per-processor map had no value (cannot happen; counted all the same).
    pub no_scratch: u64,
    /// Samples in the kernel sent without kernel frames, because the kernel's own walk failed.
    pub no_kernel_stack: u64,
    /// One if the last run met the idle task.
    pub was_idle: u64,
    /// Samples that brought their stack along.
    pub stacks: u64,
    /// Samples that did not, because their process had sent many.
    pub stacks_over_rate: u64,
    /// Samples that did not, because the ring was filling.
    pub stacks_no_room: u64,
    /// Busy ticks since the last sample, which the next one stands for too.
    pub pending: u64,
    /// Nanoseconds that the program spent on samples.
    pub spent_ns: u64,
}
wire!(Counters: 120 bytes, runs @ 0, last_run @ 8, idle @ 16, skipped_idle @ 24, skipped_busy @ 32, sent @ 40,
    ring_full @ 48, no_scratch @ 56, no_kernel_stack @ 64,
    was_idle @ 72, stacks @ 80, stacks_over_rate @ 88, stacks_no_room @ 96, pending @ 104,
    spent_ns @ 112);

impl Counters {
    /// Words of a value.
    pub const WORDS: usize = 15;

    /// From words, in the order of the fields: the form in which the loader reads a map's value.
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [
            runs,
            last_run,
            idle,
            skipped_idle,
            skipped_busy,
            sent,
            ring_full,
            no_scratch,
            no_kernel_stack,
            was_idle,
            stacks,
            stacks_over_rate,
            stacks_no_room,
            pending,
            spent_ns,
        ] = words;
        Self {
            runs,
            last_run,
            idle,
            skipped_idle,
            skipped_busy,
            sent,
            ring_full,
            no_scratch,
            no_kernel_stack,
            was_idle,
            stacks,
            stacks_over_rate,
            stacks_no_room,
            pending,
            spent_ns,
        }
    }
}
