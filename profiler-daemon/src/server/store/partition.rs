//! A closed segment as a file: written once, read where a question needs it.
//!
//! In: a segment. Out: one redb file whose parts can be found without reading the rest: texts and functions in chunks,
//! numbered so that those of one service lie together; a tree per service; and per series and minute the windows with
//! their sum, so that a long range reads sums and only its two ends are read window by window. A series knows its minutes,
//! and all that is under a key has a check (`blob`): what a disk loses or changes is met when it is read.
//! Not here: which files there are (`folder`), and when one is written (`journal`).

use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadOnlyDatabase, ReadableDatabase, TableDefinition, TableHandle};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::batch::{WrittenSeries, read_nodes, write_nodes};
use super::blob::{self, Place};
use super::passage::{self, Passage};
use super::rows::{self, Damaged};
use super::segment::{Function, Node, ROOT_NODE, Segment, Stored};
use super::series::Series;
use super::tree::{Dictionary, Translated, Tree};
use super::{Digest, Selection};
use crate::time::{WallNs, Window};

type Blobs = TableDefinition<'static, u32, &'static [u8]>;

/// What the file is: its version.
pub(super) const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");
/// The key of the version in `ABOUT`.
pub(super) const VERSION: &str = "version";
/// The version that is written, and the only one that is read.
pub(super) const VERSION_NOW: u64 = 2;
const TEXTS: Blobs = TableDefinition::new("texts");
const FUNCTIONS: Blobs = TableDefinition::new("functions");
const TREES: Blobs = TableDefinition::new("trees");
const SERIES: Blobs = TableDefinition::new("series");
const DIGESTS: Blobs = TableDefinition::new("digests");
pub(super) const MINUTES: TableDefinition<'static, (u32, i64), &'static [u8]> =
    TableDefinition::new("minutes");

/// Memory for pages of one file while it is open, bytes. What is read twice the kernel has in its own cache.
pub(super) const CACHE_BYTES: usize = 1 << 20;
/// Texts, and functions, that are read together.
const CHUNK: u32 = 128;
const MINUTE_NS: i64 = 60_000_000_000;

/// Why a file of the store is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The database.
    #[error("{0}")]
    Database(#[from] Box<redb::Error>),
    /// What is in it.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// It was written by another version of this program.
    #[error("it has version {0}, this program reads version {VERSION_NOW}")]
    Version(u64),
    /// The disk.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl FileError {
    /// True if the disk is full.
    pub(super) fn is_full(&self) -> bool {
        let full = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::Database(error) => matches!(&**error, redb::Error::Io(error) if full(error)),
            Self::Io(error) => full(error),
            Self::Damaged(_) | Self::Version(_) => false,
        }
    }

    /// True if another process has the file open.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(**error, redb::Error::DatabaseAlreadyOpen))
    }
}

macro_rules! from_redb {
    ($($error:ident)*) => { $(
        impl From<redb::$error> for FileError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )* };
}
from_redb!(DatabaseError TransactionError TableError StorageError CommitError);

/// The windows of one series in one minute.
#[derive(Serialize, Deserialize)]
struct Minute<'a> {
    windows: Vec<MinuteWindow>,
    /// The rows of all of them added up.
    sum: &'a [u8],
    /// For each window its rows, in which a stack is a row of `sum`. Empty where there is one window: it is the sum.
    rows: Vec<&'a [u8]>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct MinuteWindow {
    /// From the begin of the minute.
    start_ns: u64,
    duration_ns: u64,
    total: u64,
}

impl MinuteWindow {
    fn window(self, minute: i64) -> Window {
        let start = minute.saturating_mul(MINUTE_NS).saturating_add_unsigned(self.start_ns);
        Window { start: WallNs(start), duration_ns: self.duration_ns }
    }
}

/// A series as it is written, and where its windows are.
#[derive(Serialize, Deserialize)]
struct OneSeries<'a> {
    #[serde(borrow)]
    series: WrittenSeries<'a>,
    tree: u32,
    /// The minutes it has, each as the distance to the one before: one that is missing is seen.
    minutes: Vec<i64>,
}

fn apart(minutes: &[i64]) -> Vec<i64> {
    let before = std::iter::once(0).chain(minutes.iter().copied());
    minutes.iter().zip(before).map(|(minute, before)| minute.wrapping_sub(before)).collect()
}

fn together(apart: &[i64]) -> Vec<i64> {
    let add = |minute: &mut i64, &distance: &i64| {
        *minute = minute.wrapping_add(distance);
        Some(*minute)
    };
    apart.iter().scan(0, add).collect()
}

fn place(table: &Blobs, key: u32) -> Place<'_> {
    (table.name(), i64::from(key), 0)
}

fn minute_place(series: u32, minute: i64) -> Place<'static> {
    ("minutes", i64::from(series), minute)
}

/// Writes `segment` to a new file.
pub(super) fn write(segment: &Segment, path: &Path) -> Result<(), FileError> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let transaction = database.begin_write()?;
    {
        transaction.open_table(ABOUT)?.insert(VERSION, VERSION_NOW)?;
        let names = Renumbered::of(segment);
        write_chunks(&transaction, TEXTS, &names.texts)?;
        write_chunks(&transaction, FUNCTIONS, &names.functions)?;
        let mut trees = transaction.open_table(TREES)?;
        for (tree, nodes) in (0..).zip(&names.trees) {
            trees.insert(tree, &*blob::sealed(place(&TREES, tree), write_nodes(nodes, 0)))?;
        }
        let minutes = write_minutes(segment, &mut transaction.open_table(MINUTES)?)?;
        let series: Vec<_> = (segment.series.iter().zip(0..).zip(&minutes))
            .map(|((series, id), minutes)| OneSeries {
                series: WrittenSeries::of(series),
                tree: segment.tree_of(id).map_or(0, |tree| tree.0),
                minutes: apart(minutes),
            })
            .collect();
        transaction.open_table(SERIES)?.insert(0, &*blob::write(place(&SERIES, 0), &series))?;
        let digests = blob::write(place(&DIGESTS, 0), &segment.digests);
        transaction.open_table(DIGESTS)?.insert(0, &*digests)?;
    }
    transaction.commit()?;
    database.close()?;
    Ok(())
}

fn write_chunks<T: Serialize>(
    transaction: &redb::WriteTransaction,
    table: Blobs,
    all: &[T],
) -> Result<(), FileError> {
    let mut chunks = transaction.open_table(table)?;
    for (number, chunk) in (0..).zip(all.chunks(CHUNK as usize)) {
        chunks.insert(number, &*blob::write(place(&table, number), &chunk))?;
    }
    Ok(())
}

fn minute_of(time: WallNs) -> i64 {
    time.0.div_euclid(MINUTE_NS)
}

/// The minutes that each series has.
fn write_minutes(
    segment: &Segment,
    table: &mut redb::Table<'_, (u32, i64), &'static [u8]>,
) -> Result<Vec<Vec<i64>>, FileError> {
    let mut written = vec![Vec::new(); segment.series.len()];
    let mut order: Vec<&Stored> = segment.stored.iter().collect();
    let key = |stored: &Stored| (stored.series, minute_of(stored.window.start));
    order.sort_by_key(|stored| (key(stored), stored.window));
    for windows in order.chunk_by(|a, b| key(a) == key(b)) {
        let (series, minute) = key(windows[0]);
        let mut all = Vec::new();
        for stored in windows {
            rows::decode(&segment.rows[stored.rows.clone()], |stack, value| {
                all.push((stack, value));
                Ok(())
            })?;
        }
        all.sort_unstable_by_key(|&(stack, _)| stack);
        all.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 = first.1.saturating_add(later.1);
            }
            same
        });
        let mut sum = Vec::new();
        rows::encode(&all, &mut sum);
        let mut each: Vec<Vec<u8>> = Vec::new();
        for stored in windows.iter().filter(|_| windows.len() > 1) {
            let mut own = Vec::new();
            rows::decode(&segment.rows[stored.rows.clone()], |stack, value| {
                let row = all.binary_search_by_key(&stack, |&(stack, _)| stack).map_err(|_| Damaged)?;
                own.push((u32::try_from(row).map_err(|_| Damaged)?, value));
                Ok(())
            })?;
            let mut bytes = Vec::new();
            rows::encode(&own, &mut bytes);
            each.push(bytes);
        }
        let begin = minute.saturating_mul(MINUTE_NS);
        let window = |stored: &&Stored| MinuteWindow {
            start_ns: stored.window.start.0.saturating_sub(begin).unsigned_abs(),
            duration_ns: stored.window.duration_ns,
            total: stored.total,
        };
        let blob = Minute {
            windows: windows.iter().map(window).collect(),
            sum: &sum,
            rows: each.iter().map(Vec::as_slice).collect(),
        };
        table.insert((series, minute), &*blob::write(minute_place(series, minute), &blob))?;
        written[series as usize].push(minute);
    }
    Ok(written)
}

/// The names of a segment, numbered in the order in which its trees meet them.
#[derive(Default)]
struct Renumbered<'a> {
    texts: Vec<&'a str>,
    functions: Vec<Function>,
    trees: Vec<Vec<Node>>,
}

impl<'a> Renumbered<'a> {
    fn of(segment: &'a Segment) -> Self {
        let mut all = Self::default();
        let mut text_ids: Vec<Option<u32>> = vec![None; segment.texts.len()];
        let mut function_ids: Vec<Option<u32>> = vec![None; segment.functions.len()];
        for tree in &segment.trees {
            let mut nodes = vec![ROOT_NODE];
            for node in &tree.nodes[1..] {
                let function = *function_ids[node.function as usize].get_or_insert_with(|| {
                    let Function { name, file, module, line } = segment.functions[node.function as usize];
                    let [name, file, module] = [name, file, module].map(|text| {
                        *text_ids[text as usize].get_or_insert_with(|| {
                            all.texts.push(&segment.texts[text as usize]);
                            u32::try_from(all.texts.len() - 1).unwrap_or(u32::MAX)
                        })
                    });
                    all.functions.push(Function { name, file, module, line });
                    u32::try_from(all.functions.len() - 1).unwrap_or(u32::MAX)
                });
                nodes.push(Node { parent: node.parent, function });
            }
            all.trees.push(nodes);
        }
        all
    }
}

/// A file that is open for one question.
pub(super) struct Partition {
    transaction: redb::ReadTransaction,
    series: Vec<ReadSeries>,
}

struct ReadSeries {
    series: Series,
    tree: u32,
    /// Ascending.
    minutes: Vec<i64>,
}

impl Partition {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let database: ReadOnlyDatabase =
            Database::builder().set_cache_size(CACHE_BYTES).open_read_only(path)?;
        let transaction = database.begin_read()?;
        let version = transaction.open_table(ABOUT)?.get(VERSION)?.map_or(0, |version| version.value());
        if version != VERSION_NOW {
            return Err(FileError::Version(version));
        }
        let blob = transaction.open_table(SERIES)?.get(0)?.ok_or(Damaged)?;
        let written: Vec<OneSeries<'_>> = blob::read(place(&SERIES, 0), blob.value())?;
        let read = |OneSeries { series, tree, minutes }| ReadSeries {
            series: WrittenSeries::read(&series),
            tree,
            minutes: together(&minutes),
        };
        let series = written.into_iter().map(read).collect();
        Ok(Self { transaction, series })
    }

    /// Its series.
    pub(super) fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().map(|read| &read.series)
    }

    /// What was pushed.
    pub(super) fn digests(&self) -> Result<Vec<Digest>, FileError> {
        let blob = self.transaction.open_table(DIGESTS)?.get(0)?.ok_or(Damaged)?;
        Ok(blob::read(place(&DIGESTS, 0), blob.value())?)
    }

    /// Gives each wanted minute of each wanted series to `then`, with its number among the series.
    fn minutes(
        &self,
        selection: &Selection<'_>,
        mut then: impl FnMut(usize, i64, Minute<'_>) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let table = self.transaction.open_table(MINUTES)?;
        let (from, until) = (minute_of(selection.range.start), minute_of(selection.range.end));
        for (index, id) in (0..self.series.len()).zip(0_u32..) {
            let ReadSeries { series, minutes, .. } = &self.series[index];
            if !selection.wants_series(series) {
                continue;
            }
            let first = minutes.partition_point(|&minute| minute < from);
            let mut expected = minutes[first..].iter().take_while(|&&minute| minute <= until);
            for entry in table.range((id, from)..=(id, until))? {
                let (key, blob) = entry?;
                let (_, minute) = key.value();
                if expected.next() != Some(&minute) {
                    return Err(Damaged.into());
                }
                then(index, minute, blob::read(minute_place(id, minute), blob.value())?)?;
            }
            if expected.next().is_some() {
                return Err(Damaged.into());
            }
        }
        Ok(())
    }

    /// Gives every wanted window of every series to `then`; with a `passage` those that weigh something in its stacks,
    /// and that.
    pub(super) fn windows(
        &self,
        selection: &Selection<'_>,
        passage: Option<&Passage<'_>>,
        then: &mut dyn FnMut(Window, &Series, u64),
    ) -> Result<(), FileError> {
        let mut names = passage.map(|_| Names::new(&self.transaction)).transpose()?;
        let mut asked: FxHashMap<u32, Vec<bool>> = FxHashMap::default();
        self.minutes(selection, |index, minute, blob| {
            let ReadSeries { series, tree, .. } = &self.series[index];
            let weights = match passage.zip(names.as_mut()) {
                None => blob.windows.iter().map(|written| written.total).collect(),
                Some((passage, names)) => {
                    let asked = match asked.entry(*tree) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => {
                            let nodes = self.nodes(*tree)?;
                            new.insert(passage.stacks(&nodes, |function| names.named(function))?)
                        }
                    };
                    weights(&blob, asked)?
                }
            };
            for (written, weight) in blob.windows.iter().zip(weights) {
                let window = written.window(minute);
                if selection.wants_window(window) && (passage.is_none() || weight > 0) {
                    then(window, series, weight);
                }
            }
            Ok(())
        })
    }

    /// The stacks of a tree.
    fn nodes(&self, tree: u32) -> Result<Vec<Node>, FileError> {
        let blob = self.transaction.open_table(TREES)?.get(tree)?.ok_or(Damaged)?;
        Ok(read_nodes(blob::unsealed(place(&TREES, tree), blob.value())?, 0)?)
    }

    /// Adds all that is wanted to `sum`.
    pub(super) fn merge(&self, selection: &Selection<'_>, sum: &mut Tree) -> Result<(), FileError> {
        let mut trees: FxHashMap<u32, (Vec<Node>, Vec<u64>)> = FxHashMap::default();
        self.minutes(selection, |index, minute, blob| {
            let tree = self.series[index].tree;
            let (_, own) = match trees.entry(tree) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let nodes = self.nodes(tree)?;
                    let own = vec![0; nodes.len()];
                    new.insert((nodes, own))
                }
            };
            Ok(add_minute(&blob, minute, selection, own)?)
        })?;
        let mut names = Translated::new(Names::new(&self.transaction)?, sum);
        let mut order: Vec<_> = trees.into_iter().collect();
        order.sort_unstable_by_key(|&(tree, _)| tree);
        for (_, (nodes, own)) in order {
            sum.add(&nodes, &own, &mut names)?;
        }
        Ok(())
    }
}

/// Adds the wanted windows of a minute: their sum, if all are.
fn add_minute(
    blob: &Minute<'_>,
    minute: i64,
    selection: &Selection<'_>,
    own: &mut [u64],
) -> Result<(), Damaged> {
    let wanted = |window: &MinuteWindow| selection.wants_window(window.window(minute));
    if blob.windows.iter().all(wanted) {
        return rows::add_to(own, blob.sum);
    }
    let stacks = stacks(blob)?;
    for (rows, _) in blob.rows.iter().zip(&blob.windows).filter(|(_, window)| wanted(window)) {
        rows::decode(rows, |row, value| {
            let stack = *stacks.get(row as usize).ok_or(Damaged)?;
            let sum = own.get_mut(stack as usize).ok_or(Damaged)?;
            *sum = sum.saturating_add(value);
            Ok(())
        })?;
    }
    Ok(())
}

/// The stacks that a minute has rows of.
fn stacks(blob: &Minute<'_>) -> Result<Vec<u32>, Damaged> {
    let mut stacks = Vec::new();
    rows::decode(blob.sum, |stack, _| {
        stacks.push(stack);
        Ok(())
    })?;
    Ok(stacks)
}

/// What each window of a minute weighs in those stacks of its tree that are `asked` for.
fn weights(blob: &Minute<'_>, asked: &[bool]) -> Result<Vec<u64>, Damaged> {
    if blob.windows.len() == 1 {
        return Ok(vec![passage::weight(blob.sum, asked)?]);
    }
    let of = |stack: u32| asked.get(stack as usize).copied().ok_or(Damaged);
    let asked: Vec<bool> = stacks(blob)?.into_iter().map(of).collect::<Result<_, _>>()?;
    blob.rows.iter().map(|rows| passage::weight(rows, &asked)).collect()
}

type BlobTable = redb::ReadOnlyTable<u32, &'static [u8]>;

/// The names of a file, a chunk at a time.
struct Names {
    texts: BlobTable,
    functions: BlobTable,
    text_chunks: FxHashMap<u32, Vec<Arc<str>>>,
    function_chunks: FxHashMap<u32, Vec<Function>>,
}

impl Names {
    fn new(transaction: &redb::ReadTransaction) -> Result<Self, FileError> {
        Ok(Self {
            texts: transaction.open_table(TEXTS)?,
            functions: transaction.open_table(FUNCTIONS)?,
            text_chunks: FxHashMap::default(),
            function_chunks: FxHashMap::default(),
        })
    }
}

impl Dictionary for Names {
    type Error = FileError;

    fn function(&mut self, id: u32) -> Result<Function, FileError> {
        let chunk = match self.function_chunks.entry(id / CHUNK) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let blob = self.functions.get(id / CHUNK)?.ok_or(Damaged)?;
                new.insert(blob::read(place(&FUNCTIONS, id / CHUNK), blob.value())?)
            }
        };
        Ok(*chunk.get((id % CHUNK) as usize).ok_or(Damaged)?)
    }

    fn text(&mut self, id: u32) -> Result<Arc<str>, FileError> {
        let chunk = match self.text_chunks.entry(id / CHUNK) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let blob = self.texts.get(id / CHUNK)?.ok_or(Damaged)?;
                let texts: Vec<&str> = blob::read(place(&TEXTS, id / CHUNK), blob.value())?;
                new.insert(texts.into_iter().map(Arc::from).collect())
            }
        };
        Ok(Arc::clone(chunk.get((id % CHUNK) as usize).ok_or(Damaged)?))
    }
}
