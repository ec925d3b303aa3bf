//! The linker's account of a Go program (`moduledata`): it has what the table of functions lacks, which is where code begins and where
//! the trees of inlined calls are.
//!
//! In: a file and its table of functions. Out: that account, and which calls were inlined at a place. It has no name where a program is
//! stripped, and its form differs between versions, so nothing in it is believed that does not prove itself: it begins with seven
//! addresses and lengths that the table foretells, and where trees are said to be there must be trees, whose names are names and whose
//! places lie in their functions. Without proof there are no inlined calls, and no guess.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use rustc_hash::FxHashMap;

use super::super::elf::{Reader, Segment, malformed, number};
use super::pieces::Pieces;
use super::{Described, List, Pclntab};

/// The list of tables in which a function says which inlined call a byte belongs to, and that in which its tree is.
const CALLS: (List, u64) = (List::Numbers, 2);
const TREE: (List, u64) = (List::Others, 3);

/// What the linker says of a program, as far as it is proven.
#[derive(Debug)]
pub(super) struct Module {
    text: u64,
    /// What begins with the first tree, if there are any.
    trees: Option<Pieces>,
}

/// A call that was inlined.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Inlined {
    /// Which name has the function that was called.
    name: u64,
    /// A byte of the function that the call is in, which stands for the place of the call.
    pub(in super::super) parent: u32,
}

/// Words of the account that are looked at.
const WORDS: usize = 64;
/// Which of them is the address of the code.
const TEXT: usize = 22;

impl Module {
    /// Finds the account in `file`, whose table of functions is `table` and lies at `address` in memory.
    pub(super) fn find(
        file: &File,
        reader: &Reader<'_>,
        segments: &[Segment],
        address: u64,
        table: &mut Pclntab,
    ) -> io::Result<Self> {
        let mut memory = Memory { file, segments, relocated: FxHashMap::default() };
        let mut places = memory.holding(address)?;
        if places.is_empty() {
            places = relocated_to(reader, address)?;
            memory.relocated = relocations(reader, &places)?;
        }
        let proven = |place: &u64| memory.words(*place).filter(|words| is_account(words, address, table));
        let words = places.iter().find_map(proven).ok_or_else(malformed)?;
        let trees = words[TEXT + 1..].iter().find_map(|&address| {
            let mut trees = memory.from(address)?;
            table.are_trees(file, &mut trees).ok().filter(|&are| are).map(|_| trees)
        });
        Ok(Self { text: words[TEXT], trees })
    }

    /// The address at which code begins.
    pub(super) fn text(&self) -> u64 {
        self.text
    }
}

/// True if these words say of the table at `address` what it says itself.
fn is_account(words: &[u64], address: u64, table: &Pclntab) -> bool {
    let header = table.header;
    let parts = [header.names, header.units, header.files, header.steps, header.functions, header.functions];
    let mut slices = words[1..].chunks_exact(3).zip(parts);
    words[0] == address
        && slices.clone().all(|(slice, part)| slice[0] == address.wrapping_add(part) && slice[1] == slice[2])
        && slices.next_back().is_some_and(|(slice, _)| slice[1] == table.functions.len() as u64)
}

impl Pclntab {
    /// The innermost call that was inlined at `place` of a function; none if that is the function's own code, or nothing is known.
    pub(in super::super) fn inlined(
        &mut self,
        file: &File,
        described: &Described,
        place: u32,
    ) -> io::Result<Option<Inlined>> {
        let Some((calls, tree)) = self.tree(file, described)? else { return Ok(None) };
        let Some(call) = self.value(file, calls, place)? else { return Ok(None) };
        let later = self.header.later;
        let trees = self.module.as_mut().and_then(|module| module.trees.as_mut());
        trees.map(|trees| read_call(file, trees, later, tree, call).map(|(inlined, _)| inlined)).transpose()
    }

    /// The name of the function that was called.
    pub(in super::super) fn inlined_name(&mut self, file: &File, inlined: Inlined) -> io::Result<&[u8]> {
        self.text(file, inlined.name)
    }

    /// Where a function says which inlined call a byte belongs to, and where its tree is, if it has one.
    fn tree(&mut self, file: &File, described: &Described) -> io::Result<Option<(u64, u64)>> {
        let tree = self.listed(file, described, TREE.0, TREE.1)?;
        let Some(tree) = tree.filter(|&tree| tree != u64::from(u32::MAX)) else { return Ok(None) };
        let calls = self.listed(file, described, CALLS.0, CALLS.1)?;
        Ok(calls.filter(|&calls| calls != 0).map(|calls| (calls, tree)))
    }

    /// True if there are trees of inlined calls in `trees`, for the first functions that have any.
    fn are_trees(&mut self, file: &File, trees: &mut Pieces) -> io::Result<bool> {
        /// Enough that nothing else could look like them.
        const TREES: usize = 64;
        let later = self.header.later;
        let mut seen = 0;
        for index in 0..self.functions.len().saturating_sub(1) {
            let described = self.describe(file, index)?;
            let Some((calls, tree)) = self.tree(file, &described)? else { continue };
            let bytes = self.functions[index + 1].0.saturating_sub(self.functions[index].0);
            let mut last = None;
            self.each_value(file, calls, |_, call| {
                last = last.max(u32::try_from(call).ok());
                ControlFlow::Continue(())
            })?;
            for call in 0..=last.ok_or_else(malformed)? {
                let (inlined, sound) = read_call(file, trees, later, tree, call)?;
                let begins = inlined.name.checked_sub(1).and_then(|at| at.checked_add(self.header.names));
                // A name begins after the end of another.
                let follows = self.table.read(file, begins.ok_or_else(malformed)?, 1)? == [0];
                if !sound || !follows || inlined.parent >= bytes || self.text(file, inlined.name)?.is_empty()
                {
                    return Ok(false);
                }
            }
            seen += 1;
            if seen == TREES {
                break;
            }
        }
        Ok(seen > 0)
    }
}

/// The call with this number in the tree at `tree`, and whether what must be zero is.
fn read_call(
    file: &File,
    trees: &mut Pieces,
    later: bool,
    tree: u64,
    call: u32,
) -> io::Result<(Inlined, bool)> {
    let (bytes, name, parent) = if later { (16, 4, 8) } else { (20, 12, 16) };
    let at = tree.checked_add(u64::from(call) * bytes as u64).ok_or_else(malformed)?;
    let read = trees.read(file, at, bytes)?;
    let sound = if later { number(read, 1, 3)? == 0 } else { number(read, 3, 1)? == 0 };
    let parent = u32::try_from(number(read, parent, 4)?).map_err(|_| malformed())?;
    Ok((Inlined { name: number(read, name, 4)?, parent }, sound))
}

/// The memory of a program as its file says it will be.
struct Memory<'a> {
    file: &'a File,
    segments: &'a [Segment],
    /// Words that are not in the file, but in a relocation.
    relocated: FxHashMap<u64, u64>,
}

impl Memory<'_> {
    /// Places in writable memory where the file has this word.
    fn holding(&self, word: u64) -> io::Result<Vec<u64>> {
        /// The largest programs have some ten million bytes of data.
        const DATA_BYTES_MAX: u64 = 64 << 20;
        const PIECE_BYTES: usize = 64 << 10;
        let mut found = Vec::new();
        let mut left = DATA_BYTES_MAX;
        for segment in self.segments.iter().filter(|segment| segment.is_writable()) {
            let bytes = segment.bytes.min(left);
            left -= bytes;
            let mut piece = Vec::new();
            for from in (0..bytes).step_by(PIECE_BYTES) {
                piece.resize(usize::try_from(bytes - from).unwrap_or(usize::MAX).min(PIECE_BYTES), 0);
                self.file.read_exact_at(&mut piece, segment.offset.saturating_add(from))?;
                let words = piece.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                let places = words.zip((segment.address.saturating_add(from)..).step_by(8));
                found.extend(places.filter(|&(held, _)| held == word).map(|(_, place)| place));
                if found.len() >= PLACES_MAX {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// The words at `place`.
    fn words(&self, place: u64) -> Option<Vec<u64>> {
        let mut rest = self.from(place)?;
        let bytes = rest.read(self.file, 0, WORDS * 8).ok().filter(|bytes| bytes.len() == WORDS * 8)?;
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let words = words.zip((place..).step_by(8));
        Some(words.map(|(word, place)| self.relocated.get(&place).copied().unwrap_or(word)).collect())
    }

    /// What of the file lies from `address` on, to the end of its segment.
    fn from(&self, address: u64) -> Option<Pieces> {
        let loaded = self.segments.iter().filter(|segment| segment.kind == Segment::LOADED);
        let found = loaded.into_iter().find_map(|segment| Some((segment, segment.offset_of(address)?)));
        found.map(|(segment, offset)| Pieces::new(offset, segment.bytes - (offset - segment.offset)))
    }
}

/// Places that may be the account, at most: honest programs point to their table from two or three.
const PLACES_MAX: usize = 16;

/// Where a loader will write this address.
fn relocated_to(reader: &Reader<'_>, address: u64) -> io::Result<Vec<u64>> {
    let mut places = Vec::new();
    reader.relocations(|place, target| {
        if target == address && places.len() < PLACES_MAX {
            places.push(place);
        }
    })?;
    Ok(places)
}

/// What a loader will write into the words from each of `places` on.
fn relocations(reader: &Reader<'_>, places: &[u64]) -> io::Result<FxHashMap<u64, u64>> {
    let mut words = FxHashMap::default();
    reader.relocations(|at, target| {
        if places.iter().any(|place| at.wrapping_sub(*place) < WORDS as u64 * 8) {
            words.insert(at, target);
        }
    })?;
    Ok(words)
}
