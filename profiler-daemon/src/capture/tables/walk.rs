//! A walk over a stack that came with its sample, by the tables that the kernel side reads, and by the same code.
//!
//! In: registers, words of a stack, and the mappings of its process at that moment. Out: the frames that the kernel would have found
//! had it had these tables then; or the file whose table is still to come.

use std::sync::Arc;

use profiler_common::limits::{SLABS_MAX, STACK_WORDS_MAX, USER_FRAMES_MAX};
use profiler_common::unwind::End;
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::{COMING, MAPPING_WORDS, MAPPINGS_MAX, MappingList, Slab, WANTED};
use profiler_common::unwind::walk::{CONTINUE, Walk, Window};

use super::Tables;
use super::memory::blank;
use crate::model::{Module, RawStack, UserAddr};
use crate::processes::Mappings;
use crate::time::MonoNs;

/// The number that the slab with the list has for a walk: no other one has it.
#[expect(clippy::cast_possible_truncation, reason = "some hundreds")]
const LIST: u32 = SLABS_MAX as u32;

/// What a walk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walked {
    /// To its end.
    To {
        /// As in [`crate::model::RawSample::user`].
        user: Vec<UserAddr>,
        /// How it ended.
        ended: End,
    },
    /// Nothing that the kernel did not know: no table was of use.
    Same,
    /// To code of this file, whose table may come.
    Wants(Arc<Module>),
}

impl Tables {
    /// Walks `stack`, of a process with these mappings.
    pub fn walk(&mut self, mappings: &Mappings, stack: &RawStack) -> Walked {
        let now = MonoNs::now();
        // A walk takes less time than a slab to be made. What an earlier one left behind this list is not read.
        let mut list = self.list.take().unwrap_or_else(blank);
        let mut listed = 0;
        for (mapped, words) in mappings.iter().take(MAPPINGS_MAX).zip(list.chunks_exact_mut(MAPPING_WORDS)) {
            let mut line = self.mapping(&mapped, now);
            if line.pages & COMING != 0 {
                line.pages |= WANTED;
            }
            words.copy_from_slice(&line.words());
            listed += 1;
        }
        let mut walk = Walk::new(stack.regs);
        // One walk has nothing to remember.
        walk.restart(stack.regs, MappingList { address: LIST << 16, mappings: listed, version: 0 });
        walk.link(stack.links);
        let slab = |number: u32| if number == LIST { Some(&*list) } else { self.memory.slab(number) };
        let walked = Self::walk_on(&mut walk, mappings, stack, &slab);
        self.list = Some(list);
        walked
    }

    fn walk_on<'a>(
        walk: &mut Walk,
        mappings: &Mappings,
        stack: &RawStack,
        slab: &impl Fn(u32) -> Option<&'a Slab>,
    ) -> Walked {
        let mut user = Vec::new();
        let mut recent = Recent::new();
        let mut by_table = false;
        let mut beyond = false;
        let mut read = |window: &mut Window, at: u64, bytes: u64| {
            let found = read(stack, window, at, bytes);
            beyond |= !found && is_cut(stack, at);
            found
        };
        while user.len() < USER_FRAMES_MAX {
            let ended = walk.step(&mut read, slab, &mut recent);
            user.push(UserAddr(walk.left()));
            if walk.wants & u64::from(WANTED) != 0 {
                let module = mappings.iter().find(|mapped| mapped.start == walk.met());
                return match module.and_then(|mapped| mapped.module) {
                    Some(module) => Walked::Wants(Arc::clone(module)),
                    None => Walked::Same,
                };
            }
            by_table |= walk.has_table();
            if ended == CONTINUE {
                continue;
            }
            let ended = u16::try_from(ended).ok().and_then(End::from_wire).unwrap_or(End::Invalid);
            return match ended {
                _ if !by_table => Walked::Same,
                End::Fault if beyond => Walked::To { user, ended: End::Truncated },
                _ => Walked::To { user, ended },
            };
        }
        Walked::To { user, ended: End::Truncated }
    }
}

/// Fills `bytes` of `window` from `at`, if the stack has them all.
fn read(stack: &RawStack, window: &mut Window, at: u64, bytes: u64) -> bool {
    let words = || {
        let first = usize::try_from(at.checked_sub(stack.regs.sp & !7)? / 8).ok()?;
        let count = usize::try_from(bytes / 8).ok()?;
        Some((count, stack.words.get(first..first.checked_add(count)?)?))
    };
    let Some((count, words)) = words() else { return false };
    window[..count].copy_from_slice(words);
    true
}

/// Whether `at` lies above a stack that has more words than could be brought along.
fn is_cut(stack: &RawStack, at: u64) -> bool {
    let start = stack.regs.sp & !7;
    let most = STACK_WORDS_MAX as u64 - (start % 4096) / 8;
    stack.words.len() as u64 >= most && at >= start
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
