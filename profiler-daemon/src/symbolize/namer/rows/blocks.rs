//! Writes rules as blocks of the table.
//!
//! In: rules, each with the offset in the file from which it holds, ascending. Out: blocks of words, by page. Equal
//! neighbours are one row, and what is known of a stretch of code is said again at the beginning of each granule.

use profiler_common::unwind::table::{
    GRANULE_BYTES, GRANULES, KIND_POINTER, KIND_SHIFT, KIND_SIDE, PAGE_BYTES, Packed, Rule, SLAB_WORDS,
    STARTS_WORDS,
};
use rustc_hash::FxHashMap;

/// A page's number and its block.
pub(super) type Block = (u32, Vec<u32>);

/// Takes rules and makes blocks.
#[derive(Debug)]
pub(super) struct Writer {
    /// Where the last rule begins, and the rule, packed once however often it is said again.
    last: (u64, Packed),
    page: Page,
    /// Blocks that are whole.
    pub(super) done: Vec<Block>,
    /// Words of them.
    pub(super) done_words: usize,
    /// Pages left out because their block would not fit a slab. No compiler makes one.
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Page {
    number: u64,
    /// Number of the first row of each granule that was begun.
    starts: Vec<u16>,
    /// Low byte and rule.
    rows: Vec<(u8, Packed)>,
    overflows: bool,
}

/// Nothing is known.
const POINTER: Packed = Packed::Row(KIND_POINTER << KIND_SHIFT);

impl Writer {
    pub(super) fn new() -> Self {
        Self { last: (0, POINTER), page: Page::new(0), done: Vec::new(), done_words: 0, dropped: 0 }
    }

    /// From `at` on holds `rule`. What comes before what came is left out.
    pub(super) fn put(&mut self, at: u64, rule: Rule) {
        let rule = rule.pack();
        if at < self.last.0 || rule == self.last.1 {
            return;
        }
        self.reach(at);
        self.row(at, rule);
        self.last = (at, rule);
    }

    /// The rest of the blocks: nothing is known from `at` on.
    pub(super) fn end(&mut self, at: u64) {
        self.put(at, Rule::Pointer);
        self.turn(self.page.number);
    }

    /// Says the last rule again at each granule before that of `at`; one without rows says that nothing is known.
    fn reach(&mut self, at: u64) {
        let (from, rule) = self.last;
        if rule != POINTER {
            for granule in from / GRANULE_BYTES + 1..at / GRANULE_BYTES {
                self.row(granule * GRANULE_BYTES, rule);
            }
        }
    }

    fn row(&mut self, at: u64, rule: Packed) {
        if at / PAGE_BYTES != self.page.number {
            self.turn(at / PAGE_BYTES);
        }
        self.page.row(at, rule, self.last.1);
    }

    /// Ends the page and begins page `number`.
    fn turn(&mut self, number: u64) {
        let page = std::mem::replace(&mut self.page, Page::new(number));
        if page.rows.iter().all(|(_, rule)| *rule == POINTER) && !page.overflows {
            return;
        }
        let block = page.words().and_then(|words| Some((u32::try_from(page.number).ok()?, words)));
        match block {
            Some(block) => {
                self.done_words += block.1.len();
                self.done.push(block);
            }
            None => self.dropped += 1,
        }
    }
}

impl Page {
    fn new(number: u64) -> Self {
        Self { number, starts: Vec::new(), rows: Vec::new(), overflows: false }
    }

    /// Adds a row. A granule begins with what held before.
    fn row(&mut self, at: u64, rule: Packed, before: Packed) {
        let granule = usize::try_from(at % PAGE_BYTES / GRANULE_BYTES).unwrap_or(GRANULES);
        let (Ok(number), Ok(low)) = (u16::try_from(self.rows.len()), u8::try_from(at % GRANULE_BYTES)) else {
            self.overflows = true;
            return;
        };
        if self.starts.len() <= granule {
            self.starts.resize(granule + 1, number);
            if low != 0 {
                self.rows.push((0, before));
            }
        }
        // Of two rows at one place the later is meant.
        let first = self.starts.last().map_or(0, |&first| usize::from(first));
        match self.rows.get_mut(first..).and_then(|rows| rows.last_mut()) {
            Some(last) if last.0 == low => last.1 = rule,
            Some(_) | None => self.rows.push((low, rule)),
        }
    }

    /// The block; none if it does not fit a slab.
    fn words(&self) -> Option<Vec<u32>> {
        if self.overflows {
            return None;
        }
        let rows = u16::try_from(self.rows.len()).ok()?;
        let mut words = Vec::with_capacity(STARTS_WORDS + self.rows.len());
        let start = |granule: usize| u32::from(self.starts.get(granule).copied().unwrap_or(rows));
        for granule in (0..=GRANULES).step_by(2) {
            let second = if granule == GRANULES { 0 } else { start(granule + 1) };
            words.push(start(granule) | second << 16);
        }
        let mut sides: Vec<[u32; 2]> = Vec::new();
        let mut known: FxHashMap<[u32; 2], usize> = FxHashMap::default();
        for &(low, rule) in &self.rows {
            let row = match rule {
                Packed::Row(row) => row,
                Packed::Side(side) => {
                    let number = *known.entry(side).or_insert_with(|| {
                        sides.push(side);
                        sides.len() - 1
                    });
                    let at = u32::try_from(STARTS_WORDS + self.rows.len() + 2 * number).ok()?;
                    KIND_SIDE << KIND_SHIFT | at << 8
                }
            };
            words.push(row | u32::from(low));
        }
        words.extend(sides.as_flattened());
        (words.len() <= SLAB_WORDS).then_some(words)
    }
}
