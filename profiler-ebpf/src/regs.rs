//! Where a task was in user space when the tick came.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs};
use aya_ebpf::programs::PerfEventContext;
use profiler_common::unwind::Regs;
use profiler_common::unwind::walk::Links;

/// `cs` of a 64-bit user program (`__USER_CS`); a 32-bit one has 0x23 and other stacks than we can walk.
const USER_CODE_64: u64 = 0x33;

/// Whether the tick interrupted the kernel.
#[inline(always)]
pub fn in_kernel(context: &PerfEventContext) -> bool {
    // SAFETY: the verifier knows the context's type and checks the offset.
    unsafe { (*context.ctx).regs.cs & 3 == 0 }
}

/// [`user_regs`] found none: a kernel thread.
pub const NONE: u64 = 0;
/// It found those of a program that was interrupted, by the tick or by a fault.
pub const INTERRUPTED: u64 = 1;
/// It found those of a program that asked the kernel for something.
pub const CALLED: u64 = 2;

/// The user registers: the interrupted ones, or, if the kernel was interrupted, those it saved on entry.
/// With `links`, those in which a return address may be. A 32-bit program gets no frame pointer, so that its walk ends after the leaf.
/// Says whose they are; where there are none, `regs` is zero.
///
/// (A number and a reference instead of an `Option`: the verifier refuses the registers that an absent value leaves
/// unwritten.)
#[inline(always)]
pub fn user_regs(context: &PerfEventContext, kernel: bool, regs: &mut Regs, links: &mut Links) -> u64 {
    let code;
    let mut whose = INTERRUPTED;
    if kernel {
        // SAFETY: helpers without preconditions; the pointer is only handed on.
        let saved = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
        // SAFETY: the helper checks every address it reads.
        let Ok(saved) = (unsafe { bpf_probe_read_kernel(saved) }) else { return NONE };
        code = saved.cs;
        // The number of a system call; faults and interrupts have a negative one.
        if (saved.orig_rax as i64) >= 0 {
            whose = CALLED;
        }
        *regs = Regs { ip: saved.rip, sp: saved.rsp, fp: saved.rbp };
        *links = [saved.rdi, saved.r12];
    } else {
        // SAFETY: as in `in_kernel`.
        let interrupted = unsafe { &(*context.ctx).regs };
        code = interrupted.cs;
        *regs = Regs { ip: interrupted.rip, sp: interrupted.rsp, fp: interrupted.rbp };
        *links = [interrupted.rdi, interrupted.r12];
    }
    if code & 3 != 3 || regs.ip == 0 {
        *regs = Regs { ip: 0, sp: 0, fp: 0 };
        return NONE;
    }
    if code != USER_CODE_64 {
        regs.fp = 1;
    }
    whose
}
