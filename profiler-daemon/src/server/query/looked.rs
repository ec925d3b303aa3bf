//! What a question of the page shows: stacks as they are looked at, the table of functions, and perhaps both of another
//! range or of other series beside them.
//!
//! In: merged trees. Out: nodes and rows of one or two weights. A stack of thousands of frames is walked without recursion.
//! Not here: how much of it is sent (`flamegraph`).

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use super::shape::{Graph, Shape};
use crate::server::store::{TreeFunction, TreeNode};

/// What something weighs alone and with all that it calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) own: u64,
    pub(super) total: u64,
}

/// A function in the table; a stack in which it calls itself counts once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub(super) function: u32,
    pub(super) here: Weight,
    /// On the side that is compared with.
    pub(super) base: Weight,
}

/// The side that is compared with.
#[derive(Debug)]
pub(super) struct Base {
    /// Of each node.
    pub(super) weights: Vec<Weight>,
    /// Of all stacks.
    pub(super) all: u64,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) functions: Vec<TreeFunction>,
    /// A parent before its children, the root first.
    pub(super) nodes: Vec<TreeNode>,
    /// Heaviest alone first.
    pub(super) rows: Vec<Row>,
    /// What all stacks weigh, also those that a view of one function leaves out.
    pub(super) all: u64,
    pub(super) base: Option<Base>,
}

impl Looked {
    /// `graph` as `shape` says. The table is that of all its stacks, from whichever end they are read, and empty unless it
    /// is `tabled`.
    pub(super) fn at(shape: &Shape, graph: Graph, nodes_max: usize, tabled: bool) -> Self {
        let graph = shape.filtered(graph);
        let rows = if tabled { rows(&graph) } else { Vec::new() };
        let viewed = shape.view(&graph, nodes_max);
        let Graph { functions, nodes } = graph;
        Self { functions, all: nodes[0].total, nodes: viewed.unwrap_or(nodes), rows, base: None }
    }

    /// The same, compared with `base`.
    pub(super) fn beside(mut self, base: Self) -> Self {
        let identity = |function: &TreeFunction| {
            [&function.name, &function.file, &function.module].map(std::sync::Arc::clone)
        };
        let mut known: HashMap<_, u32> = self.functions.iter().map(identity).zip(0..).collect();
        let functions: Vec<u32> = (base.functions.iter())
            .map(|function| {
                *known.entry(identity(function)).or_insert_with(|| {
                    self.functions.push(function.clone());
                    index(self.functions.len() - 1)
                })
            })
            .collect();

        let mut places: FxHashMap<(u32, u32), u32> =
            self.nodes.iter().map(|node| (node.parent, node.function)).zip(0..).skip(1).collect();
        let mut weights = vec![Weight::default(); self.nodes.len()];
        let mut place = vec![0_u32; base.nodes.len()];
        for (at, node) in base.nodes.iter().enumerate() {
            if at > 0 {
                let (parent, function) = (place[node.parent as usize], functions[node.function as usize]);
                place[at] = *places.entry((parent, function)).or_insert_with(|| {
                    self.nodes.push(TreeNode { parent, function, own: 0, total: 0 });
                    weights.push(Weight::default());
                    index(self.nodes.len() - 1)
                });
            }
            weights[place[at] as usize] = Weight { own: node.own, total: node.total };
        }

        let mut row_of: FxHashMap<u32, usize> = self.rows.iter().map(|row| row.function).zip(0..).collect();
        for row in base.rows {
            let function = functions[row.function as usize];
            let at = *row_of.entry(function).or_insert_with(|| {
                self.rows.push(Row { function, ..Row::default() });
                self.rows.len() - 1
            });
            self.rows[at].base = row.here;
        }
        let base = Base { weights, all: base.all };
        let share = |row: &Row| shares(row.here.own, self.all) + shares(row.base.own, base.all);
        self.rows.sort_by(|a, b| share(b).cmp(&share(a)).then(a.function.cmp(&b.function)));
        self.base = Some(base);
        self
    }

    /// How wide each node is drawn: its total, or the sum of its shares in both sides. A parent is never lighter than its
    /// child.
    pub(super) fn widths(&self) -> Vec<u64> {
        match &self.base {
            None => totals(&self.nodes),
            Some(base) => (self.nodes.iter().zip(&base.weights))
                .map(|(node, weight)| shares(node.total, self.all) + shares(weight.total, base.all))
                .collect(),
        }
    }
}

fn totals(nodes: &[TreeNode]) -> Vec<u64> {
    nodes.iter().map(|node| node.total).collect()
}

/// How much of `whole` a `part` is, in parts of 2⁴⁰.
fn shares(part: u64, whole: u64) -> u64 {
    let parts = (u128::from(part) << 40) / u128::from(whole.max(1));
    u64::try_from(parts).unwrap_or(u64::MAX >> 1)
}

fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The nodes of a tree in depth-first order, heaviest first.
pub(super) struct Order {
    pub(super) nodes: Vec<u32>,
    depths: Vec<u32>,
}

impl Order {
    /// That of those of `all` that are `shown`, of which each is as heavy as `widths` says. The root is.
    pub(super) fn of(
        functions: &[TreeFunction],
        all: &[TreeNode],
        widths: &[u64],
        shown: impl Fn(usize) -> bool,
    ) -> Self {
        let count = all.len();
        // Children of a node lie side by side, heaviest last, since the stack below turns them round.
        let mut by_parent: Vec<u32> = (1..index(count)).filter(|&node| shown(node as usize)).collect();
        by_parent.sort_unstable_by(|&a, &b| {
            let (x, y) = (all[a as usize], all[b as usize]);
            let names = || functions[y.function as usize].name.cmp(&functions[x.function as usize].name);
            let weights = widths[a as usize].cmp(&widths[b as usize]);
            x.parent.cmp(&y.parent).then(weights).then_with(names).then(b.cmp(&a))
        });
        let mut first = vec![0_usize; count + 1];
        for &child in &by_parent {
            first[all[child as usize].parent as usize + 1] += 1;
        }
        for index in 1..first.len() {
            first[index] += first[index - 1];
        }
        let mut order = Self { nodes: Vec::with_capacity(count), depths: Vec::with_capacity(count) };
        let mut waiting = vec![(0_u32, 0_u32)];
        while let Some((index, depth)) = waiting.pop() {
            order.nodes.push(index);
            order.depths.push(depth);
            let children = first[index as usize]..first[index as usize + 1];
            waiting.extend(by_parent[children].iter().map(|&child| (child, depth + 1)));
        }
        order
    }
}

/// Heaviest alone first. A function that calls itself counts a stack once.
fn rows(graph: &Graph) -> Vec<Row> {
    let order = Order::of(&graph.functions, &graph.nodes, &totals(&graph.nodes), |_| true);
    let mut rows: Vec<Row> =
        (0..index(graph.functions.len())).map(|function| Row { function, ..Row::default() }).collect();
    let mut on_path = vec![0_u32; graph.functions.len()];
    let mut path: Vec<u32> = Vec::new();
    for (&index, &depth) in order.nodes.iter().zip(&order.depths) {
        for left in path.drain(depth as usize..) {
            on_path[left as usize] -= 1;
        }
        let node = graph.nodes[index as usize];
        let weight = &mut rows[node.function as usize].here;
        weight.own = weight.own.saturating_add(node.own);
        if on_path[node.function as usize] == 0 {
            weight.total = weight.total.saturating_add(node.total);
        }
        on_path[node.function as usize] += 1;
        path.push(node.function);
    }
    // The root is no function.
    rows.remove(0);
    rows.retain(|row| row.here.total > 0);
    rows.sort_by(|a, b| {
        let weights = b.here.own.cmp(&a.here.own).then(b.here.total.cmp(&a.here.total));
        weights.then(a.function.cmp(&b.function))
    });
    rows
}
