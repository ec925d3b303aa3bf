//! What one request carries: the encoded payloads of a window, packed once and sent with the same bytes however
//! often it has to be sent.
//!
//! In: pieces, which a sink made of payloads. Out: parcels no larger than a request should be. Not here: what
//! the bytes mean, only that pieces one after the other make a request.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::spool::{Key, Spooled};
use crate::model::Weight;
use crate::time::WallNs;

/// Largest request before compression, bytes, unless a single payload is larger. Pyroscope's rate limit lets
/// 2 MiB through at once by default, and counts all of a request.
const RAW_BYTES_MAX: usize = 1 << 20;

/// One payload, encoded for the sink.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) weight: Weight,
    /// Start of its window.
    pub(super) time: WallNs,
}

/// A request that is ready to go.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// All pieces, gzipped as one stream.
    body: Bytes,
    /// Length before compression and weight of each piece, in their order.
    pieces: Vec<(usize, Weight)>,
    /// How often it broke the server or was put off by its limit.
    pub(super) turned_away: u32,
    /// Which larger parcel it was taken out of; zero for none.
    pub(super) family: u32,
    /// How many parcels had been delivered when the others were let before it.
    pub(super) let_before: Option<u64>,
    /// Start of the newest window inside.
    pub(super) time: WallNs,
    /// What `waiting` knows it by; none before it was there.
    pub(super) key: Option<Key>,
}

impl Parcel {
    fn new(raw: &[u8], pieces: Vec<(usize, Weight)>, time: WallNs) -> Self {
        // The fastest level: measured on profiles, a quarter of the default's CPU time for a quarter more bytes
        // (140 kB take 0.6 ms), and CPU time is what we are measured by.
        let mut gzip = GzEncoder::new(Vec::with_capacity(raw.len() / 3), Compression::fast());
        gzip.write_all(raw).expect("a vector takes every byte");
        let body = gzip.finish().expect("a vector takes every byte");
        Self { body: body.into(), pieces, turned_away: 0, family: 0, let_before: None, time, key: None }
    }

    /// Packs `pieces`, in order, into as few parcels as their size allows.
    pub(super) fn pack(pieces: Vec<Piece>) -> Vec<Self> {
        let mut parcels = Vec::new();
        let (mut raw, mut inside, mut newest) = (Vec::new(), Vec::new(), WallNs(i64::MIN));
        for Piece { bytes, weight, time } in pieces {
            if !inside.is_empty() && raw.len() + bytes.len() > RAW_BYTES_MAX {
                parcels.push(Self::new(&raw, std::mem::take(&mut inside), newest));
                raw.clear();
                newest = WallNs(i64::MIN);
            }
            inside.push((bytes.len(), weight));
            raw.extend_from_slice(&bytes);
            newest = newest.max(time);
        }
        if !inside.is_empty() {
            parcels.push(Self::new(&raw, inside, newest));
        }
        parcels
    }

    /// The same pieces, byte for byte, in a parcel each, all of one `family`. None of those that cannot be had: what a
    /// disk has kept may be of anyone's making.
    pub(super) fn split(self, family: u32) -> Vec<Self> {
        if self.pieces.len() < 2 {
            return vec![self];
        }
        let Some(raw) = self.unpack() else { return Vec::new() };
        let mut rest = raw.as_slice();
        let mut parcels = Vec::with_capacity(self.pieces.len());
        for (length, weight) in self.pieces {
            let Some((piece, after)) = rest.split_at_checked(length) else { break };
            parcels.push(Self { family, ..Self::new(piece, vec![(length, weight)], self.time) });
            rest = after;
        }
        parcels
    }

    /// Two parcels instead of one whose only piece is too large, of one `family`; `None` if there is nothing to divide.
    pub(super) fn halve(
        &self,
        family: u32,
        halve: impl Fn(&Piece) -> Option<[Piece; 2]>,
    ) -> Option<Vec<Self>> {
        let [(_, weight)] = *self.pieces else { return None };
        let halves = halve(&Piece { bytes: self.unpack()?, weight, time: self.time })?;
        let parcel = |Piece { bytes, weight, time }: Piece| Self {
            family,
            ..Self::new(&bytes, vec![(bytes.len(), weight)], time)
        };
        Some(halves.into_iter().map(parcel).collect())
    }

    /// All pieces as they were, one after the other; `None` if that is not what is inside.
    pub(super) fn unpack(&self) -> Option<Vec<u8>> {
        let length = self.pieces.iter().try_fold(0_usize, |sum, &(length, _)| sum.checked_add(length))?;
        let mut raw = Vec::new();
        let room = u64::try_from(length).ok()?.checked_add(1)?;
        GzDecoder::new(&*self.body).take(room).read_to_end(&mut raw).ok()?;
        (raw.len() == length).then_some(raw)
    }

    /// What is kept of it on disk.
    pub(super) fn to_spool(&self, key: Key, parent: Option<Key>) -> Spooled {
        let Self { body, pieces, turned_away, family: _, let_before: _, time, key: _ } = self;
        Spooled {
            key,
            parent,
            time: *time,
            turned_away: *turned_away,
            pieces: pieces.clone(),
            body: body.clone(),
        }
    }

    /// What was kept on disk.
    pub(super) fn from_spool(spooled: Spooled) -> Self {
        let Spooled { key, parent: _, time, turned_away, pieces, body } = spooled;
        Self { body, pieces, turned_away, family: 0, let_before: None, time, key: Some(key) }
    }

    /// The bytes of the request's body. Cheap.
    pub(super) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// What it costs to keep, bytes.
    pub(super) fn size(&self) -> usize {
        self.body.len() + size_of_val(self.pieces.as_slice()) + size_of::<Self>()
    }

    /// What it is before compression, bytes.
    pub(super) fn raw_size(&self) -> usize {
        self.pieces.iter().map(|&(length, _)| length).sum()
    }

    /// How many payloads are inside.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The weight inside.
    pub(super) fn weight(&self) -> Weight {
        self.pieces.iter().map(|&(_, weight)| weight).sum()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn pieces(lengths: &[usize]) -> Vec<Piece> {
        let piece = |(index, &length): (usize, &usize)| Piece {
            bytes: (0..length).map(|at| u8::try_from((at * 7 + index) % 251).unwrap()).collect(),
            weight: Weight(index as u64 + 1),
            time: WallNs(7),
        };
        lengths.iter().enumerate().map(piece).collect()
    }

    fn unpack(parcel: &Parcel) -> Vec<u8> {
        parcel.unpack().unwrap()
    }

    #[track_caller]
    fn check(lengths: &[usize], packed: &[usize]) {
        let parcels = Parcel::pack(pieces(lengths));
        assert_eq!(parcels.iter().map(Parcel::len).collect::<Vec<_>>(), packed);
        let raw: Vec<u8> = parcels.iter().flat_map(unpack).collect();
        assert_eq!(raw, pieces(lengths).into_iter().flat_map(|piece| piece.bytes).collect::<Vec<_>>());
        let weight: Weight = parcels.iter().map(Parcel::weight).sum();
        assert_eq!(weight, pieces(lengths).iter().map(|piece| piece.weight).sum());
    }

    #[test]
    fn nothing_makes_no_parcel() {
        check(&[], &[]);
    }

    #[test]
    fn what_fits_goes_together() {
        check(&[100; 300], &[300]);
        check(&[RAW_BYTES_MAX / 2; 2], &[2]);
    }

    #[test]
    fn what_does_not_fit_goes_next() {
        check(&[RAW_BYTES_MAX / 2, RAW_BYTES_MAX / 2, 1], &[2, 1]);
    }

    #[test]
    fn one_that_is_too_large_goes_alone() {
        check(&[10, 3 * RAW_BYTES_MAX, 10], &[1, 1, 1]);
    }

    #[test]
    fn splitting_gives_back_each_piece_as_it_was() {
        let lengths = [17, 0, 4_096, 1];
        let parcel = Parcel::pack(pieces(&lengths)).pop().unwrap();
        let split = parcel.split(1);
        assert_eq!(split.len(), 4);
        for (alone, piece) in split.iter().zip(pieces(&lengths)) {
            assert_eq!((unpack(alone), alone.weight(), alone.len()), (piece.bytes, piece.weight, 1));
        }
    }

    #[test]
    fn a_parcel_of_one_is_split_into_itself() {
        let parcel = Parcel::pack(pieces(&[100])).pop().unwrap();
        let body = parcel.body();
        let split = parcel.split(1);
        assert_eq!((split.len(), split[0].body()), (1, body));
    }

    #[test]
    fn lengths_that_lie_give_nothing() {
        let spooled = Parcel::pack(pieces(&[100, 50])).remove(0).to_spool(Key::default(), None);
        for lengths in [[100, 51], [100, 49], [usize::MAX, 1]] {
            let pieces = lengths.map(|length| (length, Weight(1))).to_vec();
            assert!(Parcel::from_spool(Spooled { pieces, ..spooled.clone() }).split(1).is_empty());
        }
        let body = Bytes::from_static(b"no gzip");
        assert!(Parcel::from_spool(Spooled { body, ..spooled }).split(1).is_empty());
    }

    #[test]
    fn a_parcel_is_as_old_as_its_newest_piece() {
        let piece = |time| Piece { bytes: vec![1], weight: Weight(1), time: WallNs(time) };
        assert_eq!(Parcel::pack(vec![piece(3), piece(5), piece(4)])[0].time, WallNs(5));
    }
}
