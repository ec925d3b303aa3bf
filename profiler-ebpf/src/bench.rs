//! What the benchmark runs beside the sampler, on the same event and the same stacks.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_stack;
use aya_ebpf::programs::PerfEventContext;
use profiler_common::limits::KERNEL_FRAMES_MAX;
use profiler_common::unwind::Regs;

use crate::maps::{CHAIN_BENCH, COUNTERS, SCRATCH};
use crate::{regs, walk};

/// `BPF_F_USER_STACK`: the user stack instead of the kernel's.
const USER_STACK: u64 = 1 << 8;

/// The kernel's own walk of the user stack.
#[inline(always)]
pub fn get_stack(context: &PerfEventContext) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: `frames` is longer than that.
    let bytes = unsafe {
        bpf_get_stack(
            context.as_ptr(),
            scratch.frames.as_mut_ptr().cast(),
            (KERNEL_FRAMES_MAX * 8) as u32,
            USER_STACK,
        )
    };
    count(if bytes > 0 { bytes as u64 / 8 } else { 0 });
}

/// Our walk of the user stack.
#[inline(always)]
pub fn user_walk(context: &PerfEventContext) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    let scratch = unsafe { &mut *scratch };
    let mut user = Regs { ip: 0, sp: 0, fp: 0 };
    let mut links = [0; 2];
    if regs::user_regs(context, regs::in_kernel(context), &mut user, &mut links) == regs::NONE {
        return;
    }
    scratch.words = 0;
    scratch.header.kernel_frames = 0;
    walk::user(context, scratch, user, links, context.tgid(), CHAIN_BENCH);
    count(scratch.words);
}

/// The next part of a walk that one program could not end.
#[inline(always)]
pub fn user_walk_on(context: &PerfEventContext) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    let scratch = unsafe { &mut *scratch };
    walk::in_parts(context, scratch, CHAIN_BENCH);
    count(scratch.words);
}

/// Frames found, so that both can be seen to do the same work: `sent` is frames here, `runs` samples.
#[inline(always)]
fn count(frames: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
        let counters = unsafe { &mut *counters };
        counters.runs += 1;
        counters.sent += frames;
    }
}
