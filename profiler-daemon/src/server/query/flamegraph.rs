//! One merged tree as the page draws it: nodes and functions in columns, and the table beside them. In JSON, or in the
//! form that the page reads fastest (`columns`).
//!
//! When there are more nodes than a screen can show the lightest stay out, and it is said how many and how heavy they
//! are: the page draws a fringe there, never a frame that does not exist.

use std::collections::{HashMap, HashSet};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::looked::{Looked, Order};
use super::shape::hash;
use super::{MS, Resolved};
use crate::server::store::{ProfileType, Store, TreeFunction, TreeNode};

/// Nodes sent: more than a wide screen has pixels for, several times over.
const NODES_MAX: usize = 200_000;
const NODES: usize = 20_000;
/// Shades that the page has of each colour (`colors.ts`); a function has one by its name.
const SHADES: u32 = 7;
/// In place of a shade: that of a function without a module whose name begins with a bracket, which may be what is missing.
const BRACKETED: u32 = 255;
/// Rows of the table.
const ROWS_MAX: usize = 5_000;

#[derive(Debug, Serialize)]
struct FlameGraph<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    /// Each text once; the others point here.
    texts: Vec<&'a str>,
    functions: Functions,
    nodes: Nodes,
    rows: Rows,
    groups: Groups,
}

/// What there is once.
#[derive(Debug, Serialize)]
struct Head<'a> {
    from_ms: i64,
    until_ms: i64,
    service: Option<&'a str>,
    r#type: &'a str,
    total: u64,
    /// What all stacks weigh, also those that a view of one function leaves out.
    all: u64,
    /// The same of the side that is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_all: Option<u64>,
    /// Profiles that were merged, and series that they are of; not counted for CPU time.
    profiles: u64,
    series: usize,
    hidden: Hidden,
    /// The node below which more is sent, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<u32>,
}

impl FlameGraph<'_> {
    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts can be written as JSON")
    }

    fn columns(self) -> Vec<u8> {
        let Self { head, texts, functions, nodes, rows, groups } = self;
        let shades: Vec<u32> = (functions.name.iter().zip(&functions.module))
            .map(|(&name, &module)| shade(texts[name as usize], texts[module as usize]))
            .collect();
        let Functions { name, file, module, line } = functions;
        let mut columns = Columns::default();
        let functions =
            [("name", name), ("file", file), ("module", module), ("line", line), ("shade", shades)];
        for (of, numbers) in functions {
            columns.numbers("functions", of, &numbers);
        }
        columns.numbers("nodes", "parent", &nodes.parent);
        columns.numbers("nodes", "function", &nodes.function);
        columns.numbers("rows", "function", &rows.function);
        columns.numbers("groups", "function", &groups.function);
        let Nodes { parent: _, function: _, total, own, base_total, base_own } = nodes;
        let nodes = [("total", total), ("self", own), ("base_total", base_total), ("base_self", base_own)];
        let Rows { function: _, own, total, base_total, base_own } = rows;
        let rows = [("total", total), ("self", own), ("base_total", base_total), ("base_self", base_own)];
        for (group, all) in [("nodes", nodes), ("rows", rows)] {
            for (of, weights) in all {
                // Where nothing is compared there is no base.
                if head.base_all.is_some() || !of.starts_with("base") {
                    columns.weights(group, of, &weights);
                }
            }
        }
        columns.weights("groups", "self", &groups.own);
        columns.with_texts(&head, &texts)
    }
}

/// Functions, in columns.
#[derive(Debug, Default, Serialize)]
struct Functions {
    name: Vec<u32>,
    file: Vec<u32>,
    module: Vec<u32>,
    line: Vec<u32>,
}

/// Which shade the page draws a function in: told, so that it need not read the names of thousands.
fn shade(name: &str, module: &str) -> u32 {
    if module.is_empty() && name.starts_with('[') {
        BRACKETED
    } else {
        (hash(name.encode_utf16()) >> 8) % SHADES
    }
}

/// Stacks in depth-first order, heaviest first, in columns. The first is the root; a parent comes before its children.
#[derive(Debug, Default, Serialize)]
struct Nodes {
    parent: Vec<u32>,
    function: Vec<u32>,
    total: Vec<u64>,
    #[serde(rename = "self")]
    own: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    base_total: Vec<u64>,
    #[serde(rename = "base_self", skip_serializing_if = "Vec::is_empty")]
    base_own: Vec<u64>,
}

/// The table: every function with what it weighs alone and with all it calls, each stack once.
#[derive(Debug, Default, Serialize)]
struct Rows {
    function: Vec<u32>,
    #[serde(rename = "self")]
    own: Vec<u64>,
    total: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    base_total: Vec<u64>,
    #[serde(rename = "base_self", skip_serializing_if = "Vec::is_empty")]
    base_own: Vec<u64>,
}

/// What the functions of each file weigh alone in all that is below the node that more was asked of, sent or not; heaviest first.
/// Of what has no file those that say what is missing are by themselves. Of a comparison there are none.
#[derive(Debug, Default, Serialize)]
struct Groups {
    /// The heaviest of them.
    function: Vec<u32>,
    #[serde(rename = "self")]
    own: Vec<u64>,
}

/// What is not sent.
#[derive(Debug, Default, Serialize)]
struct Hidden {
    nodes: usize,
    /// What they weigh, and what a view from the leaves has not walked.
    value: u64,
    rows: usize,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    #[default]
    Json,
    Columns,
}

/// All of the range and service that is asked for, with its content type.
pub(in crate::server) fn flamegraph(asked: &Resolved, store: &Store) -> (&'static str, Vec<u8>) {
    let selection = asked.selection();
    let (mut profiles, mut known) = (0_u64, HashSet::new());
    // Of CPU time all windows add up, and there are many of them: nobody needs their number.
    if asked.question.profile_type() != ProfileType::CPU {
        store.windows(&selection, None, |_, series, _| {
            profiles += 1;
            if !known.contains(series) {
                known.insert(series.clone());
            }
        });
    }
    let nodes_max = asked.question.nodes.unwrap_or(NODES).clamp(1, NODES_MAX);
    let look = |tabled| {
        let at = |selection| Looked::at(&asked.shape, store.merge(&selection).into(), nodes_max, tabled);
        let looked = at(asked.selection());
        asked.base_selection().map(at).into_iter().fold(looked, Looked::beside)
    };
    let mut looked = look(!asked.question.only_below);
    let below = asked.shape.below(&looked.functions, &looked.nodes);
    let alone = asked.question.only_below && below.is_some();
    if asked.question.only_below && !alone {
        // There is no such place: all is shown, with its table.
        looked = look(true);
    }
    let Looked { functions, nodes, rows, all, base } = &looked;
    let widths = looked.widths();
    let bounds = Bounds { nodes_max, parts: asked.question.parts };
    let shown = bounds.shown(nodes, &widths, below, alone);

    let mut names = Names::default();
    let mut sent = Nodes::default();
    let mut place = vec![0_u32; nodes.len()];
    let mut value = 0_u64;
    let order = Order::of(functions, nodes, &widths, |index| shown[index]);
    for &index in &order.nodes {
        let node = nodes[index as usize];
        place[index as usize] = u32::try_from(sent.parent.len()).unwrap_or(u32::MAX);
        sent.parent.push(place[node.parent as usize]);
        sent.function.push(names.function(functions, node.function));
        sent.total.push(node.total);
        sent.own.push(node.own);
        if let Some(base) = base {
            sent.base_total.push(base.weights[index as usize].total);
            sent.base_own.push(base.weights[index as usize].own);
        }
        value = value.saturating_add(node.own);
    }
    let mut table = Rows::default();
    for row in rows.iter().take(ROWS_MAX) {
        table.function.push(names.function(functions, row.function));
        table.own.push(row.here.own);
        table.total.push(row.here.total);
        if base.is_some() {
            table.base_own.push(row.base.own);
            table.base_total.push(row.base.total);
        }
    }
    let mut groups = Groups::default();
    if let (Some(below), None) = (below, base) {
        for (function, own) in by_module(functions, nodes, below as usize) {
            groups.function.push(names.function(functions, function));
            groups.own.push(own);
        }
    }
    let head = Head {
        from_ms: asked.from.0 / MS,
        until_ms: asked.until.0 / MS,
        service: asked.question.service.as_deref(),
        r#type: asked.question.profile_type(),
        total: nodes[0].total,
        all: *all,
        base_all: base.as_ref().map(|base| base.all),
        profiles,
        series: known.len(),
        hidden: Hidden {
            nodes: nodes.len() - sent.parent.len(),
            value: nodes[0].total.saturating_sub(value),
            rows: rows.len().saturating_sub(ROWS_MAX),
        },
        below: below.map(|below| place[below as usize]),
    };
    let Names { texts, functions, .. } = names;
    let answer = FlameGraph { head, texts, functions, nodes: sent, rows: table, groups };
    match asked.question.form.unwrap_or_default() {
        Form::Json => ("application/json", answer.json()),
        Form::Columns => ("application/octet-stream", answer.columns()),
    }
}

/// Whether a node is `below` or called by it, of each.
fn inside(nodes: &[TreeNode], below: usize) -> Vec<bool> {
    let mut inside = vec![false; nodes.len()];
    inside[below] = true;
    for index in below + 1..nodes.len() {
        inside[index] = inside[nodes[index].parent as usize];
    }
    inside
}

/// See [`Groups`].
fn by_module(functions: &[TreeFunction], nodes: &[TreeNode], below: usize) -> Vec<(u32, u64)> {
    let mut weights: FxHashMap<u32, u64> = FxHashMap::default();
    for (node, _) in nodes.iter().zip(inside(nodes, below)).filter(|(node, inside)| *inside && node.own > 0) {
        *weights.entry(node.function).or_default() += node.own;
    }
    let mut weights: Vec<_> = weights.into_iter().collect();
    let heavier = |a: &(u32, u64), b: &(u32, u64)| b.1.cmp(&a.1).then(a.0.cmp(&b.0));
    weights.sort_unstable_by(heavier);
    let mut groups: Vec<(u32, u64)> = Vec::new();
    let mut known: FxHashMap<(&str, &str), usize> = FxHashMap::default();
    for (index, own) in weights {
        let TreeFunction { name, module, .. } = &functions[index as usize];
        let missing = if shade(name, module) == BRACKETED { &**name } else { "" };
        let at = *known.entry((module, missing)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some((_, sum)) => *sum += own,
            None => groups.push((index, own)),
        }
    }
    groups.sort_by(heavier);
    groups
}

/// How much is sent.
struct Bounds {
    nodes_max: usize,
    /// If there are more, no node that is thinner than this part of the one that fills the graph. Fewer are sent however
    /// thin they are: then what is searched is found, and legends are exact.
    parts: Option<u32>,
}

impl Bounds {
    /// Which nodes are sent: the heaviest, unless what is below a node is asked for `alone`, and if a node is asked for
    /// the way to it and the heaviest below it.
    fn shown(&self, nodes: &[TreeNode], widths: &[u64], below: Option<u32>, alone: bool) -> Vec<bool> {
        let mut shown = vec![nodes.len() <= self.nodes_max && !alone; nodes.len()];
        if shown[0] {
            return shown;
        }
        if !alone {
            self.show_heaviest(widths, (0..nodes.len()).collect(), &mut shown);
        }
        if let Some(below) = below {
            let below = below as usize;
            let mut step = below;
            while !shown[step] {
                shown[step] = true;
                step = nodes[step].parent as usize;
            }
            let inside = inside(nodes, below);
            let all = (below..nodes.len()).filter(|&index| inside[index]).collect();
            self.show_heaviest(widths, all, &mut shown);
        }
        shown
    }

    /// The heaviest of a node, the first of `some`, and all below it. A parent is never lighter than its child and comes
    /// before it, so it is shown when the child is.
    fn show_heaviest(&self, widths: &[u64], mut some: Vec<usize>, shown: &mut [bool]) {
        if let (Some(parts), Some(&whole)) = (self.parts, some.first()) {
            let least = widths[whole] / u64::from(parts.max(1));
            some.retain(|&index| widths[index] >= least);
        }
        if some.len() > self.nodes_max {
            let heavier = |&a: &usize, &b: &usize| widths[b].cmp(&widths[a]).then(a.cmp(&b));
            some.select_nth_unstable_by(self.nodes_max, heavier);
            some.truncate(self.nodes_max);
        }
        for index in some {
            shown[index] = true;
        }
    }
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

    fn function(&mut self, functions: &'a [TreeFunction], index: u32) -> u32 {
        if let Some(&id) = self.function_ids.get(&index) {
            return id;
        }
        let function = &functions[index as usize];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_node_weighs_by_file_and_by_what_is_missing() {
        let function = |name: &str, module: &str| TreeFunction {
            name: name.into(),
            file: "".into(),
            module: module.into(),
            line: 0,
        };
        let functions = [
            function("", ""),
            function("main", "/opt/a"),
            function("one", "/opt/a"),
            function("two", "/opt/b"),
            function("[no frame]", ""),
            function("plain", ""),
        ];
        let node = |parent, function, own| TreeNode { parent, function, own, total: 0 };
        let nodes = [
            node(0, 0, 0),
            node(0, 1, 7),
            node(1, 2, 3),
            node(1, 3, 20),
            node(2, 3, 4),
            node(4, 2, 5),
            node(2, 4, 2),
            node(2, 5, 1),
        ];
        assert_eq!(by_module(&functions, &nodes, 2), [(2, 8), (3, 4), (4, 2), (5, 1)]);
        assert_eq!(by_module(&functions, &nodes, 1), [(3, 24), (2, 15), (4, 2), (5, 1)]);
        assert_eq!(by_module(&functions, &nodes, 6), [(4, 2)]);
    }

    #[test]
    fn a_shade_is_what_the_page_makes_of_a_name() {
        // (hash(name) >>> 8) % 7 of `hash.ts`.
        for (name, module, expected) in [
            ("main", "/opt/app", 3),
            ("main", "", 3),
            ("übersetzt::𝄞", "/opt/app", 1),
            ("[vdso]x", "[vdso]", 1),
            ("[no frame]", "", BRACKETED),
        ] {
            assert_eq!(shade(name, module), expected, "{name}");
        }
    }
}
