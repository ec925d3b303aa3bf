//! Rust source as the tidy test reads it: only the code that ships, as tokens with their lines.
//!
//! Not a parser: comments, texts and test modules are blanked, the rest is cut into words and signs. That is enough to see
//! who names whom.

/// A word or a sign of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// Its text; `::` is one sign.
    pub text: &'a str,
    /// Where it stands, from 1.
    pub line: usize,
}

/// `source` with every comment, text and character literal blanked, line for line.
pub(crate) fn without_texts(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && is_word(bytes[at - 1]);
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + comment_bytes(rest)
        } else if let Some(bytes) = raw_text_bytes(rest).filter(|_| !word_before) {
            at + bytes
        } else if rest[0] == b'"' {
            at + quoted_bytes(rest, b'"')
        } else if rest[0] == b'\'' && is_character(source, at) {
            at + quoted_bytes(rest, b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(&mut code[at..end]);
        at = end;
    }
    String::from_utf8(code).expect("whole literals were blanked")
}

/// `code` without what is compiled for tests only.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = code.as_bytes().to_vec();
    let mut at = 0;
    while let Some(found) = code[at..].find(MARK).map(|found| at + found) {
        let mut end = code.len();
        let mut depth = 0usize;
        for (offset, byte) in code.bytes().enumerate().skip(found + MARK.len()) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && matches!(byte, b'}' | b';') {
                end = offset + 1;
                break;
            }
        }
        blank(&mut kept[found..end]);
        at = end;
    }
    String::from_utf8(kept).expect("whole items were blanked")
}

/// The words and signs of `code`.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let line = index + 1;
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let bytes = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                _ => word,
            };
            found.push(Token { text: &rest[..bytes], line });
            rest = rest[bytes..].trim_start();
        }
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// Length of a comment, which may hold others.
fn comment_bytes(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0usize);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of `r"…"`, `br#"…"#` and the like, if one begins here.
fn raw_text_bytes(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let inside = rest[open + 1..].windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + inside + close.len())
}

/// Length of a literal between two `quote`s with backslashes in it.
fn quoted_bytes(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Whether the quote at `at` opens a character, and not a lifetime.
fn is_character(source: &str, at: usize) -> bool {
    let mut after = source[at + 1..].chars();
    matches!((after.next(), after.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, words: &str) {
        let code = without_tests(&without_texts(source));
        assert_eq!(code.lines().count(), source.lines().count(), "lines moved");
        let found: Vec<_> = tokens(&code).iter().map(|token| token.text).collect();
        assert_eq!(found.join(" "), words);
    }

    #[test]
    fn comments_are_not_code() {
        check("a // b\n/* c /* d */ e */ f", "a f");
    }

    #[test]
    fn texts_are_not_code() {
        check(r##"a("b \" c", r#"d " e"#, b"f", 'g', '"', '\'')"##, "a ( , , b , , , )");
    }

    #[test]
    fn a_lifetime_is_no_text() {
        check("fn a<'b>(c: &'b str, d: &'static str)", "fn a < ' b > ( c : & ' b str , d : & ' static str )");
    }

    #[test]
    fn a_word_that_ends_in_r_opens_no_raw_text() {
        check(r#"for"x" a"#, "for a");
    }

    #[test]
    fn what_is_compiled_for_tests_is_not_code() {
        check("a\n#[cfg(test)]\nmod tests {\n fn b() { c }\n}\nd", "a d");
        check("#[cfg(test)]\nuse a::{b, c};\nd", "; d");
    }

    #[test]
    fn a_path_is_cut_at_its_colons() {
        check("use crate::{model, time::MonoNs};", "use crate :: { model , time :: MonoNs } ;");
    }

    #[test]
    fn an_open_text_ends_with_the_file() {
        check("a \"b", "a");
        check("a /* b", "a");
    }
}
