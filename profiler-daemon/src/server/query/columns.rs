//! Numbers as a browser has them ready, without reading any: typed arrays are laid over them where they lie.
//!
//! In: columns of numbers, texts, and what there is once. Out: the length of the head (four bytes), the head in JSON, then
//! each column and at last all texts in one, each from a multiple of eight bytes on. The head says in `columns` which there
//! are: group, name, bytes of a number, count; and in `texts` how many bytes those have. Numbers are little-endian: whole
//! ones of one, two or four bytes, as many as the greatest of a column needs, and weights of eight, which JavaScript has as
//! floats in any case. `texts.end` says where each text ends, in
//! UTF-16 units, as JavaScript counts. Not here: what is in the columns.

use serde::Serialize;

/// Each part begins at a multiple of that many bytes, so that any typed array may begin there.
const ALIGN: usize = 8;

/// Columns that are written one after the other.
#[derive(Debug, Default)]
pub(super) struct Columns {
    known: Vec<(&'static str, &'static str, usize, usize)>,
    bytes: Vec<u8>,
}

#[derive(Debug, Serialize)]
struct Head<'a, T> {
    #[serde(flatten)]
    head: &'a T,
    columns: Vec<(&'static str, &'static str, usize, usize)>,
    texts: usize,
}

impl Columns {
    /// Adds whole numbers.
    pub(super) fn numbers(&mut self, group: &'static str, name: &'static str, numbers: &[u32]) {
        let most = numbers.iter().copied().max().unwrap_or(0);
        let bytes = numbers.iter().map(|number| number.to_le_bytes());
        if most <= u32::from(u8::MAX) {
            self.put(group, name, bytes.map(|[a, ..]| [a]));
        } else if most <= u32::from(u16::MAX) {
            self.put(group, name, bytes.map(|[a, b, ..]| [a, b]));
        } else {
            self.put(group, name, bytes);
        }
    }

    /// Adds weights: exact up to 2^53.
    pub(super) fn weights(&mut self, group: &'static str, name: &'static str, weights: &[u64]) {
        #[expect(clippy::cast_precision_loss, reason = "the page has no other numbers")]
        self.put(group, name, weights.iter().map(|&weight| (weight as f64).to_le_bytes()));
    }

    fn put<const N: usize>(
        &mut self,
        group: &'static str,
        name: &'static str,
        numbers: impl ExactSizeIterator<Item = [u8; N]>,
    ) {
        self.known.push((group, name, N, numbers.len()));
        self.bytes.extend(numbers.flatten());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// The whole answer: these columns, `texts`, and what there is once.
    pub(super) fn with_texts(mut self, head: &impl Serialize, texts: &[&str]) -> Vec<u8> {
        let mut end = 0_usize;
        let ends: Vec<u32> = texts
            .iter()
            .map(|text| {
                end += text.chars().map(char::len_utf16).sum::<usize>();
                u32::try_from(end).unwrap_or(u32::MAX)
            })
            .collect();
        self.numbers("texts", "end", &ends);
        let all = texts.concat();
        let head = Head { head, columns: self.known, texts: all.len() };
        let mut head = serde_json::to_vec(&head).expect("numbers and texts can be written as JSON");
        const LENGTH: usize = size_of::<u32>();
        head.resize((LENGTH + head.len()).next_multiple_of(ALIGN) - LENGTH, b' ');
        let length = u32::try_from(head.len()).expect("a head is short");
        [&length.to_le_bytes()[..], &head, &self.bytes, all.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_as_many_bytes_as_the_greatest_of_its_column_needs() {
        for (most, size) in [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (u32::MAX, 4)] {
            let mut columns = Columns::default();
            columns.numbers("group", "name", &[1, most, 2]);
            assert_eq!(columns.known, [("group", "name", size, 3)]);
            let bytes = [1, most, 2].map(|number: u32| number.to_le_bytes()[..size].to_vec()).concat();
            assert_eq!(columns.bytes[..bytes.len()], bytes);
            assert_eq!(columns.bytes.len(), bytes.len().next_multiple_of(ALIGN));
        }
        let mut columns = Columns::default();
        columns.numbers("group", "name", &[]);
        assert_eq!(columns.known, [("group", "name", 1, 0)]);
    }
}
