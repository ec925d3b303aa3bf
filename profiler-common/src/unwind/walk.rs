//! One walk over a user stack: where it stands, and which way it goes on.
//!
//! In: registers, a list of mappings, something that reads the stack and something that finds slabs. Out: frame after frame,
//! and how it ended. A window of up to [`WINDOW_WORDS`] of the stack is read at once, where a frame lies, and again whenever
//! the walk leaves it. Not here: the two kinds of steps (`cfi.rs`, `frame_pointer.rs`).

use super::arch::{Arch, Native};
use super::cfi::Words;
use super::recent::{Recent, Trail};
use super::table::{COMING, KEEPS_FRAMES, MappingList, Slab, WANTED};
use super::{End, Regs};
use crate::limits::{WINDOW_FIRST_WORDS, WINDOW_WORDS};

const WINDOW_BYTES: u64 = (WINDOW_WORDS * 8) as u64;
const WINDOW_FIRST_BYTES: u64 = (WINDOW_FIRST_WORDS * 8) as u64;
const PAGE_BYTES: u64 = 4096;

/// Words of the stack.
pub type Window = [u64; WINDOW_WORDS];

/// What is in the registers in which a return address may be.
pub type Links = [u64; 2];

/// What a step came to: on, or the number of an [`End`].
pub const CONTINUE: u32 = u32::MAX;

/// The innermost frame: the instruction at `ip` comes next.
const INNERMOST: u64 = 0;
/// `ip` is where a call returns to: the call lies before it, and may be the last instruction of its function.
const CALLED: u64 = 1;
/// Where a frame's address has [`CALLED`] when it is looked up: no address has that bit.
const CALLED_SHIFT: u32 = 63;
/// What a signal interrupted: the instruction at `ip` comes next.
const INTERRUPTED: u64 = 2;

/// The state of one walk. On the kernel side it lies in a map, so that the verifier, which knows nothing of a
/// map's contents, sees the same state at every frame and looks at the loop's body once.
#[repr(C)]
#[derive(Debug)]
pub struct Walk {
    window: Window,
    /// The frame reached.
    pub regs: Regs,
    /// How it was reached: `INNERMOST`, `CALLED` or `INTERRUPTED`.
    pub(super) reached: u64,
    /// See [`Walk::left`].
    left: u64,
    /// Where a frame that has it in a register returns to, the innermost one and what a signal interrupted; 0 for not known. On aarch64 `x30`, on
    /// x86_64 by [`super::table::Holder`].
    pub(super) links: Links,
    /// One if the stack pointer is not known but to lie no lower than `regs` says.
    pub(super) adrift: u64,
    /// Address of the list of mappings.
    pub(super) list: u32,
    /// Mappings in the list; without any, every step is by frame pointer.
    pub(super) mappings: u32,
    /// The list's version.
    version: u32,
    /// The mapping met last, as in its list. Neighbours are mostly of one.
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) shift: u64,
    pub(super) directory: u32,
    pub(super) pages: u32,
    /// [`WANTED`] once the walk met a mapping whose table is that; [`COMING`] once it met one whose table is on its way, or left
    /// the list, which may be older than what it lists.
    pub wants: u64,
    window_start: u64,
    window_bytes: u64,
    /// Bytes that the next window has at most.
    window_next: u64,
    trail: Trail,
}

impl Walk {
    /// A walk by frame pointer that has read nothing yet.
    pub const fn new(regs: Regs) -> Self {
        Self {
            window: [0; WINDOW_WORDS],
            regs,
            reached: INNERMOST,
            left: 0,
            links: [0; 2],
            adrift: 0,
            list: 0,
            mappings: 0,
            version: 0,
            start: 0,
            bytes: 0,
            shift: 0,
            directory: 0,
            pages: 0,
            wants: 0,
            window_start: 0,
            window_bytes: 0,
            window_next: WINDOW_FIRST_BYTES,
            trail: Trail::START,
        }
    }

    /// Starts again at `regs` in a process with `list` (an empty one for none), forgetting the window but not clearing it.
    #[inline(always)]
    pub fn restart(&mut self, regs: Regs, list: MappingList) {
        self.regs = regs;
        self.reached = INNERMOST;
        self.links = [0; 2];
        self.adrift = 0;
        self.list = list.address;
        self.mappings = list.mappings;
        self.version = list.version;
        self.bytes = 0;
        self.wants = 0;
        self.window_start = 0;
        self.window_bytes = 0;
        self.window_next = WINDOW_FIRST_BYTES;
        self.trail = Trail::START;
    }

    /// Says where the innermost frame returns to, if it has saved that nowhere.
    #[inline(always)]
    pub fn link(&mut self, to: Links) {
        self.links = to;
    }

    /// The address of the frame that the last step left, as it is to be recorded.
    ///
    /// Whoever reads a stack takes one from every address but the first, to come from a return address into the call. Nothing
    /// called what a signal interrupted, nor the trampoline that a handler returns to: those are recorded with one more.
    #[inline(always)]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Steps from the current frame, which [`Walk::left`] then is, to its caller.
    ///
    /// `read(window, at, bytes)` fills the first `bytes` (a multiple of eight, at most the window) of `window`
    /// from user address `at` and says whether it could. `slab(number)` finds a slab. `recent` is of walks before this one.
    /// Returns [`CONTINUE`] with the caller in `regs`, or an [`End`] as a number, `regs` untouched.
    #[inline(always)]
    pub fn step<'a>(
        &mut self,
        read: &mut impl FnMut(&mut Window, u64, u64) -> bool,
        slab: &impl Fn(u32) -> Option<&'a Slab>,
        recent: &mut Recent,
    ) -> u32 {
        self.step_on::<Native>(read, slab, recent)
    }

    /// The same on any processor.
    #[inline(always)]
    pub fn step_on<'a, A: Arch>(
        &mut self,
        read: &mut impl FnMut(&mut Window, u64, u64) -> bool,
        slab: &impl Fn(u32) -> Option<&'a Slab>,
        recent: &mut Recent,
    ) -> u32 {
        self.left = self.regs.ip.wrapping_add(self.reached >> 1);
        let words = 'words: {
            if self.mappings == 0 {
                break 'words Words::POINTER;
            }
            let at = self.instruction();
            let is_near = at.wrapping_sub(self.start) < self.bytes;
            if is_near && self.goes_by_pointer() {
                break 'words Words::POINTER;
            }
            self.trail.go_on(self.regs.sp, self.version);
            let frame = self.regs.ip | (self.reached & CALLED) << CALLED_SHIFT;
            if let Some(words) = recent.find(frame, self.trail, self.version) {
                break 'words words;
            }
            if !is_near && !self.find_mapping(at, slab) {
                // Code so new that the list does not have it may be running, but what was called from nowhere was not called.
                self.wants |= COMING as u64;
                if self.reached != INNERMOST {
                    return End::NoMapping as u32;
                }
                break 'words Words::POINTER;
            }
            self.wants |= (self.pages & (WANTED | COMING)) as u64;
            let words = if self.goes_by_pointer() { Words::POINTER } else { self.find_rule(at, slab) };
            if self.directory != 0 {
                recent.keep(frame, self.trail, self.version, words);
            }
            words
        };
        A::by_rule(self, words, read)
    }

    /// Whether the mapping that is kept has no table for this frame, or one that it has no use for.
    #[inline(always)]
    fn goes_by_pointer(&self) -> bool {
        self.directory == 0 || (self.pages & KEEPS_FRAMES != 0 && self.reached == CALLED)
    }

    /// Where the mapping begins that the last step found its frame in.
    pub const fn met(&self) -> u64 {
        self.start
    }

    /// Whether the file mapped there has a table.
    pub const fn has_table(&self) -> bool {
        self.directory != 0
    }

    /// An address in the instruction that the frame is at.
    #[inline(always)]
    fn instruction(&self) -> u64 {
        self.regs.ip.wrapping_sub(self.reached & CALLED)
    }

    /// Goes to the caller of `ip`, unless it is none.
    #[inline(always)]
    pub(super) fn go(&mut self, caller: Regs) -> u32 {
        if caller.ip == 0 {
            return End::Root as u32;
        }
        if caller.ip < PAGE_BYTES {
            return End::NoFrame as u32; // nothing is ever mapped there
        }
        self.regs = caller;
        self.reached = CALLED;
        CONTINUE
    }

    /// Says that the frame which is left is a signal's trampoline.
    #[inline(always)]
    pub(super) fn leave_trampoline(&mut self) {
        self.left = self.left.wrapping_add(self.reached & CALLED);
    }

    /// Whether what the frame returns to may still be where its call put it: it called nobody since.
    #[inline(always)]
    pub(super) fn may_use_link(&self) -> bool {
        self.reached != CALLED
    }

    /// Goes to what a signal interrupted.
    #[inline(always)]
    pub(super) fn go_back(&mut self, interrupted: Regs) -> u32 {
        let went = self.go(interrupted);
        if went == CONTINUE {
            self.reached = INTERRUPTED;
        }
        went
    }

    /// Makes the window hold the words from `low` to `high`, both included and both multiples of eight, no more than a window
    /// apart. False if the stack cannot be read there.
    #[inline(always)]
    pub(super) fn hold(
        &mut self,
        low: u64,
        high: u64,
        read: &mut impl FnMut(&mut Window, u64, u64) -> bool,
    ) -> bool {
        let least = high.wrapping_sub(low).wrapping_add(8);
        let offset = low.wrapping_sub(self.window_start);
        if offset <= self.window_bytes && self.window_bytes - offset >= least {
            return true;
        }
        // What is needed may straddle two pages: both are stack then. What is more may not.
        let page = PAGE_BYTES - (low & (PAGE_BYTES - 1));
        let bytes = if page > self.window_next { self.window_next } else { page };
        let bytes = if bytes < least { least } else { bytes };
        if !read(&mut self.window, low, bytes) {
            self.window_bytes = 0;
            return false;
        }
        self.window_start = low;
        self.window_bytes = bytes;
        self.window_next = WINDOW_BYTES;
        true
    }

    /// The word at `at`, which the window holds.
    #[inline(always)]
    pub(super) fn held(&self, at: u64) -> u64 {
        // The mask changes nothing: it is what lets the verifier see that the index is inside.
        self.window[(at.wrapping_sub(self.window_start) >> 3) as usize & (WINDOW_WORDS - 1)]
    }
}
