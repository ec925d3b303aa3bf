//! The Connect protocol's unary calls: what the head of a request may say, and its body decompressed.
//!
//! In: method, headers and body of a POST. Out: the codec and the plain body, or the answer a Pyroscope gives.
//! Not here: what is in the message.

use std::borrow::Cow;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use super::refusal::{Code, Refusal};
use super::web::{Answer, method_not_allowed, refused, text};
use crate::pprof::{GunzipError, gunzip};

/// How protobuf is called.
pub(super) const PROTO: &str = "application/proto";
const JSON: &str = "application/json";

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Protobuf.
    Proto,
    /// JSON.
    Json,
}

/// A request whose body is worth reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// How its body is written.
    pub(super) codec: Codec,
    gzip: bool,
}

/// Looks at the head of a request; an answer if its body need not be read.
pub(super) fn accept(method: &Method, headers: &HeaderMap) -> Result<Accepted, Box<Answer>> {
    if method != Method::POST {
        return Err(Box::new(method_not_allowed("POST")));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let codec = match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str()
    {
        PROTO => Codec::Proto,
        JSON => Codec::Json,
        _ => {
            let mut answer = text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain; charset=utf-8", "");
            answer
                .headers_mut()
                .insert("accept-post", HeaderValue::from_static("application/json, application/proto"));
            return Err(Box::new(answer));
        }
    };
    if let Some(version) = headers.get("connect-protocol-version").filter(|version| *version != "1") {
        let message = format!("connect-protocol-version must be \"1\": got {version:?}");
        return Err(Box::new(refused(&Refusal::invalid("protocol", message))));
    }
    let gzip = match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => {
            let name = String::from_utf8_lossy(other);
            let message = format!("unknown compression {name:?}: supported encodings are gzip");
            return Err(Box::new(refused(&Refusal::new(Code::Unimplemented, "encoding", message))));
        }
    };
    Ok(Accepted { codec, gzip })
}

impl Accepted {
    /// The body, of at most `bytes_max` bytes.
    pub(super) fn body<'a>(&self, body: &'a [u8], bytes_max: usize) -> Result<Cow<'a, [u8]>, Refusal> {
        if self.gzip { decompressed(body, bytes_max).map(Cow::Owned) } else { Ok(Cow::Borrowed(body)) }
    }
}

/// `body`, decompressed if it is `gzip`, of at most `bytes_max` bytes.
pub(super) fn plain_body(gzip: bool, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    if gzip { decompressed(&body, bytes_max) } else { Ok(body) }
}

fn decompressed(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    gunzip(body, bytes_max).map_err(|error| match error {
        GunzipError::TooLarge { bytes_max } => {
            let message = format!("message size is larger than configured max {bytes_max}");
            Refusal::exhausted("body size", message)
        }
        GunzipError::Malformed(_) => Refusal::invalid("malformed", format!("decompress message: {error}")),
    })
}
