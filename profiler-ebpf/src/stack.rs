//! Brings the user stack along with a sample whose walk did without a table.
//!
//! In: a sample that is walked, and how full the ring is. Out: the record anew, in a larger room, with registers and stack behind its frames,
//! from where the daemon walks again once it has the table. Not here: which samples have use for that. A process that sends many, and a ring that
//! fills, are refused, and counted.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use profiler_common::knobs::Counters;
use profiler_common::limits::{STACK_AHEAD_NS, STACK_INTERVAL_NS, STACK_PAGES_MAX, STACK_PAGES_MISSING_MAX};
use profiler_common::sample::{HAS_STACK, STACK_REGS_WORDS, SampleHeader};

use crate::config::SETTINGS;
use crate::maps::{FRAME_MASK, ROOMS, Room, STACKS, Scratch};

const PAGE_BYTES: u64 = 4096;

/// The record of `scratch` with its stack, and how many bytes it has, unless it is refused.
///
/// The stack is read page by page: the one above may not be there. A page that is not may be one that a large frame skips and nobody
/// has touched yet, as in the C library's `printf`: then it is zero, as it is for whoever touches it, and the stack goes on behind it.
#[inline(always)]
pub fn bring(
    counters: &mut Counters,
    scratch: &mut Scratch,
    unread_bytes: u64,
) -> Option<(&'static mut Room, u64)> {
    if unread_bytes >= SETTINGS.load().stacks_bytes {
        counters.stacks_no_room += 1;
        return None;
    }
    if !has_share(scratch.header.tgid, scratch.header.time) {
        counters.stacks_over_rate += 1;
        return None;
    }
    let Some(room) = ROOMS.get_ptr_mut(u32::from(scratch.header.cpu)) else {
        counters.stacks_no_room += 1;
        return None;
    };
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    let room = unsafe { &mut *room };
    let words = scratch.words as usize & FRAME_MASK;
    let bytes = (size_of::<SampleHeader>() + words * 8) as u64;
    // SAFETY: header and frames lie together, here and there, and are longer than that.
    unsafe {
        bpf_probe_read_kernel((&raw mut *room).cast(), bytes as u32, (&raw const scratch.header).cast())
    };
    let regs = scratch.begun;
    // SAFETY: behind as many frames as there can be lies room for what is written from here on; the helper checks what it reads.
    let place = unsafe { room.words.as_mut_ptr().add(words) };
    // SAFETY: as above.
    unsafe {
        place.write(regs.ip);
        place.add(1).write(regs.sp);
        place.add(2).write(regs.fp);
        place.add(3).write(scratch.links[0]);
        place.add(4).write(scratch.links[1]);
    }
    // SAFETY: as above.
    let place = unsafe { place.add(STACK_REGS_WORDS) }.cast::<u8>();
    let mut at = regs.sp & !7;
    let mut part = PAGE_BYTES - (at & (PAGE_BYTES - 1));
    let (mut read, mut kept) = (0, 0);
    let (mut page, mut missing) = (0, 0);
    while page < STACK_PAGES_MAX {
        // SAFETY: as above.
        let refused =
            unsafe { bpf_probe_read_user(place.add(read as usize).cast(), part as u32, at as *const c_void) };
        at += part;
        read += part;
        if refused == 0 {
            kept = read;
            missing = 0;
        } else if missing == STACK_PAGES_MISSING_MAX {
            break;
        } else {
            // (The helper has written zeros.)
            missing += 1;
        }
        part = PAGE_BYTES;
        page += 1;
    }
    room.header.ended |= HAS_STACK;
    Some((room, bytes + (STACK_REGS_WORDS * size_of::<u64>()) as u64 + kept))
}

/// Whether process `tgid` may send one more at this moment; if so, it has.
#[inline(always)]
fn has_share(tgid: u32, now: u64) -> bool {
    let Some(used) = STACKS.get_ptr_mut(tgid) else {
        // If there is no room for it, it is refused no earlier the next time.
        let _ = STACKS.insert(tgid, now + STACK_INTERVAL_NS, u64::from(BPF_ANY));
        return true;
    };
    // SAFETY: a number of the map's; that another processor writes it meanwhile may give one stack more.
    let used = unsafe { &mut *used };
    let from = if *used < now { now } else { *used };
    if from - now > STACK_AHEAD_NS {
        return false;
    }
    *used = from + STACK_INTERVAL_NS;
    true
}
