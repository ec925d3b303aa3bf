//! Profiles that arrived one after another, with everything they name: what grows in memory.
//!
//! In: functions, stacks and values of the profiles that arrived while the segment was the newest. Out: the same,
//! each kept once: texts and functions in a dictionary, the stacks of each service as a tree of parent pointers, values
//! as coded rows per window and series. Everything is appended, so a `Mark` says how much there was at some moment:
//! what came since is what a journal writes, and can be taken back.
//! Not here: when a segment begins and ends (the store decides), and what may be in a profile (`profile`).

use std::collections::HashMap;
use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::passage::{self, Passage};
use super::rows::{self, Damaged};
use super::series::Series;
use super::tree::{Dictionary, Translated, Tree};
use super::{Digest, Selection};
use crate::time::{WallNs, Window};

/// A function of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::server) struct FunctionId(pub(super) u32);

/// The stacks of one service in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::server) struct TreeId(pub(super) u32);

/// A stack of a service: a node of its tree, which stands for itself and all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::server) struct StackId(pub(super) u32);

/// The stack without frames.
pub(in crate::server) const ROOT: StackId = StackId(0);

/// A function; name, file and module are texts of the segment, the line is the first one that was known, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Function {
    pub(super) name: u32,
    pub(super) file: u32,
    pub(super) module: u32,
    pub(super) line: u32,
}

/// A node of a tree; its parent came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) function: u32,
}

/// The node that every tree begins with. Its function means nothing.
pub(super) const ROOT_NODE: Node = Node { parent: 0, function: 0 };

/// The stacks of one service.
#[derive(Debug)]
pub(super) struct ServiceTree {
    pub(super) service: Arc<str>,
    pub(super) nodes: Vec<Node>,
    children: FxHashMap<Node, u32>,
}

impl std::hash::Hash for Node {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.parent) << 32 | u64::from(self.function));
    }
}

/// What one series weighed in one window.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) window: Window,
    pub(super) series: u32,
    /// Sum of its values.
    pub(super) total: u64,
    /// Where its rows are.
    pub(super) rows: Range<usize>,
}

/// How much of a segment there was at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) texts: usize,
    pub(super) functions: usize,
    /// Nodes of each tree.
    pub(super) trees: Vec<usize>,
    pub(super) series: usize,
    pub(super) stored: usize,
    pub(super) digests: usize,
}

/// Profiles with everything they name.
#[derive(Debug, Default)]
pub(in crate::server) struct Segment {
    pub(super) texts: Vec<Arc<str>>,
    text_ids: HashMap<Arc<str>, u32>,
    text_bytes: usize,
    pub(super) functions: Vec<Function>,
    function_ids: FxHashMap<(u32, u32, u32), u32>,
    pub(super) trees: Vec<ServiceTree>,
    tree_ids: HashMap<Arc<str>, TreeId>,
    pub(super) series: Vec<Series>,
    series_ids: HashMap<Series, u32>,
    series_bytes: usize,
    pub(super) stored: Vec<Stored>,
    pub(super) rows: Vec<u8>,
    /// What was pushed: labels, time and bytes of each profile.
    pub(super) digests: Vec<Digest>,
    /// First start and last end of its windows.
    span: Option<(WallNs, WallNs)>,
}

/// The next index of a list that memory keeps far shorter than four billion.
fn next(len: usize) -> u32 {
    u32::try_from(len).expect("the store's byte bound ends a segment long before")
}

impl Segment {
    /// The text's number.
    pub(super) fn text(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.text_ids.get(text) {
            return id;
        }
        let id = next(self.texts.len());
        let text: Arc<str> = text.into();
        self.text_bytes += text.len();
        self.texts.push(Arc::clone(&text));
        self.text_ids.insert(text, id);
        id
    }

    /// The function of that name, file and module. Its line is the one it was first seen with.
    pub(in crate::server) fn function(
        &mut self,
        name: &str,
        file: &str,
        module: &str,
        line: u32,
    ) -> FunctionId {
        let (name, file, module) = (self.text(name), self.text(file), self.text(module));
        self.function_of(Function { name, file, module, line })
    }

    pub(super) fn function_of(&mut self, function: Function) -> FunctionId {
        let Function { name, file, module, line: _ } = function;
        FunctionId(*self.function_ids.entry((name, file, module)).or_insert_with(|| {
            self.functions.push(function);
            next(self.functions.len() - 1)
        }))
    }

    /// The tree of a service.
    pub(in crate::server) fn tree(&mut self, service: &str) -> TreeId {
        if let Some(&id) = self.tree_ids.get(service) {
            return id;
        }
        let id = TreeId(next(self.trees.len()));
        let service: Arc<str> = service.into();
        self.tree_ids.insert(Arc::clone(&service), id);
        self.trees.push(ServiceTree { service, nodes: vec![ROOT_NODE], children: FxHashMap::default() });
        id
    }

    /// The stack `parent` of that tree with a call of `function` added.
    pub(in crate::server) fn call(&mut self, tree: TreeId, parent: StackId, function: FunctionId) -> StackId {
        StackId(self.add_node(tree, Node { parent: parent.0, function: function.0 }))
    }

    pub(super) fn add_node(&mut self, tree: TreeId, node: Node) -> u32 {
        let ServiceTree { nodes, children, .. } = &mut self.trees[tree.0 as usize];
        *children.entry(node).or_insert_with(|| {
            nodes.push(node);
            next(nodes.len() - 1)
        })
    }

    /// True if `series` is here.
    pub(super) fn knows(&self, series: &Series) -> bool {
        self.series_ids.contains_key(series)
    }

    /// How many series are here.
    pub(super) fn series_count(&self) -> usize {
        self.series.len()
    }

    pub(super) fn series_id(&mut self, series: &Series) -> u32 {
        if let Some(&id) = self.series_ids.get(series) {
            return id;
        }
        self.tree(series.service());
        let id = next(self.series.len());
        self.series_bytes += series.bytes();
        self.series.push(series.clone());
        self.series_ids.insert(series.clone(), id);
        id
    }

    /// Keeps what `series` weighed in `window`, in stacks of its service's tree. Pairs of equal stacks are added up.
    pub(in crate::server) fn keep(
        &mut self,
        series: &Series,
        window: Window,
        pairs: &mut Vec<(StackId, u64)>,
    ) {
        pairs.sort_unstable_by_key(|&(stack, _)| stack);
        pairs.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 = first.1.saturating_add(later.1);
            }
            same
        });
        let total = pairs.iter().fold(0_u64, |sum, &(_, value)| sum.saturating_add(value));
        let pairs: Vec<_> = pairs.iter().map(|&(stack, value)| (stack.0, value)).collect();
        let first = self.rows.len();
        rows::encode(&pairs, &mut self.rows);
        let series = self.series_id(series);
        self.stored.push(Stored { window, series, total, rows: first..self.rows.len() });
        self.cover(window);
    }

    /// Keeps rows that a segment has written.
    pub(super) fn keep_rows(&mut self, series: u32, window: Window, rows: &[u8]) -> Result<(), Damaged> {
        let tree = self.tree_of(series).ok_or(Damaged)?;
        let nodes = self.trees[tree.0 as usize].nodes.len();
        let mut total = 0_u64;
        rows::decode(rows, |stack, value| {
            total = total.saturating_add(value);
            if (stack as usize) < nodes { Ok(()) } else { Err(Damaged) }
        })?;
        let first = self.rows.len();
        self.rows.extend_from_slice(rows);
        self.stored.push(Stored { window, series, total, rows: first..self.rows.len() });
        self.cover(window);
        Ok(())
    }

    fn cover(&mut self, window: Window) {
        let (from, until) = self.span.unwrap_or((window.start, super::end(window)));
        self.span = Some((from.min(window.start), until.max(super::end(window))));
    }

    /// The tree of the service of a series.
    pub(super) fn tree_of(&self, series: u32) -> Option<TreeId> {
        self.tree_ids.get(self.series.get(series as usize)?.service()).copied()
    }

    /// First start and last end of its windows.
    pub(super) fn span(&self) -> Option<(WallNs, WallNs)> {
        self.span
    }

    /// How much there is.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            texts: self.texts.len(),
            functions: self.functions.len(),
            trees: self.trees.iter().map(|tree| tree.nodes.len()).collect(),
            series: self.series.len(),
            stored: self.stored.len(),
            digests: self.digests.len(),
        }
    }

    /// Takes back what came since `mark`.
    pub(super) fn go_back_to(&mut self, mark: &Mark) {
        for text in self.texts.drain(mark.texts..) {
            self.text_bytes -= text.len();
            self.text_ids.remove(&text);
        }
        for function in self.functions.drain(mark.functions..) {
            self.function_ids.remove(&(function.name, function.file, function.module));
        }
        for tree in self.trees.drain(mark.trees.len()..) {
            self.tree_ids.remove(&tree.service);
        }
        for (tree, &nodes) in self.trees.iter_mut().zip(&mark.trees) {
            for node in tree.nodes.drain(nodes..) {
                tree.children.remove(&node);
            }
        }
        for series in self.series.drain(mark.series..) {
            self.series_bytes -= series.bytes();
            self.series_ids.remove(&series);
        }
        self.stored.truncate(mark.stored);
        self.rows.truncate(self.stored.last().map_or(0, |stored| stored.rows.end));
        self.digests.truncate(mark.digests);
        self.span = None;
        for index in 0..self.stored.len() {
            self.cover(self.stored[index].window);
        }
    }

    /// Gives every wanted window of every series to `then`, in the order of arrival; with a `passage` those that weigh
    /// something in its stacks, and that.
    pub(super) fn windows(
        &self,
        selection: &Selection<'_>,
        passage: Option<&Passage<'_>>,
        then: &mut dyn FnMut(Window, &Series, u64),
    ) -> Result<(), Damaged> {
        let wanted: Vec<bool> = self.series.iter().map(|series| selection.wants_series(series)).collect();
        let mut asked: Vec<Option<Vec<bool>>> = vec![None; self.trees.len()];
        for stored in self.stored.iter().filter(|stored| selection.wants_window(stored.window)) {
            if !wanted[stored.series as usize] {
                continue;
            }
            let series = &self.series[stored.series as usize];
            let Some(passage) = passage else {
                then(stored.window, series, stored.total);
                continue;
            };
            let Some(TreeId(tree)) = self.tree_of(stored.series) else { continue };
            let asked = match &mut asked[tree as usize] {
                Some(asked) => asked,
                new @ None => {
                    let nodes = &self.trees[tree as usize].nodes;
                    new.insert(passage.stacks(nodes, |function| (&mut &*self).named(function))?)
                }
            };
            let weight = passage::weight(&self.rows[stored.rows.clone()], asked)?;
            if weight > 0 {
                then(stored.window, series, weight);
            }
        }
        Ok(())
    }

    /// Adds all that is wanted to `sum`.
    pub(super) fn merge(&self, selection: &Selection<'_>, sum: &mut Tree) -> Result<(), Damaged> {
        let tree_of: Vec<Option<TreeId>> = (0..next(self.series.len()))
            .map(|id| selection.wants_series(&self.series[id as usize]).then(|| self.tree_of(id)).flatten())
            .collect();
        let mut own: Vec<Vec<u64>> = vec![Vec::new(); self.trees.len()];
        for stored in self.stored.iter().filter(|stored| selection.wants_window(stored.window)) {
            let Some(tree) = tree_of[stored.series as usize] else { continue };
            let own = &mut own[tree.0 as usize];
            if own.is_empty() {
                own.resize(self.trees[tree.0 as usize].nodes.len(), 0);
            }
            rows::add_to(own, &self.rows[stored.rows.clone()])?;
        }
        let mut names = Translated::new(self, sum);
        for (tree, own) in self.trees.iter().zip(&own).filter(|(_, own)| !own.is_empty()) {
            sum.add(&tree.nodes, own, &mut names)?;
        }
        Ok(())
    }

    /// The memory that this occupies, bytes, near enough to bound it.
    pub(super) fn bytes(&self) -> usize {
        /// What the allocator and the count of an `Arc<str>` add to its text.
        const TEXT_EXTRA: usize = 32;
        fn map<K, V, S>(map: &HashMap<K, V, S>) -> usize {
            map.capacity() * (size_of::<(K, V)>() + 1)
        }
        let tree = |tree: &ServiceTree| {
            tree.nodes.capacity() * size_of::<Node>()
                + map(&tree.children)
                + tree.service.len()
                + size_of::<ServiceTree>()
                + TEXT_EXTRA
        };
        self.text_bytes
            + self.texts.len() * TEXT_EXTRA
            + self.texts.capacity() * size_of::<Arc<str>>()
            + map(&self.text_ids)
            + self.functions.capacity() * size_of::<Function>()
            + map(&self.function_ids)
            + self.trees.iter().map(tree).sum::<usize>()
            + map(&self.tree_ids)
            + self.series_bytes
            + self.series.capacity() * size_of::<Series>()
            + map(&self.series_ids)
            + self.stored.capacity() * size_of::<Stored>()
            + self.rows.capacity()
            + self.digests.capacity() * size_of::<Digest>()
    }
}

impl Dictionary for &Segment {
    type Error = Damaged;

    fn function(&mut self, id: u32) -> Result<Function, Damaged> {
        self.functions.get(id as usize).copied().ok_or(Damaged)
    }

    fn text(&mut self, id: u32) -> Result<Arc<str>, Damaged> {
        self.texts.get(id as usize).map(Arc::clone).ok_or(Damaged)
    }
}
