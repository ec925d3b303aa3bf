//! Stacks as text, `root;…;leaf 3` a line, or as a trie of such texts.
//!
//! In: bytes. Out: stacks with values, and the pprof of them that goes the way of all others.

use std::collections::HashMap;

use super::name::Kind;
use super::unprocessable;
use crate::pprof::{Function, Line, Location, Profile, Sample, Strings, ValueType};
use crate::server::profile::Limits;
use crate::server::refusal::Refusal;

/// Stacks, root first, with what they weigh.
pub(super) type Stacks = HashMap<String, u64>;

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes)
        .map_err(|_| unprocessable("the body is no text: is it a pprof (format=pprof)?"))
}

fn add(stacks: &mut Stacks, stack: &str, value: u64, limits: &Limits) -> Result<(), Refusal> {
    if let Some(sum) = stacks.get_mut(stack) {
        *sum = sum.saturating_add(value);
    } else if stacks.len() < limits.samples_max {
        stacks.insert(stack.to_owned(), value);
    } else {
        return Err(unprocessable(format!("more than {} different stacks", limits.samples_max)));
    }
    Ok(())
}

/// Lines of a stack and its value.
pub(super) fn groups(bytes: &[u8], limits: &Limits) -> Result<Stacks, Refusal> {
    let mut stacks = Stacks::new();
    for line in text(bytes)?.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        let parts = line.rsplit_once(' ').and_then(|(stack, value)| Some((stack, value.parse().ok()?)));
        let Some((stack, value)) = parts else {
            let shown: String = line.chars().take(80).collect();
            return Err(unprocessable(format!("a line does not end with a whole number: {shown:?}")));
        };
        add(&mut stacks, stack, value, limits)?;
    }
    Ok(stacks)
}

/// Lines of a stack, each a sample.
pub(super) fn lines(bytes: &[u8], limits: &Limits) -> Result<Stacks, Refusal> {
    let mut stacks = Stacks::new();
    for line in text(bytes)?.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        add(&mut stacks, line, 1, limits)?;
    }
    Ok(stacks)
}

/// A trie, depth first: of each node the length of its piece of text, the piece, its value, and how many children it
/// has. A stack is all pieces down to a node.
pub(super) fn trie(bytes: &[u8], limits: &Limits) -> Result<Stacks, Refusal> {
    let cut = || unprocessable("the trie is cut short or damaged");
    let number = |rest: &mut &[u8]| prost::encoding::decode_varint(rest).map_err(|_| cut());
    let mut rest = bytes;
    let mut stacks = Stacks::new();
    let mut path: Vec<u8> = Vec::new();
    // Of each node on the way down: how long the text was before it, and how many children are to come.
    let mut open: Vec<(usize, u64)> = Vec::new();
    loop {
        let length = usize::try_from(number(&mut rest)?).map_err(|_| cut())?;
        let (piece, after) = rest.split_at_checked(length).ok_or_else(cut)?;
        let before = path.len();
        path.extend_from_slice(piece);
        rest = after;
        let (value, children) = (number(&mut rest)?, number(&mut rest)?);
        if value > 0 {
            add(&mut stacks, text(&path)?, value, limits)?;
        }
        open.push((before, children));
        while let Some((before, 0)) = open.last().copied() {
            path.truncate(before);
            open.pop();
        }
        match open.last_mut() {
            Some((_, children)) => *children -= 1,
            None => break,
        }
    }
    if rest.is_empty() { Ok(stacks) } else { Err(cut()) }
}

/// The pprof of `stacks`; `rate` samples a second were taken.
pub(super) fn profile(stacks: &Stacks, kind: &Kind, rate: u64) -> Profile {
    let mut strings = Strings::default();
    let mut interned =
        |(kind, unit): (&str, &str)| ValueType { r#type: strings.intern(kind), unit: strings.intern(unit) };
    let period_ns = i64::try_from(1_000_000_000 / rate).unwrap_or(0);
    let mut profile = Profile {
        sample_type: vec![interned(kind.sample)],
        period_type: kind.period.map(&mut interned),
        period: if kind.timed { period_ns } else { 0 },
        ..Profile::default()
    };
    let mut ids: HashMap<&str, u64> = HashMap::new();
    // In an order of its own, so that equal bodies make equal bytes.
    let mut sorted: Vec<_> = stacks.iter().collect();
    sorted.sort();
    for (stack, &value) in sorted {
        let mut location_id = Vec::new();
        for name in stack.split(';').filter(|name| !name.is_empty()) {
            location_id.push(*ids.entry(name).or_insert_with(|| {
                let id = profile.function.len() as u64 + 1;
                profile.function.push(Function { id, name: strings.intern(name), ..Function::default() });
                let line = vec![Line { function_id: id, line: 0 }];
                profile.location.push(Location { id, line, ..Location::default() });
                id
            }));
        }
        location_id.reverse();
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        let value = if kind.timed { value.saturating_mul(period_ns) } else { value };
        profile.sample.push(Sample { location_id, value: vec![value], label: Vec::new() });
    }
    profile.string_table = strings.finish();
    profile
}
