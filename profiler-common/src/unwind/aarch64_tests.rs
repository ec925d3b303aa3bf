//! Steps by rule on aarch64, over stacks and tables written by hand.

use std::vec::Vec;

use super::aarch64::Aarch64;
use super::cfi_tests::{CODE, LIST, STACK, slab};
use super::recent::Recent;
use super::table::{Cfa, Rule, Saved};
use super::walk::{CONTINUE, Walk, Window};
use super::{End, Regs};

/// Where every walk ends that goes well.
const STOP_AT: u64 = 0x8000;
const ROOT: u64 = CODE + STOP_AT + 8;
/// What signs a return address.
const SIGNATURE: u64 = 0x00a5 << 48;

/// Words of a stack, by offset.
type Words<'a> = &'a [(u64, u64)];

/// Walks from `ip` and `sp` above [`STACK`], x29 being zero or above it too, and x30 `link`; compares frames and end.
#[track_caller]
fn check(
    rows: &[(u64, Rule)],
    (ip, sp, fp, link): (u64, u64, u64, u64),
    stack: Words<'_>,
    frames: &[u64],
    end: End,
) {
    let mut memory = std::vec![0u64; 1024];
    for (at, word) in stack {
        memory[usize::try_from(at / 8).expect("a small number")] = *word;
    }
    let mut all = rows.to_vec();
    all.push((STOP_AT, Rule::Stop));
    let slab = slab(&all, 0);
    let mut read = |window: &mut Window, at: u64, bytes: u64| {
        let Some(first) = at.checked_sub(STACK).and_then(|offset| usize::try_from(offset / 8).ok()) else {
            return false;
        };
        let words = usize::try_from(bytes / 8).expect("a window");
        let Some(words) = memory.get(first..first + words) else { return false };
        window[..words.len()].copy_from_slice(words);
        true
    };
    let regs = Regs { ip: CODE + ip, sp: STACK + sp, fp: if fp == 0 { 0 } else { STACK + fp } };
    let mut recent = Recent::new();
    // The second time by rows that are remembered.
    for _ in 0..2 {
        let mut walk = Walk::new(regs);
        walk.restart(regs, LIST);
        walk.link([link, 0]);
        let mut found = Vec::new();
        let ended = loop {
            let went =
                walk.step_on::<Aarch64>(&mut read, &|number| (number == 0).then_some(&*slab), &mut recent);
            found.push(walk.left());
            if went != CONTINUE || found.len() == 20 {
                break went;
            }
        };
        assert_eq!(u16::try_from(ended).ok().and_then(End::from_wire), Some(end), "{found:x?}");
        assert_eq!(found[1..], *frames, "{found:x?}");
    }
}

/// A frame with a record at its bottom, as compilers lay it down.
fn record(bytes: i32) -> Rule {
    Rule::Frame { cfa: Cfa::Rsp(bytes), rbp: Saved::Cfa(-bytes) }
}

const LEAF: Rule = Rule::Frame { cfa: Cfa::Rsp(0), rbp: Saved::Not };

#[test]
fn a_leaf_returns_by_its_register() {
    check(&[(0, LEAF)], (8, 64, 0, ROOT), &[], &[ROOT], End::Root);
    check(&[(0, LEAF)], (8, 64, 0, ROOT | SIGNATURE), &[], &[ROOT], End::Root);
    // With words of its own, too.
    let rows = [(0, Rule::Frame { cfa: Cfa::Rsp(48), rbp: Saved::Not })];
    check(&rows, (8, 64, 0, ROOT), &[], &[ROOT], End::Root);
}

#[test]
fn nobody_else_does() {
    check(&[(0, LEAF)], (8, 64, 0, CODE + 0x10), &[], &[CODE + 0x10], End::Invalid);
}

#[test]
fn a_record_lies_anywhere_in_its_frame() {
    let rows =
        [(0, LEAF), (0x100, record(32)), (0x200, Rule::Frame { cfa: Cfa::Rsp(64), rbp: Saved::Cfa(-16) })];
    let stack = [(64, STACK + 2000), (72, CODE + 0x208), (64 + 32 + 48, 0), (64 + 32 + 56, ROOT | SIGNATURE)];
    check(&rows, (8, 64, 0, CODE + 0x108), &stack, &[CODE + 0x108, CODE + 0x208, ROOT], End::Root);
}

#[test]
fn a_return_address_may_be_saved_alone() {
    let rows = [(0, LEAF), (0x100, Rule::Link { above: 48, below: 40 }), (0x200, record(16))];
    let stack = [(64 + 8, CODE + 0x208), (112, STACK + 2000), (120, ROOT)];
    check(&rows, (8, 64, 1000, CODE + 0x108), &stack, &[CODE + 0x108, CODE + 0x208, ROOT], End::Root);
}

#[test]
fn a_frame_is_counted_from_the_frame_pointer_where_the_stack_pointer_moves() {
    let rows = [(0, Rule::Frame { cfa: Cfa::Rbp(96), rbp: Saved::Cfa(-96) })];
    check(&rows, (8, 64, 512, 0), &[(512, 0), (520, ROOT)], &[ROOT], End::Root);
}

#[test]
fn large_frames_are_rare_rules() {
    let rows = [
        (0, Rule::Frame { cfa: Cfa::Rbp(7000), rbp: Saved::Cfa(-7000) }),
        (0x100, Rule::Frame { cfa: Cfa::Rsp(4096), rbp: Saved::Cfa(-16) }),
    ];
    let stack = [(512, 0), (520, CODE + 0x108)];
    // The frame above begins beyond what can be read.
    check(&rows, (8, 64, 512, 0), &stack, &[CODE + 0x108], End::Fault);
}

#[test]
fn a_large_frame_may_save_the_return_address_alone() {
    let rows = [(0, Rule::Pointer), (0x100, Rule::Link { above: 20_048, below: 20_016 })];
    check(&rows, (0x108, 64, 0, 0), &[(96, ROOT)], &[ROOT], End::Root);
    check(&rows, (8, 64, 128, 0), &[(128, 0), (136, CODE + 0x108)], &[CODE + 0x108], End::Invalid);
}

#[test]
fn after_a_step_by_pointer_frames_are_found_by_pointer_until_one_is_counted_from_it() {
    let rows = [
        (0, Rule::Pointer),
        (0x100, record(32)),
        (0x200, Rule::Frame { cfa: Cfa::Rbp(64), rbp: Saved::Cfa(-64) }),
        (0x300, record(48)),
    ];
    let stack = [
        (128, STACK + 256),
        (136, CODE + 0x108),
        (256, STACK + 512),
        (264, CODE + 0x208),
        (512, STACK + 2000),
        (520, CODE + 0x308),
        (576, 0),
        (584, ROOT),
    ];
    let frames = [CODE + 0x108, CODE + 0x208, CODE + 0x308, ROOT];
    check(&rows, (8, 64, 128, 0), &stack, &frames, End::Root);
}

#[test]
fn what_needs_a_stack_pointer_that_is_not_known_is_not_guessed() {
    let rows = [(0, Rule::Pointer), (0x100, Rule::Link { above: 32, below: 32 })];
    check(&rows, (8, 64, 128, 0), &[(128, 0), (136, CODE + 0x108)], &[CODE + 0x108], End::Invalid);
}

#[test]
fn a_signal_interrupts_a_leaf_at_its_first_instruction() {
    let rows = [(0, record(32)), (0x100, Rule::Signal), (0x200, LEAF), (0x300, record(16))];
    let at = 64 + 32;
    let stack = [
        (64, STACK + 4000),
        (72, CODE + 0x101),
        (at + 544, 0),
        (at + 552, (CODE + 0x308) | SIGNATURE),
        (at + 560, STACK + 4096),
        (at + 568, CODE + 0x200),
        (4096, 0),
        (4104, ROOT),
    ];
    let frames = [CODE + 0x102, CODE + 0x201, CODE + 0x308, ROOT];
    check(&rows, (8, 64, 0, 0), &stack, &frames, End::Root);
}

#[test]
fn a_stack_grows_down() {
    let at = |rule, sp, fp, end| check(&[(0, rule)], (8, sp, fp, ROOT), &[], &[], end);
    at(Rule::Frame { cfa: Cfa::Rbp(-16), rbp: Saved::Cfa(-32) }, 512, 512, End::NoFrame);
    at(Rule::Frame { cfa: Cfa::Rsp(16), rbp: Saved::Cfa(-32) }, 512, 0, End::NoFrame);
    at(Rule::Frame { cfa: Cfa::Rsp(8), rbp: Saved::Cfa(-8) }, 512, 0, End::NoFrame);
    at(Rule::Frame { cfa: Cfa::Rsp(32), rbp: Saved::Cfa(16) }, 512, 0, End::NoFrame);
    at(Rule::Link { above: 16, below: 24 }, 512, 0, End::NoFrame);
    at(Rule::Pointer, 512, 256, End::NoFrame);
}

#[test]
fn rules_of_other_processors_end_the_walk() {
    let at = |cfa, rbp| check(&[(0, Rule::Frame { cfa, rbp })], (8, 512, 512, ROOT), &[], &[], End::Invalid);
    at(Cfa::AtRsp(8, 8), Saved::Not);
    at(Cfa::Rbp(16), Saved::Rbp(0));
    check(&[(0, Rule::Elsewhere)], (8, 512, 512, ROOT), &[], &[], End::Invalid);
}
