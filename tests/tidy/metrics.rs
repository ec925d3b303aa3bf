//! Every metric stands on one page of the docs, and nothing else does: whoever is woken by a number finds what it means
//! and what to do.
//!
//! In: the daemon's sources and `docs/metrics.md`. Out: names that are in one of them only, rows that say too little.

use std::collections::BTreeSet;

use crate::source::{without_tests, without_texts};

/// The page, from the top of the workspace.
pub(crate) const PAGE: &str = "docs/metrics.md";
/// How metrics are registered (`meters.rs`), and how each is called on the page that is scraped: the text format
/// adds an ending to counters.
const REGISTERS: &[(&str, &[&str])] = &[
    ("counter", &["_total"]),
    ("counters", &["_total"]),
    ("gauge", &[""]),
    ("gauges", &[""]),
    ("register", &["", "_total"]),
];
const PREFIX: &str = "profiler_";

/// The metrics that the shipped code of `source` registers; each with the names that it may have when scraped.
pub(crate) fn registered(source: &str) -> Vec<Vec<String>> {
    let code = without_tests(&without_texts(source));
    let mut found = Vec::new();
    for (open, _) in code.match_indices('(') {
        let before = code[..open].trim_end();
        let method = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let Some((_, endings)) = REGISTERS.iter().find(|(name, _)| *name == method) else { continue };
        let Some(text) = source[open + 1..].trim_start().strip_prefix('"') else { continue };
        let name = text.split('"').next().unwrap_or_default();
        if name.starts_with(PREFIX) {
            found.push(endings.iter().map(|ending| format!("{name}{ending}")).collect());
        }
    }
    found
}

/// Everything that is wrong with the page, given what is registered.
pub(crate) fn check(registered: &[Vec<String>], page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut listed = BTreeSet::new();
    for (number, line) in (1..).zip(page.lines()) {
        let Some(row) = line.strip_prefix("| `").filter(|row| row.starts_with(PREFIX)) else { continue };
        let mut cells = row.trim_end_matches('|').split(" | ");
        let name = cells.next().unwrap_or_default().trim().trim_end_matches('`');
        let cells: Vec<_> = cells.map(str::trim).collect();
        if cells.len() != 3 || cells.iter().any(|cell| cell.is_empty()) {
            faults.push(format!("{PAGE}:{number}: {name} needs a unit, a meaning and what to do"));
        }
        if !listed.insert(name) {
            faults.push(format!("{PAGE}:{number}: {name} stands here twice"));
        }
        if !registered.iter().flatten().any(|known| known == name) {
            faults.push(format!("{PAGE}:{number}: no code registers {name}"));
        }
    }
    for names in registered {
        if !names.iter().any(|name| listed.contains(name.as_str())) {
            faults.push(format!("{PAGE} does not say what {} is", names[0]));
        }
    }
    faults
}
