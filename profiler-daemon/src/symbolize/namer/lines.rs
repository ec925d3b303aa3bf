//! Text of any length and any bytes, line by line, in little memory.
//!
//! In: a reader. Out: its lines, each with its place. Not here: what they say.

use std::io::{self, Read};

/// Bytes of a line at most; a longer one is none that anyone meant, and is passed over.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;

/// Hands every line of `text` to `take`, without the line feed behind it, and with where it begins, bytes from the first.
pub(super) fn each_line(mut text: impl Read, mut take: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; LINE_BYTES_MAX];
    let mut filled = 0;
    let mut at = 0; // where the buffer begins
    let mut is_too_long = false;
    loop {
        let more = match text.read(&mut buffer[filled..]) {
            Err(again) if again.kind() == io::ErrorKind::Interrupted => continue,
            more => more?,
        };
        filled += more;
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &buffer[start..filled]) {
            if !std::mem::take(&mut is_too_long) {
                take(at + start as u64, &buffer[start..start + length]);
            }
            start += length + 1;
        }
        if more == 0 {
            if !is_too_long {
                take(at + start as u64, &buffer[start..filled]);
            }
            return Ok(());
        }
        if start == 0 && filled == buffer.len() {
            is_too_long = true;
            start = filled;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        at += start as u64;
    }
}

/// The number that up to sixteen hexadecimal digits say.
pub(super) fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let (mut value, mut highest) = (0, 0);
    for &digit in digits {
        let digit = DIGITS[usize::from(digit)];
        highest |= digit;
        value = value << 4 | u64::from(digit);
    }
    (highest < 16).then_some(value)
}

/// What each byte says as a hexadecimal digit; all bits where it is none. The kernel's symbols are two million digits.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// The lines of `text`, each with its place and how long it is, however it arrives.
    #[track_caller]
    fn check(text: &[u8], expected: &[(u64, usize)]) {
        for piece in [1, 7, usize::MAX] {
            let mut lines = Vec::new();
            each_line(Pieces(text, piece), |at, line| lines.push((at, line.len()))).unwrap();
            assert_eq!(lines, expected);
        }
    }

    /// A reader that brings so many bytes at once.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn digits_of_either_case_are_a_number_and_nothing_else_is() {
        assert_eq!(hexadecimal(b"ffffffff81000aBc"), Some(0xffff_ffff_8100_0abc));
        assert_eq!(hexadecimal(b"0"), Some(0));
        for none in [&b""[..], b"g", b"1x2", b"-1", b"12345678901234567", b"\xff"] {
            assert_eq!(hexadecimal(none), None);
        }
    }

    #[test]
    fn lines_come_with_their_places() {
        check(b"ab\n\nc", &[(0, 2), (3, 0), (4, 1)]);
    }

    #[test]
    fn nothing_is_one_empty_line() {
        check(b"", &[(0, 0)]);
    }

    #[test]
    fn the_rest_of_a_line_that_is_too_long_is_no_line() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 5];
        text.extend(b"\nab\n");
        let at = LINE_BYTES_MAX as u64 + 6;
        check(&text, &[(at, 2), (at + 3, 0)]);
    }
}
