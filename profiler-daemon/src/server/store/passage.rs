//! Stacks that pass through certain functions: what windows weigh in them alone.
//!
//! In: marks that functions leave on the stacks they are in. Out: of each stack whether it has all marks that are asked
//! for. Not here: what a person writes to choose functions (`query::shape`).

use rustc_hash::FxHashMap;

use super::rows::{self, Damaged};
use super::segment::Node;
use super::tree::{Tree, TreeFunction};

/// Which stacks are asked for.
pub(in crate::server) struct Passage<'a> {
    /// The marks that a function leaves, one a bit.
    pub(in crate::server) marks: Box<dyn Fn(&TreeFunction) -> u64 + 'a>,
    /// The marks that a stack must have.
    pub(in crate::server) all: u64,
}

impl Passage<'_> {
    /// Of each stack of a tree whether it is one of them; `function` tells what a function is.
    pub(super) fn stacks<E: From<Damaged>>(
        &self,
        nodes: &[Node],
        mut function: impl FnMut(u32) -> Result<TreeFunction, E>,
    ) -> Result<Vec<bool>, E> {
        let mut known: FxHashMap<u32, u64> = FxHashMap::default();
        let mut met: Vec<u64> = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            if index == 0 {
                met.push((self.marks)(&Tree::default().functions[0]));
                continue;
            }
            let before = *met.get(node.parent as usize).ok_or(Damaged)?;
            let here = match known.get(&node.function) {
                Some(&here) => here,
                None => *known.entry(node.function).or_insert((self.marks)(&function(node.function)?)),
            };
            met.push(before | here);
        }
        Ok(met.into_iter().map(|met| met == self.all).collect())
    }
}

/// What `bytes` weigh in the rows of those stacks that are `asked` for.
pub(super) fn weight(bytes: &[u8], asked: &[bool]) -> Result<u64, Damaged> {
    let mut sum = 0_u64;
    rows::decode(bytes, |row, value| {
        if *asked.get(row as usize).ok_or(Damaged)? {
            sum = sum.saturating_add(value);
        }
        Ok(())
    })?;
    Ok(sum)
}
