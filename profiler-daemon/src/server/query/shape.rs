//! How the page looks at a merged tree: which stacks, without which frames, read from which end.
//!
//! In: a tree. Out: another of the same functions. What is hidden leaves its weight to its caller, what is read from the
//! leaves shows each stack once: no unit is lost. The cost is that of walking each stack once, and has a bound.
//! Not here: which nodes are heavy enough to be sent (`flamegraph`).

use regex_lite::{Regex, RegexBuilder};
use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::Question;
use crate::server::refusal::Refusal;
use crate::server::store::{Passage, Tree, TreeFunction, TreeNode};

/// Patterns of each kind in one question.
const PATTERNS_MAX: usize = 64;
/// Memory of one compiled regular expression, bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Frames that are walked to read stacks from their leaves: a second or so. What lies beyond shows as a gap.
const STEPS_MAX: usize = 50_000_000;

/// From which end stacks are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum View {
    /// From the root, as they were called.
    #[default]
    Calls,
    /// From the leaf: what costs most comes first, below it who called it.
    Inverted,
    /// Who calls one function, from it on upwards.
    Callers,
    /// What one function calls.
    Callees,
}

/// Functions, and stacks that are made of them: a parent before its children, the root first.
#[derive(Debug)]
pub(super) struct Graph {
    /// The first is the root's and has no name.
    pub(super) functions: Vec<TreeFunction>,
    /// The first is the root.
    pub(super) nodes: Vec<TreeNode>,
}

impl From<Tree> for Graph {
    fn from(tree: Tree) -> Self {
        Self { functions: tree.functions, nodes: tree.nodes }
    }
}

/// A function's name, or a pattern of such names and modules.
#[derive(Debug)]
enum Pattern {
    Name(String),
    Names(Regex),
}

impl Pattern {
    fn takes(&self, function: &TreeFunction) -> bool {
        match self {
            Self::Name(name) => *function.name == **name,
            Self::Names(names) => names.is_match(&function.name) || names.is_match(&function.module),
        }
    }
}

/// One pattern a line; `/…/` is a regular expression.
fn patterns(text: Option<&str>) -> Result<Vec<Pattern>, Refusal> {
    let lines: Vec<&str> = text.unwrap_or_default().lines().filter(|line| !line.is_empty()).collect();
    if lines.len() > PATTERNS_MAX {
        return Err(Refusal::invalid("question", format!("more than {PATTERNS_MAX} patterns")));
    }
    let pattern = |line: &str| {
        let inside = line.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        let Some(inside) = inside.filter(|inside| !inside.is_empty()) else {
            return Ok(Pattern::Name(line.to_owned()));
        };
        let built = RegexBuilder::new(inside).case_insensitive(true).size_limit(REGEX_BYTES_MAX).build();
        built.map(Pattern::Names).map_err(|error| {
            Refusal::invalid("question", format!("the pattern {line:?} cannot be read: {error}"))
        })
    };
    lines.into_iter().map(pattern).collect()
}

/// What a question asks of the shape.
#[derive(Debug)]
pub(super) struct Shape {
    hide: Vec<Pattern>,
    only: Vec<Pattern>,
    view: View,
    function: Option<String>,
    below: Vec<u32>,
}

impl Shape {
    /// Reads it from `question`.
    pub(super) fn new(question: &Question) -> Result<Self, Refusal> {
        let view = question.view.unwrap_or_default();
        let function = question.function.clone();
        if matches!(view, View::Callers | View::Callees) && function.is_none() {
            return Err(Refusal::invalid("question", "callers and callees are those of a function: name it"));
        }
        let keys = question.below.as_deref().unwrap_or_default();
        let key = |key: &str| u32::from_str_radix(key, 36);
        let below = keys.split('.').filter(|key| !key.is_empty()).map(key).collect::<Result<_, _>>();
        Ok(Self {
            hide: patterns(question.hide.as_deref())?,
            only: patterns(question.only.as_deref())?,
            view,
            function,
            below: below.map_err(|_| Refusal::invalid("question", "below is made of keys of functions"))?,
        })
    }

    /// Which patterns a function meets, one a bit.
    fn marks(&self, function: &TreeFunction) -> u64 {
        (self.only.iter().enumerate())
            .filter(|(_, pattern)| pattern.takes(function))
            .fold(0, |bits, (bit, _)| bits | 1 << bit)
    }

    /// The patterns that a stack must meet.
    fn all_marks(&self) -> u64 {
        u64::MAX.checked_shr(64 - u32::try_from(self.only.len()).unwrap_or(64)).unwrap_or(0)
    }

    /// The stacks that are asked for; `None` if all are. What is hidden of a stack does not change what it weighs.
    pub(super) fn passage(&self) -> Option<Passage<'_>> {
        let marks = Box::new(|function: &TreeFunction| self.marks(function));
        (!self.only.is_empty()).then(|| Passage { marks, all: self.all_marks() })
    }

    /// `graph` with those stacks and frames that are asked for.
    pub(super) fn filtered(&self, graph: Graph) -> Graph {
        if self.hide.is_empty() && self.only.is_empty() {
            return graph;
        }
        let Graph { functions, nodes } = graph;
        let hidden: Vec<bool> = functions
            .iter()
            .map(|function| self.hide.iter().any(|pattern| pattern.takes(function)))
            .collect();
        let wanted: Vec<u64> = functions.iter().map(|function| self.marks(function)).collect();
        let all = self.all_marks();

        let mut met = vec![0_u64; nodes.len()];
        let mut own = vec![0_u64; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            met[index] = met[node.parent as usize] | wanted[node.function as usize];
            own[index] = if met[index] == all { node.own } else { 0 };
        }
        let mut total = own.clone();
        for index in (1..nodes.len()).rev() {
            let parent = nodes[index].parent as usize;
            total[parent] = total[parent].saturating_add(total[index]);
        }
        let mut calls = Calls::default();
        let mut place = vec![0_u32; nodes.len()];
        for (index, node) in nodes.iter().enumerate().filter(|&(index, _)| total[index] > 0) {
            let hidden = index > 0 && hidden[node.function as usize];
            let parent = place[node.parent as usize];
            place[index] = if index == 0 || hidden { parent } else { calls.of(parent, node.function) };
            calls.weigh(place[index], own[index], if hidden { 0 } else { total[index] });
        }
        Graph { functions, nodes: calls.nodes }
    }

    /// The stacks of `graph` as they are looked at; at most about `nodes_max` where that saves work.
    pub(super) fn view(&self, graph: &Graph, nodes_max: usize) -> Option<Vec<TreeNode>> {
        let is_it = |node: &TreeNode| {
            Some(&*graph.functions[node.function as usize].name) == self.function.as_deref()
        };
        match self.view {
            View::Calls => None,
            View::Inverted => {
                let leaves = graph.nodes.iter().zip(0..).skip(1).filter(|(node, _)| node.own > 0);
                let leaves = leaves.map(|(node, index)| (index, node.own)).collect();
                let mut nodes = self.upwards(graph, leaves, nodes_max);
                let unread = graph.nodes[0].own;
                nodes[0].own = unread;
                nodes[0].total = nodes[0].total.saturating_add(unread);
                Some(nodes)
            }
            View::Callers => {
                let mut inside = vec![false; graph.nodes.len()];
                let mut found = Vec::new();
                for (node, index) in graph.nodes.iter().zip(0_u32..).skip(1) {
                    let already = inside[node.parent as usize];
                    inside[index as usize] = already || is_it(node);
                    // Where it calls itself a stack counts once.
                    if !already && inside[index as usize] {
                        found.push((index, node.total));
                    }
                }
                Some(self.upwards(graph, found, nodes_max))
            }
            View::Callees => {
                let mut calls = Calls::default();
                let mut place = vec![0_u32; graph.nodes.len()];
                for (index, node) in graph.nodes.iter().enumerate().skip(1) {
                    let parent = place[node.parent as usize];
                    if parent == 0 && !is_it(node) {
                        continue;
                    }
                    place[index] = calls.of(parent, node.function);
                    calls.weigh(place[index], node.own, node.total);
                    if parent == 0 {
                        calls.weigh(0, 0, node.total);
                    }
                }
                Some(calls.nodes)
            }
        }
    }

    /// Merges stacks that are read from one of their nodes to the root; each weighs what is beside it. What is too light
    /// to be sent is not walked, except on the way that is asked for.
    fn upwards(&self, graph: &Graph, stacks: Vec<(u32, u64)>, nodes_max: usize) -> Vec<TreeNode> {
        /// Stacks that have been the same so far; the next frame of each is that of its node.
        struct Group {
            place: u32,
            stacks: Vec<(u32, u64)>,
            /// How much of the way that is asked for leads here, if it does.
            way: Option<usize>,
            /// What a node must weigh.
            least: u64,
        }
        let least = |whole: u64| (whole / nodes_max.max(1) as u64).max(1);
        let whole = stacks.iter().fold(0_u64, |sum, &(_, weight)| sum.saturating_add(weight));
        let keys: Vec<u32> =
            if self.below.is_empty() { Vec::new() } else { graph.functions.iter().map(key).collect() };
        let mut nodes = vec![TreeNode { parent: 0, function: 0, own: 0, total: whole }];
        let mut waiting = vec![Group { place: 0, stacks, way: Some(0), least: least(whole) }];
        let mut steps = 0_usize;
        while let Some(group) = waiting.pop() {
            steps += group.stacks.len();
            if steps > STEPS_MAX {
                break;
            }
            let mut by_function: FxHashMap<u32, Vec<(u32, u64)>> = FxHashMap::default();
            for (node, weight) in group.stacks {
                by_function.entry(graph.nodes[node as usize].function).or_default().push((node, weight));
            }
            for (function, stacks) in by_function {
                let total = stacks.iter().fold(0_u64, |sum, &(_, weight)| sum.saturating_add(weight));
                let next = group.way.and_then(|steps| self.below.get(steps).map(|&key| (steps + 1, key)));
                let way = next.filter(|&(_, key)| keys[function as usize] == key).map(|(steps, _)| steps);
                if total < group.least && way.is_none() {
                    continue;
                }
                let mut own = 0_u64;
                let mut further = Vec::with_capacity(stacks.len());
                for (node, weight) in stacks {
                    match graph.nodes[node as usize].parent {
                        0 => own = own.saturating_add(weight),
                        parent => further.push((parent, weight)),
                    }
                }
                let place = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                nodes.push(TreeNode { parent: group.place, function, own, total });
                if !further.is_empty() {
                    // Below the end of the way its own weight is the measure.
                    let arrived = way.is_some_and(|steps| steps == self.below.len());
                    let least = if arrived { least(total) } else { group.least };
                    waiting.push(Group { place, stacks: further, way: way.filter(|_| !arrived), least });
                }
            }
        }
        nodes
    }

    /// The node that the asked way leads to, or as far as it goes; `None` if no way is asked for.
    pub(super) fn below(&self, functions: &[TreeFunction], nodes: &[TreeNode]) -> Option<u32> {
        let last = self.below.len();
        if last == 0 {
            return None;
        }
        let keys: Vec<u32> = functions.iter().map(key).collect();
        // How far along the way each node is; of several that are equally far the heaviest.
        let mut steps: Vec<Option<usize>> = vec![None; nodes.len()];
        steps[0] = Some(0);
        let mut best = (0_usize, 0_u64, 0_u32);
        for (index, node) in (1_u32..).zip(nodes.iter().skip(1)) {
            let here = steps[node.parent as usize]
                .filter(|&taken| taken < last && keys[node.function as usize] == self.below[taken]);
            steps[index as usize] = here.map(|taken| taken + 1);
            if let Some(taken) = steps[index as usize]
                && (taken, node.total) > (best.0, best.1)
            {
                best = (taken, node.total, index);
            }
        }
        Some(best.2)
    }
}

/// Stacks that are made one call after the other.
struct Calls {
    nodes: Vec<TreeNode>,
    places: FxHashMap<(u32, u32), u32>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            nodes: vec![TreeNode { parent: 0, function: 0, own: 0, total: 0 }],
            places: FxHashMap::default(),
        }
    }
}

impl Calls {
    fn of(&mut self, parent: u32, function: u32) -> u32 {
        *self.places.entry((parent, function)).or_insert_with(|| {
            self.nodes.push(TreeNode { parent, function, own: 0, total: 0 });
            u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn weigh(&mut self, place: u32, own: u64, total: u64) {
        let node = &mut self.nodes[place as usize];
        node.own = node.own.saturating_add(own);
        node.total = node.total.saturating_add(total);
    }
}

/// What the page calls a function in an address: a number of its name, a zero, and its module.
fn key(function: &TreeFunction) -> u32 {
    hash(function.name.encode_utf16().chain([0]).chain(function.module.encode_utf16()))
}

/// FNV-1a over UTF-16 units, as the page has it (`hash.ts`).
pub(super) fn hash(units: impl Iterator<Item = u16>) -> u32 {
    units.fold(0x811c_9dc5, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// The graph of folded stacks, root first.
    fn graph(folded: &[(&str, u64)]) -> Graph {
        let root = TreeFunction { name: "".into(), file: "".into(), module: "".into(), line: 0 };
        let mut functions = vec![root];
        let mut calls = Calls::default();
        for &(stack, weight) in folded {
            let mut place = 0;
            calls.weigh(0, 0, weight);
            for name in stack.split(';') {
                let known = functions.iter().position(|function| *function.name == *name);
                let function = known.unwrap_or_else(|| {
                    functions.push(TreeFunction { name: name.into(), ..functions[0].clone() });
                    functions.len() - 1
                });
                place = calls.of(place, u32::try_from(function).unwrap());
                calls.weigh(place, 0, weight);
            }
            calls.weigh(place, weight, 0);
        }
        Graph { functions, nodes: calls.nodes }
    }

    /// Each stack with its own weight, those without left out, sorted.
    fn folded(functions: &[TreeFunction], nodes: &[TreeNode]) -> String {
        let mut lines = Vec::new();
        for node in nodes.iter().filter(|node| node.own > 0) {
            let mut names = Vec::new();
            let mut at = node;
            while at.function != 0 {
                names.push(&*functions[at.function as usize].name);
                at = &nodes[at.parent as usize];
            }
            names.reverse();
            lines.push(format!("{} {}", names.join(";"), node.own));
        }
        lines.sort();
        lines.join(", ")
    }

    const STACKS: &[(&str, u64)] = &[
        ("main;work;malloc", 4),
        ("main;malloc", 2),
        ("main;work", 1),
        ("start;work;work;malloc", 3),
        ("start", 5),
    ];

    #[track_caller]
    fn check(question: &Question, expected: &str) {
        let shape = Shape::new(question).unwrap();
        let graph = shape.filtered(graph(STACKS));
        let nodes = shape.view(&graph, 1000).unwrap_or_else(|| graph.nodes.clone());
        assert_eq!(folded(&graph.functions, &nodes), expected);
        // A parent weighs what it weighs alone and what its children weigh.
        let mut sums: Vec<u64> = nodes.iter().map(|node| node.own).collect();
        for (index, node) in nodes.iter().enumerate().skip(1) {
            assert!((node.parent as usize) < index);
            sums[node.parent as usize] += node.total;
        }
        assert_eq!(sums, nodes.iter().map(|node| node.total).collect::<Vec<_>>());
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn what_is_hidden_leaves_its_weight_to_its_caller() {
        check(
            &Question { hide: text("malloc"), ..Question::default() },
            "main 2, main;work 5, start 5, start;work;work 3",
        );
        check(
            &Question { hide: text("/^WORK$/\nstart"), ..Question::default() },
            " 5, main 1, main;malloc 6, malloc 3",
        );
    }

    #[test]
    fn only_stacks_that_meet_all_patterns_stay() {
        check(
            &Question { only: text("malloc\nwork"), ..Question::default() },
            "main;work;malloc 4, start;work;work;malloc 3",
        );
        check(&Question { only: text("nobody"), ..Question::default() }, "");
    }

    #[test]
    fn from_the_leaf_each_stack_is_there_once() {
        check(
            &Question { view: Some(View::Inverted), ..Question::default() },
            "malloc;main 2, malloc;work;main 4, malloc;work;work;start 3, start 5, work;main 1",
        );
    }

    #[test]
    fn callers_and_callees_count_a_stack_once_where_a_function_calls_itself() {
        let of = |view| Question { view: Some(view), function: text("work"), ..Question::default() };
        check(&of(View::Callers), "work;main 5, work;start 3");
        check(&of(View::Callees), "work 1, work;malloc 4, work;work;malloc 3");
    }

    #[test]
    fn what_is_light_is_walked_only_on_the_way_that_is_asked_for() {
        let inverted = |below: Option<String>| {
            let question = Question { view: Some(View::Inverted), below, ..Question::default() };
            let shape = Shape::new(&question).unwrap();
            let graph = graph(STACKS);
            folded(&graph.functions, &shape.view(&graph, 5).unwrap())
        };
        // A fifth of 15 is 3.
        assert_eq!(inverted(None), "malloc;work;main 4, malloc;work;work;start 3, start 5");
        let function =
            |name: &str| TreeFunction { name: name.into(), file: "".into(), module: "".into(), line: 0 };
        let mut digits = Vec::new();
        let mut key = key(&function("work"));
        while key > 0 {
            digits.push(char::from_digit(key % 36, 36).unwrap());
            key /= 36;
        }
        let below = digits.into_iter().rev().collect();
        assert_eq!(
            inverted(Some(below)),
            "malloc;work;main 4, malloc;work;work;start 3, start 5, work;main 1"
        );
    }

    #[track_caller]
    fn check_refused(question: &Question, words: &str) {
        let refusal = Shape::new(question).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_words() {
        check_refused(&Question { hide: text("/(/"), ..Question::default() }, "cannot be read");
        check_refused(&Question { hide: Some("a\n".repeat(65)), ..Question::default() }, "more than 64");
        check_refused(&Question { below: text("a.-"), ..Question::default() }, "keys of functions");
        check_refused(&Question { view: Some(View::Callers), ..Question::default() }, "name it");
    }
}
