//! Many windows merged into one tree: what every answer of the page is made of.
//!
//! In: segments. Out: functions, and stacks with what they weigh alone and in total. A stack of a thousand frames is
//! a thousand nodes and no recursion: a parent always comes before its children.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::segment::{ROOT, Segment, Stored};
use super::series::Series;

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
    /// Adds those windows of `segment` that `wanted` wants.
    pub(super) fn add(&mut self, segment: &Segment, wanted: impl Fn(&Stored, &Series) -> bool) {
        let nodes = segment.nodes();
        let mut own = vec![0_u64; nodes.len()];
        let mut any = false;
        for (stored, _) in segment.stored().filter(|(stored, series)| wanted(stored, series)) {
            any = true;
            for (stack, value) in segment.values(stored) {
                let sum = &mut own[stack.0 as usize];
                *sum = sum.saturating_add(value);
            }
        }
        if !any {
            return;
        }
        let mut total = own.clone();
        for index in (1..nodes.len()).rev() {
            let parent = nodes[index].parent.0 as usize;
            total[parent] = total[parent].saturating_add(total[index]);
        }
        // Where the segment's nodes and functions are in this tree; filled as they are met.
        let mut node_here = vec![0_u32; nodes.len()];
        let mut function_here = vec![None; segment.functions().len()];
        for (index, node) in nodes.iter().enumerate() {
            if total[index] == 0 {
                continue;
            }
            let here = if index == ROOT.0 as usize {
                0
            } else {
                let function = *function_here[node.function.0 as usize]
                    .get_or_insert_with(|| self.function(segment, node.function.0 as usize));
                self.call(node_here[node.parent.0 as usize], function)
            };
            node_here[index] = here;
            let here = &mut self.nodes[here as usize];
            here.own = here.own.saturating_add(own[index]);
            here.total = here.total.saturating_add(total[index]);
        }
    }

    fn function(&mut self, segment: &Segment, index: usize) -> u32 {
        let function = segment.functions()[index];
        let texts = [function.name, function.file, function.module];
        let [name, file, module] = texts.map(|text| Arc::clone(segment.resolve(text)));
        let key = (Arc::clone(&name), Arc::clone(&file), Arc::clone(&module));
        let id = *self.function_ids.entry(key).or_insert_with(|| {
            self.functions.push(TreeFunction { name, file, module, line: 0 });
            next(self.functions.len() - 1)
        });
        let line = &mut self.functions[id as usize].line;
        if *line == 0 {
            *line = function.line;
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
