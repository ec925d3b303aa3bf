//! A few minutes of profiles with everything they name, dropped whole.
//!
//! In: functions, stacks and values of the profiles that arrived while the segment was the newest. Out: the same,
//! each kept once: texts and functions in a dictionary, stacks as a tree of parent pointers, values as
//! (stack, value) pairs per window.
//! Not here: when a segment begins and ends (the store decides), and what may be in a profile (`profile`).

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::series::Series;
use crate::time::Window;

/// A text of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) struct TextId(u32);

/// A function of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) struct FunctionId(pub(super) u32);

/// A stack of a segment: a node of its tree, which stands for itself and all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::server) struct StackId(pub(super) u32);

/// The stack without frames.
pub(in crate::server) const ROOT: StackId = StackId(0);

/// A function; texts are the segment's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) name: TextId,
    pub(super) file: TextId,
    pub(super) module: TextId,
    /// The first line that was known of it, or zero.
    pub(super) line: u32,
}

/// A node of the tree; its parent came before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) parent: StackId,
    pub(super) function: FunctionId,
}

/// What one series weighed in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) window: Window,
    pub(super) series: u32,
    /// Sum of its values.
    pub(super) total: u64,
    first: usize,
    end: usize,
}

/// A few minutes of profiles.
#[derive(Debug)]
pub(in crate::server) struct Segment {
    texts: Vec<Arc<str>>,
    text_ids: HashMap<Arc<str>, TextId>,
    text_bytes: usize,
    functions: Vec<Function>,
    function_ids: FxHashMap<(u32, u32, u32), FunctionId>,
    nodes: Vec<Node>,
    children: FxHashMap<(u32, u32), StackId>,
    series: Vec<Series>,
    series_ids: HashMap<Series, u32>,
    series_bytes: usize,
    stored: Vec<Stored>,
    value_stacks: Vec<StackId>,
    values: Vec<u64>,
}

impl Default for Segment {
    fn default() -> Self {
        let mut segment = Self {
            texts: Vec::new(),
            text_ids: HashMap::new(),
            text_bytes: 0,
            functions: Vec::new(),
            function_ids: FxHashMap::default(),
            nodes: Vec::new(),
            children: FxHashMap::default(),
            series: Vec::new(),
            series_ids: HashMap::new(),
            series_bytes: 0,
            stored: Vec::new(),
            value_stacks: Vec::new(),
            values: Vec::new(),
        };
        let nameless = segment.function("", "", "", 0);
        segment.nodes.push(Node { parent: ROOT, function: nameless });
        segment
    }
}

/// The next index of a list that memory keeps far shorter than four billion.
fn next(len: usize) -> u32 {
    u32::try_from(len).expect("the store's byte bound ends a segment long before")
}

impl Segment {
    fn text(&mut self, text: &str) -> TextId {
        if let Some(&id) = self.text_ids.get(text) {
            return id;
        }
        let id = TextId(next(self.texts.len()));
        let text: Arc<str> = text.into();
        self.text_bytes += text.len();
        self.texts.push(Arc::clone(&text));
        self.text_ids.insert(text, id);
        id
    }

    /// The function of that name, file and module. Its line is the first one that is known.
    pub(in crate::server) fn function(
        &mut self,
        name: &str,
        file: &str,
        module: &str,
        line: u32,
    ) -> FunctionId {
        let (name, file, module) = (self.text(name), self.text(file), self.text(module));
        let id = *self.function_ids.entry((name.0, file.0, module.0)).or_insert_with(|| {
            self.functions.push(Function { name, file, module, line: 0 });
            FunctionId(next(self.functions.len() - 1))
        });
        let known = &mut self.functions[id.0 as usize].line;
        if *known == 0 {
            *known = line;
        }
        id
    }

    /// The stack `parent` with a call of `function` added.
    pub(in crate::server) fn call(&mut self, parent: StackId, function: FunctionId) -> StackId {
        *self.children.entry((parent.0, function.0)).or_insert_with(|| {
            self.nodes.push(Node { parent, function });
            StackId(next(self.nodes.len() - 1))
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

    /// Keeps what `series` weighed in `window`. Pairs of equal stacks are added up.
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
        let id = match self.series_ids.get(series) {
            Some(&id) => id,
            None => {
                let id = next(self.series.len());
                self.series_bytes += series.bytes();
                self.series.push(series.clone());
                self.series_ids.insert(series.clone(), id);
                id
            }
        };
        let first = self.values.len();
        let mut total = 0_u64;
        for &(stack, value) in pairs.iter() {
            self.value_stacks.push(stack);
            self.values.push(value);
            total = total.saturating_add(value);
        }
        self.stored.push(Stored { window, series: id, total, first, end: self.values.len() });
    }

    /// Every window of every series, in the order of arrival.
    pub(super) fn stored(&self) -> impl Iterator<Item = (&Stored, &Series)> {
        self.stored.iter().map(|stored| (stored, &self.series[stored.series as usize]))
    }

    /// How many windows of series are here.
    pub(super) fn stored_count(&self) -> usize {
        self.stored.len()
    }

    /// The stacks and values of `stored`.
    pub(super) fn values(&self, stored: &Stored) -> impl Iterator<Item = (StackId, u64)> {
        let range = stored.first..stored.end;
        self.value_stacks[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// The tree; the root is the first, and a parent comes before its children.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The functions.
    pub(super) fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// A text.
    pub(super) fn resolve(&self, text: TextId) -> &Arc<str> {
        &self.texts[text.0 as usize]
    }

    /// The memory that this occupies, bytes, near enough to bound it.
    pub(super) fn bytes(&self) -> usize {
        /// What the allocator and the count of an `Arc<str>` add to its text.
        const TEXT_EXTRA: usize = 32;
        fn map<K, V, S>(map: &HashMap<K, V, S>) -> usize {
            map.capacity() * (size_of::<(K, V)>() + 1)
        }
        self.text_bytes
            + self.texts.len() * TEXT_EXTRA
            + self.texts.capacity() * size_of::<Arc<str>>()
            + map(&self.text_ids)
            + self.functions.capacity() * size_of::<Function>()
            + map(&self.function_ids)
            + self.nodes.capacity() * size_of::<Node>()
            + map(&self.children)
            + self.series_bytes
            + self.series.capacity() * size_of::<Series>()
            + map(&self.series_ids)
            + self.stored.capacity() * size_of::<Stored>()
            + self.value_stacks.capacity() * size_of::<StackId>()
            + self.values.capacity() * size_of::<u64>()
    }
}
