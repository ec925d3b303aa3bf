//! A part of a file, read in pieces.
//!
//! In: places in it. Out: the bytes there. Neighbours lie together, and what is asked for in turn lies in a few places: so the last few
//! pieces are kept. Read by `pread`: nothing here can fault.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::elf::malformed;

/// Part of a file, of which the pieces read last are kept.
#[derive(Debug)]
pub(in super::super) struct Pieces {
    offset: u64,
    bytes: u64,
    kept: Vec<(u64, Vec<u8>)>,
}

/// Bytes read at once.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces kept: a few for each of the tables that are read by turns.
const KEPT_MAX: usize = 16;

impl Pieces {
    /// The `bytes` from `offset` on.
    pub(in super::super) fn new(offset: u64, bytes: u64) -> Self {
        Self { offset, bytes, kept: Vec::new() }
    }

    /// The bytes from `at` on, `most` or as many as there are.
    pub(in super::super) fn read(&mut self, file: &File, at: u64, most: usize) -> io::Result<&[u8]> {
        if at >= self.bytes {
            return Err(malformed());
        }
        let holds = |(from, bytes): &(u64, Vec<u8>)| {
            let end = from + bytes.len() as u64;
            at >= *from && (at.saturating_add(most as u64) <= end || (end == self.bytes && at < end))
        };
        match self.kept.iter().rposition(holds) {
            Some(known) => {
                // The last used is the last.
                let piece = self.kept.remove(known);
                self.kept.push(piece);
            }
            None => {
                let rest = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
                let mut bytes = vec![0; rest.min(PIECE_BYTES.max(most))];
                file.read_exact_at(&mut bytes, self.offset.checked_add(at).ok_or_else(malformed)?)?;
                if self.kept.len() == KEPT_MAX {
                    self.kept.remove(0);
                }
                self.kept.push((at, bytes));
            }
        }
        let (from, bytes) = self.kept.last().ok_or_else(malformed)?;
        let start = usize::try_from(at - from).map_err(|_| malformed())?;
        let end = bytes.len().min(start.saturating_add(most));
        bytes.get(start..end).ok_or_else(malformed)
    }

    /// The text from `at` on, until its zero, no longer than `most`.
    pub(in super::super) fn text(&mut self, file: &File, at: u64, most: usize) -> io::Result<&[u8]> {
        const SHORT: usize = 128;
        let ends = |bytes: &[u8]| bytes.iter().position(|&byte| byte == 0);
        let length = match ends(self.read(file, at, SHORT.min(most))?) {
            Some(length) => length,
            None => ends(self.read(file, at, most)?).ok_or_else(malformed)?,
        };
        self.read(file, at, length.max(1)).map(|text| &text[..length.min(text.len())])
    }
}
