//! The code of a file that no table describes.
//!
//! In: where it lies. Out: its bytes by address. Not here: what they do.

/// A stretch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where the file says that it lies in memory.
    pub(super) address: u64,
    /// Where in the file it lies.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) bytes: usize,
    /// Where its first byte is among those of all.
    pub(super) first: usize,
}

/// All stretches.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Ascending by address.
    gaps: Vec<Gap>,
    code: Vec<u8>,
}

impl Space {
    /// Adds a stretch, which lies behind those before it; one that does not is left out.
    pub(super) fn push(&mut self, address: u64, offset: u64, code: &[u8]) {
        let is_next = self.gaps.last().is_none_or(|last| last.address + last.bytes as u64 <= address);
        if is_next && address.checked_add(code.len() as u64).is_some() {
            self.gaps.push(Gap { address, offset, bytes: code.len(), first: self.code.len() });
            self.code.extend_from_slice(code);
        }
    }

    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.code.len()
    }

    fn gap(&self, address: u64) -> Option<&Gap> {
        let behind = self.gaps.partition_point(|gap| gap.address <= address);
        let gap = self.gaps.get(behind.checked_sub(1)?)?;
        (address - gap.address < gap.bytes as u64).then_some(gap)
    }

    /// Which byte of all lies at `address`.
    pub(super) fn index(&self, address: u64) -> Option<usize> {
        let gap = self.gap(address)?;
        Some(gap.first + usize::try_from(address - gap.address).ok()?)
    }

    /// The code from `address` to the end of its stretch.
    pub(super) fn from(&self, address: u64) -> Option<&[u8]> {
        let gap = self.gap(address)?;
        self.code.get(self.index(address)?..gap.first + gap.bytes)
    }
}
