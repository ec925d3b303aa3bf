//! Many windows merged into one tree: what every answer of the page is made of.
//!
//! In: the trees of segments and partitions. Out: functions, and stacks with what they weigh alone and in total. A stack of a thousand frames is
//! a thousand nodes and no recursion: a parent always comes before its children.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, RandomState};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::rows::Damaged;
use super::segment::{Function, Node};

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
    texts: Once<Arc<str>, RandomState>,
    /// The numbers of name, file and module: what makes a function the same in every segment.
    identities: Once<[u32; 3], BuildHasherDefault<FxHasher>>,
    /// Of each node, its place among its siblings.
    links: Vec<Link>,
    /// Nodes with many children, which are in `children`.
    wide: FxHashSet<u32>,
    /// By parent and function.
    children: FxHashMap<(u32, u32), u32>,
}

/// Where a node's children are: the first of them, and of each the next. Mostly nobody looks for one: what a service adds
/// lies below a node that was not there before it.
#[derive(Clone, Copy, Debug)]
struct Link {
    first: u32,
    next: u32,
}

/// No child: the root is nobody's.
const NOBODY: u32 = 0;
/// So many children are looked through one after another; where there are more they go into a map.
const LOOKED_THROUGH_MAX: usize = 8;

/// Things that are here once, numbered. What comes from one segment is there once already, so it is looked for only among
/// what came from others: a range that lies in one segment never looks.
#[derive(Debug)]
struct Once<K, S> {
    all: Vec<K>,
    of_others: HashMap<K, u32, S>,
}

impl<K: Clone + Eq + Hash, S: BuildHasher + Default> Once<K, S> {
    /// With what the root is made of, which nothing else is the same as.
    fn new(root: K) -> Self {
        Self { all: vec![root], of_others: HashMap::default() }
    }

    /// What comes from now on is from another segment.
    fn begin_segment(&mut self) {
        for id in self.of_others.len() + 1..self.all.len() {
            self.of_others.insert(self.all[id].clone(), next(id));
        }
    }

    /// The number of `thing`; it is new if that is the last.
    fn id(&mut self, thing: K) -> u32 {
        if let Some(&known) = self.of_others.get(&thing) {
            return known;
        }
        self.all.push(thing);
        next(self.all.len() - 1)
    }
}

/// What the numbers in a segment stand for.
pub(super) trait Dictionary {
    /// Why it cannot be told.
    type Error: From<Damaged>;
    /// A function.
    fn function(&mut self, id: u32) -> Result<Function, Self::Error>;
    /// A text that a function is made of.
    fn text(&mut self, id: u32) -> Result<Arc<str>, Self::Error>;

    /// A function with its names.
    fn named(&mut self, id: u32) -> Result<TreeFunction, Self::Error> {
        let Function { name, file, module, line } = self.function(id)?;
        Ok(TreeFunction { name: self.text(name)?, file: self.text(file)?, module: self.text(module)?, line })
    }
}

/// The dictionary of a segment, and which number in the tree each of its numbers is: a name is looked up once.
pub(super) struct Translated<D> {
    dictionary: D,
    texts: Vec<Option<u32>>,
    functions: Vec<Option<u32>>,
}

impl<D: Dictionary> Translated<D> {
    /// Nothing of `dictionary` is known to `tree` yet, whose segments were others.
    pub(super) fn new(dictionary: D, tree: &mut Tree) -> Self {
        tree.texts.begin_segment();
        tree.identities.begin_segment();
        Self { dictionary, texts: Vec::new(), functions: Vec::new() }
    }

    fn function(&mut self, id: u32, tree: &mut Tree) -> Result<u32, D::Error> {
        if let Some(Some(known)) = self.functions.get(id as usize) {
            return Ok(*known);
        }
        let Function { name, file, module, line } = self.dictionary.function(id)?;
        let key = [self.text(name, tree)?, self.text(file, tree)?, self.text(module, tree)?];
        let function = tree.function(key, line);
        note(&mut self.functions, id, function);
        Ok(function)
    }

    fn text(&mut self, id: u32, tree: &mut Tree) -> Result<u32, D::Error> {
        if let Some(Some(known)) = self.texts.get(id as usize) {
            return Ok(*known);
        }
        let text = tree.texts.id(self.dictionary.text(id)?);
        note(&mut self.texts, id, text);
        Ok(text)
    }
}

/// Remembers what `id` is. It is one that its dictionary has, so the list is no longer than that.
fn note(known: &mut Vec<Option<u32>>, id: u32, here: u32) {
    let id = id as usize;
    if known.len() <= id {
        known.resize(id + 1, None);
    }
    known[id] = Some(here);
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
            texts: Once::new(empty),
            identities: Once::new([0; 3]),
            links: vec![Link { first: NOBODY, next: NOBODY }],
            wide: FxHashSet::default(),
            children: FxHashMap::default(),
        }
    }
}

fn next(len: usize) -> u32 {
    u32::try_from(len).expect("a tree is no larger than the segments it is made of")
}

impl Tree {
    /// Adds the tree `nodes` of the segment whose names are `names`; each node weighs `own` alone.
    pub(super) fn add<D: Dictionary>(
        &mut self,
        nodes: &[Node],
        own: &[u64],
        names: &mut Translated<D>,
    ) -> Result<(), D::Error> {
        let mut total = own.to_vec();
        for index in (1..nodes.len()).rev() {
            let parent = nodes[index].parent as usize;
            if parent >= index {
                return Err(Damaged.into());
            }
            total[parent] = total[parent].saturating_add(total[index]);
        }
        let before = self.nodes.len();
        // Where the nodes are in this tree.
        let mut place = vec![0_u32; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            if total[index] == 0 {
                continue;
            }
            if index > 0 {
                let (parent, function) = (place[node.parent as usize], names.function(node.function, self)?);
                // No stack is twice in `nodes`: below one that was not here before, neither were its children.
                let is_new = parent as usize >= before;
                place[index] = if is_new { self.push(parent, function) } else { self.call(parent, function) };
            }
            let here = &mut self.nodes[place[index] as usize];
            here.own = here.own.saturating_add(own[index]);
            here.total = here.total.saturating_add(total[index]);
        }
        Ok(())
    }

    /// The function of that name, file and module; its line is the first that is known.
    fn function(&mut self, identity: [u32; 3], line: u32) -> u32 {
        let id = self.identities.id(identity);
        match self.functions.get_mut(id as usize) {
            None => {
                let [name, file, module] = identity.map(|text| Arc::clone(&self.texts.all[text as usize]));
                self.functions.push(TreeFunction { name, file, module, line });
            }
            Some(known) if known.line == 0 => known.line = line,
            Some(_) => {}
        }
        id
    }

    /// The call of `function` in the stack `parent`, found or made.
    fn call(&mut self, parent: u32, function: u32) -> u32 {
        let mut child = self.links[parent as usize].first;
        for _ in 0..LOOKED_THROUGH_MAX {
            if child == NOBODY {
                return self.push(parent, function);
            }
            if self.nodes[child as usize].function == function {
                return child;
            }
            child = self.links[child as usize].next;
        }
        if self.wide.insert(parent) {
            child = self.links[parent as usize].first;
            while child != NOBODY {
                self.children.insert((parent, self.nodes[child as usize].function), child);
                child = self.links[child as usize].next;
            }
        }
        if let Some(&child) = self.children.get(&(parent, function)) {
            return child;
        }
        let child = self.push(parent, function);
        self.children.insert((parent, function), child);
        child
    }

    /// A new node.
    fn push(&mut self, parent: u32, function: u32) -> u32 {
        let child = next(self.nodes.len());
        self.nodes.push(TreeNode { parent, function, own: 0, total: 0 });
        self.links.push(Link { first: NOBODY, next: self.links[parent as usize].first });
        self.links[parent as usize].first = child;
        child
    }

    /// What all of it weighs.
    pub(in crate::server) fn total(&self) -> u64 {
        self.nodes[0].total
    }
}
