//! How the functions of one file are unwound, as the kernel side reads it.

/// The unwind table of a file: blocks of words, laid out as [`profiler_common::unwind::table`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The page of the file to which the first block belongs.
    pub first_page: u32,
    /// One block for each page from then on; without words where nothing is known.
    pub blocks: Vec<Vec<u32>>,
    /// Nearly every function keeps a frame pointer.
    pub keeps_frames: bool,
}

impl Table {
    /// Words that it takes in slabs: the blocks and the directory.
    pub fn words(&self) -> usize {
        self.blocks.len() + self.blocks.iter().map(Vec::len).sum::<usize>()
    }
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// The file has none, or none that can be read: it needs no second question.
    Never,
    /// Not now: the namer failed or had no time. Later there may be one.
    NotNow,
}
