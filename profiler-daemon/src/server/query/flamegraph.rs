//! One merged tree as the page draws it: nodes and functions in columns, and the table beside them.
//!
//! A stack of thousands of frames is walked without recursion. When there are more nodes than a screen can show the
//! lightest stay out, and it is said how many and how heavy they are: the page draws a gap there, never a frame
//! that does not exist.

use std::collections::HashMap;

use serde::Serialize;

use super::{MS, Resolved};
use crate::server::store::{Store, Tree};

/// Nodes sent: more than a wide screen has pixels for, several times over.
const NODES_MAX: usize = 200_000;
const NODES: usize = 20_000;
/// Rows of the table.
const ROWS_MAX: usize = 5_000;

#[derive(Debug, Serialize)]
struct FlameGraph<'a> {
    from_ms: i64,
    until_ms: i64,
    service: Option<&'a str>,
    r#type: &'a str,
    total: u64,
    /// Each text once; the others point here.
    texts: Vec<&'a str>,
    functions: Functions,
    nodes: Nodes,
    rows: Rows,
    hidden: Hidden,
}

/// Functions, in columns.
#[derive(Debug, Default, Serialize)]
struct Functions {
    name: Vec<u32>,
    file: Vec<u32>,
    module: Vec<u32>,
    line: Vec<u32>,
}

/// Stacks in depth-first order, heaviest first, in columns. The first is the root; a parent comes before its children.
#[derive(Debug, Default, Serialize)]
struct Nodes {
    parent: Vec<u32>,
    function: Vec<u32>,
    total: Vec<u64>,
    #[serde(rename = "self")]
    own: Vec<u64>,
}

/// The table: every function with what it weighs alone and with all it calls, each stack once.
#[derive(Debug, Default, Serialize)]
struct Rows {
    function: Vec<u32>,
    #[serde(rename = "self")]
    own: Vec<u64>,
    total: Vec<u64>,
}

/// What is not sent.
#[derive(Debug, Default, Serialize)]
struct Hidden {
    nodes: usize,
    /// What the hidden nodes weigh.
    value: u64,
    rows: usize,
}

/// All of the range and service that is asked for.
pub(in crate::server) fn flamegraph(asked: &Resolved, store: &Store) -> String {
    let tree = store.merge(&asked.selection());
    let nodes_max = asked.question.nodes.unwrap_or(NODES).clamp(1, NODES_MAX);
    let order = Order::of(&tree);
    let rows = rows(&tree, &order);
    let shown = lightest_left_out(&tree, nodes_max);

    let mut names = Names::default();
    let mut hidden = Hidden { rows: rows.len().saturating_sub(ROWS_MAX), ..Hidden::default() };
    let mut nodes = Nodes::default();
    let mut place = vec![0_u32; tree.nodes.len()];
    for &index in &order.nodes {
        let node = tree.nodes[index as usize];
        if !shown[index as usize] {
            hidden.nodes += 1;
            hidden.value = hidden.value.saturating_add(node.own);
            continue;
        }
        place[index as usize] = u32::try_from(nodes.parent.len()).unwrap_or(u32::MAX);
        nodes.parent.push(place[node.parent as usize]);
        nodes.function.push(names.function(&tree, node.function));
        nodes.total.push(node.total);
        nodes.own.push(node.own);
    }
    let mut table = Rows::default();
    for row in rows.iter().take(ROWS_MAX) {
        table.function.push(names.function(&tree, row.function));
        table.own.push(row.own);
        table.total.push(row.total);
    }
    let answer = FlameGraph {
        from_ms: asked.from.0 / MS,
        until_ms: asked.until.0 / MS,
        service: asked.question.service.as_deref(),
        r#type: asked.question.profile_type(),
        total: tree.total(),
        texts: names.texts,
        functions: names.functions,
        nodes,
        rows: table,
        hidden,
    };
    serde_json::to_string(&answer).expect("numbers and texts can be written as JSON")
}

/// The nodes of a tree in depth-first order.
struct Order {
    nodes: Vec<u32>,
    depths: Vec<u32>,
}

impl Order {
    fn of(tree: &Tree) -> Self {
        let count = tree.nodes.len();
        // Children of a node lie side by side, heaviest last, since the stack below turns them round.
        let mut by_parent: Vec<u32> = (1..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        by_parent.sort_unstable_by(|&a, &b| {
            let (x, y) = (tree.nodes[a as usize], tree.nodes[b as usize]);
            let names =
                || tree.functions[y.function as usize].name.cmp(&tree.functions[x.function as usize].name);
            x.parent.cmp(&y.parent).then(x.total.cmp(&y.total)).then_with(names).then(b.cmp(&a))
        });
        let mut first = vec![0_usize; count + 1];
        for &child in &by_parent {
            first[tree.nodes[child as usize].parent as usize + 1] += 1;
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

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    function: u32,
    own: u64,
    total: u64,
}

/// Heaviest alone first. A function that calls itself counts a stack once.
fn rows(tree: &Tree, order: &Order) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..tree.functions.len())
        .map(|index| Row { function: u32::try_from(index).unwrap_or(u32::MAX), ..Row::default() })
        .collect();
    let mut on_path = vec![0_u32; tree.functions.len()];
    let mut path: Vec<u32> = Vec::new();
    for (&index, &depth) in order.nodes.iter().zip(&order.depths) {
        for left in path.drain(depth as usize..) {
            on_path[left as usize] -= 1;
        }
        let node = tree.nodes[index as usize];
        let row = &mut rows[node.function as usize];
        row.own = row.own.saturating_add(node.own);
        if on_path[node.function as usize] == 0 {
            row.total = row.total.saturating_add(node.total);
        }
        on_path[node.function as usize] += 1;
        path.push(node.function);
    }
    // The root is no function.
    rows.remove(0);
    rows.retain(|row| row.total > 0);
    rows.sort_by(|a, b| b.own.cmp(&a.own).then(b.total.cmp(&a.total)).then(a.function.cmp(&b.function)));
    rows
}

/// Which nodes stay when at most `nodes_max` may. A parent is never lighter than its child and comes before it, so it
/// stays when the child does.
fn lightest_left_out(tree: &Tree, nodes_max: usize) -> Vec<bool> {
    let count = tree.nodes.len();
    if count <= nodes_max {
        return vec![true; count];
    }
    let mut by_weight: Vec<usize> = (0..count).collect();
    by_weight.select_nth_unstable_by(nodes_max, |&a, &b| {
        tree.nodes[b].total.cmp(&tree.nodes[a].total).then(a.cmp(&b))
    });
    let mut shown = vec![false; count];
    for &index in &by_weight[..nodes_max] {
        shown[index] = true;
    }
    shown
}

/// Functions and texts that are sent, each once.
#[derive(Debug, Default)]
struct Names<'a> {
    texts: Vec<&'a str>,
    text_ids: HashMap<&'a str, u32>,
    functions: Functions,
    function_ids: HashMap<u32, u32>,
}

impl<'a> Names<'a> {
    fn text(&mut self, text: &'a str) -> u32 {
        *self.text_ids.entry(text).or_insert_with(|| {
            self.texts.push(text);
            u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn function(&mut self, tree: &'a Tree, index: u32) -> u32 {
        if let Some(&id) = self.function_ids.get(&index) {
            return id;
        }
        let function = &tree.functions[index as usize];
        let texts = [&function.name, &function.file, &function.module].map(|text| self.text(text));
        let id = u32::try_from(self.functions.name.len()).unwrap_or(u32::MAX);
        self.functions.name.push(texts[0]);
        self.functions.file.push(texts[1]);
        self.functions.module.push(texts[2]);
        self.functions.line.push(function.line);
        self.function_ids.insert(index, id);
        id
    }
}
