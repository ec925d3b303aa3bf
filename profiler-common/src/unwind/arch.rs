//! What a walk needs to know of the processor.
//!
//! In: a frame and the words of its rule. Out: its caller. One file for each processor; the kernel side runs its own, tests run all.

use super::cfi::Words;
use super::walk::{Walk, Window};

/// A processor.
pub trait Arch {
    /// Steps from the frame of `walk` to its caller by the rule that `words` are; `read` and what comes back are as of
    /// [`Walk::step`].
    fn by_rule(walk: &mut Walk, words: Words, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32;
}

/// The processor that this is built for. The kernel side is one object for each, and so far there is one.
#[cfg(not(target_arch = "aarch64"))]
pub type Native = super::x86_64::X86_64;
/// The processor that this is built for.
#[cfg(target_arch = "aarch64")]
pub type Native = super::aarch64::Aarch64;
