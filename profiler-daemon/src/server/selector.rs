//! Selectors: which series a question is about, as `{service_name="a", host=~"web-.*"}`.
//!
//! In: text. Out: conditions, each on one label; a label that a series does not have is empty. Regular expressions match
//! whole values and are bounded, as is a selector.

use regex_lite::{Regex, RegexBuilder};

use super::refusal::Refusal;

/// Conditions of one selector.
const CONDITIONS_MAX: usize = 100;
/// Bytes of a selector.
const SELECTOR_BYTES_MAX: usize = 16 << 10;
/// Memory of one compiled regular expression, bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A condition on one label.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    name: String,
    wanted: Wanted,
    /// The condition is that it does not match.
    not: bool,
}

#[derive(Clone, Debug)]
enum Wanted {
    Text(String),
    Pattern(Regex),
}

impl Matcher {
    /// Its label.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// True if it is fulfilled by `value`, empty where there is none.
    pub(super) fn takes(&self, value: &str) -> bool {
        let matches = match &self.wanted {
            Wanted::Text(text) => text == value,
            Wanted::Pattern(pattern) => pattern.is_match(value),
        };
        matches != self.not
    }
}

/// Reads a selector; what stands before its braces is not looked at.
pub(super) fn parse(text: &str) -> Result<Vec<Matcher>, Refusal> {
    let quoted: String = text.chars().take(100).collect();
    let refuse = |why: &str| {
        Refusal::invalid("selector", format!("parsing label selector {quoted:?}: parse error: {why}"))
    };
    if text.len() > SELECTOR_BYTES_MAX {
        return Err(refuse(&format!("longer than {SELECTOR_BYTES_MAX} bytes")));
    }
    let Some((_, inside)) = text.split_once('{') else {
        return Err(refuse(if text.trim().is_empty() { "unexpected end of input" } else { "no braces" }));
    };
    let mut reader = Reader { rest: inside };
    let mut matchers = Vec::new();
    loop {
        reader.skip_space();
        if reader.take("}") {
            break;
        }
        if reader.rest.is_empty() {
            return Err(refuse("unexpected end of input inside braces"));
        }
        matchers.push(reader.matcher().map_err(|why| refuse(&why))?);
        if matchers.len() > CONDITIONS_MAX {
            return Err(refuse(&format!("more than {CONDITIONS_MAX} conditions")));
        }
        reader.skip_space();
        if !reader.take(",") && !reader.rest.starts_with('}') {
            return Err(refuse("a comma or the end of the braces is missing"));
        }
    }
    if reader.rest.trim().is_empty() { Ok(matchers) } else { Err(refuse("text after the braces")) }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, words: &str) -> bool {
        let after = self.rest.strip_prefix(words);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn matcher(&mut self) -> Result<Matcher, String> {
        let name = match self.quoted()? {
            Some(name) => name,
            None => {
                let letters = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '.' | ':');
                let end = self.rest.find(|letter| !letters(letter)).unwrap_or(self.rest.len());
                let (name, rest) = self.rest.split_at(end);
                self.rest = rest;
                name.to_owned()
            }
        };
        if name.is_empty() {
            return Err("a label's name is missing".to_owned());
        }
        self.skip_space();
        let (not, pattern) = match () {
            () if self.take("=~") => (false, true),
            () if self.take("!~") => (true, true),
            () if self.take("!=") => (true, false),
            () if self.take("=") => (false, false),
            () if self.rest.is_empty() => return Err("unexpected end of input inside braces".to_owned()),
            () => return Err(format!("after {name:?} one of = != =~ !~ is missing")),
        };
        self.skip_space();
        let value = self.quoted()?.ok_or_else(|| format!("the value of {name:?} is not quoted"))?;
        let wanted = if pattern {
            let whole = format!("^(?:{value})$");
            let compiled = RegexBuilder::new(&whole).size_limit(REGEX_BYTES_MAX).build();
            Wanted::Pattern(compiled.map_err(|error| error.to_string())?)
        } else {
            Wanted::Text(value)
        };
        Ok(Matcher { name, wanted, not })
    }

    /// A text in quotes, if one stands here.
    fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(quote) = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`')) else {
            return Ok(None);
        };
        let mut text = String::new();
        let mut letters = self.rest[1..].char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                _ if letter == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Ok(Some(text));
                }
                '\\' if quote != '`' => text.push(match letters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 't')) => '\t',
                    Some((_, 'r')) => '\r',
                    Some((_, letter @ ('\\' | '"' | '\''))) => letter,
                    _ => return Err("an escape sequence is not known".to_owned()),
                }),
                _ => text.push(letter),
            }
        }
        Err("a quoted text does not end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// Does a series of the one label `host` fulfil `selector`?
    #[track_caller]
    fn check(selector: &str, host: &str, expected: bool) {
        let matchers = parse(selector).unwrap();
        let value = |name: &str| if name == "host" { host } else { "" };
        assert_eq!(
            matchers.iter().all(|matcher| matcher.takes(value(matcher.name()))),
            expected,
            "{matchers:?}"
        );
    }

    #[track_caller]
    fn check_refused(selector: &str, words: &str) {
        let refusal = parse(selector).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }

    #[test]
    fn conditions_hold_together() {
        check("{}", "a", true);
        check("{host=\"a\"}", "a", true);
        check("{host=\"a\"}", "ab", false);
        check("{host!=\"a\",}", "b", true);
        check("cpu{ host =~ \"a|b+\" , host!~'b' }", "bb", true);
        check("{host=~\"b\"}", "bb", false);
        check("{\"host\"=`a\\b`}", "a\\b", true);
        check("{host=\"a\\\"b\"}", "a\"b", true);
    }

    #[test]
    fn a_label_that_is_not_there_is_empty() {
        check("{nope=\"\"}", "a", true);
        check("{nope!=\"x\"}", "a", true);
        check("{nope=~\".+\"}", "a", false);
    }

    #[test]
    fn what_is_no_selector_is_refused_with_words() {
        check_refused("", "unexpected end of input");
        check_refused("{x", "unexpected end of input inside braces");
        check_refused("service", "no braces");
        check_refused("{x=\"a}", "does not end");
        check_refused("{x=a}", "not quoted");
        check_refused("{x~\"a\"}", "one of = != =~ !~");
        check_refused("{x=~\"(\"}", "group");
        check_refused("{x=\"a\" y=\"b\"}", "a comma");
        check_refused("{}x", "after the braces");
        check_refused(&format!("{{{}}}", "a=\"\",".repeat(101)), "more than 100");
        check_refused(&format!("{{a=~\"{}\"}}", "(a{1000}){1000}"), "");
    }
}
