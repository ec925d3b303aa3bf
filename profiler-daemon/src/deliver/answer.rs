//! How a request can end.
//!
//! In: nothing. Out: types that `client` fills, a sink interprets and `retry` acts on.

use std::time::Duration;

use super::connect_error::Code;
use super::connection::Said;

/// Longest quotation of a server, characters.
const WORDS_MAX: usize = 300;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// It is a web page.
    pub(super) html: bool,
    /// The code of its error, if it is one of the Connect protocol.
    pub(super) code: Option<Code>,
    /// What it says of the connection.
    pub(super) said: Said,
    /// How long the server wishes to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Where it redirects to, or what it says went wrong; fit to be logged.
    pub(super) words: String,
}

/// What an answer means, whichever server gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// All of it is stored.
    Delivered,
    /// The server cannot take anything now.
    NotNow,
    /// It cannot take some of it now.
    SomeNotNow,
    /// Some of it breaks the server, or the server is broken.
    SomeBroken,
    /// It will never take some of it.
    SomeNever,
    /// It will never take so much at once.
    TooLarge,
    /// This is not the server we look for.
    WrongServer,
}

/// Nothing came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// How.
    pub(super) kind: FailureKind,
    /// The innermost cause, fit to be logged.
    pub(super) cause: String,
    /// What the kernel knows of the request, where that could be asked.
    pub(super) evidence: Option<Evidence>,
}

/// What became of the bytes that were written for a request, as far as the first machine on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Bytes that left us, those that left repeatedly included.
    pub(super) sent: u64,
    /// Bytes that were acknowledged.
    pub(super) acked: u64,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No connection was made.
    Connect,
    /// No answer in time.
    Timeout,
    /// The server closed the connection instead of answering.
    Eof,
    /// The server reset the connection.
    Reset,
    /// The server had closed the connection already while we wrote.
    Pipe,
    /// It was never written.
    Canceled,
    /// What came is not HTTP.
    Garbage,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// The name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::Reset => "rst",
            Self::Pipe => "epipe",
            Self::Canceled => "canceled",
            Self::Garbage => "garbage",
            Self::Other => "other",
        }
    }
}

/// What someone else wrote, made fit for a line of log: no control characters, one space where there was any
/// space, and no longer than it should be.
pub(super) fn quotable(bytes: &[u8]) -> String {
    // Four bytes make a character at most, and what will be cut off needs no decoding.
    let bytes = &bytes[..bytes.len().min(8 * WORDS_MAX)];
    let text = String::from_utf8_lossy(bytes);
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let text: String = text.chars().map(plain).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], quoted: &str) {
        assert_eq!(quotable(bytes), quoted);
    }

    #[test]
    fn plain_words_stay() {
        check(b"{\"code\":\"invalid_argument\"}", "{\"code\":\"invalid_argument\"}");
    }

    #[test]
    fn what_could_forge_a_line_or_colour_a_terminal_goes() {
        check(b"a\r\nb\x1b[31m\0\x7f  c\t", "a b [31m c");
    }

    #[test]
    fn what_is_not_text_is_replaced() {
        check(b"\xff\xfe", "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_long_speech_is_cut() {
        let quoted = quotable("é".repeat(5_000).as_bytes());
        assert_eq!(quoted.chars().count(), WORDS_MAX + 1);
        assert!(quoted.ends_with('…'));
    }
}
