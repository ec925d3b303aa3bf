//! A merged tree as a graph of calls in DOT, the language of Graphviz: each function once, an arrow for who calls whom.
//!
//! In: a tree. Out: text. A function that calls itself counts a stack once, and so does an arrow; where functions between
//! two are left out, a dashed arrow ties them. Names are text, whatever is in them.

use std::collections::BTreeMap;
use std::fmt::Write;

use rustc_hash::FxHashMap;

use crate::server::store::Tree;

/// Functions that are drawn where none are asked for: more is no picture any more.
pub(super) const FUNCTIONS: usize = 100;

/// An arrow, from one function to another.
type Arrow = (usize, usize);

/// What calls weigh, and whether one calls the other itself somewhere.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    weight: u64,
    direct: bool,
}

/// `tree` of `profile_type` with its heaviest functions, `functions_max` at most; nothing if it weighs nothing.
pub(super) fn dot(tree: &Tree, profile_type: &str, functions_max: usize) -> String {
    let whole = tree.nodes[0].total;
    if whole == 0 {
        return String::new();
    }
    let weights = weights(tree);
    let mut shown: Vec<usize> = (1..weights.len()).filter(|&function| weights[function].1 > 0).collect();
    shown.sort_by_key(|&function| (std::cmp::Reverse((weights[function].1, weights[function].0)), function));
    shown.truncate(functions_max);
    let mut numbers = vec![0; weights.len()];
    shown.iter().zip(1..).for_each(|(&function, number)| numbers[function] = number);

    let mut parts = profile_type.split(':').skip(1);
    let (kind, unit) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let said = |value: u64| amount(value, unit);
    let of_all = |value: u64| format!("{} ({:.2}%)", said(value), value as f64 * 100.0 / whole as f64);
    let own: u64 = shown.iter().fold(0, |sum, &function| sum.saturating_add(weights[function].0));
    let heaviest = shown.iter().map(|&function| weights[function].0).max().unwrap_or(0).max(1);
    let mut text = String::from("digraph {\nnode [shape=box style=filled fillcolor=\"#f8f8f8\"]\n");
    let (all, kind) = (weights.len() - 1, escaped(kind));
    let said_of = format!("{} of {all} functions: {} of {}", shown.len(), said(own), said(whole));
    let _ = writeln!(text, "L [fontsize=16 label=\"Type: {kind}\\l{said_of}\\l\"]");
    for &function in &shown {
        let (own, total) = weights[function];
        let name = escaped(&tree.functions[function].name);
        let beside = if own == total { String::new() } else { format!("\\nof {}", of_all(total)) };
        let size = 8.0 + (16.0 * (own as f64 / heaviest as f64).sqrt()).ceil();
        let color = color(total as f64 / whole as f64);
        let _ = writeln!(
            text,
            "N{} [label=\"{name}\\n{}{beside}\" fontsize={size} {color}]",
            numbers[function],
            of_all(own)
        );
    }
    for ((from, to), Calls { weight, direct }) in arrows(tree, &numbers) {
        let part = weight as f64 / whole as f64;
        let (width, style) = (1.0 + (part * 4.0).floor(), if direct { "" } else { " style=dashed" });
        let _ = writeln!(
            text,
            "N{from} -> N{to} [label=\" {}\" weight={} penwidth={width}{style}]",
            said(weight),
            1.0 + (part * 100.0).floor()
        );
    }
    text.push_str("}\n");
    text
}

/// Visits the nodes depth first: each as it is entered, and as it is left.
fn walk(tree: &Tree, mut visit: impl FnMut(usize, bool)) {
    let mut children = vec![Vec::new(); tree.nodes.len()];
    for (index, node) in tree.nodes.iter().enumerate().skip(1) {
        children[node.parent as usize].push(index);
    }
    let mut waiting = vec![(0, true)];
    while let Some((index, enters)) = waiting.pop() {
        visit(index, enters);
        if enters {
            waiting.push((index, false));
            waiting.extend(children[index].iter().map(|&child| (child, true)));
        }
    }
}

/// What each function weighs alone and with all that it calls.
fn weights(tree: &Tree) -> Vec<(u64, u64)> {
    let mut weights = vec![(0_u64, 0_u64); tree.functions.len()];
    let mut on_path = vec![0_u32; tree.functions.len()];
    walk(tree, |index, enters| {
        let node = tree.nodes[index];
        let (function, weight) = (node.function as usize, &mut weights[node.function as usize]);
        if !enters {
            on_path[function] -= 1;
            return;
        }
        weight.0 = weight.0.saturating_add(node.own);
        if on_path[function] == 0 {
            weight.1 = weight.1.saturating_add(node.total);
        }
        on_path[function] += 1;
    });
    weights
}

/// Who calls whom, of the functions that have a number.
fn arrows(tree: &Tree, numbers: &[usize]) -> BTreeMap<Arrow, Calls> {
    let mut arrows: BTreeMap<Arrow, Calls> = BTreeMap::new();
    let mut on_path: FxHashMap<Arrow, u32> = FxHashMap::default();
    // The functions with a number from the root to here, each with its depth.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut depth = 0;
    walk(tree, |index, enters| {
        let node = tree.nodes[index];
        let number = numbers[node.function as usize];
        if !enters {
            depth -= 1;
            if number > 0 {
                path.pop();
                if let Some(&(caller, _)) = path.last() {
                    *on_path.entry((caller, number)).or_default() -= 1;
                }
            }
            return;
        }
        if number > 0 {
            if let Some(&(caller, above)) = path.last() {
                let calls = arrows.entry((caller, number)).or_default();
                let here = on_path.entry((caller, number)).or_default();
                if *here == 0 {
                    calls.weight = calls.weight.saturating_add(node.total);
                }
                *here += 1;
                calls.direct |= above + 1 == depth;
            }
            path.push((number, depth));
        }
        depth += 1;
    });
    arrows
}

/// A value as people read it in a picture.
fn amount(value: u64, unit: &str) -> String {
    match unit {
        "nanoseconds" => format!("{:.2}s", value as f64 / 1e9),
        "bytes" => format!("{:.2}MB", value as f64 / f64::from(1 << 20)),
        _ => value.to_string(),
    }
}

/// What weighs a part of all: the more, the redder.
fn color(part: f64) -> String {
    format!("color=\"0.0 {part:.3} 0.7\" fillcolor=\"0.0 {:.3} 0.95\"", part * 0.2)
}

/// `name` between quotes: no sign of it is more than a sign.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for sign in name.chars() {
        match sign {
            '"' | '\\' => text.extend(['\\', sign]),
            _ if sign.is_control() => text.push(' '),
            _ => text.push(sign),
        }
    }
    text
}
