//! Drives the walk of `profiler-common` over the user stack of the current task.
//!
//! In: a scratch whose walk stands at the leaf. Out: its frames, how many words are in use, and how it ended.

use core::arch::asm;
use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use profiler_common::limits::{USER_FRAMES_MAX, WINDOW_WORDS};
use profiler_common::unwind::End;
use profiler_common::unwind::frame_pointer::CONTINUE;

use crate::config::SETTINGS;
use crate::maps::{FRAME_MASK, Scratch};

/// What `bpf_loop` hands to its callback: it takes only pointers to the stack.
struct Context<'a> {
    scratch: &'a mut Scratch,
}

/// Walks to the end.
#[inline(always)]
pub fn user(scratch: &mut Scratch) {
    scratch.ended = End::Truncated as u64;
    if SETTINGS.load().bpf_loop != 0 {
        let mut context = Context { scratch };
        // SAFETY: the callback takes what it is given here, and the loop is over before `context` is.
        unsafe { bpf_loop(USER_FRAMES_MAX as u32, callback as *mut c_void, (&raw mut context).cast(), 0) };
    } else {
        let mut scratch = scratch;
        let mut frames = 0;
        while frames < USER_FRAMES_MAX && step(scratch) {
            frames += 1;
            scratch = forget(scratch);
        }
    }
}

unsafe extern "C" fn callback(_index: u32, context: *mut c_void) -> c_long {
    // SAFETY: `user` passes its own context, which nothing else touches meanwhile.
    let context = unsafe { &mut *context.cast::<Context<'_>>() };
    if step(context.scratch) { 0 } else { 1 }
}

/// Records the frame the walk stands at and goes to its caller; false at the end.
#[inline(always)]
fn step(scratch: &mut Scratch) -> bool {
    scratch.frames[scratch.words as usize & FRAME_MASK] = scratch.walk.regs.ip;
    scratch.words += 1;
    let step = scratch.walk.step(&mut |window, at, bytes| {
        // The bound is known to the caller, but not to a verifier that has lost sight of it: say it again.
        let bytes = if bytes > (WINDOW_WORDS * 8) as u64 { (WINDOW_WORDS * 8) as u64 } else { bytes };
        // SAFETY: the window is that long, and the helper checks the address it reads.
        unsafe { bpf_probe_read_user(window.as_mut_ptr().cast(), bytes as u32, at as *const c_void) == 0 }
    });
    if step == CONTINUE {
        return true;
    }
    scratch.ended = u64::from(step);
    false
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
