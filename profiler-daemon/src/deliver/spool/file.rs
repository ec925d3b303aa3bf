//! A parcel as a file: what stands in it, byte for byte.
//!
//! In and out: bytes. Not here: disks. A file is whole or it is nothing: its lengths are its own, its check is over
//! all of it, and whatever does not fit together is [`Torn`], never a guess.

use bytes::Bytes;

use crate::model::Weight;
use crate::time::WallNs;

/// What each file begins with: magic, version, count of pieces, key (order, part), key of the parent, time, times
/// turned away, length of the body, weight. All integers are little endian.
pub const HEAD_BYTES: usize = 64;
/// What each piece has in the head's tail: its length and its weight.
const PIECE_BYTES: usize = 16;
/// The check at the end.
const CHECK_BYTES: usize = 4;
/// Largest file, bytes. A payload has a few megabytes at most, a parcel that holds more than one has less.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

const MAGIC: [u8; 8] = *b"profspl\n";
const VERSION: u32 = 1;

/// The name of a parcel: sorted by it, parcels are in the order of their age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// When it was taken in, and greater than that of any taken in before; not zero.
    pub order: u64,
    /// Tells apart what was one parcel once.
    pub part: u32,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Its name.
    pub key: Key,
    /// The parcel that it was taken out of. While that is there, it holds all of this one.
    pub parent: Option<Key>,
    /// Start of the newest window inside.
    pub time: WallNs,
    /// How often it was turned away.
    pub turned_away: u32,
    /// Length before compression and weight of each piece, in their order.
    pub pieces: Vec<(usize, Weight)>,
    /// The body of the request.
    pub body: Bytes,
}

/// What the first [`HEAD_BYTES`] say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The parcel's name.
    pub key: Key,
    /// Its parent's.
    pub parent: Option<Key>,
    /// Start of its newest window.
    pub time: WallNs,
    /// How often it was turned away.
    pub turned_away: u32,
    /// All weight inside.
    pub weight: Weight,
    pieces: u32,
    body: u32,
}

/// Why bytes are no parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Torn {
    /// They do not begin like one.
    #[error("it is no parcel")]
    Foreign,
    /// Another version of the daemon wrote it.
    #[error("it is of version {0}, not {VERSION}")]
    Version(u32),
    /// They are fewer, or more, than they should be.
    #[error("it has another length than it says")]
    Length,
    /// They are not those that were written.
    #[error("its bytes are not those that were written")]
    Check,
}

impl Head {
    /// Reads the head of a file of `length` bytes.
    pub fn read(bytes: &[u8], length: u64) -> Result<Self, Torn> {
        let mut rest = Rest(bytes);
        if rest.take::<8>()? != MAGIC {
            return Err(Torn::Foreign);
        }
        let version = rest.u32()?;
        if version != VERSION {
            return Err(Torn::Version(version));
        }
        let pieces = rest.u32()?;
        let key = Key { order: rest.u64()?, part: rest.u32()? };
        let parent = Key { part: rest.u32()?, order: rest.u64()? };
        let time = WallNs(rest.u64()?.cast_signed());
        let (turned_away, body) = (rest.u32()?, rest.u32()?);
        let weight = Weight(rest.u64()?);
        let parent = (parent != Key::default()).then_some(parent);
        let head = Self { key, parent, time, turned_away, weight, pieces, body };
        if head.length() != length || length > FILE_BYTES_MAX {
            return Err(Torn::Length);
        }
        Ok(head)
    }

    /// Length of the file, bytes.
    fn length(&self) -> u64 {
        let pieces = u64::from(self.pieces) * PIECE_BYTES as u64;
        HEAD_BYTES as u64 + pieces + u64::from(self.body) + CHECK_BYTES as u64
    }
}

/// Reads a whole file.
pub fn read(bytes: &[u8]) -> Result<Spooled, Torn> {
    let Head { key, parent, time, turned_away, weight, pieces, body } =
        Head::read(bytes, bytes.len() as u64)?;
    let (checked, check) = bytes.split_at(bytes.len() - CHECK_BYTES);
    if Rest(check).u32()? != crc32fast::hash(checked) {
        return Err(Torn::Check);
    }
    let mut rest = Rest(&checked[HEAD_BYTES..]);
    let mut piece = |_| {
        let length = usize::try_from(rest.u64()?).map_err(|_| Torn::Length)?;
        Ok((length, Weight(rest.u64()?)))
    };
    let pieces = (0..pieces).map(&mut piece).collect::<Result<Vec<_>, Torn>>()?;
    let lengths = pieces.iter().try_fold(0_usize, |sum, &(length, _)| sum.checked_add(length));
    let sum = pieces.iter().try_fold(0_u64, |sum, &(_, weight)| sum.checked_add(weight.0));
    if lengths.is_none() || sum != Some(weight.0) || rest.0.len() as u64 != u64::from(body) {
        return Err(Torn::Length);
    }
    Ok(Spooled { key, parent, time, turned_away, pieces, body: Bytes::copy_from_slice(rest.0) })
}

/// The bytes of a file; `None` if they would be more than a file may have.
pub fn write(parcel: &Spooled) -> Option<Vec<u8>> {
    let Spooled { key, parent, time, turned_away, pieces, body } = parcel;
    let weight = pieces.iter().try_fold(0_u64, |sum, &(_, weight)| sum.checked_add(weight.0))?;
    let head = Head {
        key: *key,
        parent: *parent,
        time: *time,
        turned_away: *turned_away,
        weight: Weight(weight),
        pieces: u32::try_from(pieces.len()).ok()?,
        body: u32::try_from(body.len()).ok()?,
    };
    if head.length() > FILE_BYTES_MAX {
        return None;
    }
    let parent = parent.unwrap_or_default();
    let mut bytes = Vec::with_capacity(usize::try_from(head.length()).ok()?);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(head.pieces.to_le_bytes());
    bytes.extend(key.order.to_le_bytes());
    bytes.extend(key.part.to_le_bytes());
    bytes.extend(parent.part.to_le_bytes());
    bytes.extend(parent.order.to_le_bytes());
    bytes.extend(time.0.to_le_bytes());
    bytes.extend(turned_away.to_le_bytes());
    bytes.extend(head.body.to_le_bytes());
    bytes.extend(weight.to_le_bytes());
    for (length, weight) in pieces {
        bytes.extend((*length as u64).to_le_bytes());
        bytes.extend(weight.0.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Some(bytes)
}

/// Bytes that are read from their front.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Torn::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Torn> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Torn> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn parcel() -> Spooled {
        Spooled {
            key: Key { order: 1_700_000_000_000_000_000, part: 3 },
            parent: Some(Key { order: 1_700_000_000_000_000_000, part: 0 }),
            time: WallNs(-5),
            turned_away: 2,
            pieces: vec![(10, Weight(7)), (0, Weight(0)), (99, Weight(1))],
            body: Bytes::from_static(b"the body of a request"),
        }
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &Result<Spooled, Torn>) {
        assert_eq!(&read(bytes), expected);
    }

    #[test]
    fn what_was_written_is_read() {
        check(&write(&parcel()).unwrap(), &Ok(parcel()));
        let bare = Spooled { parent: None, pieces: Vec::new(), body: Bytes::new(), ..parcel() };
        let bytes = write(&bare).unwrap();
        assert_eq!(bytes.len(), HEAD_BYTES + CHECK_BYTES);
        check(&bytes, &Ok(bare));
    }

    #[test]
    fn a_file_that_ends_too_soon_is_torn_wherever_that_is() {
        let bytes = write(&parcel()).unwrap();
        for length in 0..bytes.len() {
            check(&bytes[..length], &Err(Torn::Length));
        }
    }

    #[test]
    fn a_file_that_goes_on_is_torn() {
        let bytes = write(&parcel()).unwrap();
        check(&[&bytes[..], b"x"].concat(), &Err(Torn::Length));
        check(&[&bytes[..], &bytes[..]].concat(), &Err(Torn::Length));
    }

    #[test]
    fn every_bit_counts() {
        let whole = write(&parcel()).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_no_parcel_is_told_apart() {
        check(&[0; 200], &Err(Torn::Foreign));
        check(&b"{\"not\": \"a parcel\"}".repeat(20), &Err(Torn::Foreign));
        let mut other = write(&parcel()).unwrap();
        other[8] = 2;
        check(&other, &Err(Torn::Version(2)));
    }

    #[test]
    fn lengths_that_lie_cost_no_memory() {
        let mut bytes = write(&parcel()).unwrap();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        check(&bytes, &Err(Torn::Length));
        let many = Spooled { pieces: vec![(usize::MAX, Weight(0)); 2], ..parcel() };
        check(&write(&many).unwrap(), &Err(Torn::Length));
        assert_eq!(write(&Spooled { pieces: vec![(1, Weight(u64::MAX)); 2], ..parcel() }), None);
    }

    #[test]
    fn random_bytes_are_never_taken_for_a_parcel() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for length in 0..2_000_usize {
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .take(length)
            .collect();
            assert!(read(&bytes).is_err());
            // And those that begin well.
            let good = write(&parcel()).unwrap();
            let begin = good.len().min(length).min(length % HEAD_BYTES + 8);
            bytes[..begin].copy_from_slice(&good[..begin]);
            assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let large = Bytes::from(vec![0; usize::try_from(FILE_BYTES_MAX).unwrap()]);
        assert_eq!(write(&Spooled { body: large, ..parcel() }), None);
    }
}
