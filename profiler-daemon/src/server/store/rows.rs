//! Stacks with their values, as few bytes as they take.
//!
//! In: pairs of (stack, value), sorted by stack, each stack once. Out: bytes, and the same pairs again. A value is a
//! multiple of what all values have in common (a sampler's period), and mostly that itself, so a row is the distance
//! to the stack before it and one bit: one or two bytes. The bytes may have lain on a disk: what cannot be is
//! `Damaged`, never a panic.

/// Bytes that no store wrote, or not like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes of a partition are damaged")]
pub(in crate::server) struct Damaged;

/// Appends `rows`; their stacks ascend, and no value is zero.
pub(super) fn encode(rows: &[(u32, u64)], out: &mut Vec<u8>) {
    let unit = rows.iter().fold(0, |unit, &(_, value)| common_divisor(unit, value)).max(1);
    put(unit, out);
    let mut next = 0;
    for &(stack, value) in rows {
        debug_assert!(stack >= next && value > 0, "rows ascend and weigh something");
        let count = value / unit;
        put(u64::from(stack - next) << 1 | u64::from(count != 1), out);
        if count != 1 {
            put(count, out);
        }
        next = stack + 1;
    }
}

/// Gives each row of `bytes` to `row`.
pub(super) fn decode(
    mut bytes: &[u8],
    mut row: impl FnMut(u32, u64) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    let unit = take(&mut bytes)?;
    let mut next = 0_u64;
    while !bytes.is_empty() {
        let head = take(&mut bytes)?;
        let count = if head & 1 == 0 { 1 } else { take(&mut bytes)? };
        let stack = next.checked_add(head >> 1).ok_or(Damaged)?;
        let value = unit.checked_mul(count).ok_or(Damaged)?;
        row(u32::try_from(stack).map_err(|_| Damaged)?, value)?;
        next = stack + 1;
    }
    Ok(())
}

/// Adds each row of `bytes` to its place in `sums`.
pub(super) fn add_to(sums: &mut [u64], bytes: &[u8]) -> Result<(), Damaged> {
    decode(bytes, |stack, value| {
        let sum = sums.get_mut(stack as usize).ok_or(Damaged)?;
        *sum = sum.saturating_add(value);
        Ok(())
    })
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    if a == 1 {
        return 1;
    }
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A number. There are a million in an hour, and whether one has one byte or two no processor can guess: so both are read
/// the same way.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    if let [low, high, ..] = **bytes {
        let has_high = low >> 7;
        if has_high & high >> 7 == 0 {
            *bytes = &bytes[1 + usize::from(has_high)..];
            return Ok(u64::from(low & 0x7f) | u64::from(high * has_high) << 7);
        }
    }
    take_large(bytes)
}

/// A number of any length.
fn take_large(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Damaged)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damaged)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(rows: &[(u32, u64)], bytes_max: usize) {
        let mut bytes = Vec::new();
        encode(rows, &mut bytes);
        let mut back = Vec::new();
        decode(&bytes, |stack, value| {
            back.push((stack, value));
            Ok(())
        })
        .unwrap();
        assert_eq!(back, rows);
        assert!(bytes.len() <= bytes_max, "{} bytes: {bytes:?}", bytes.len());
    }

    #[test]
    fn nothing_is_a_byte() {
        check(&[], 1);
    }

    #[test]
    fn a_near_stack_of_one_period_is_a_byte() {
        check(&[(1, 10_101_010), (2, 10_101_010), (40, 10_101_010)], 4 + 3);
    }

    #[test]
    fn the_largest_there_is_comes_back() {
        check(&[(0, 1), (u32::MAX - 1, u64::MAX)], 1 + 1 + 5 + 10);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in prop::collection::btree_map(0..1_000_000_u32, 1..u64::MAX, 0..200)) {
            check(&rows.into_iter().collect::<Vec<_>>(), 16 * 200 + 10);
        }

        #[test]
        fn any_bytes_are_rows_or_damaged(bytes: Vec<u8>) {
            let mut sums = vec![0; 100];
            let _ = add_to(&mut sums, &bytes);
        }
    }
}
