//! What lies under a key of a file, and how one knows that it is what was written there.
//!
//! In: any value. Out: bytes that end with a check of themselves and of their place; or the value again. A disk that gives
//! back other bytes, or the bytes of another key, is `Damaged`: redb looks at its own checks only when it repairs a file.

use serde::{Deserialize, Serialize};

use super::rows::Damaged;

/// Bytes of the check.
const CHECK_BYTES: usize = size_of::<u32>();

/// Where something lies: a table, and a key of it.
pub(super) type Place<'a> = (&'a str, i64, i64);

fn check((table, key, more): Place<'_>, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = crc32fast::Hasher::new();
    check.update(table.as_bytes());
    check.update(&key.to_le_bytes());
    check.update(&more.to_le_bytes());
    check.update(bytes);
    check.finalize().to_le_bytes()
}

/// `bytes`, to be put at `place`.
pub(super) fn sealed(place: Place<'_>, mut bytes: Vec<u8>) -> Vec<u8> {
    let check = check(place, &bytes);
    bytes.extend_from_slice(&check);
    bytes
}

/// What was sealed for `place`.
pub(super) fn unsealed<'a>(place: Place<'_>, bytes: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (bytes, found) = bytes.split_last_chunk().ok_or(Damaged)?;
    if *found == check(place, bytes) { Ok(bytes) } else { Err(Damaged) }
}

/// `value`, sealed for `place`.
pub(super) fn write(place: Place<'_>, value: &impl Serialize) -> Vec<u8> {
    sealed(place, to_bytes(value))
}

/// The value that was written for `place`.
pub(super) fn read<'a, T: Deserialize<'a>>(place: Place<'_>, bytes: &'a [u8]) -> Result<T, Damaged> {
    from_bytes(unsealed(place, bytes)?)
}

/// Any value, without a check.
pub(super) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("numbers, texts and lists can be written")
}

/// Any value that was written without a check.
pub(super) fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damaged> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = ("minutes", 3, 29_922_670);

    fn value() -> (u32, Vec<String>) {
        (7, vec!["main".to_owned(), String::new()])
    }

    #[track_caller]
    fn check(place: Place<'_>, bytes: &[u8], sound: bool) {
        assert_eq!(read(place, bytes).ok(), sound.then(value));
    }

    #[test]
    fn what_was_written_comes_back() {
        check(PLACE, &write(PLACE, &value()), true);
    }

    #[test]
    fn any_bit_that_flips_is_met() {
        let sound = write(PLACE, &value());
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            check(PLACE, &bytes, false);
        }
    }

    #[test]
    fn the_bytes_of_another_place_are_not_taken_for_its_own() {
        let bytes = write(PLACE, &value());
        check(("minutes", 3, 29_922_671), &bytes, false);
        check(("minutes", 4, 29_922_670), &bytes, false);
        check(("texts", 3, 29_922_670), &bytes, false);
    }

    #[test]
    fn less_than_a_check_is_damaged() {
        check(PLACE, b"", false);
        check(PLACE, b"abc", false);
    }
}
