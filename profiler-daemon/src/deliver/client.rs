//! One HTTP client with at most one connection: the only place that sends anything.
//!
//! In: bodies, and the word when to open and close. Out: answers and failures. Not here: when that is
//! (`connection`), and what is sent.
//!
//! A lease is a `reqwest::Client` that is made for one connection and dropped to close it, since nothing else in
//! that library closes a connection at a moment of our choosing. With its TLS settings made before, a client
//! costs a microsecond.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, Url, Version, redirect};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use tower::util::MapRequestLayer;

use super::StartError;
use super::answer::{Answer, Failure, FailureKind, quotable};
use super::connection::Said;
use super::keep_alive::KeepAlive;

/// Most of an answer that is read, bytes: the rest says nothing new, and a connection is cheaper.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Most of it that is kept to be quoted, bytes.
const WORDS_BYTES_MAX: usize = 4 << 10;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const USER_AGENT: &str = concat!("profiler-daemon/", env!("CARGO_PKG_VERSION"));

/// How a request went.
#[derive(Debug)]
pub(super) struct Exchange {
    /// When the head of the answer was there.
    pub(super) first_byte: Option<Instant>,
    /// What came.
    pub(super) result: Result<Answer, Failure>,
    /// A connection was opened for it.
    pub(super) opened: bool,
}

/// Sends to one address.
#[derive(Debug)]
pub(super) struct Client {
    address: Url,
    content_type: &'static str,
    timeout: Duration,
    tls: ClientConfig,
    proxied: bool,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    client: reqwest::Client,
    /// How many connections it has begun to open.
    opened: Arc<AtomicU64>,
}

impl Client {
    /// A client for `address`, without a connection yet.
    pub(super) fn new(
        address: Url,
        content_type: &'static str,
        timeout: Duration,
    ) -> Result<Self, StartError> {
        // A proxy has no business between us and this very machine.
        let proxied = !is_loopback(&address);
        let encrypted = address.scheme() == "https" || (proxied && proxy_is_set());
        let tls = tls(encrypted)?;
        let mut client = Self { address, content_type, timeout, tls, proxied, lease: None };
        // What cannot be built at all is known now.
        client.lease = Some(client.lease()?);
        client.close();
        Ok(client)
    }

    /// Makes ready for a new connection, which the next request will open. An old one is closed.
    pub(super) fn open(&mut self) {
        self.close();
        // It was built once with the same settings; if it cannot be now, the request says so.
        self.lease = self.lease().ok();
    }

    /// Closes the connection, if there is one.
    pub(super) fn close(&mut self) -> bool {
        self.lease.take().is_some_and(|lease| lease.opened.load(Ordering::Relaxed) > 0)
    }

    fn lease(&self) -> Result<Lease, StartError> {
        let opened = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&opened);
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .pool_max_idle_per_host(1)
            // Only we say when it is closed; and no timer runs for it.
            .pool_idle_timeout(None)
            .timeout(self.timeout)
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(self.tls.clone())
            .connector_layer(MapRequestLayer::new(move |request| {
                count.fetch_add(1, Ordering::Relaxed);
                request
            }));
        if !self.proxied {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(StartError::Client)?;
        Ok(Lease { client, opened })
    }

    /// Posts `body`, gzipped already, over the connection that is there, or a new one.
    pub(super) async fn post(&mut self, body: Bytes) -> Exchange {
        let Some(lease) = &self.lease else {
            let cause = "no HTTP client could be made".to_owned();
            let result = Err(Failure { kind: FailureKind::Other, cause });
            return Exchange { first_byte: None, result, opened: false };
        };
        let before = lease.opened.load(Ordering::Relaxed);
        let sent = lease
            .client
            .post(self.address.clone())
            // The default of HTTP/1.1, but some servers advertise their timeout only to those who say it.
            .header(CONNECTION, HeaderValue::from_static("keep-alive"))
            .header(CONTENT_TYPE, HeaderValue::from_static(self.content_type))
            .header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
            .body(body)
            .send()
            .await;
        let (first_byte, result) = match sent {
            Ok(response) => (Some(Instant::now()), Ok(answer(response).await)),
            Err(error) => (None, Err(failure(&error))),
        };
        Exchange { first_byte, result, opened: lease.opened.load(Ordering::Relaxed) != before }
    }
}

/// Reads an answer. Its head alone decides what it means, so a body that never ends costs only the connection.
async fn answer(mut response: Response) -> Answer {
    let headers = response.headers();
    let contains = |name, wanted: &str| contains(headers, name, wanted);
    let closes = match response.version() {
        Version::HTTP_09 => true,
        Version::HTTP_10 => !contains(CONNECTION, "keep-alive"),
        _ => contains(CONNECTION, "close"),
    };
    let keep_alive = KeepAlive::read(headers.get_all(KEEP_ALIVE).iter().map(HeaderValue::as_bytes));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = text(RETRY_AFTER).and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    let html = text(CONTENT_TYPE).is_some_and(|value| value.trim_start().starts_with("text/html"));
    let location = headers.get(LOCATION).map(|to| to.as_bytes().to_vec());
    let status = response.status().as_u16();

    let (mut body, mut read, mut whole) = (Vec::new(), 0, false);
    while read <= ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let kept = chunk.len().min(WORDS_BYTES_MAX - body.len());
                body.extend_from_slice(&chunk[..kept]);
                read += chunk.len();
            }
            Ok(None) => {
                whole = true;
                break;
            }
            Err(_) => break,
        }
    }
    let words = quotable(location.as_deref().unwrap_or(&body));
    Answer { status, html, said: Said { keep_alive, closes: closes || !whole }, retry_after, words }
}

/// True if one of the header's comma-separated tokens is `wanted`.
fn contains(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Finds out how a request failed: the kind is somewhere down the chain of causes.
fn failure(error: &reqwest::Error) -> Failure {
    let mut kind = if error.is_timeout() {
        FailureKind::Timeout
    } else if error.is_connect() {
        FailureKind::Connect
    } else {
        FailureKind::Other
    };
    let (mut cause, mut next) = (error.to_string(), error.source());
    while let Some(inner) = next {
        cause = inner.to_string();
        if kind == FailureKind::Other {
            kind = kind_of(inner);
        }
        next = inner.source();
    }
    // Where the time was up, the chain ends with words that add nothing.
    Failure { kind, cause: quotable(cause.as_bytes()) }
}

fn kind_of(error: &(dyn Error + 'static)) -> FailureKind {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return match () {
            () if error.is_incomplete_message() => FailureKind::Eof,
            () if error.is_parse() => FailureKind::Garbage,
            () => FailureKind::Other,
        };
    }
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset) => FailureKind::Reset,
        Some(io::ErrorKind::BrokenPipe) => FailureKind::Pipe,
        Some(io::ErrorKind::UnexpectedEof) => FailureKind::Eof,
        _ => FailureKind::Other,
    }
}

fn is_loopback(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let number = host.trim_start_matches('[').trim_end_matches(']');
    number
        .parse::<IpAddr>()
        .map_or(host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
}

/// The way to a proxy may be encrypted even where that to the server is not.
fn proxy_is_set() -> bool {
    ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// TLS settings that all leases share, sessions included. The machine's certificates are read only where they
/// are needed: that takes milliseconds and stays in memory.
pub(crate) fn tls(encrypted: bool) -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    if encrypted {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let cause = found.errors.first().map_or("none is installed".to_owned(), ToString::to_string);
            return Err(StartError::Certificates { cause });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check_loopback(address: &str, loopback: bool) {
        assert_eq!(is_loopback(&Url::parse(address).unwrap()), loopback, "{address}");
    }

    #[test]
    fn this_very_machine_is_known_by_its_names() {
        check_loopback("http://127.0.0.1:4040", true);
        check_loopback("http://127.9.9.9", true);
        check_loopback("http://[::1]:4040", true);
        check_loopback("http://localhost", true);
        check_loopback("http://a.localhost:1/x", true);
        check_loopback("http://localhost.example.com", false);
        check_loopback("http://10.0.0.1", false);
        check_loopback("http://pyroscope:4040", false);
    }

    #[test]
    fn a_lease_costs_next_to_nothing() {
        let address = Url::parse("http://127.0.0.1:4040").unwrap();
        let mut client = Client::new(address, "application/proto", Duration::from_secs(3)).unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..1_000 {
            client.open();
        }
        // Microseconds in truth; what this must catch is certificates being read again each time.
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
