//! Many windows merged into one tree: what every answer of the page is made of.
//!
//! In: the trees of segments and partitions. Out: functions, and stacks with what they weigh alone and in total. A stack of a thousand frames is
//! a thousand nodes and no recursion: a parent always comes before its children.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::rows::Damaged;
use super::segment::Node;

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct TreeFunction {
    /// Its name.
    pub(in crate::server) name: Arc<str>,
    /// Its source file, or empty.
    pub(in crate::server) file: Arc<str>,
    /// The file it runs from, or empty.
    pub(in crate::server) module: Arc<str>,
    /// A line in its source file, or zero.
    pub(in crate::server) line: u32,
}

/// Name, file and module: what makes a function the same in every segment.
type Identity = (Arc<str>, Arc<str>, Arc<str>);

/// A node: one stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct TreeNode {
    /// Index of the stack without the last call; the root is its own.
    pub(in crate::server) parent: u32,
    /// Index of the function called last.
    pub(in crate::server) function: u32,
    /// What this very stack weighs.
    pub(in crate::server) own: u64,
    /// What it weighs with all that begin with it.
    pub(in crate::server) total: u64,
}

/// Many windows merged.
#[derive(Debug)]
pub(in crate::server) struct Tree {
    /// The functions; the first is the root's and has no name.
    pub(in crate::server) functions: Vec<TreeFunction>,
    /// The stacks; the first is the root.
    pub(in crate::server) nodes: Vec<TreeNode>,
    function_ids: HashMap<Identity, u32>,
    children: FxHashMap<(u32, u32), u32>,
}

impl Default for Tree {
    fn default() -> Self {
        let empty: Arc<str> = "".into();
        let root = TreeFunction {
            name: Arc::clone(&empty),
            file: Arc::clone(&empty),
            module: Arc::clone(&empty),
            line: 0,
        };
        Self {
            functions: vec![root],
            nodes: vec![TreeNode { parent: 0, function: 0, own: 0, total: 0 }],
            function_ids: HashMap::from([((Arc::clone(&empty), Arc::clone(&empty), empty), 0)]),
            children: FxHashMap::default(),
        }
    }
}

fn next(len: usize) -> u32 {
    u32::try_from(len).expect("a tree is no larger than the segments it is made of")
}

impl Tree {
    /// Adds the tree `nodes`, of which each node weighs `own` alone. `function` tells what a function is; `known`, as
    /// long as there are functions, remembers where it is here.
    pub(super) fn add(
        &mut self,
        nodes: &[Node],
        own: &[u64],
        known: &mut [Option<u32>],
        mut function: impl FnMut(u32) -> Result<TreeFunction, Damaged>,
    ) -> Result<(), Damaged> {
        let mut total = own.to_vec();
        for index in (1..nodes.len()).rev() {
            let parent = nodes[index].parent as usize;
            if parent >= index {
                return Err(Damaged);
            }
            total[parent] = total[parent].saturating_add(total[index]);
        }
        // Where the nodes are in this tree.
        let mut place = vec![0_u32; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            if total[index] == 0 {
                continue;
            }
            if index > 0 {
                let known = known.get_mut(node.function as usize).ok_or(Damaged)?;
                let callee = match *known {
                    Some(callee) => callee,
                    None => *known.insert(self.function(function(node.function)?)),
                };
                place[index] = self.call(place[node.parent as usize], callee);
            }
            let here = &mut self.nodes[place[index] as usize];
            here.own = here.own.saturating_add(own[index]);
            here.total = here.total.saturating_add(total[index]);
        }
        Ok(())
    }

    fn function(&mut self, function: TreeFunction) -> u32 {
        let TreeFunction { name, file, module, line } = &function;
        let key = (Arc::clone(name), Arc::clone(file), Arc::clone(module));
        let line = *line;
        let id = *self.function_ids.entry(key).or_insert_with(|| {
            self.functions.push(function);
            next(self.functions.len() - 1)
        });
        let known = &mut self.functions[id as usize].line;
        if *known == 0 {
            *known = line;
        }
        id
    }

    fn call(&mut self, parent: u32, function: u32) -> u32 {
        *self.children.entry((parent, function)).or_insert_with(|| {
            self.nodes.push(TreeNode { parent, function, own: 0, total: 0 });
            next(self.nodes.len() - 1)
        })
    }

    /// What all of it weighs.
    pub(in crate::server) fn total(&self) -> u64 {
        self.nodes[0].total
    }
}
