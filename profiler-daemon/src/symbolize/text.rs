//! Makes strangers' text fit to be shown.
//!
//! In: names of symbols and files, which whoever linked them chose. Out: bounded text without anything that
//! moves a cursor, ends a line or turns the reading direction. A `;` is legal in a name: who writes folded text
//! replaces it there.

use std::borrow::Cow;

/// `text` in at most `bytes_max` bytes, cut with an ellipsis; what cannot be printed is a question mark.
pub(super) fn clean(text: &str, bytes_max: usize) -> Cow<'_, str> {
    let text = if text.len() > bytes_max {
        let room = bytes_max.saturating_sub(ELLIPSIS.len());
        Cow::Owned(format!("{}{ELLIPSIS}", &text[..text.floor_char_boundary(room)]))
    } else {
        Cow::Borrowed(text)
    };
    if text.contains(unprintable) {
        Cow::Owned(text.chars().map(|c| if unprintable(c) { '?' } else { c }).collect())
    } else {
        text
    }
}

const ELLIPSIS: &str = "…";

/// Control characters, separators of lines and paragraphs, and marks that turn the reading direction.
fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(clean(text, 16), expected);
    }

    #[test]
    fn an_honest_name_stays() {
        check("ns::f(int, a;b)", "ns::f(int, a;b)");
    }

    #[test]
    fn a_newline_forges_no_line() {
        check("a\nb\r\x1b[31m\0", "a?b??[31m?");
    }

    #[test]
    fn the_reading_direction_stays() {
        check("a\u{202e}b\u{2028}", "a?b?");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        check("0123456789abcdefg", "0123456789abc…");
        check("0123456789abäääää", "0123456789ab…");
    }
}
