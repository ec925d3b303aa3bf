//! Samples the running task at each tick of a processor's clock.
//!
//! In: the perf event's context. Out: one record in the ring. Not here: counting of equal stacks (user space
//! does it, by meaning), or anything about a sample of the idle task, which is counted and dropped.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, bpf_perf_event_value};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns,
    bpf_perf_prog_read_value, bpf_ringbuf_output,
};
use aya_ebpf::programs::PerfEventContext;
use aya_log_ebpf::debug;
use profiler_common::knobs::Counters;
use profiler_common::limits::{COMM_BYTES, KERNEL_FRAMES_MAX, WANT_INTERVAL_NS};
use profiler_common::sample::{SampleHeader, WANTS_TABLES};
use profiler_common::unwind::table::WANTED;
use profiler_common::unwind::{End, Regs};

use crate::config::SETTINGS;
use crate::maps::{CHAIN_CPU, COUNTERS, FRAME_MASK, KNOBS, SAMPLES, SCRATCH, Scratch};
use crate::{regs, stack, walk};

/// One tick.
#[inline(always)]
pub fn sample(context: &PerfEventContext) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    let counters = unsafe { &mut *counters };
    counters.runs += 1;
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let skipped = skipped(context, now.wrapping_sub(counters.last_run));
    counters.last_run = now;
    let task = bpf_get_current_pid_tgid();
    let tgid = (task >> 32) as u32;
    if tgid == 0 {
        counters.idle += 1;
        counters.skipped_idle += skipped;
        counters.was_idle = 1;
        return;
    }
    if counters.was_idle == 0 {
        counters.skipped_busy += skipped;
    } else {
        counters.skipped_idle += skipped;
    }
    counters.was_idle = 0;
    // The clock ticks as before where less is to be sampled: each tick is a part of some sample's weight, so that no rate has to be known
    // to know what a sample stands for.
    counters.pending += 1;
    if counters.pending < KNOBS.get(0).map_or(1, |knobs| knobs.stretch) {
        return;
    }
    let weight = counters.pending;
    counters.pending = 0;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        counters.no_scratch += weight;
        return;
    };
    // SAFETY: as for the counters.
    let scratch = unsafe { &mut *scratch };
    scratch.header.time = now;
    scratch.header.weight = weight;

    let kernel = regs::in_kernel(context);
    let mut kernel_frames = 0usize;
    if kernel {
        // SAFETY: `frames` is longer than that.
        let bytes = unsafe {
            bpf_get_stack(
                context.as_ptr(),
                scratch.frames.as_mut_ptr().cast(),
                (KERNEL_FRAMES_MAX * 8) as u32,
                0,
            )
        };
        if bytes > 0 {
            kernel_frames = (bytes as usize / 8) & 0x7f;
        } else {
            counters.no_kernel_stack += 1;
        }
    }
    scratch.words = kernel_frames as u64;
    scratch.ended = End::NoUser as u64;
    scratch.walk.wants = 0;
    scratch.header.tgid = tgid;
    scratch.header.tid = task as u32;
    scratch.header.cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    scratch.header.kernel_frames = kernel_frames as u16;
    // SAFETY: `comm` is as long as said. It cannot fail: the current task has a name.
    unsafe { bpf_get_current_comm(scratch.header.comm.as_mut_ptr().cast(), COMM_BYTES as u32) };
    let mut user = Regs { ip: 0, sp: 0, fp: 0 };
    let mut links = [0; 2];
    scratch.whose = regs::user_regs(context, kernel, &mut user, &mut links);
    if scratch.whose != regs::NONE {
        walk::user(context, scratch, user, links, tgid, CHAIN_CPU);
    }
    send(context, counters, scratch);
}

/// Ticks that ran no program, when the last that did was `passed` nanoseconds ago.
///
/// The event's own counter is asked only when it may say less: one that was made since, because its processor was away, did
/// not tick until then.
#[inline(always)]
fn skipped(context: &PerfEventContext, passed: u64) -> u64 {
    let period = SETTINGS.load().period_ns;
    // A tick comes a little late or early: one period and a half since the last run means that one was skipped.
    let late = period / 2;
    if passed < period + late {
        return 0;
    }
    let mut value = bpf_perf_event_value { counter: 0, enabled: 0, running: 0 };
    // SAFETY: `value` is as large as said.
    let refused = unsafe {
        bpf_perf_prog_read_value(context.ctx, &raw mut value, size_of::<bpf_perf_event_value>() as u32)
    };
    if refused != 0 {
        return 0;
    }
    let ticking = if value.counter < passed { value.counter } else { passed };
    // (A plain division would bring a panic along, which has no place here.)
    match ticking.wrapping_add(late).checked_div(period) {
        Some(periods) if periods > 1 => periods - 1,
        Some(_) | None => 0,
    }
}

/// The next part of a walk that one program could not end.
#[inline(always)]
pub fn walk_on(context: &PerfEventContext) {
    let (Some(counters), Some(scratch)) = (COUNTERS.get_ptr_mut(0), SCRATCH.get_ptr_mut(0)) else { return };
    // SAFETY: as in `sample`.
    let counters = unsafe { &mut *counters };
    // SAFETY: as in `sample`.
    let scratch = unsafe { &mut *scratch };
    walk::in_parts(context, scratch, CHAIN_CPU);
    send(context, counters, scratch);
}

/// Puts the sample into the ring.
#[inline(always)]
fn send(context: &PerfEventContext, counters: &mut Counters, scratch: &mut Scratch) {
    let frames = u64::from(scratch.header.kernel_frames);
    if scratch.whose == regs::CALLED && scratch.words == frames + 1 && walk::is_gone(scratch.begun.sp) {
        // A program that exits, or that becomes another one: what it called from is no more.
        scratch.words = frames;
        scratch.ended = End::NoUser as u64;
        scratch.walk.wants = 0;
    }
    let words = scratch.words as usize;
    scratch.header.user_frames = (words as u16).wrapping_sub(scratch.header.kernel_frames);
    scratch.header.ended = scratch.ended as u16;

    let wants_tables = scratch.walk.wants & u64::from(WANTED) != 0;
    if wants_tables {
        scratch.header.ended |= WANTS_TABLES;
    }
    let unread = SAMPLES.query(0);
    let mut sent = -1;
    if scratch.walk.wants != 0
        && let Some((room, bytes)) = stack::bring(counters, scratch, unread)
    {
        let flags = wake(scratch, unread + bytes, wants_tables);
        sent = output((&raw mut *room).cast(), bytes, flags);
        // Others may have come first. Without its stack there may still be room for it.
        if sent == 0 {
            counters.stacks += 1;
        } else {
            counters.stacks_no_room += 1;
        }
    }
    if sent != 0 {
        let bytes = (size_of::<SampleHeader>() + (words & FRAME_MASK) * 8) as u64;
        let flags = wake(scratch, unread + bytes, wants_tables);
        sent = output((&raw mut scratch.header).cast(), bytes, flags);
    }
    if sent == 0 {
        counters.sent += scratch.header.weight;
    } else {
        counters.ring_full += scratch.header.weight;
        debug!(context, "sample lost: {} bytes of the ring are unread", unread);
    }
    counters.spent_ns += unsafe { bpf_ktime_get_ns() } - scratch.header.time;
}

/// Whether this record, with which `unread` bytes lie in the ring, wakes the reader, as a flag of the ring's.
#[inline(always)]
fn wake(scratch: &mut Scratch, unread: u64, wants_tables: bool) -> u64 {
    // Nobody is woken per sample: the reader comes for the window's end, or when the ring fills ...
    let mut wakes = unread >= SETTINGS.load().wakeup_bytes;
    // ... or for a sample that needs what only the reader can bring, and could not know of.
    if wants_tables && scratch.header.time - scratch.wanted >= WANT_INTERVAL_NS {
        scratch.wanted = scratch.header.time;
        wakes = true;
    }
    u64::from(if wakes { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// Puts `bytes` into the ring; other than 0 if it is full.
#[inline(always)]
fn output(record: *mut c_void, bytes: u64, flags: u64) -> i64 {
    // SAFETY: a record of a map's value is at least that long.
    unsafe { bpf_ringbuf_output((&raw const SAMPLES).cast_mut().cast(), record, bytes, flags) }
}
