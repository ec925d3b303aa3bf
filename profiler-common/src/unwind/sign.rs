//! The sign of a difference as a mask, so that a search takes no branches.
//!
//! The kernel's machine has no conditional move: a compiler that sees what the mask is for makes a branch of it, which the
//! processor mispredicts and the verifier follows both ways at every step of every search. So it is not let see.
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "an instruction that the compiler must not understand")
)]

/// All ones if `difference` is negative, else zero.
#[inline(always)]
pub(super) fn sign(difference: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut mask = difference;
        // SAFETY: shifts a register and touches nothing else.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) mask, options(pure, nomem, nostack)) };
        mask
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (difference as i64 >> 63) as u64
    }
}
