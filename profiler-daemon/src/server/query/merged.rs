//! Merged trees as Pyroscope's clients read them: a flame graph in levels, a tree in bytes, a pprof.
//!
//! In: a tree whose functions are known by name, file and module, or two to be compared. Out: for graphs the same by name
//! alone, as a Pyroscope does, with what is too light added up as `other` beside its siblings, so that no unit is lost;
//! the pprof has all.

use std::collections::HashMap;

use crate::pprof::{Function, Line, Location, Mapping, Profile, Sample, Strings, ValueType};
use crate::querier::{FlameGraph, Level};
use crate::server::store::Tree;

/// A node, known by name, with what it weighs on each side.
#[derive(Clone, Copy, Debug)]
struct Node<const SIDES: usize> {
    parent: usize,
    name: u32,
    own: [u64; SIDES],
    total: [u64; SIDES],
}

impl<const SIDES: usize> Node<SIDES> {
    fn empty(parent: usize, name: u32) -> Self {
        Self { parent, name, own: [0; SIDES], total: [0; SIDES] }
    }

    /// What it weighs on all sides.
    fn weight(&self) -> u64 {
        self.total.iter().fold(0, |sum, &side| sum.saturating_add(side))
    }
}

/// A tree by names: of one question, or of two laid over one another.
#[derive(Debug)]
pub(super) struct ByName<const SIDES: usize> {
    names: Vec<String>,
    /// A parent before its children; the root is the first.
    nodes: Vec<Node<SIDES>>,
    /// Of each node, its children: by name, `other` last.
    children: Vec<Vec<usize>>,
}

/// The name of the root.
const TOTAL: &str = "total";
/// The name of what is left out.
const OTHER: &str = "other";

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl<const SIDES: usize> ByName<SIDES> {
    /// Of at most `nodes_max` nodes, and of those that weigh as much as the last of them.
    pub(super) fn new(trees: [&Tree; SIDES], nodes_max: usize) -> Self {
        let mut names: Vec<String> = vec![TOTAL.to_owned()];
        let mut name_ids: HashMap<&str, u32> = HashMap::new();
        let mut intern = |name| {
            *name_ids.entry(name).or_insert_with(|| {
                names.push(str::to_owned(name));
                u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
            })
        };
        let mut nodes = vec![Node::empty(0, 0)];
        let mut known: HashMap<(usize, u32), usize> = HashMap::new();
        for (side, tree) in trees.into_iter().enumerate() {
            let function_names: Vec<u32> =
                tree.functions.iter().map(|function| intern(&function.name)).collect();
            let mut place = vec![0; tree.nodes.len()];
            for (index, node) in tree.nodes.iter().enumerate() {
                if index > 0 {
                    let (parent, name) =
                        (place[node.parent as usize], function_names[node.function as usize]);
                    place[index] = *known.entry((parent, name)).or_insert_with(|| {
                        nodes.push(Node::empty(parent, name));
                        nodes.len() - 1
                    });
                }
                let node_here = &mut nodes[place[index]];
                node_here.own[side] = node_here.own[side].saturating_add(node.own);
                node_here.total[side] = node_here.total[side].saturating_add(node.total);
            }
        }
        let other = intern(OTHER);
        let nodes = cut(nodes, nodes_max, other);
        let mut children = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate().skip(1) {
            children[node.parent].push(index);
        }
        let order = |index: &usize| (nodes[*index].name == other, &names[nodes[*index].name as usize]);
        children.iter_mut().for_each(|children| children.sort_by(|a, b| order(a).cmp(&order(b))));
        Self { names, nodes, children }
    }

    /// What each side weighs.
    pub(super) fn ticks(&self) -> [i64; SIDES] {
        self.nodes[0].total.map(signed)
    }

    /// In levels: of a node its own weight lies to the left of its children, on each side.
    pub(super) fn flame_graph(&self) -> FlameGraph {
        let mut levels: Vec<Level> = Vec::new();
        let mut ends: Vec<[u64; SIDES]> = Vec::new();
        let mut names = Vec::new();
        let mut name_ids: HashMap<u32, i64> = HashMap::new();
        let mut waiting = vec![(0, 0, [0_u64; SIDES])];
        while let Some((index, depth, mut begin)) = waiting.pop() {
            let node = self.nodes[index];
            if levels.len() == depth {
                levels.push(Level::default());
                ends.push([0; SIDES]);
            }
            let name = *name_ids.entry(node.name).or_insert_with(|| {
                names.push(self.names[node.name as usize].clone());
                signed(names.len() as u64 - 1)
            });
            for side in 0..SIDES {
                let gap = begin[side].saturating_sub(ends[depth][side]);
                let (total, own) = (node.total[side], node.own[side]);
                levels[depth].values.extend([signed(gap), signed(total), signed(own)]);
                ends[depth][side] = begin[side].saturating_add(total);
                begin[side] = begin[side].saturating_add(own);
            }
            levels[depth].values.push(name);
            let first = waiting.len();
            for &child in &self.children[index] {
                waiting.push((child, depth + 1, begin));
                for (begin, total) in begin.iter_mut().zip(self.nodes[child].total) {
                    *begin = begin.saturating_add(total);
                }
            }
            waiting[first..].reverse();
        }
        let max_self = self.nodes.iter().flat_map(|node| node.own).max().unwrap_or(0);
        FlameGraph {
            names,
            levels,
            total: signed(self.nodes[0].weight()),
            max_self: signed(max_self),
            left_ticks: 0,
            right_ticks: 0,
        }
    }
}

impl ByName<2> {
    /// The same with what each side weighs.
    pub(super) fn difference(&self) -> FlameGraph {
        let [left_ticks, right_ticks] = self.ticks();
        FlameGraph { left_ticks, right_ticks, ..self.flame_graph() }
    }
}

impl ByName<1> {
    /// In bytes, depth first: length of the name, name, own weight, count of children. The root has no name.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut waiting = vec![0];
        while let Some(index) = waiting.pop() {
            let node = self.nodes[index];
            let name = if index == 0 { "" } else { self.names[node.name as usize].as_str() };
            prost::encoding::encode_varint(name.len() as u64, &mut bytes);
            bytes.extend_from_slice(name.as_bytes());
            prost::encoding::encode_varint(node.own[0], &mut bytes);
            prost::encoding::encode_varint(self.children[index].len() as u64, &mut bytes);
            waiting.extend(self.children[index].iter().rev());
        }
        bytes
    }
}

/// Leaves out the lightest; what they weigh becomes a node `other` of the nearest parent that stays.
fn cut<const SIDES: usize>(nodes: Vec<Node<SIDES>>, nodes_max: usize, other: u32) -> Vec<Node<SIDES>> {
    if nodes.len() <= nodes_max + 1 {
        return nodes;
    }
    let mut weights: Vec<u64> = nodes[1..].iter().map(Node::weight).collect();
    let (_, &mut least, _) = weights.select_nth_unstable_by(nodes_max.max(1) - 1, |a, b| b.cmp(a));
    let mut kept: Vec<Node<SIDES>> = Vec::new();
    let mut place: Vec<Option<usize>> = vec![None; nodes.len()];
    let mut others: HashMap<usize, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        // A parent is never lighter than its child.
        let Some(parent) = (if index == 0 { Some(0) } else { place[node.parent] }) else { continue };
        if index == 0 || node.weight() >= least {
            place[index] = Some(kept.len());
            kept.push(Node { parent, ..*node });
            continue;
        }
        let rest = *others.entry(parent).or_insert_with(|| {
            kept.push(Node::empty(parent, other));
            kept.len() - 1
        });
        for (sum, total) in kept[rest].own.iter_mut().zip(node.total) {
            *sum = sum.saturating_add(total);
        }
        kept[rest].total = kept[rest].own;
    }
    kept
}

/// All of `tree` as a pprof of `profile_type` that ends at `end_ns`. The period is one of the unit's nanoseconds, as a
/// Pyroscope says it: merged profiles have none of their own.
pub(super) fn pprof(tree: &Tree, profile_type: &str, end_ns: i64) -> Profile {
    let mut parts = profile_type.split(':').skip(1);
    let mut part = || parts.next().unwrap_or_default();
    let mut strings = Strings::default();
    let sample = ValueType { r#type: strings.intern(part()), unit: strings.intern(part()) };
    let period = ValueType { r#type: strings.intern(part()), unit: strings.intern(part()) };
    let mut profile = Profile {
        sample_type: vec![sample],
        period_type: Some(period),
        period: 1_000_000_000,
        time_nanos: end_ns,
        default_sample_type: sample.r#type,
        ..Profile::default()
    };
    let mut mappings: HashMap<&str, u64> = HashMap::new();
    // The root's function is none.
    for (function, id) in tree.functions.iter().skip(1).zip(1_u64..) {
        let mapping_id = *mappings.entry(&function.module).or_insert_with(|| {
            let id = profile.mapping.len() as u64 + 1;
            let filename = strings.intern(&function.module);
            profile.mapping.push(Mapping { id, filename, has_functions: true, ..Mapping::default() });
            id
        });
        let (name, filename) = (strings.intern(&function.name), strings.intern(&function.file));
        profile.function.push(Function { id, name, filename, ..Function::default() });
        let line = vec![Line { function_id: id, line: i64::from(function.line) }];
        profile.location.push(Location { id, mapping_id, line, ..Location::default() });
    }
    for (index, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.own > 0) {
        let mut location_id = Vec::new();
        let mut at = index;
        while at != 0 {
            location_id.push(u64::from(tree.nodes[at].function));
            at = tree.nodes[at].parent as usize;
        }
        profile.sample.push(Sample { location_id, value: vec![signed(node.own)], label: Vec::new() });
    }
    profile.string_table = strings.finish();
    profile
}
