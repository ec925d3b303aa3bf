//! A step by rule on x86_64.
//!
//! In: a frame's registers and its rule. Out: its caller's. Whatever the words say, a step reads inside of its window, and goes up.
#![expect(clippy::cast_possible_truncation, reason = "parts of a word")]

use super::arch::Arch;
use super::cfi::Words;
use super::frame_pointer::RECORD_BYTES;
use super::table::{
    DISTANCE_SHIFT, FORM_AT_RBP, FORM_AT_RSP, FORM_ELSEWHERE, FORM_HELD, FORM_RBP, FORM_RSP, KIND_PLT,
    KIND_POINTER, KIND_RBP, KIND_RSP, KIND_SHIFT, KIND_SIDE, KIND_SIGNAL, KIND_STOP, SAVED_CFA, SAVED_RBP,
    SAVED_RSP, SAVED_SHIFT,
};
use super::walk::{CONTINUE, Walk, Window};
use super::{End, Regs};
use crate::limits::WINDOW_WORDS;

/// Farther apart than this, two words of a frame are read one after the other.
const TOGETHER_BYTES: u64 = (WINDOW_WORDS as u64 - 1) * 8;

// Where the kernel puts the registers of what a signal interrupted, from rsp in the trampoline: `uc_mcontext` of the
// `ucontext` that lies there.
const SIGNAL_RBP: u64 = 120;
const SIGNAL_RSP: u64 = 160;
const SIGNAL_RIP: u64 = 168;

/// The processor's name.
#[derive(Clone, Copy, Debug)]
pub enum X86_64 {}

impl Arch for X86_64 {
    #[inline(always)]
    fn by_rule(walk: &mut Walk, words: Words, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
        let Regs { ip, sp, fp } = walk.regs;
        let Words { row, second, number } = words;
        let kind = row >> KIND_SHIFT;
        let form = second & ((1 << SAVED_SHIFT) - 1);
        let is_elsewhere = kind == KIND_SIDE && form == FORM_ELSEWHERE;
        let mut cfa = fp.wrapping_add(RECORD_BYTES);
        let mut saved = fp; // where the caller's rbp is, 0 for where it was
        if kind == KIND_POINTER || is_elsewhere {
            let ended = walk.check_pointer(if is_elsewhere { 0 } else { sp });
            if ended != CONTINUE {
                return ended;
            }
        } else {
            saved = 0;
            if kind == KIND_RSP || kind == KIND_RBP {
                let base = if kind == KIND_RSP { sp } else { fp };
                cfa = base.wrapping_add(((row >> 8 & 0x7ff) * 8) as u64);
                let below = (row >> 19 & 0x3ff) as u64 * 8;
                if below != 0 {
                    saved = cfa.wrapping_sub(below);
                }
            } else if kind == KIND_STOP {
                return End::Root as u32;
            } else if kind == KIND_PLT {
                let pushed = ip & 15 >= (row >> 8 & 15) as u64;
                cfa = sp.wrapping_add(if pushed { 16 } else { 8 });
            } else if kind == KIND_SIGNAL {
                return walk.out_of_signal(read);
            } else if kind == KIND_SIDE {
                if form == FORM_RSP || form == FORM_RBP {
                    let base = if form == FORM_RSP { sp } else { fp };
                    cfa = base.wrapping_add(number as u32 as i32 as u64);
                } else if form == FORM_AT_RSP || form == FORM_AT_RBP {
                    let base = if form == FORM_AT_RSP { sp } else { fp };
                    let at = base.wrapping_add(number as i16 as u64);
                    if at & 7 != 0 {
                        return End::NoFrame as u32;
                    }
                    if !walk.hold(at, at, read) {
                        return End::Fault as u32;
                    }
                    cfa = walk.held(at).wrapping_add((number >> 16) as i16 as u64);
                } else if form == FORM_HELD {
                    return walk.by_register(number);
                } else {
                    return End::Invalid as u32;
                }
                let distance = (second as i32 >> DISTANCE_SHIFT) as u64;
                let from = second >> SAVED_SHIFT & 3;
                if from == SAVED_CFA {
                    saved = cfa.wrapping_add(distance);
                } else if from == SAVED_RSP {
                    saved = sp.wrapping_add(distance);
                } else if from == SAVED_RBP {
                    saved = fp.wrapping_add(distance);
                }
            } else {
                return End::Invalid as u32;
            }
            // A stack grows down: the caller's frame lies above. This is also what ends a loop.
            if (cfa | saved) & 7 != 0 || cfa <= sp {
                return End::NoFrame as u32;
            }
        }
        walk.by_frame(cfa, saved, read)
    }
}

impl Walk {
    /// Steps out of a signal's trampoline to what was interrupted.
    #[inline(always)]
    fn out_of_signal(&mut self, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
        self.leave_trampoline();
        self.link([0; 2]);
        let sp = self.regs.sp;
        let (low, high) = (sp.wrapping_add(SIGNAL_RBP), sp.wrapping_add(SIGNAL_RIP));
        if sp & 7 != 0 {
            return End::NoFrame as u32;
        }
        if !self.hold(low, high, read) {
            return End::Fault as u32;
        }
        let (ip, fp) = (self.held(high), self.held(low));
        self.go_back(Regs { ip, sp: self.held(sp.wrapping_add(SIGNAL_RSP)), fp })
    }

    /// Steps to the caller of the innermost frame, whose return address is in a register. It has no frame: nothing else tells a loop from a walk, but
    /// that it is done once.
    #[inline(always)]
    fn by_register(&mut self, number: u64) -> u32 {
        let to = self.links[(number >> 16) as usize & 1];
        if to == 0 || !self.may_use_link() {
            return End::Invalid as u32;
        }
        let Regs { sp, fp, .. } = self.regs;
        let cfa = sp.wrapping_add(number as i16 as u64);
        if cfa & 7 != 0 || cfa < sp {
            return End::NoFrame as u32;
        }
        self.go(Regs { ip: to, sp: cfa, fp })
    }

    /// Steps to the caller whose rsp was `cfa` before the call, and whose rbp is at `saved`, unless that is 0. Both are multiples of
    /// eight.
    #[inline(always)]
    fn by_frame(
        &mut self,
        cfa: u64,
        saved: u64,
        read: &mut impl FnMut(&mut Window, u64, u64) -> bool,
    ) -> u32 {
        let mut fp = self.regs.fp;
        let returns = cfa.wrapping_sub(8);
        let mut low = returns;
        let mut together = false;
        if saved != 0 {
            if returns.wrapping_sub(saved) <= TOGETHER_BYTES {
                low = saved;
                together = true;
            } else {
                if !self.hold(saved, saved, read) {
                    return End::Fault as u32;
                }
                fp = self.held(saved);
            }
        }
        if !self.hold(low, returns, read) {
            return End::Fault as u32;
        }
        if together {
            fp = self.held(saved);
        }
        self.go(Regs { ip: self.held(returns), sp: cfa, fp })
    }
}
