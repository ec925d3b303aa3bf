//! Functions of a few instructions, to the byte.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;

use profiler_common::unwind::table::{Cfa, Saved};

use super::space::Space;
use super::state::State;
use super::*;

const BASE: u64 = 0x40_1000;

/// There is code around.
const CODE: Segment = Segment { kind: Segment::LOADED, flags: 5, offset: 0, bytes: 1 << 16, address: BASE };

const PUSH_RBP: &[u8] = &[0x55];
const POP_RBP: &[u8] = &[0x5d];
const PUSH_RBX: &[u8] = &[0x53];
const POP_RBX: &[u8] = &[0x5b];
const MOV_RSP_RBP: &[u8] = &[0x48, 0x89, 0xe5];
const LEAVE: &[u8] = &[0xc9];
const RET: &[u8] = &[0xc3];
const NOP: &[u8] = &[0x90];
const SUB_24: &[u8] = &[0x48, 0x83, 0xec, 24];
const ADD_24: &[u8] = &[0x48, 0x83, 0xc4, 24];
const AND_16: &[u8] = &[0x48, 0x83, 0xe4, 0xf0];
const XOR_EBP: &[u8] = &[0x31, 0xed];
const CALL_RAX: &[u8] = &[0xff, 0xd0];
const CALL_NEXT_BUT: &[u8] = &[0xe8, 0x00, 0x10, 0, 0];

fn from_rsp(above: i32, rbp: Saved) -> Rule {
    Rule::Frame { cfa: Cfa::Rsp(above), rbp }
}

const LEAF: Rule = Rule::Frame { cfa: Cfa::Rsp(8), rbp: Saved::Not };

/// What is made of `pieces`, a function that begins at the first: the rule in front of each.
#[track_caller]
fn check(pieces: &[(&[u8], Rule)]) {
    let bytes: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.iter().copied()).collect();
    let mut space = Space::default();
    space.push(BASE, 0, &bytes);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let mut finder = Finder::new(&space, Flow::new(&space, None, Switch::new(&file, &[CODE])), &file);
    finder.take(std::iter::once(BASE));
    finder.find();
    let mut at = 0;
    for (number, (piece, expected)) in pieces.iter().enumerate() {
        let found = finder.flow.at(at).map_or(Rule::Pointer, State::rule);
        assert_eq!(found, *expected, "piece {number}, {piece:02x?}");
        at += piece.len();
    }
}

#[test]
fn a_push_moves_the_stack_pointer_and_a_pop_moves_it_back() {
    let inside = from_rsp(16, Saved::Not);
    check(&[
        (PUSH_RBX, LEAF),
        (SUB_24, inside),
        (ADD_24, from_rsp(40, Saved::Not)),
        (POP_RBX, inside),
        (RET, LEAF),
    ]);
}

#[test]
fn the_callers_rbp_is_where_it_was_pushed_until_it_is_popped() {
    let inside = from_rsp(16, Saved::Cfa(-16));
    check(&[(PUSH_RBP, LEAF), (XOR_EBP, inside), (POP_RBP, inside), (RET, LEAF)]);
}

#[test]
fn a_frame_pointer_says_where_the_frame_is_whatever_becomes_of_the_stack_pointer() {
    let framed = Rule::Frame { cfa: Cfa::Rbp(16), rbp: Saved::Cfa(-16) };
    check(&[
        (PUSH_RBP, LEAF),
        (MOV_RSP_RBP, from_rsp(16, Saved::Cfa(-16))),
        (AND_16, framed),
        (NOP, framed),
        (LEAVE, framed),
        (RET, LEAF),
    ]);
}

#[test]
fn a_stack_pointer_of_any_value_is_unknown() {
    check(&[(AND_16, LEAF), (NOP, Rule::Pointer), (RET, Rule::Pointer)]);
}

#[test]
fn what_returns_from_another_depth_is_not_believed() {
    check(&[(PUSH_RBX, Rule::Pointer), (RET, Rule::Pointer)]);
    check(&[(POP_RBX, Rule::Pointer), (RET, Rule::Pointer)]);
}

#[test]
fn a_function_that_loses_rbp_and_returns_is_not_believed() {
    check(&[(NOP, Rule::Pointer), (XOR_EBP, Rule::Pointer), (RET, Rule::Pointer)]);
}

#[test]
fn a_thread_begins_where_rbp_is_cleared_first_or_before_a_call() {
    check(&[(XOR_EBP, LEAF), (NOP, Rule::Stop), (AND_16, Rule::Stop)]);
    check(&[(NOP, LEAF), (XOR_EBP, LEAF), (POP_RBX, Rule::Stop), (CALL_RAX, Rule::Stop), (NOP, Rule::Stop)]);
}

#[test]
fn two_ways_of_different_depth_are_not_believed() {
    // je over a push; both lead to the same return.
    check(&[(&[0x74, 0x01], Rule::Pointer), (PUSH_RBX, Rule::Pointer), (RET, Rule::Pointer)]);
}

#[test]
fn what_jumps_to_where_no_code_is_is_not_believed() {
    check(&[(&[0xe9, 0, 0x10, 0, 0], LEAF)]);
    check(&[(&[0xe9, 0, 0, 0, 0x70], Rule::Pointer)]);
}

#[test]
fn what_follows_a_call_that_does_not_return_is_another_function() {
    // The call is of a stranger; what comes next returns as if nothing had been pushed.
    let pushed = from_rsp(16, Saved::Not);
    check(&[(PUSH_RBX, LEAF), (CALL_NEXT_BUT, pushed), (NOP, Rule::Pointer), (RET, Rule::Pointer)]);
}

#[test]
fn a_trampoline_of_signals_is_known_by_its_two_instructions() {
    assert_eq!(signal_bytes(&[0xb8, 15, 0, 0, 0, 0x0f, 0x05]), Some(7));
    assert_eq!(signal_bytes(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0x90]), Some(9));
    assert_eq!(signal_bytes(&[0xb8, 16, 0, 0, 0, 0x0f, 0x05]), None);
}

/// A program of some kilobyte without a name and without a table, as fuzzing begins with.
#[test]
fn a_program_without_tables_or_names_has_rules() {
    let bytes = include_bytes!("../../../../../../tests/fuzz/corpus/unwind_table/code");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let mut builder = super::super::Builder::new(&file).unwrap();
    let part = builder.part(&file);
    assert!(part.functions >= 2 && part.reached.is_empty(), "{part:?}");
    assert_eq!(part.blocks.len(), 1);
}

/// Any bytes in place of its code end in rules or none.
#[test]
fn whatever_the_code_is_it_ends() {
    let bytes = include_bytes!("../../../../../../tests/fuzz/corpus/unwind_table/code");
    let mut random = 1u64;
    for _ in 0..300 {
        let mut bytes = bytes.to_vec();
        for _ in 0..6 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(random >> 33).unwrap() % 0x16e;
            bytes[0xf0 + at] = random.to_le_bytes()[3];
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        if let Ok(mut builder) = super::super::Builder::new(&file) {
            let _ = builder.part(&file);
        }
    }
}

/// As a comparison that is handed on is, with what it has to be called with in other registers.
#[test]
fn what_only_jumps_to_another_function_is_one_if_its_address_is_taken() {
    let taken: &[u8] = &[0x48, 0x8d, 0x0d, 9, 0, 0, 0, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90];
    let jump: &[u8] = &[0xff, 0xe2];
    let bytes = [taken, jump].concat();
    let mut space = Space::default();
    space.push(BASE, 0, &bytes);
    let file = tempfile::tempfile().unwrap();
    let mut finder = Finder::new(&space, Flow::new(&space, None, Switch::new(&file, &[])), &file);
    finder.take(std::iter::once(BASE));
    finder.find();
    assert!(finder.flow.at(taken.len()).is_none());
    finder.guess();
    assert_eq!(finder.flow.at(taken.len()).map(State::rule), Some(LEAF));
}
