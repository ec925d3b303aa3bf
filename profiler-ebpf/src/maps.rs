//! Every map: what is in it, who writes, who reads.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use profiler_common::knobs::Counters;
use profiler_common::limits::SAMPLE_RING_BYTES_MAX;
use profiler_common::sample::SampleHeader;
use profiler_common::unwind::frame_pointer::Walk;

/// Samples. Written by every sampler, read by the daemon's reader thread. The daemon sets the size.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLE_RING_BYTES_MAX, 0);

/// One value per processor: what was seen and what was not delivered. Written by the samplers, read by the
/// daemon once per window.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// One value per processor: where a sample is put together. Only the program that runs there touches it.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Words of [`Scratch::frames`]: kernel and user frames together, rounded up to a power of two, so that an index
/// can be masked for the verifier.
pub const FRAME_WORDS: usize = 1024;
/// Keeps an index inside [`Scratch::frames`].
pub const FRAME_MASK: usize = FRAME_WORDS - 1;

/// A record under construction (`header` and `frames` lie as they will in the ring), and the walk's state.
#[repr(C)]
pub struct Scratch {
    pub header: SampleHeader,
    pub frames: [u64; FRAME_WORDS],
    pub walk: Walk,
    /// Words of `frames` in use.
    pub words: u64,
    /// How the walk ended: an `End` as a number.
    pub ended: u64,
}
