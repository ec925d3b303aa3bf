//! Drives the walk of `profiler-common` over the user stack of the current task.
//!
//! In: registers, and a scratch whose kernel frames are known. Out: its frames, how many words are in use, and how it ended.
//! Where the kernel has no `bpf_loop`, a walk is a chain of programs, each of some frames: the verifier looks at every
//! frame of a plain loop, and gives up long before 512.

use core::arch::asm;
use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use aya_ebpf::programs::PerfEventContext;
use profiler_common::limits::{FRAMES_PER_PROGRAM, FRAMES_PER_TURN, USER_FRAMES_MAX, WINDOW_WORDS};
use profiler_common::unwind::processes::{Entry, LINE_ENTRIES, lines_of};
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::{MappingList, WANTED};
use profiler_common::unwind::walk::{CONTINUE, Links};
use profiler_common::unwind::{End, Regs};

use crate::config::SETTINGS;
use crate::maps::{CHAIN, FRAME_MASK, PROCESSES, RECENT, SLABS, Scratch};

const WINDOW_BYTES: u64 = (WINDOW_WORDS * 8) as u64;

/// How often `bpf_loop` calls at most.
const TURNS: u32 = (USER_FRAMES_MAX / FRAMES_PER_TURN) as u32;
const _: () = assert!(USER_FRAMES_MAX % FRAMES_PER_TURN == 0, "turns are whole");

/// A process of which nothing is known.
const NO_LIST: MappingList = MappingList { address: 0, mappings: 0, version: 0 };

/// What `bpf_loop` hands to its callback: it takes only pointers to the stack.
struct Context<'a> {
    scratch: &'a mut Scratch,
    recent: &'a mut Recent,
}

/// Walks to the end, from `regs` in process `tgid`; on an old kernel that may be in program `next` of the chain, which then does
/// what is left to do, and this does not return.
#[inline(always)]
pub fn user(
    context: &PerfEventContext,
    scratch: &mut Scratch,
    regs: Regs,
    links: Links,
    tgid: u32,
    next: u32,
) {
    if SETTINGS.load().tables == 0 {
        scratch.walk.restart(regs, NO_LIST);
    } else {
        let mut list = NO_LIST;
        let found = find(tgid, &mut list);
        scratch.walk.restart(regs, list);
        if !found {
            scratch.walk.wants = u64::from(WANTED);
        }
    }
    scratch.walk.link(links);
    scratch.begun = regs;
    scratch.links = links;
    scratch.ended = End::Truncated as u64;
    if SETTINGS.load().bpf_loop == 0 {
        return in_parts(context, scratch, next);
    }
    let Some(recent) = recent() else { return };
    let mut context = Context { scratch, recent };
    // SAFETY: the callback takes what it is given here, and the loop is over before `context` is.
    unsafe { bpf_loop(TURNS, callback as *mut c_void, (&raw mut context).cast(), 0) };
}

/// Walks on for as many frames as one program may, then in program `next`; returns when the walk is at its end, or may go
/// no further.
#[inline(always)]
pub fn in_parts(context: &PerfEventContext, scratch: &mut Scratch, next: u32) {
    if scratch.words >= USER_FRAMES_MAX as u64 + u64::from(scratch.header.kernel_frames) {
        return;
    }
    let Some(recent) = recent() else { return };
    let mut scratch = scratch;
    let mut frames = 0;
    while frames < FRAMES_PER_PROGRAM {
        if !step(scratch, recent) {
            return;
        }
        frames += 1;
        scratch = forget(scratch);
    }
    // SAFETY: the map has programs of this kind only. Does not return, unless there is none.
    unsafe { CHAIN.tail_call(context, next) };
}

unsafe extern "C" fn callback(_index: u32, context: *mut c_void) -> c_long {
    // SAFETY: `user` passes its own context, which nothing else touches meanwhile.
    let context = unsafe { &mut *context.cast::<Context<'_>>() };
    let Context { scratch, recent } = context;
    let mut scratch: &mut Scratch = scratch;
    let mut frames = 0;
    while frames < FRAMES_PER_TURN {
        if !step(scratch, recent) {
            return 1;
        }
        frames += 1;
        scratch = forget(scratch);
    }
    0
}

/// Records the frame the walk stands at and goes to its caller; 0 at the end.
///
/// A function of its own, and a global one: the verifier looks at it once, with any scratch and any rows, and believes every call of it. As a
/// part of its callers it was looked at for each frame of a turn, in each turn, which was a third of what the agent itself took to start.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_step(scratch: *mut Scratch, recent: *mut Recent) -> u64 {
    // The verifier knows how large what they point to is, and not that they point to something.
    if scratch.is_null() || recent.is_null() {
        return 0;
    }
    // SAFETY: callers pass their own, which nothing else touches meanwhile.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: as above.
    let recent = unsafe { &mut *recent };
    let mut read = |window: &mut [u64; WINDOW_WORDS], at: u64, bytes: u64| {
        // The bound is known to the caller, but not to a verifier that has lost sight of it: say it again.
        let mut bytes = if bytes > WINDOW_BYTES { WINDOW_BYTES } else { bytes };
        // And once more, so that the compiler cannot take it for said: 6.1 does not see through how it compares.
        // SAFETY: changes no bit of a number that is at most `WINDOW_BYTES`.
        unsafe { asm!("{0} &= {1}", inout(reg) bytes, const 2 * WINDOW_BYTES - 1) };
        // SAFETY: the window is that long, and the helper checks the address it reads.
        unsafe { bpf_probe_read_user(window.as_mut_ptr().cast(), bytes as u32, at as *const c_void) == 0 }
    };
    let step = scratch.walk.step(&mut read, &|slab| SLABS.get_value(slab, &0), recent);
    scratch.frames[scratch.words as usize & FRAME_MASK] = scratch.walk.left();
    scratch.words += 1;
    if step == CONTINUE {
        return 1;
    }
    scratch.ended = u64::from(step);
    0
}

/// See [`walk_step`].
#[inline(always)]
fn step(scratch: &mut Scratch, recent: &mut Recent) -> bool {
    walk_step(scratch, recent) != 0
}

/// Whether a program that stood at stack pointer `sp` has not even that word of its stack any more.
#[inline(always)]
pub fn is_gone(sp: u64) -> bool {
    let mut word = 0u64;
    // SAFETY: a word is that long, and the helper checks the address it reads.
    unsafe { bpf_probe_read_user((&raw mut word).cast(), 8, (sp & !7) as *const c_void) != 0 }
}

/// The list of process `tgid`; false if nothing is known of it.
#[inline(always)]
fn find(tgid: u32, list: &mut MappingList) -> bool {
    for line in lines_of(tgid) {
        let Some(line) = PROCESSES.get_ptr(line) else { return false };
        // SAFETY: inside the map's value; whoever writes it does so word by word.
        let read =
            |entry: usize, word: usize| unsafe { (&raw const (*line).entries[entry][word]).read_volatile() };
        let mut entry = 0;
        while entry < LINE_ENTRIES {
            let first = read(entry, 0);
            if first as u32 == tgid {
                let found = Entry::from_words([first, read(entry, 1)]);
                // What is being written is of no use now.
                if read(entry, 0) == first {
                    *list = found.list();
                }
                return true;
            }
            entry += 1;
        }
    }
    false
}

/// The rows of this processor.
#[inline(always)]
fn recent() -> Option<&'static mut Recent> {
    // SAFETY: the value is this processor's, and nothing else runs on it while a program does.
    RECENT.get_ptr_mut(0).map(|recent| unsafe { &mut *recent })
}

/// The same scratch, through an instruction that the compiler cannot see into: it then keeps the walk's state in
/// the map and not in registers, where the verifier would track its bounds and find every frame a new case.
#[inline(always)]
fn forget(scratch: &mut Scratch) -> &mut Scratch {
    let mut pointer: *mut Scratch = scratch;
    // SAFETY: moves a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) pointer) };
    // SAFETY: it still is the scratch that was borrowed.
    unsafe { &mut *pointer }
}
