//! The walk by table, over stacks and tables written by hand.
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use super::recent::Recent;
use super::table::{
    Cfa, GRANULES, Holder, KEEPS_FRAMES, MAPPING_WORDS, Mapping, MappingList, PAGE_BYTES, Packed, Rule,
    SLAB_WORDS, STARTS_WORDS, Saved, Slab,
};
use super::walk::{CONTINUE, Walk, Window};
use super::{End, Regs};

/// Where the stack lies.
pub(super) const STACK: u64 = 0x7ffc_0000_0000;
/// Where the code with a table lies, from the second page of its file.
pub(super) const CODE: u64 = 0x5555_0000_0000;
/// Where code without a table lies.
const BARE: u64 = 0x6666_0000_0000;
const MAPPED_BYTES: u64 = 2 * PAGE_BYTES;

/// A slab with a list of two mappings, a directory and a block with `rows`, offsets in the code mapping ascending.
pub(super) fn slab(rows: &[(u64, Rule)], flags: u32) -> Box<Slab> {
    let mut slab: Box<Slab> = vec![0; SLAB_WORDS].into_boxed_slice().try_into().expect("it is as long");
    let mut words = vec![0; STARTS_WORDS];
    let mut starts = [0u32; GRANULES + 1];
    let mut last: Option<(u64, Rule)> = None;
    let mut flat: Vec<(u64, Rule)> = Vec::new();
    for granule in 0..GRANULES as u64 {
        starts[granule as usize] = flat.len() as u32;
        let mine = rows.iter().filter(|(at, _)| at / 256 == granule);
        if let Some((_, rule)) = last.filter(|_| !rows.iter().any(|(at, _)| *at == granule * 256)) {
            flat.push((granule * 256, rule));
        }
        for row in mine {
            flat.push(*row);
            last = Some(*row);
        }
    }
    starts[GRANULES] = flat.len() as u32;
    for (granule, start) in starts.iter().enumerate() {
        words[granule / 2] |= start << (granule % 2 * 16);
    }
    let mut sides = Vec::new();
    for (at, rule) in &flat {
        let row = match rule.pack() {
            Packed::Row(row) => row,
            Packed::Side(side) => {
                sides.push(side);
                super::table::KIND_SIDE << 29
                    | ((STARTS_WORDS + flat.len() + sides.len() * 2 - 2) as u32) << 8
            }
        };
        words.push(row | (*at as u32 & 0xff));
    }
    words.extend(sides.concat());
    slab[1000..1000 + words.len()].copy_from_slice(&words);
    slab[100] = 1000; // the directory: one page, and one without rows
    let table = Mapping::of(CODE, MAPPED_BYTES, PAGE_BYTES, 100, 1, 2 | flags);
    for (at, mapping) in [table, Mapping::bare(BARE, MAPPED_BYTES)].iter().enumerate() {
        slab[200 + at * MAPPING_WORDS..][..MAPPING_WORDS].copy_from_slice(&mapping.words());
    }
    slab
}

struct Case<'a> {
    rows: &'a [(u64, Rule)],
    flags: u32,
    regs: Regs,
    stack: &'a [(u64, u64)],
}

/// Walks and compares the frames after the first, as recorded.
#[track_caller]
fn check(case: &Case<'_>, frames: &[u64], end: End) {
    let slab = slab(case.rows, case.flags);
    let mut stack = vec![0; 2048];
    for &(at, word) in case.stack {
        stack[(at / 8) as usize] = word;
    }
    let (got, ended) = run(case.regs, &stack, &slab);
    assert_eq!(got[1..], *frames, "{got:x?}");
    assert_eq!(ended, end);
}

/// Walks twice: what the first walk found the second one remembers, and goes the same way.
fn run(regs: Regs, stack: &[u64], slab: &Slab) -> (Vec<u64>, End) {
    let mut recent = Recent::new();
    let first = run_with(&mut recent, LIST, regs, stack, slab);
    assert_eq!(run_with(&mut recent, LIST, regs, stack, slab), first);
    first
}

/// The list of [`slab`].
pub(super) const LIST: MappingList = MappingList { address: 200, mappings: 2, version: 1 };

fn run_with(
    recent: &mut Recent,
    list: MappingList,
    regs: Regs,
    stack: &[u64],
    slab: &Slab,
) -> (Vec<u64>, End) {
    let mut read = |window: &mut Window, at: u64, bytes: u64| {
        let Some(first) = at.checked_sub(STACK).map(|offset| (offset / 8) as usize) else { return false };
        let Some(words) = stack.get(first..first + (bytes / 8) as usize) else { return false };
        window[..words.len()].copy_from_slice(words);
        true
    };
    let mut walk = Walk::new(regs);
    walk.restart(regs, list);
    let mut frames = Vec::new();
    for _ in 0..100 {
        let went = walk.step(&mut read, &|number| (number == 0).then_some(slab), recent);
        frames.push(walk.left());
        if went != CONTINUE {
            let end = End::from_wire(u16::try_from(went).expect("it fits")).expect("it is an end");
            return (frames, end);
        }
    }
    (frames, End::Truncated)
}

fn rsp(above: i32) -> Rule {
    Rule::Frame { cfa: Cfa::Rsp(above), rbp: Saved::Not }
}

fn regs(ip: u64, sp: u64, fp: u64) -> Regs {
    Regs { ip, sp: STACK + sp, fp: if fp == 0 { 0 } else { STACK + fp } }
}

const STOP_AT: u64 = 0x8000;
/// A return address into a function at which a walk stops.
const ROOT: u64 = CODE + STOP_AT + 9;

/// A walk from offset 0x10 of code whose rule is `rule`.
#[track_caller]
fn one(rule: Rule, regs: Regs, stack: &[(u64, u64)], frames: &[u64], end: End) {
    let rows = [(0, rule), (0x100, Rule::Pointer), (STOP_AT, Rule::Stop)];
    check(&Case { rows: &rows, flags: 0, regs, stack }, frames, end);
}

#[test]
fn a_function_without_a_frame_has_its_caller_above() {
    one(rsp(8), regs(CODE + 0x10, 64, 0), &[(64, ROOT)], &[ROOT], End::Root);
}

#[test]
fn a_frame_of_many_words_is_passed() {
    one(rsp(4096), regs(CODE + 0x10, 64, 0), &[(64 + 4088, ROOT)], &[ROOT], End::Root);
}

#[test]
fn a_frame_beyond_a_row_has_a_rare_rule() {
    let rule = Rule::Frame { cfa: Cfa::Rsp(12), rbp: Saved::Cfa(-12) };
    one(rule, regs(CODE + 0x10, 68, 0), &[], &[], End::NoFrame);
    let rule = Rule::Frame { cfa: Cfa::Rbp(-64), rbp: Saved::Not };
    one(rule, regs(CODE + 0x10, 64, 256), &[(256 - 72, ROOT)], &[ROOT], End::Root);
}

#[test]
fn a_realigned_stack_says_where_it_came_from() {
    let rule = Rule::Frame { cfa: Cfa::AtRbp(-8, 0), rbp: Saved::Rbp(0) };
    let stack = [(1024 - 8, STACK + 2048), (2048 - 8, CODE + 0x8011), (1024, STACK + 4096)];
    one(rule, regs(CODE + 0x10, 64, 1024), &stack, &[CODE + 0x8011], End::Root);
}

#[test]
fn the_frame_pointer_is_restored_however_far_it_is() {
    for (cfa, rbp) in [(32, -16), (8192, -8192)] {
        let rule = Rule::Frame { cfa: Cfa::Rsp(cfa), rbp: Saved::Cfa(rbp) };
        let above = 64 + cfa as u64;
        // The caller has no table: only its frame pointer leads on.
        let stack = [
            (above - 8, BARE + 1),
            (above - (-rbp) as u64, STACK + above + 64),
            (above + 64, 0),
            (above + 72, ROOT),
        ];
        one(rule, regs(CODE + 0x10, 64, 0), &stack, &[BARE + 1, ROOT], End::Root);
    }
}

#[test]
fn a_linkers_stub_has_pushed_from_some_byte_on() {
    one(Rule::Plt(11), regs(CODE + 0x1a, 64, 0), &[(64, ROOT)], &[ROOT], End::Root);
    one(Rule::Plt(11), regs(CODE + 0x1b, 64, 0), &[(72, ROOT)], &[ROOT], End::Root);
}

#[test]
fn what_a_signal_interrupted_is_no_call() {
    // Interrupted at the first byte of the function that stops: one before is another's.
    let stack = [(64 + 168, CODE + STOP_AT), (64 + 160, STACK + 2048), (64 + 120, 0)];
    one(Rule::Signal, regs(CODE + 0x10, 64, 0), &stack, &[CODE + STOP_AT + 1], End::Root);
}

#[test]
fn nothing_called_the_trampoline_that_a_handler_returns_to() {
    let to = CODE + 0x101;
    let rows = [(0, rsp(8)), (0x100, Rule::Signal), (STOP_AT, Rule::Stop)];
    let stack = [
        (64, to),
        (72 + 168, to + 8),
        (72 + 160, STACK + 2048),
        (2048 + 168, ROOT),
        (2048 + 160, STACK + 4096),
    ];
    let case = Case { rows: &rows, flags: 0, regs: regs(CODE + 0x10, 64, 0), stack: &stack };
    // As if a second signal had interrupted the way back from the first.
    check(&case, &[to + 1, to + 8 + 1, ROOT + 1], End::Root);
}

#[test]
fn a_call_that_never_returns_belongs_to_its_function() {
    let rows = [(0, rsp(8)), (0x40, rsp(16)), (0x60, Rule::Invalid)];
    let case = Case {
        rows: &rows,
        flags: 0,
        regs: regs(CODE, 64, 0),
        stack: &[(64, CODE + 0x60), (80, CODE + 0x61)],
    };
    check(&case, &[CODE + 0x60, CODE + 0x61], End::Invalid);
}

#[test]
fn another_stack_may_lie_below() {
    let stack = [(64, 0), (72, ROOT)];
    one(Rule::Elsewhere, regs(CODE + 0x10, 2048, 64), &stack, &[ROOT], End::Root);
    one(Rule::Pointer, regs(CODE + 0x10, 2048, 64), &stack, &[], End::NoFrame);
}

/// A step from where the return address is in r12 and rdi has `rdi`, to what it comes to.
#[track_caller]
fn held(by: Holder, above: i16, rdi: u64, ended: u32, caller: Regs) {
    let slab = slab(&[(0, Rule::Held { above, by })], 0);
    let begin = regs(CODE + 0x10, 64, 256);
    let mut walk = Walk::new(begin);
    walk.restart(begin, LIST);
    walk.link([rdi, ROOT + 1]);
    let mut read = |_: &mut Window, _, _| false;
    let mut step = || walk.step(&mut read, &|number| (number == 0).then_some(&*slab), &mut Recent::new());
    assert_eq!(step(), ended);
    if ended == CONTINUE {
        assert_eq!(walk.regs, caller);
    }
}

#[test]
fn a_return_address_in_a_register_is_found_there() {
    let caller = |ip, sp| Regs { ip, ..regs(0, sp, 256) };
    held(Holder::Rdi, 0, ROOT, CONTINUE, caller(ROOT, 64));
    held(Holder::R12, 16, 0, CONTINUE, caller(ROOT + 1, 80));
    held(Holder::Rdi, 0, 0, End::Invalid as u32, Regs::default());
    held(Holder::Rdi, -8, ROOT, End::NoFrame as u32, Regs::default());
    held(Holder::Rdi, 4, ROOT, End::NoFrame as u32, Regs::default());
}

#[test]
fn but_only_by_the_innermost_frame() {
    let rows = [(0, rsp(8)), (0x80, Rule::Held { above: 0, by: Holder::Rdi }), (0x100, Rule::Pointer)];
    let stack = [(64, CODE + 0x90)];
    check(
        &Case { rows: &rows, flags: 0, regs: regs(CODE + 0x10, 64, 0), stack: &stack },
        &[CODE + 0x90],
        End::Invalid,
    );
}

#[test]
fn a_page_without_rows_and_code_without_a_table_are_walked_by_pointer() {
    let stack = [(64, 0), (72, ROOT)];
    for ip in [CODE + PAGE_BYTES + 8, BARE + 8, 0x1000] {
        one(Rule::Invalid, regs(ip, 64, 64), &stack, &[ROOT], End::Root);
    }
}

#[test]
fn what_was_called_from_no_mapping_ends_the_walk() {
    one(rsp(8), regs(CODE + 0x10, 64, 0), &[(64, 0x1234_5678)], &[0x1234_5678], End::NoMapping);
}

#[test]
fn frames_that_are_kept_are_walked_by_pointer_after_the_first() {
    let rows = [(0, rsp(8)), (0x100, Rule::Invalid)];
    let stack = [(64, CODE + 0x120), (128, STACK + 192), (136, CODE + 0x140), (192, 0), (200, 0)];
    let case = Case { rows: &rows, flags: KEEPS_FRAMES, regs: regs(CODE + 0x10, 64, 128), stack: &stack };
    check(&case, &[CODE + 0x120, CODE + 0x140], End::Root);
}

#[test]
fn a_frame_that_does_not_lead_up_ends_the_walk() {
    let rule = Rule::Frame { cfa: Cfa::Rbp(16), rbp: Saved::Cfa(-16) };
    one(rule, regs(CODE + 0x10, 1024, 64), &[(72, ROOT)], &[], End::NoFrame);
}

#[test]
fn a_rule_that_leads_out_of_the_stack_is_a_fault() {
    let rule = Rule::Frame { cfa: Cfa::Rbp(16), rbp: Saved::Cfa(-16) };
    let far = Regs { ip: CODE + 0x10, sp: STACK, fp: STACK + (1 << 30) };
    one(rule, far, &[], &[], End::Fault);
}

#[test]
fn every_row_of_a_granule_is_found() {
    for rows in [1, 2, 15, 16, 17, 100, 255, 256] {
        let rules: Vec<(u64, Rule)> = (0..rows).map(|row| (row, rsp(8 + 8 * row as i32))).collect();
        let mut all = rules.clone();
        all.extend([(0x100, rsp(8)), (STOP_AT, Rule::Stop)]);
        for at in 0..256u64 {
            let row = at.min(rows - 1);
            let case = Case { rows: &all, flags: 0, regs: regs(CODE + at, 0, 0), stack: &[(8 * row, ROOT)] };
            check(&case, &[ROOT], End::Root);
        }
    }
}

#[test]
fn what_another_list_said_is_not_remembered() {
    let (ten, two) =
        (slab(&[(0, rsp(80)), (STOP_AT, Rule::Stop)], 0), slab(&[(0, rsp(16)), (STOP_AT, Rule::Stop)], 0));
    let mut stack = vec![0; 2048];
    (stack[9], stack[1]) = (ROOT, ROOT + 1);
    let from = regs(CODE, 0, 0);
    let mut recent = Recent::new();
    let mut walk = |list, slab| run_with(&mut recent, list, from, &stack, slab).0[1];
    assert_eq!([walk(LIST, &ten), walk(LIST, &two)], [ROOT, ROOT], "of the same list, it is believed");
    assert_eq!(walk(MappingList { version: 2, ..LIST }, &two), ROOT + 1);
    assert_eq!(walk(MappingList { version: 0, ..LIST }, &ten), ROOT);
    assert_eq!(walk(MappingList { version: 0, ..LIST }, &two), ROOT + 1, "no list has that version");
}

#[test]
fn every_mapping_of_a_list_is_found() {
    for mappings in [1u64, 2, 16, 17, 100, 256, 257, 8000] {
        let mut slab: Box<Slab> = vec![0; SLAB_WORDS].into_boxed_slice().try_into().expect("it is as long");
        for at in 0..mappings {
            let words = Mapping::bare(0x10_0000 + at * 0x2000, 0x1000).words();
            slab[at as usize * MAPPING_WORDS..][..MAPPING_WORDS].copy_from_slice(&words);
        }
        let find = |address: u64| {
            let mut walk = Walk::new(Regs::default());
            let mappings = u32::try_from(mappings).expect("it fits");
            walk.restart(Regs::default(), MappingList { address: 0, mappings, version: 1 });
            walk.find_mapping(address, &|_| Some(&*slab))
        };
        for at in 0..mappings {
            let start = 0x10_0000 + at * 0x2000;
            let found = [start - 1, start, start + 0xfff, start + 0x1000].map(find);
            assert_eq!(found, [false, true, true, false], "{at} of {mappings}");
        }
        assert!(!find(0) && !find(u64::MAX) && !find(1 << 63));
    }
}

#[test]
fn a_mapping_in_the_upper_half_hides_no_other() {
    let mut slab: Box<Slab> = vec![0; SLAB_WORDS].into_boxed_slice().try_into().expect("it is as long");
    let starts = [0x5555_0000_0000, 0x7fff_0000_0000, 0x7fff_1000_0000, 0xffff_ffff_ff60_0000];
    for (at, start) in starts.into_iter().enumerate() {
        let words = Mapping::bare(start, 0x1000).words();
        slab[at * MAPPING_WORDS..][..MAPPING_WORDS].copy_from_slice(&words);
    }
    for start in starts {
        let mut walk = Walk::new(Regs::default());
        walk.restart(Regs::default(), MappingList { address: 0, mappings: 4, version: 1 });
        assert!(walk.find_mapping(start + 8, &|_| Some(&*slab)), "{start:#x}");
    }
}

#[test]
fn words_that_mean_nothing_end_every_walk() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut slab = slab(&[(0, rsp(8))], 0);
    for _ in 0..2000 {
        for word in &mut slab[1000..1400] {
            *word = next() as u32;
        }
        slab[100 + (next() % 2) as usize] = if next() % 4 == 0 { next() as u32 & 0xffff } else { 1000 };
        let stack: Vec<u64> = (0..2048)
            .map(|_| match next() % 3 {
                0 => CODE + next() % MAPPED_BYTES,
                1 => STACK + next() % (2048 * 8),
                _ => next(),
            })
            .collect();
        let _ = run(regs(CODE + next() % MAPPED_BYTES, next() % 128 * 8, next() % 1024 * 8), &stack, &slab);
    }
}
