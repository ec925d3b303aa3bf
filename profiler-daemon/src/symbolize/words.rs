//! How blocks of an unwind table go over the socket: as they lie in memory.
//!
//! In and out: pages with their words. Word for word, as numbers of any length, a table took the namer and the agent a tenth of the time
//! that it takes to make it. Not here: whether they make sense.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Writes `blocks`.
pub(super) fn serialize<S: Serializer>(blocks: &[(u32, Vec<u32>)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(blocks.iter().map(|(page, words)| (page, Written(words))))
}

/// Reads them.
pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<(u32, Vec<u32>)>, D::Error> {
    struct Blocks;
    impl<'a> Visitor<'a> for Blocks {
        type Value = Vec<(u32, Vec<u32>)>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("blocks of an unwind table")
        }

        fn visit_seq<A: SeqAccess<'a>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            // How many there are is their word: what is taken is what comes.
            let mut blocks = Vec::new();
            while let Some((page, Read(words))) = from.next_element()? {
                blocks.push((page, words));
            }
            Ok(blocks)
        }
    }
    from.deserialize_seq(Blocks)
}

/// The words of a block, to be written.
struct Written<'a>(&'a [u32]);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        to.serialize_bytes(&bytes)
    }
}

/// The words of a block.
struct Read(Vec<u32>);

impl<'a> Deserialize<'a> for Read {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Read;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("words of four bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Read, E> {
                let (words, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(Read(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::protocol::Rows;

    #[track_caller]
    fn check(blocks: &[(u32, Vec<u32>)], bytes: usize) {
        let rows = Rows { blocks: blocks.to_vec(), ..Rows::default() };
        let written = postcard::to_stdvec(&rows).unwrap();
        assert_eq!(written.len(), bytes);
        assert_eq!(postcard::from_bytes::<Rows>(&written).unwrap().blocks, blocks);
        for short in 0..bytes {
            assert!(postcard::from_bytes::<Rows>(&written[..short]).is_err());
        }
    }

    #[test]
    fn blocks_come_as_they_went() {
        // How many, and what else there is of a part.
        check(&[], 1 + 5);
        check(&[(0, vec![]), (7, vec![1, u32::MAX])], 1 + (1 + 1) + (1 + 1 + 8) + 5);
    }

    #[test]
    fn bytes_that_are_no_words_are_refused() {
        assert!(postcard::from_bytes::<Rows>(&[1, 7, 3, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(postcard::from_bytes::<Rows>(&[1, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_ok());
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        assert!(postcard::from_bytes::<Rows>(&[0xff, 0xff, 0xff, 0xff, 0xf, 7, 0]).is_err());
    }
}
