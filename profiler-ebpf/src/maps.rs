//! Every map: what is in it, who writes, who reads.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use profiler_common::kernel_names::KernelNames;
use profiler_common::knobs::{Counters, Knobs};
use profiler_common::limits::{
    PROCESS_LINES, SAMPLE_RING_BYTES_MAX, SLABS_MAX, STACK_PROCESSES_MAX, STACK_WORDS_MAX,
};
use profiler_common::sample::{STACK_REGS_WORDS, SampleHeader};
use profiler_common::unwind::Regs;
use profiler_common::unwind::processes::Line;
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::Slab;
use profiler_common::unwind::walk::{Links, Walk};

/// Samples. Written by every sampler, read by the daemon's reader thread. The daemon sets the size.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLE_RING_BYTES_MAX, 0);

/// One value per processor: what was seen and what was not delivered. Written by the samplers, read by the
/// daemon once per window.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What may change while the programs run. Written by the daemon, read by the samplers.
#[map]
pub static KNOBS: aya_ebpf::maps::Array<Knobs> = aya_ebpf::maps::Array::with_max_entries(1, 0);

/// Unwind tables, and lists of mappings. Made and written by the daemon, slab by slab, as they are needed.
#[btf_map]
pub static SLABS: ArrayOfMaps<Array<Slab, 1, { BPF_F_MMAPABLE as usize }>, SLABS_MAX> = ArrayOfMaps::new();

/// Where the list of each process's mappings is. Written by the daemon, in the map's own memory.
#[btf_map]
pub static PROCESSES: Array<Line, { PROCESS_LINES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One value per processor: rows that its walks found lately. Written and read by the walk.
#[map]
pub static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(1, 0);

/// By process: the moment to which its samples with stacks have used up its share. Written and read by the samplers.
#[map]
pub static STACKS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(STACK_PROCESSES_MAX, 0);

/// A question for names, and its answer. Written by the daemon and by the program that it runs for that.
#[map]
pub static NAMES: aya_ebpf::maps::Array<KernelNames> = aya_ebpf::maps::Array::with_max_entries(1, 0);

/// The programs that walk on where `bpf_loop` is missing, by [`CHAIN_CPU`] and its like. Written by the daemon.
#[map]
pub static CHAIN: ProgramArray = ProgramArray::with_max_entries(2, 0);
/// `cpu_on` in [`CHAIN`].
pub const CHAIN_CPU: u32 = 0;
/// `bench_walk_on` in [`CHAIN`].
pub const CHAIN_BENCH: u32 = 1;

/// One value per processor: where a sample is put together. Only the program that runs there touches it.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Words of [`Scratch::frames`]: kernel and user frames together, rounded up to a power of two, so that an index
/// can be masked for the verifier.
pub const FRAME_WORDS: usize = 1024;
/// Keeps an index inside [`Scratch::frames`].
pub const FRAME_MASK: usize = FRAME_WORDS - 1;

/// The walk's state, and a record under construction (`header` and `frames` lie as they will in the ring). What every sample
/// touches lies together: at 99 Hz each page of it is one that the processor has to look for again.
#[repr(C)]
pub struct Scratch {
    /// Its window comes first, its state last.
    pub walk: Walk,
    /// The registers the walk began with.
    pub begun: Regs,
    pub links: Links,
    /// Whose they are: a number of [`crate::regs`].
    pub whose: u64,
    /// Words of `frames` in use.
    pub words: u64,
    /// How the walk ended: an `End` as a number.
    pub ended: u64,
    /// When a sample last woke the reader because it wants tables.
    pub wanted: u64,
    pub header: SampleHeader,
    pub frames: [u64; FRAME_WORDS],
}

/// One value for each processor, by its number: where a record with a stack is put together, which is more than a value of
/// [`SCRATCH`] may have (32 KiB). Only the program that runs there touches it. The daemon sets how many there are.
#[map]
pub static ROOMS: aya_ebpf::maps::Array<Room> = aya_ebpf::maps::Array::with_max_entries(1, 0);

/// A record under construction.
#[repr(C)]
pub struct Room {
    pub header: SampleHeader,
    /// Room for a stack behind the frames, which may be as many as they are.
    pub words: [u64; FRAME_WORDS + STACK_REGS_WORDS + STACK_WORDS_MAX],
}
