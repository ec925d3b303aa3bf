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
    /// Unread bytes in the ring at which the reader is woken.
    pub wakeup_bytes: u64,
    /// One where the kernel has `bpf_loop` (5.17): the verifier then looks at the walk's step once instead of
    /// at every frame, 3 ms instead of 200. Zero for the bounded loop, which is all that 5.15 has.
    pub bpf_loop: u64,
}
wire!(Settings: 24 bytes, magic @ 0, wakeup_bytes @ 8, bpf_loop @ 16);

impl Settings {
    /// As words, in the order of the fields: the form in which the loader patches it.
    pub const fn to_words(self) -> [u64; 3] {
        [self.magic, self.wakeup_bytes, self.bpf_loop]
    }
}

/// "profiler" in ASCII.
pub const SETTINGS_MAGIC: u64 = 0x7265_6c69_666f_7270;

/// What one processor counted since the programs were attached. Monotonic; user space takes differences.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Programs run.
    pub runs: u64,
    /// The event's own counter (`bpf_perf_prog_read_value`), nanoseconds for a clock. Divided by the period it
    /// says how many ticks there were: more than `runs` means that the kernel or the hypervisor skipped some.
    pub event_count: u64,
    /// Samples of the idle task, dropped.
    pub idle: u64,
    /// Samples that went into the ring.
    pub sent: u64,
    /// Samples lost because the ring was full.
    pub ring_full: u64,
    /// Samples lost because a per-processor map had no value (cannot happen; counted all the same).
    pub no_scratch: u64,
    /// Samples sent without user frames, because the user registers could not be read.
    pub no_registers: u64,
    /// Samples sent without kernel frames, because the kernel's own walk failed.
    pub no_kernel_stack: u64,
}
wire!(Counters: 64 bytes, runs @ 0, event_count @ 8, idle @ 16, sent @ 24, ring_full @ 32,
    no_scratch @ 40, no_registers @ 48, no_kernel_stack @ 56);
