//! A step by what the compiler wrote down about its frames.
//!
//! In: a frame's registers and the tables of `table.rs`. Out: its caller's. Whatever the words say, a step reads inside of
//! slabs and of its window, and ends.
#![expect(clippy::cast_possible_truncation, reason = "places in a slab and parts of a word, all of 32 bits")]

use super::frame_pointer::RECORD_BYTES;
use super::sign::sign;
use super::table::{
    DISTANCE_SHIFT, FORM_AT_RBP, FORM_AT_RSP, FORM_ELSEWHERE, FORM_RBP, FORM_RSP, GRANULE_BYTES, GRANULES,
    KIND_PLT, KIND_POINTER, KIND_RBP, KIND_RSP, KIND_SHIFT, KIND_SIDE, KIND_SIGNAL, KIND_STOP, MAPPING_WORDS,
    PAGE_BYTES, PAGES_MASK, SAVED_CFA, SAVED_RBP, SAVED_RSP, SAVED_SHIFT, SLAB_WORDS, STARTS_WORDS, Slab,
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

/// The word of `slab` at `at`; a place beyond the slab is one at its beginning.
#[inline(always)]
fn word(slab: &Slab, at: u64) -> u64 {
    slab[at as usize & (SLAB_WORDS - 1)] as u64
}

#[inline(always)]
fn double_word(slab: &Slab, at: u64) -> u64 {
    word(slab, at) | word(slab, at + 1) << 32
}

/// Where in its slab a word is.
#[inline(always)]
fn place(address: u32) -> u64 {
    (address & 0xffff) as u64
}

/// A rule as it was found: a row, and for one of [`KIND_SIDE`] the words of the rare rule.
#[derive(Clone, Copy)]
pub(super) struct Words {
    row: u32,
    second: u32,
    number: u64,
}

impl Words {
    /// A row that says all there is to say.
    #[inline(always)]
    pub(super) const fn row(row: u32) -> Self {
        Self { row, second: 0, number: 0 }
    }

    /// The row, if it says all there is to say.
    #[inline(always)]
    pub(super) fn alone(self) -> Option<u32> {
        (self.row >> KIND_SHIFT != KIND_SIDE).then_some(self.row)
    }

    /// A checked step by frame pointer.
    pub(super) const POINTER: Self = Self::row(KIND_POINTER << KIND_SHIFT);
}

impl Walk {
    /// Finds the mapping with `at` in the list, and keeps it. False if there is none.
    #[inline(always)]
    pub(super) fn find_mapping<'a>(&mut self, at: u64, slab: &impl Fn(u32) -> Option<&'a Slab>) -> bool {
        const WORDS: u64 = MAPPING_WORDS as u64;
        let Some(slab) = slab(self.list >> 16) else { return false };
        let list = place(self.list);
        let mappings = self.mappings as u64;
        // The last that starts at `at` or before; the first, if none does.
        let mut found = 0;
        let mut step = if mappings <= 16 {
            8
        } else if mappings <= 256 {
            128
        } else {
            4096
        };
        while step > 0 {
            let next = found + step;
            let start = double_word(slab, list + next * WORDS);
            // Halves, so that the difference has a sign wherever both lie; a start is even.
            let beyond = sign((at >> 1).wrapping_sub(start >> 1)) | sign((mappings - 1).wrapping_sub(next));
            found += step & !beyond;
            step >>= 1;
        }
        let entry = list + found * WORDS;
        self.start = double_word(slab, entry);
        self.bytes = double_word(slab, entry + 2);
        self.shift = double_word(slab, entry + 4);
        self.directory = word(slab, entry + 6) as u32;
        self.pages = word(slab, entry + 7) as u32;
        at.wrapping_sub(self.start) < self.bytes
    }

    /// The rule for the instruction with address `at` in the mapping that is kept; one of [`KIND_POINTER`] if its table says nothing.
    #[inline(always)]
    pub(super) fn find_rule<'a>(&self, at: u64, slab: &impl Fn(u32) -> Option<&'a Slab>) -> Words {
        let offset = at.wrapping_add(self.shift);
        let page = offset / PAGE_BYTES;
        if page >= (self.pages & PAGES_MASK) as u64 {
            return Words::POINTER;
        }
        let Some(directory) = slab(self.directory >> 16) else { return Words::POINTER };
        let block = word(directory, place(self.directory) + page) as u32;
        if block == 0 {
            return Words::POINTER;
        }
        let Some(slab) = slab(block >> 16) else { return Words::POINTER };
        let block = place(block);
        let row = find_row(slab, block, offset);
        if row >> KIND_SHIFT != KIND_SIDE {
            return Words::row(row);
        }
        let side = block + (row >> 8 & 0x1f_ffff) as u64;
        Words { row, second: word(slab, side + 1) as u32, number: word(slab, side) }
    }

    /// Steps to the caller by the rule that `words` are.
    #[inline(always)]
    pub(super) fn by_rule(
        &mut self,
        words: Words,
        read: &mut impl FnMut(&mut Window, u64, u64) -> bool,
    ) -> u32 {
        let Regs { ip, sp, fp } = self.regs;
        let Words { row, second, number } = words;
        let kind = row >> KIND_SHIFT;
        let form = second & ((1 << SAVED_SHIFT) - 1);
        let is_elsewhere = kind == KIND_SIDE && form == FORM_ELSEWHERE;
        let mut cfa = fp.wrapping_add(RECORD_BYTES);
        let mut saved = fp; // where the caller's rbp is, 0 for where it was
        if kind == KIND_POINTER || is_elsewhere {
            let ended = self.check_pointer(if is_elsewhere { 0 } else { sp });
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
                return self.out_of_signal(read);
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
                    if !self.hold(at, at, read) {
                        return End::Fault as u32;
                    }
                    cfa = self.held(at).wrapping_add((number >> 16) as i16 as u64);
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
        self.by_frame(cfa, saved, read)
    }

    /// Steps out of a signal's trampoline to what was interrupted.
    #[inline(always)]
    fn out_of_signal(&mut self, read: &mut impl FnMut(&mut Window, u64, u64) -> bool) -> u32 {
        self.leave_trampoline();
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

/// The row for `offset` in the block at `block`; one of [`KIND_POINTER`] if its granule has none.
#[inline(always)]
fn find_row(slab: &Slab, block: u64, offset: u64) -> u32 {
    let granule = offset / GRANULE_BYTES % GRANULES as u64;
    let low_byte = offset % GRANULE_BYTES;
    let first = start(slab, block, granule);
    let rows = start(slab, block, granule + 1).wrapping_sub(first);
    if rows == 0 || rows > GRANULE_BYTES {
        return KIND_POINTER << KIND_SHIFT;
    }
    let first = block + STARTS_WORDS as u64 + first;
    // The last that starts at `offset` or before: the first does. Most granules have few rows.
    let mut found = 0;
    let mut step = if rows <= 4 {
        2
    } else if rows <= 16 {
        8
    } else {
        128
    };
    while step > 0 {
        let next = found + step;
        let from = word(slab, first + next) & (GRANULE_BYTES - 1);
        let beyond = sign(low_byte.wrapping_sub(from)) | sign((rows - 1).wrapping_sub(next));
        found += step & !beyond;
        step >>= 1;
    }
    word(slab, first + found) as u32
}

/// The number of the first row of `granule`.
#[inline(always)]
fn start(slab: &Slab, block: u64, granule: u64) -> u64 {
    word(slab, block + granule / 2) >> (granule % 2 * 16) & 0xffff
}
