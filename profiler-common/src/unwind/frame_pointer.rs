//! Follows the chain of frame pointers through one window of stack instead of two reads per frame.
//!
//! Both x86_64 and aarch64 lay a frame record down as two words, the caller's frame pointer and the return
//! address, with the frame pointer at the first. A window of up to [`WINDOW_WORDS`] is read at the first
//! record and again whenever the chain leaves it.

use super::{End, Regs};
use crate::limits::WINDOW_WORDS;

const WINDOW_BYTES: u64 = (WINDOW_WORDS * 8) as u64;
const PAGE_BYTES: u64 = 4096;
const RECORD_BYTES: u64 = 16;

/// The state of one walk. On the kernel side it lies in a map, so that the verifier, which knows nothing of a
/// map's contents, sees the same state at every frame and looks at the loop's body once.
#[repr(C)]
#[derive(Debug)]
pub struct Walk {
    /// The frame reached; `regs.ip` is to be recorded before the next step.
    pub regs: Regs,
    base: u64,
    bytes: u64,
    window: [u64; WINDOW_WORDS],
}

/// What a step came to: on, or the number of an [`End`].
pub const CONTINUE: u32 = u32::MAX;

impl Walk {
    /// A walk that has read nothing yet.
    pub const fn new(regs: Regs) -> Self {
        Self { regs, base: 0, bytes: 0, window: [0; WINDOW_WORDS] }
    }

    /// Starts again at `regs`, forgetting the window but not clearing it.
    #[inline(always)]
    pub fn restart(&mut self, regs: Regs) {
        self.regs = regs;
        self.base = 0;
        self.bytes = 0;
    }

    /// Steps from the current frame to its caller.
    ///
    /// `read(window, at, bytes)` fills the first `bytes` (a multiple of eight, at most the window) of `window`
    /// from user address `at` and says whether it could. Returns [`CONTINUE`] with the caller in `regs`, or an
    /// [`End`] as a number, `regs` untouched.
    #[inline(always)]
    pub fn step(&mut self, read: &mut impl FnMut(&mut [u64; WINDOW_WORDS], u64, u64) -> bool) -> u32 {
        let fp = self.regs.fp;
        if fp == 0 {
            return End::Root as u32;
        }
        // A stack grows down: the caller's record lies above this frame's. This is also what ends a loop.
        if fp & 7 != 0 || fp < self.regs.sp {
            return End::NoFrame as u32;
        }
        let mut offset = fp.wrapping_sub(self.base);
        if offset > self.bytes || self.bytes - offset < RECORD_BYTES {
            // At least a record, though it may straddle two pages: both are stack then.
            let bytes = (PAGE_BYTES - (fp & (PAGE_BYTES - 1))).clamp(RECORD_BYTES, WINDOW_BYTES);
            if !read(&mut self.window, fp, bytes) {
                self.bytes = 0;
                return End::Fault as u32;
            }
            self.base = fp;
            self.bytes = bytes;
            offset = 0;
        }
        // The masks change nothing: they are what lets the verifier see that the index is inside.
        let word = (offset >> 3) as usize;
        let caller_fp = self.window[word & (WINDOW_WORDS - 1)];
        let caller_ip = self.window[(word + 1) & (WINDOW_WORDS - 1)];
        if caller_ip == 0 {
            return End::Root as u32;
        }
        if caller_ip < PAGE_BYTES {
            return End::NoFrame as u32; // nothing is ever mapped there
        }
        self.regs = Regs { ip: caller_ip, sp: fp.wrapping_add(RECORD_BYTES), fp: caller_fp };
        CONTINUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::USER_FRAMES_MAX;
    use std::vec::Vec;

    const BASE: u64 = 0x7ffc_0000_0000;

    /// Walks `stack`, which lies at [`BASE`], from frame pointer `BASE + fp`, and compares.
    #[track_caller]
    fn check(stack: &[u64], fp: u64, frames: &[u64], end: End) {
        let (got, ended, _) =
            walk(stack, Regs { ip: 0x1000, sp: BASE, fp: if fp == 0 { 0 } else { BASE + fp } });
        assert_eq!(&got[1..], frames);
        assert_eq!(ended, end);
    }

    fn walk(stack: &[u64], regs: Regs) -> (Vec<u64>, End, usize) {
        let mut reads = 0;
        let mut read = |window: &mut [u64; WINDOW_WORDS], at: u64, bytes: u64| {
            reads += 1;
            let Some(first) = at.checked_sub(BASE).map(|offset| (offset / 8) as usize) else { return false };
            let Some(words) = stack.get(first..first + (bytes / 8) as usize) else { return false };
            window[..words.len()].copy_from_slice(words);
            true
        };
        let mut walk = Walk::new(regs);
        let mut frames = Vec::new();
        for _ in 0..USER_FRAMES_MAX {
            frames.push(walk.regs.ip);
            let ended = walk.step(&mut read);
            if ended != CONTINUE {
                let raw = u16::try_from(ended).expect("an end fits the wire");
                let end = End::from_wire(raw).expect("a step ends with an end");
                return (frames, end, reads);
            }
        }
        (frames, End::Truncated, reads)
    }

    /// A stack of a page and more, zero but for `words` at its start.
    fn page(words: &[u64]) -> Vec<u64> {
        let mut stack = words.to_vec();
        stack.resize(1024, 0);
        stack
    }

    /// `depth` frames of `words` words each, the last one with a zero frame pointer.
    fn chain(depth: usize, words: usize) -> Vec<u64> {
        let mut stack = Vec::new();
        for frame in 0..depth {
            let next = if frame + 1 == depth { 0 } else { BASE + ((frame + 1) * words * 8) as u64 };
            stack.extend([next, 0x40_0000 + frame as u64]);
            stack.resize((frame + 1) * words, 0);
        }
        page(&stack)
    }

    #[test]
    fn a_zero_frame_pointer_is_the_root() {
        check(&page(&[0, 0xaaaa]), 0, &[], End::Root);
    }

    #[test]
    fn a_record_with_a_zero_frame_pointer_still_names_its_caller() {
        check(&page(&[0, 0, 0, 0xaaaa]), 16, &[0xaaaa], End::Root);
    }

    #[test]
    fn a_zero_return_address_is_the_root() {
        check(&page(&[0, 0, BASE + 32, 0]), 16, &[], End::Root);
    }

    #[test]
    fn a_return_address_in_the_first_page_is_no_frame() {
        check(&page(&[0, 0, BASE + 32, 12]), 16, &[], End::NoFrame);
    }

    #[test]
    fn a_frame_pointer_below_the_stack_pointer_is_no_frame() {
        let (frames, end, _) = walk(&page(&[]), Regs { ip: 1, sp: BASE + 64, fp: BASE + 8 });
        assert_eq!((frames.len(), end), (1, End::NoFrame));
    }

    #[test]
    fn an_odd_frame_pointer_is_no_frame() {
        check(&page(&[0, 0, BASE + 3, 0xaaaa]), 16, &[0xaaaa], End::NoFrame);
    }

    #[test]
    fn a_loop_ends_because_the_chain_must_ascend() {
        check(&page(&[0, 0, BASE + 16, 0xaaaa]), 16, &[0xaaaa], End::NoFrame);
    }

    #[test]
    fn a_frame_pointer_out_of_the_stack_is_a_fault() {
        check(&page(&[0, 0, BASE + (1 << 30), 0xaaaa]), 16, &[0xaaaa], End::Fault);
    }

    #[test]
    fn a_frame_pointer_at_the_top_of_the_address_space_is_a_fault() {
        check(&page(&[0, 0, u64::MAX - 7, 0xaaaa]), 16, &[0xaaaa], End::Fault);
    }

    #[test]
    fn a_record_may_straddle_two_pages() {
        let mut stack = page(&[]);
        stack[511] = 0;
        stack[512] = 0xbbbb;
        check(&stack, 511 * 8, &[0xbbbb], End::Root);
    }

    #[test]
    fn fifty_frames_need_a_handful_of_reads() {
        let (frames, end, reads) = walk(&chain(50, 8), Regs { ip: 1, sp: BASE, fp: BASE });
        assert_eq!((frames.len(), end), (51, End::Root));
        assert!(reads <= 5, "{reads} reads");
    }

    #[test]
    fn a_stack_that_is_too_deep_is_cut_at_the_bound() {
        let (frames, end, _) = walk(&chain(USER_FRAMES_MAX + 50, 2), Regs { ip: 1, sp: BASE, fp: BASE });
        assert_eq!((frames.len(), end), (USER_FRAMES_MAX, End::Truncated));
    }
}
