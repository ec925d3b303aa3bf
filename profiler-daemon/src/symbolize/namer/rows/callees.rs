//! Frames that are found by what the called function saved.
//!
//! In: a function that has the address of its frame in a register which no walk carries. Out: rules for its calls. While one lasts,
//! the register is in the frame of the called function, right below, as far down as that one's own table says. The loader's
//! trampolines are such functions, since they align the stack to save vector registers: without this all that runs while a
//! symbol is bound, a good part of many a short life, would have no caller. Not here: the registers of the innermost frame; a walk
//! that begins between such calls has no rule.

use std::fs::File;
use std::os::unix::fs::FileExt;

use profiler_common::unwind::table::{Cfa, Rule};

use super::super::elf::Segment;
use super::frames::{Anchored, Reading};
use super::{EH_FRAME, Function};

/// Bytes of code that are looked through for calls. Honest ones have some hundreds.
const LOOK_BYTES_MAX: u64 = 4096;
/// Bytes of a call of a known function.
const CALL_BYTES: u64 = 5;

/// Adds to `rules` of `function`, one of the first table, those of its calls for which another one's table says where its frame is.
/// `functions` are all, `code` is where code lies.
pub(super) fn add(
    file: &File,
    function: &Function,
    functions: &[Function],
    code: &[Segment],
    table: &mut Reading<'_>,
    rules: &mut Vec<(u64, Rule)>,
) {
    for anchored in table.anchored(function.number as usize) {
        let Anchored { from, to, register, above, rbp } = anchored;
        if !rules.contains(&(from, Rule::Invalid)) {
            continue;
        }
        for (at, target) in calls(file, function, from, to) {
            let callee = find(target, functions, code);
            let Some(saved) = callee.and_then(|callee| table.saved(callee.number as usize, register)) else {
                continue;
            };
            rules.push((at, Rule::Frame { cfa: Cfa::AtRsp(saved, above), rbp }));
            if at + CALL_BYTES < to {
                rules.push((at + CALL_BYTES, Rule::Invalid));
            }
        }
    }
    rules.sort_by_key(|(address, _)| *address);
}

/// Calls between two addresses of a function, and whom they call; and what looks like one.
fn calls(file: &File, function: &Function, from: u64, to: u64) -> Vec<(u64, u64)> {
    const CALL: u8 = 0xe8;
    let Some(offset) =
        from.checked_sub(function.address).and_then(|inside| function.offset.checked_add(inside))
    else {
        return Vec::new();
    };
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from).min(LOOK_BYTES_MAX)).unwrap_or(0)];
    if file.read_exact_at(&mut bytes, offset).is_err() {
        return Vec::new();
    }
    let mut calls = Vec::new();
    for (at, window) in (from..).zip(bytes.windows(5)) {
        if let [CALL, a, b, c, d] = *window {
            let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
            calls.push((at, at.wrapping_add(CALL_BYTES).wrapping_add_signed(distance)));
        }
    }
    calls
}

/// The function that begins at `address`.
fn find<'a>(address: u64, functions: &'a [Function], code: &[Segment]) -> Option<&'a Function> {
    let offset = code.iter().find_map(|segment| segment.offset_of(address))?;
    let first = functions.partition_point(|function| function.offset < offset);
    let mut there = functions[first..].iter().take_while(|function| function.offset == offset);
    there.find(|function| function.source == EH_FRAME && function.address == address)
}
