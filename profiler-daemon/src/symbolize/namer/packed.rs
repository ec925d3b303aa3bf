//! Symbols that were packed when a file was stripped: `.gnu_debugdata`, as Fedora and its kin ship all their files.
//!
//! In: their bytes. Out: whether they may be unpacked. blazesym does that, into as much memory as it takes, when it looks for
//! the first name; so they are unpacked here before, piece by piece, and nothing is kept. What cannot be unpacked leaves the file
//! without any names: blazesym gives up on the others too. Not here: the names.

use std::io::{self, Read};

use xz2::read::XzDecoder;
use xz2::stream::Stream;

use super::super::protocol::Refusal;

/// Bytes that are read at most. The largest libraries have one million.
pub(super) const PACKED_BYTES_MAX: u64 = 8 << 20;
/// Bytes that they become at most, a file with nothing but symbols. Whoever keeps them may take three times as much for a moment.
const UNPACKED_BYTES_MAX: u64 = 48 << 20;
/// What may be needed to unpack them, beside that. Whoever packs with the usual settings says eight million.
const WORKING_BYTES_MAX: u64 = 72 << 20;

/// Refuses what becomes more than there is room for, or nothing at all.
pub(super) fn check_packed(packed: &[u8]) -> Result<(), Refusal> {
    let stream = Stream::new_stream_decoder(WORKING_BYTES_MAX, 0).map_err(|_| Refusal::NotElf)?;
    let mut unpacked = XzDecoder::new_stream(packed, stream).take(UNPACKED_BYTES_MAX + 1);
    match io::copy(&mut unpacked, &mut io::sink()) {
        Ok(bytes) if bytes > UNPACKED_BYTES_MAX => Err(Refusal::TooLarge),
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::NotElf),
    }
}
