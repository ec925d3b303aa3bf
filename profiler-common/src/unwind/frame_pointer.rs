//! A step along the chain of frame pointers.
//!
//! Both x86_64 and aarch64 lay a frame record down as two words, the caller's frame pointer and the return
//! address, with the frame pointer at the first.

use super::End;
use super::walk::{CONTINUE, Walk};

/// Bytes of a frame record: what the caller's frame lies above.
pub(super) const RECORD_BYTES: u64 = 16;

impl Walk {
    /// Whether the frame pointer may point to a record, which must not lie below `lowest`: [`CONTINUE`], or how the walk ends.
    #[inline(always)]
    pub(super) fn check_pointer(&self, lowest: u64) -> u32 {
        let fp = self.regs.fp;
        if fp == 0 {
            return End::Root as u32;
        }
        // A stack grows down: the caller's record lies above this frame's. This is also what ends a loop.
        if fp & 7 != 0 || fp < lowest {
            return End::NoFrame as u32;
        }
        CONTINUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::USER_FRAMES_MAX;
    use crate::unwind::Regs;
    use crate::unwind::recent::Recent;
    use crate::unwind::walk::Window;
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
        let mut read = |window: &mut Window, at: u64, bytes: u64| {
            reads += 1;
            let Some(first) = at.checked_sub(BASE).map(|offset| (offset / 8) as usize) else { return false };
            let Some(words) = stack.get(first..first + (bytes / 8) as usize) else { return false };
            window[..words.len()].copy_from_slice(words);
            true
        };
        let mut walk = Walk::new(regs);
        let slab = |_| None;
        let mut recent = Recent::new();
        let mut frames = Vec::new();
        for _ in 0..USER_FRAMES_MAX {
            let ended = walk.step(&mut read, &slab, &mut recent);
            frames.push(walk.left());
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
