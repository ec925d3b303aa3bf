//! A step by rule on aarch64.
//!
//! In: a frame's registers and its rule. Out: its caller's. Whatever the words say, a step reads inside of its window, and goes up.
//!
//! A call leaves its return address in x30. A function that calls saves it, mostly in a frame record: x29, and x30 right above.
//! Where a record lies in its frame nothing says but a rule, so that after a step by pointer sp is only known to lie above the record;
//! from there on steps are by pointer, until a rule that counts from x29 finds it again. What authenticates a return address is in bits
//! that no address has. Sources: *Procedure Call Standard for the Arm 64-bit Architecture* (frame records), *DWARF for the Arm 64-bit
//! Architecture* (numbers of registers), and the kernel's `arch/arm64/include/uapi/asm/sigcontext.h`.
#![expect(clippy::cast_possible_truncation, reason = "parts of a word")]

use super::arch::Arch;
use super::cfi::Words;
use super::frame_pointer::RECORD_BYTES;
use super::table::{
    DISTANCE_SHIFT, FORM_RBP, FORM_RSP, KIND_LINK, KIND_POINTER, KIND_RBP, KIND_RSP, KIND_SHIFT, KIND_SIDE,
    KIND_SIGNAL, KIND_STOP, SAVED_CFA, SAVED_LINK, SAVED_NOT, SAVED_SHIFT,
};
use super::walk::{CONTINUE, Walk, Window};
use super::{End, Regs};

/// The bits of an address in user space; those above may hold a signature.
const ADDRESS_MASK: u64 = (1 << 48) - 1;

// Where the kernel puts the registers of what a signal interrupted, from sp in the trampoline: `sigcontext` of the `ucontext` that lies
// behind a `siginfo`.
const SIGNAL_X29: u64 = 544;
const SIGNAL_X30: u64 = 552;
const SIGNAL_SP: u64 = 560;
const SIGNAL_PC: u64 = 568;

/// The processor's name.
#[derive(Clone, Copy, Debug)]
pub enum Aarch64 {}

impl Arch for Aarch64 {
    #[inline(always)]
    fn by_rule(walk: &mut Walk, words: Words, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
        let Regs { sp, fp, .. } = walk.regs;
        let Words { row, second, number } = words;
        let kind = row >> KIND_SHIFT;
        let form = second & ((1 << SAVED_SHIFT) - 1);
        let is_side = kind == KIND_SIDE;
        let from = second >> SAVED_SHIFT & 3;
        let is_alone = kind == KIND_LINK || (is_side && from == SAVED_LINK);
        let from_sp = kind == KIND_RSP || kind == KIND_LINK || (is_side && form == FORM_RSP);
        if kind == KIND_POINTER || (from_sp && !is_alone && walk.adrift != 0) {
            return by_pointer(walk, read);
        } else if kind == KIND_STOP {
            return End::Root as u32;
        } else if kind == KIND_SIGNAL {
            return out_of_signal(walk, read);
        } else if from_sp && walk.adrift != 0 {
            return End::Invalid as u32;
        }
        let base = if from_sp { sp } else { fp };
        let mut below = u64::from(row >> 19 & 0x3ff) * 8;
        let cfa = if kind == KIND_RSP || kind == KIND_RBP || kind == KIND_LINK {
            base.wrapping_add(u64::from(row >> 8 & 0x7ff) * 8)
        } else if is_side && (form == FORM_RSP || form == FORM_RBP) {
            if from != SAVED_NOT && from != SAVED_CFA && from != SAVED_LINK {
                return End::Invalid as u32;
            }
            below = (0u64).wrapping_sub((second as i32 >> DISTANCE_SHIFT) as u64);
            base.wrapping_add(number as u32 as i32 as u64)
        } else {
            return End::Invalid as u32;
        };
        // A stack grows down: the caller's frame lies above, or where this one is that has none. This is also what ends a loop.
        if (cfa | below) & 7 != 0 || cfa < sp {
            return End::NoFrame as u32;
        }
        if below == 0 {
            if !walk.may_use_link() {
                return End::Invalid as u32;
            }
            let caller = Regs { ip: walk.links[0] & ADDRESS_MASK, sp: cfa, fp };
            walk.adrift = 0;
            return walk.go(caller);
        }
        let saved = cfa.wrapping_sub(below);
        let words = if is_alone { 0 } else { 8 };
        let high = saved.wrapping_add(words);
        if saved < sp || cfa <= high {
            return End::NoFrame as u32;
        }
        if !walk.hold(saved, high, read) {
            return End::Fault as u32;
        }
        let fp = if is_alone { fp } else { walk.held(saved) };
        walk.adrift = 0;
        walk.go(Regs { ip: walk.held(high) & ADDRESS_MASK, sp: cfa, fp })
    }
}

/// Steps to the caller by the record that x29 points to.
#[inline(always)]
fn by_pointer(walk: &mut Walk, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
    let Regs { sp, fp, .. } = walk.regs;
    let ended = walk.check_pointer(sp);
    if ended != CONTINUE {
        return ended;
    }
    let high = fp.wrapping_add(8);
    if !walk.hold(fp, high, read) {
        return End::Fault as u32;
    }
    walk.adrift = 1;
    let caller =
        Regs { ip: walk.held(high) & ADDRESS_MASK, sp: fp.wrapping_add(RECORD_BYTES), fp: walk.held(fp) };
    walk.go(caller)
}

/// Steps out of a signal's trampoline to what was interrupted.
#[inline(always)]
fn out_of_signal(walk: &mut Walk, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
    walk.leave_trampoline();
    let sp = walk.regs.sp;
    if walk.adrift != 0 {
        // The kernel lays a record down with what was interrupted: its caller is known, and it is not.
        return by_pointer(walk, read);
    }
    if sp & 7 != 0 {
        return End::NoFrame as u32;
    }
    if !walk.hold(sp.wrapping_add(SIGNAL_X29), sp.wrapping_add(SIGNAL_PC), read) {
        return End::Fault as u32;
    }
    walk.links[0] = walk.held(sp.wrapping_add(SIGNAL_X30));
    let interrupted = Regs {
        ip: walk.held(sp.wrapping_add(SIGNAL_PC)),
        sp: walk.held(sp.wrapping_add(SIGNAL_SP)),
        fp: walk.held(sp.wrapping_add(SIGNAL_X29)),
    };
    walk.go_back(interrupted)
}
