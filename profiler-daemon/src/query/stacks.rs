//! Stacks of a merged profile, and what a person wants to know of them: the heaviest functions, and the tree.
//!
//! In: a pprof as a server merged it, any server's. Out: stacks by name, root first, each once. What a profile refers to
//! and does not have is called by what is known of it, never an error. Recursion of a function counts a stack once.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::pprof::{Location, Profile};

/// Stacks with what each weighs itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks {
    /// By their frames, root first.
    pub weights: BTreeMap<Vec<String>, u64>,
}

/// What a function weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub function: String,
    /// Alone.
    pub own: u64,
    /// With what it calls.
    pub total: u64,
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How many callers it has.
    pub depth: usize,
    /// Its name.
    pub function: String,
    /// Alone.
    pub own: u64,
    /// With what it calls.
    pub total: u64,
}

impl Stacks {
    /// The stacks of `profile`, whose samples have one value each.
    pub fn of(profile: &Profile) -> Self {
        let functions: HashMap<u64, &str> = (profile.function.iter())
            .map(|function| (function.id, profile.text(function.name).unwrap_or_default()))
            .collect();
        let locations: HashMap<u64, &Location> =
            profile.location.iter().map(|location| (location.id, location)).collect();
        let mut weights: BTreeMap<Vec<String>, u64> = BTreeMap::new();
        for sample in &profile.sample {
            let Some(weight) = sample.value.first().and_then(|&value| u64::try_from(value).ok()) else {
                continue;
            };
            let mut stack = Vec::new();
            for id in sample.location_id.iter().rev() {
                let lines = locations.get(id).map_or(&[][..], |location| &location.line);
                let names = lines.iter().rev().map(|line| functions.get(&line.function_id).copied());
                let before = stack.len();
                stack.extend(names.flatten().filter(|name| !name.is_empty()).map(str::to_owned));
                if stack.len() == before {
                    let address = locations.get(id).map_or(0, |location| location.address);
                    stack.push(format!("unknown+{address:#x}"));
                }
            }
            let sum = weights.entry(stack).or_default();
            *sum = sum.saturating_add(weight);
        }
        weights.retain(|_, weight| *weight > 0);
        Self { weights }
    }

    /// What all of them weigh.
    pub fn total(&self) -> u64 {
        self.weights.values().fold(0, |sum, &weight| sum.saturating_add(weight))
    }

    /// Functions, the heaviest alone first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: HashMap<&str, (u64, u64)> = HashMap::new();
        let mut seen = HashSet::new();
        for (stack, &weight) in &self.weights {
            seen.clear();
            for name in stack.iter().filter(|name| seen.insert(name.as_str())) {
                let (_, total) = rows.entry(name).or_default();
                *total = total.saturating_add(weight);
            }
            if let Some(leaf) = stack.last() {
                let (own, _) = rows.entry(leaf).or_default();
                *own = own.saturating_add(weight);
            }
        }
        let row = |(name, (own, total)): (&str, _)| Row { function: name.to_owned(), own, total };
        let mut rows: Vec<Row> = rows.into_iter().map(row).collect();
        rows.sort_by(|a, b| (b.own, b.total, &a.function).cmp(&(a.own, a.total, &b.function)));
        rows
    }

    /// The tree, callers before those they call, the heaviest first.
    pub fn tree(&self) -> Vec<Node> {
        #[derive(Default)]
        struct Growing<'a> {
            function: &'a str,
            own: u64,
            total: u64,
            children: Vec<usize>,
        }
        let mut nodes = vec![Growing::default()];
        // Stacks come in the order of their frames, so the path to the last one has all that this one shares.
        let mut path: Vec<usize> = Vec::new();
        for (stack, &weight) in &self.weights {
            let shared =
                path.iter().zip(stack).take_while(|&(&node, name)| nodes[node].function == name).count();
            path.truncate(shared);
            for name in &stack[shared..] {
                nodes.push(Growing { function: name, ..Growing::default() });
                let (parent, child) = (path.last().copied().unwrap_or(0), nodes.len() - 1);
                nodes[parent].children.push(child);
                path.push(child);
            }
            for &node in &path {
                nodes[node].total = nodes[node].total.saturating_add(weight);
            }
            if let Some(&leaf) = path.last() {
                nodes[leaf].own = nodes[leaf].own.saturating_add(weight);
            }
        }
        let mut tree = Vec::new();
        // The lightest lies at the bottom.
        let by_weight = |children: &[usize]| {
            let mut children = children.to_vec();
            children.sort_by(|&a, &b| {
                (nodes[a].total, nodes[b].function).cmp(&(nodes[b].total, nodes[a].function))
            });
            children
        };
        let mut waiting: Vec<(usize, usize)> =
            by_weight(&nodes[0].children).into_iter().map(|node| (node, 0)).collect();
        while let Some((node, depth)) = waiting.pop() {
            let Growing { function, own, total, children } = &nodes[node];
            tree.push(Node { depth, function: (*function).to_owned(), own: *own, total: *total });
            waiting.extend(by_weight(children).into_iter().map(|child| (child, depth + 1)));
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::pprof::{Function, Line, Sample, Strings};

    fn stacks(all: &[(&str, u64)]) -> Stacks {
        let stack = |&(text, weight): &(&str, u64)| (text.split(';').map(str::to_owned).collect(), weight);
        Stacks { weights: all.iter().map(stack).collect() }
    }

    #[test]
    fn inlined_functions_stand_between_their_callers_and_those_they_call() {
        let mut strings = Strings::default();
        let mut function =
            |id, name: &str| Function { id, name: strings.intern(name), ..Function::default() };
        let function = vec![function(1, "main"), function(2, "outer"), function(3, "inlined")];
        let line = |function_id| Line { function_id, line: 1 };
        let location = |id, line| Location { id, line, address: 0x10 * id, ..Location::default() };
        let profile = Profile {
            function,
            location: vec![
                location(1, vec![line(1)]),
                location(2, vec![line(3), line(2)]),
                location(3, vec![]),
            ],
            sample: vec![
                Sample { location_id: vec![2, 1], value: vec![5], label: vec![] },
                Sample { location_id: vec![2, 1], value: vec![6], label: vec![] },
                Sample { location_id: vec![3, 9, 1], value: vec![1], label: vec![] },
                Sample { location_id: vec![1], value: vec![-1], label: vec![] },
            ],
            string_table: strings.finish(),
            ..Profile::default()
        };
        let expected = stacks(&[("main;outer;inlined", 11), ("main;unknown+0x0;unknown+0x30", 1)]);
        assert_eq!(Stacks::of(&profile), expected);
    }

    #[test]
    fn a_function_that_calls_itself_counts_a_stack_once() {
        let rows = stacks(&[("main;f;f;f", 7), ("main;g", 3), ("main", 1)]).rows();
        let row = |function: &str, own, total| Row { function: function.to_owned(), own, total };
        assert_eq!(rows, [row("f", 7, 7), row("g", 3, 3), row("main", 1, 11)]);
    }

    #[test]
    fn the_tree_has_the_heaviest_first() {
        let tree = stacks(&[("main;a", 1), ("main;b;c", 5), ("main;b", 1), ("idle", 2)]).tree();
        let lines: Vec<_> = tree
            .iter()
            .map(|node| format!("{}{} {} {}", " ".repeat(node.depth), node.function, node.own, node.total))
            .collect();
        assert_eq!(lines, ["main 0 7", " b 1 6", "  c 5 5", " a 1 1", "idle 2 2"]);
    }

    proptest! {
        #[test]
        fn self_and_children_are_the_total(
            all in prop::collection::btree_map(prop::collection::vec("[a-c]", 1..6), 1..100_u64, 1..40)
        ) {
            let stacks = Stacks { weights: all };
            let tree = stacks.tree();
            for (index, node) in tree.iter().enumerate() {
                let below = tree[index + 1..].iter().take_while(|child| child.depth > node.depth);
                let children: u64 =
                    below.filter(|child| child.depth == node.depth + 1).map(|child| child.total).sum();
                prop_assert_eq!(node.own + children, node.total);
            }
            let whole: u64 = tree.iter().filter(|node| node.depth == 0).map(|node| node.total).sum();
            prop_assert_eq!(whole, stacks.total());
            prop_assert_eq!(stacks.rows().iter().map(|row| row.own).sum::<u64>(), whole);
            prop_assert!(stacks.rows().iter().all(|row| row.own <= row.total && row.total <= whole));
            prop_assert_eq!(tree.iter().map(|node| node.own).max().unwrap() > 0, true);
        }
    }
}
