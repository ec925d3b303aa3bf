//! Reads an error of the Connect protocol, the words in which Pyroscope and its kin refuse a push.
//!
//! In: the body of an answer, any bytes. Out: a code and a message, or nothing if it is no such error. Not here:
//! what a code means for a push; that is the sink's.
//!
//! The protocol lets the code overrule the status, which proxies change and which differs between its versions.
//! What is no such error to the last byte says nothing, and the status stands.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{self, StrDeserializer};
use serde_json::{Map, Value};

/// Longest body that is read, bytes: many times a message of Pyroscope's, labels and all.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// An error as the server wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What kind of error it is.
    pub code: Code,
    /// For people, any characters; empty if there is none.
    pub message: String,
}

/// The protocol's codes; they are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Whoever asked has gone.
    Canceled,
    /// Nothing better is known; Pyroscope says so of a pprof that cannot be decoded.
    Unknown,
    /// The request is wrong and stays wrong.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// What the request is about is not there.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// Credentials do not suffice.
    PermissionDenied,
    /// A limit is reached.
    ResourceExhausted,
    /// The server is not in the state for it.
    FailedPrecondition,
    /// It met with another request.
    Aborted,
    /// Some number is too large or too small.
    OutOfRange,
    /// The server does not do that.
    Unimplemented,
    /// The server has a bug.
    Internal,
    /// The server cannot now.
    Unavailable,
    /// The server has lost data.
    DataLoss,
    /// Credentials are missing or wrong.
    Unauthenticated,
}

impl ConnectError {
    /// Reads the body of an answer.
    pub fn read(body: &[u8]) -> Option<Self> {
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
        let error: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let text = |name| error.get(name).and_then(Value::as_str);
        let name: StrDeserializer<'_, value::Error> = text("code")?.into_deserializer();
        let code = Code::deserialize(name).ok()?;
        Some(Self { code, message: text("message").unwrap_or_default().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<(Code, &str)>) {
        let read = ConnectError::read(body.as_bytes());
        let read = read.as_ref().map(|ConnectError { code, message }| (*code, message.as_str()));
        assert_eq!(read, expected, "{body}");
    }

    #[test]
    fn pyroscope_says_both() {
        check(
            r#"{"code":"invalid_argument","message":"profile is outside of ingestion window"}"#,
            Some((Code::InvalidArgument, "profile is outside of ingestion window")),
        );
    }

    #[test]
    fn every_code_of_the_protocol_is_known() {
        for (name, code) in [
            ("canceled", Code::Canceled),
            ("unknown", Code::Unknown),
            ("invalid_argument", Code::InvalidArgument),
            ("deadline_exceeded", Code::DeadlineExceeded),
            ("not_found", Code::NotFound),
            ("already_exists", Code::AlreadyExists),
            ("permission_denied", Code::PermissionDenied),
            ("resource_exhausted", Code::ResourceExhausted),
            ("failed_precondition", Code::FailedPrecondition),
            ("aborted", Code::Aborted),
            ("out_of_range", Code::OutOfRange),
            ("unimplemented", Code::Unimplemented),
            ("internal", Code::Internal),
            ("unavailable", Code::Unavailable),
            ("data_loss", Code::DataLoss),
            ("unauthenticated", Code::Unauthenticated),
        ] {
            check(&format!("{{\"code\":\"{name}\"}}"), Some((code, "")));
        }
    }

    #[test]
    fn details_and_whatever_else_there_is_are_passed_over() {
        check(
            r#" { "details": [{"type": "x", "value": "aGk"}], "message": null, "code": "internal", "x": {"code": 1} } "#,
            Some((Code::Internal, "")),
        );
    }

    #[test]
    fn a_message_that_is_no_text_is_none() {
        check(r#"{"code":"internal","message":7}"#, Some((Code::Internal, "")));
    }

    #[test]
    fn of_two_codes_the_last_one_counts() {
        check(r#"{"code":"internal","code":"unknown"}"#, Some((Code::Unknown, "")));
    }

    #[test]
    fn a_message_may_have_any_characters() {
        check(r#"{"code":"unknown","message":"\u00e9\n\"é"}"#, Some((Code::Unknown, "é\n\"é")));
    }

    #[test]
    fn errors_of_other_servers_are_none() {
        for body in [
            "",
            "Bad Gateway",
            "<html>503</html>",
            "null",
            "[]",
            "{}",
            r#"{"code":503,"message":"no healthy upstream"}"#,
            r#"{"code":"UNAVAILABLE"}"#,
            r#"{"code":"something_else"}"#,
            r#"{"message":"invalid_argument"}"#,
            r#"{"code":{"invalid_argument":null}}"#,
            r#"["invalid_argument", "no object"]"#,
        ] {
            check(body, None);
        }
    }

    #[test]
    fn one_that_is_cut_or_goes_on_is_none() {
        check(r#"{"code":"internal","message":"half of i"#, None);
        check(r#"{"code":"internal"}{"code":"internal"}"#, None);
        assert_eq!(ConnectError::read(b"{\"code\":\"internal\",\"message\":\"\xff\"}"), None);
    }

    #[test]
    fn a_long_or_deep_one_is_not_read() {
        let long =
            |length: usize| format!("{{\"code\":\"internal\",\"message\":\"{}\"}}", "x".repeat(length));
        assert!(ConnectError::read(long(4_000).as_bytes()).is_some());
        check(&long(4_096), None);
        check(&format!("{{\"code\":\"internal\",\"message\":{}", "[".repeat(4_000)), None);
        check(&format!("{{\"code\":\"internal\",\"x\":{}", "{\"x\":".repeat(800)), None);
    }
}
