//! What every request and every answer has in common.
//!
//! In: requests as hyper reads them. Out: bodies within bounds, and answers with the headers that keep a browser
//! safe. A page of any site can make a browser talk to 127.0.0.1 (by DNS rebinding even as if it were its own
//! server), so a request must name this machine as its host, and one that changes something must come from a page
//! of ours or from no page at all. Where a token is asked for any name will do: no such page has it.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HOST,
    HeaderValue, IF_NONE_MATCH, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::{Code, Refusal};
use crate::meters::prometheus_client::metrics::counter::Counter;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// No scripts but ours, no other hosts, no frames around us. Pictures may be written in the page itself.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// An answer of some kind.
pub(super) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    answer
}

/// An answer of one line.
pub(super) fn plain(status: StatusCode, line: &str) -> Answer {
    text(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    text(status, "application/json", body)
}

/// What answers a wrong method.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// A refusal as the Connect protocol writes it.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let body = serde_json::json!({ "code": refusal.code.as_str(), "message": refusal.message });
    let mut answer = json(refusal.code.status(), body.to_string());
    let later = match refusal.code {
        Code::ResourceExhausted => Some("1"),
        Code::Unavailable => Some("10"),
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => None,
    };
    if let Some(seconds) = later {
        answer.headers_mut().insert("retry-after", HeaderValue::from_static(seconds));
    }
    answer
}

/// Shorter answers are sent as they are, bytes.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// `answer`, compressed if the client takes that and it is long.
pub(super) async fn compressed(answer: Answer, headers: &HeaderMap) -> Answer {
    let takes = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut names =
        takes.flat_map(|value| value.split(',')).map(|name| name.split(';').next().unwrap_or("").trim());
    if !names.any(|name| name.eq_ignore_ascii_case("gzip")) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let body =
        body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_else(|never| match never {});
    if body.len() < COMPRESSED_BYTES_MIN {
        return Response::from_parts(head, Full::new(body));
    }
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, Full::new(crate::pprof::gzip(&body).into()))
}

/// Adds what every answer carries; `idle_s` is how long the connection will be kept, if it will.
pub(super) fn finish(mut answer: Answer, idle_s: Option<u64>) -> Answer {
    const FIXED: &[(&str, &str)] = &[
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    let headers = answer.headers_mut();
    for (name, value) in FIXED {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    if let Some(idle_s) = idle_s {
        let timeout =
            HeaderValue::try_from(format!("timeout={idle_s}")).expect("digits may stand in a header");
        headers.insert("keep-alive", timeout);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    answer
}

/// True if the client said that it will close.
pub(super) fn says_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("close")))
}

/// If the client has the answer of that `tag` already, the answer that says so; else `None`.
pub(super) fn unchanged(headers: &HeaderMap, tag: &str) -> Option<Answer> {
    let known = headers.get(IF_NONE_MATCH)?.to_str().ok()?;
    (known.trim() == tag).then(|| {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        tagged(answer, tag)
    })
}

/// `answer`, known by `tag`.
pub(super) fn tagged(mut answer: Answer, tag: &str) -> Answer {
    if let Ok(tag) = HeaderValue::try_from(tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// Refuses a request that a page of another site may have made. `listen` is where this server is; without it, it may have
/// any name.
pub(super) fn check_origin(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    listen: Option<IpAddr>,
) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(Code::PermissionDenied, "foreign", message));
    let host = match (uri.authority(), headers.get_all(HOST).iter().collect::<Vec<_>>().as_slice()) {
        (Some(authority), _) => Some(authority.clone()),
        (None, [host]) => Authority::try_from(host.as_bytes()).ok(),
        (None, _) => None,
    };
    let Some(host) = host.filter(|host| listen.is_none_or(|listen| is_ours(host, listen))) else {
        return refuse(
            "the Host header must be localhost or a loopback address: this server answers no other name",
        );
    };
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    match headers.get(ORIGIN) {
        None => Ok(()),
        Some(origin) => {
            let origin = Uri::try_from(origin.as_bytes()).ok();
            match origin.as_ref().and_then(Uri::authority) {
                Some(authority) if listen.map_or(*authority == host, |listen| is_ours(authority, listen)) => {
                    Ok(())
                }
                _ => refuse("a page of another site may not push"),
            }
        }
    }
}

fn is_ours(authority: &Authority, listen: IpAddr) -> bool {
    // `user@127.0.0.1` is somebody's trick.
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address == listen)
}

/// Memory that answers take from when they are made until their readers have them.
#[derive(Clone, Debug)]
pub(super) struct AnswerRoom {
    kib: Arc<Semaphore>,
    kib_max: u32,
    waited: Counter,
}

/// The body of an answer; what it took of the room is given back when it is gone.
struct Kept {
    body: Bytes,
    _taken: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl AnswerRoom {
    /// Room for so many bytes; `waited` counts the answers that found none.
    pub(super) fn new(bytes_max: usize, waited: Counter) -> Self {
        let kib_max = u32::try_from(bytes_max >> 10).unwrap_or(u32::MAX).max(1);
        Self { kib: Arc::new(Semaphore::new(kib_max as usize)), kib_max, waited }
    }

    /// `answer`, once there is room for it. One that is larger than all of the room takes all of it.
    pub(super) async fn take(&self, answer: Answer) -> Answer {
        let (head, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_else(|never| match never {});
        let kib = u32::try_from(body.len().div_ceil(1 << 10)).unwrap_or(u32::MAX).min(self.kib_max);
        let taken = match Arc::clone(&self.kib).try_acquire_many_owned(kib) {
            Ok(taken) => taken,
            Err(_) => {
                self.waited.inc();
                Arc::clone(&self.kib).acquire_many_owned(kib).await.expect("it is never closed")
            }
        };
        Response::from_parts(head, Full::new(Bytes::from_owner(Kept { body, _taken: taken })))
    }
}

/// Memory that bodies of requests may take together.
#[derive(Clone, Debug)]
pub(super) struct BodyRoom {
    /// Bytes of one body.
    pub(super) body_bytes_max: usize,
    /// Bytes of all bodies that are arriving.
    pub(super) bodies_bytes_max: usize,
    taken: Rc<Cell<usize>>,
}

/// Gives its part of the room back when dropped.
struct Taken {
    room: Rc<Cell<usize>>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.set(self.room.get() - self.bytes);
    }
}

impl BodyRoom {
    /// Room that is empty.
    pub(super) fn new(body_bytes_max: usize, bodies_bytes_max: usize) -> Self {
        Self { body_bytes_max, bodies_bytes_max, taken: Rc::default() }
    }

    fn too_large(&self) -> Refusal {
        let max = self.body_bytes_max;
        Refusal::exhausted("body size", format!("message size is larger than configured max {max}"))
    }

    /// The whole body.
    pub(super) async fn read(&self, mut body: Incoming) -> Result<Vec<u8>, BodyError> {
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.body_bytes_max {
            return Err(self.too_large().into());
        }
        let mut taken = Taken { room: Rc::clone(&self.taken), bytes: 0 };
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame?.into_data() else { continue };
            if whole.len() + chunk.len() > self.body_bytes_max {
                return Err(self.too_large().into());
            }
            if self.taken.get() + chunk.len() > self.bodies_bytes_max {
                return Err(Refusal::exhausted("busy", "too many requests at once").into());
            }
            self.taken.set(self.taken.get() + chunk.len());
            taken.bytes += chunk.len();
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It is too much.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke or took too long.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check(method: &Method, host: &str, origin: Option<&str>, allowed: bool) {
        check_on(Some(IpAddr::from([127, 0, 0, 1])), method, host, origin, allowed);
    }

    #[track_caller]
    fn check_on(listen: Option<IpAddr>, method: &Method, host: &str, origin: Option<&str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        let answer = check_origin(method, &Uri::from_static("/"), &headers, listen);
        assert_eq!(answer.is_ok(), allowed, "{answer:?}");
    }

    #[test]
    fn this_machine_may_be_named_in_several_ways() {
        check(&Method::GET, "127.0.0.1:4040", None, true);
        check(&Method::GET, "127.8.0.1", None, true);
        check(&Method::GET, "[::1]:4040", None, true);
        check(&Method::GET, "LocalHost:9", None, true);
    }

    #[test]
    fn another_name_for_this_machine_is_a_rebinding() {
        check(&Method::GET, "evil.example", None, false);
        check(&Method::GET, "127.0.0.1.evil.example", None, false);
        check(&Method::GET, "localhost.evil.example:4040", None, false);
        check(&Method::GET, "evil@127.0.0.1", None, false);
        check(&Method::GET, "192.168.0.1", None, false);
        check(&Method::GET, "", None, false);
    }

    #[test]
    fn only_our_own_pages_may_push() {
        check(&Method::POST, "localhost:4040", None, true);
        check(&Method::POST, "localhost:4040", Some("http://127.0.0.1:4040"), true);
        check(&Method::POST, "localhost:4040", Some("http://evil.example"), false);
        check(&Method::POST, "localhost:4040", Some("null"), false);
        check(&Method::GET, "localhost:4040", Some("http://evil.example"), true);
    }

    #[test]
    fn where_a_token_is_asked_for_the_name_does_not_matter() {
        check_on(None, &Method::GET, "profiles.example:4040", None, true);
        check_on(None, &Method::GET, "", None, false);
        check_on(None, &Method::POST, "profiles.example", Some("https://profiles.example"), true);
        check_on(None, &Method::POST, "profiles.example", Some("https://evil.example"), false);
    }

    /// An answer of so many bytes.
    fn answer_of(bytes: usize) -> Answer {
        plain(StatusCode::OK, &"x".repeat(bytes - 1))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_until_readers_have_made_room() {
        let waited = Counter::default();
        let room = AnswerRoom::new(10 << 10, waited.clone());
        let second = std::time::Duration::from_secs(1);
        let large = room.take(answer_of(9 << 10)).await;
        let small = room.take(answer_of(1 << 10)).await;
        assert_eq!(waited.get(), 0);
        assert!(tokio::time::timeout(second, room.take(answer_of(1))).await.is_err());
        drop(small);
        let body = room.take(answer_of(1)).await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "\n");
        drop((large, body));
        let huge = room.take(answer_of(99 << 10)).await;
        assert!(tokio::time::timeout(second, room.take(answer_of(1))).await.is_err());
        drop(huge);
        room.take(answer_of(1)).await;
        assert_eq!(waited.get(), 2);
    }
}
