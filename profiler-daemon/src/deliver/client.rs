//! HTTP clients with one connection each: the only place that sends anything.
//!
//! In: bodies, and the word when to open and close. Out: answers and failures with the evidence the kernel has, and
//! word of connections that the other end closed. Not here: when to open and close (`connection`), and what is sent.
//!
//! A lease is a `reqwest::Client` that is made for one connection and dropped to close it, since nothing else in
//! that library closes a connection at a moment of our choosing. With its TLS settings made before, a client
//! costs a microsecond.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::access::Access;
use super::answer::{Answer, Evidence, Failure, FailureKind, quotable};
use super::connect_error::{BODY_BYTES_MAX, ConnectError};
use super::connection::{ConnectionId, Said};
use super::connector::{Made, Noting};
use super::keep_alive::{KeepAlive, closes, retry_after};
use super::sinks::Outgoing;
use super::{StartError, certificates};
use crate::socket::{self, Closed, TcpInfo};

/// Most of an answer that is read, bytes: the rest says nothing new, and a connection is cheaper.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const USER_AGENT: &str = concat!("profiler-daemon/", env!("CARGO_PKG_VERSION"));

/// How a request went.
#[derive(Debug)]
pub(super) struct Exchange {
    /// When it was begun to be written: for a fresh connection, when that was there.
    pub(super) sent: Instant,
    /// When the head of the answer was there.
    pub(super) first_byte: Option<Instant>,
    /// What came.
    pub(super) result: Result<Answer, Failure>,
    /// Another connection than the one that was there carried it.
    pub(super) replaced: bool,
}

/// What all leases have in common.
#[derive(Debug)]
struct Settings {
    address: Url,
    content_type: &'static str,
    timeout: Duration,
    tls: ClientConfig,
    proxied: bool,
    http2: bool,
    access: Access,
}

/// Sends to one address.
#[derive(Debug)]
pub(super) struct Client {
    settings: Settings,
    leases: Vec<Lease>,
    closed: UnboundedReceiver<(ConnectionId, Closed)>,
    closed_by: UnboundedSender<(ConnectionId, Closed)>,
}

#[derive(Debug)]
struct Lease {
    id: ConnectionId,
    client: reqwest::Client,
    noting: Noting,
    connection: Option<Watched>,
    begun: u64,
}

/// A connection that is there. Dropped, it is closed.
#[derive(Debug)]
struct Watched {
    socket: Arc<OwnedFd>,
    watch: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
        socket::hang_up(&*self.socket);
    }
}

impl Client {
    /// A client for `address`, without a connection yet. With `http2`, that version is spoken where the server can.
    pub(super) fn new(
        address: Url,
        content_type: &'static str,
        timeout: Duration,
        http2: bool,
        access: Access,
    ) -> Result<Self, StartError> {
        let (tls, proxied) = way_to(&address, http2, &access)?;
        let (closed_by, closed) = unbounded_channel();
        let settings = Settings { address, content_type, timeout, tls, proxied, http2, access };
        // What cannot be built at all is known now.
        settings.lease(Noting::default())?;
        Ok(Self { settings, leases: Vec::new(), closed, closed_by })
    }

    /// Makes ready for a new connection of this name, which the next request will open.
    pub(super) fn open(&mut self, id: ConnectionId) {
        let noting = Noting::default();
        // It was built once with the same settings; if it cannot be now, the request says so.
        if let Ok(client) = self.settings.lease(noting.clone()) {
            self.leases.push(Lease { id, client, noting, connection: None, begun: 0 });
        }
    }

    /// Closes the connection of this name. True if there was one.
    pub(super) fn close(&mut self, id: ConnectionId) -> bool {
        let Some(place) = self.leases.iter().position(|lease| lease.id == id) else { return false };
        self.leases.swap_remove(place).begun > 0
    }

    /// Closes all of them. How many there were.
    pub(super) fn close_all(&mut self) -> usize {
        self.leases.drain(..).filter(|lease| lease.begun > 0).count()
    }

    /// Completes when the other end closes a connection. Those that carry a request are told of too.
    pub(super) async fn closed(&mut self) -> (ConnectionId, Closed) {
        // One sender is ours, so there is always another word to wait for.
        self.closed.recv().await.unwrap_or_else(|| unreachable!("a sender is ours"))
    }

    /// What [`Self::closed`] would say without waiting.
    pub(super) fn closed_already(&mut self) -> Option<(ConnectionId, Closed)> {
        self.closed.try_recv().ok()
    }

    /// Whether something lies on this connection that nobody has read: an end, or bytes nobody asked for.
    pub(super) fn is_doubtful(&self, id: ConnectionId) -> bool {
        let lease = self.leases.iter().find(|lease| lease.id == id);
        let connection = lease.and_then(|lease| lease.connection.as_ref());
        connection.is_some_and(|connection| !socket::is_quiet(&*connection.socket))
    }

    /// Sends `request` over the connection of this name.
    pub(super) async fn post(&mut self, id: ConnectionId, request: Outgoing) -> Exchange {
        let Self { settings, leases, closed_by, .. } = self;
        let sent = Instant::now();
        let Some(lease) = leases.iter_mut().find(|lease| lease.id == id) else {
            let cause = "no HTTP client could be made".to_owned();
            let result = Err(Failure { kind: FailureKind::Canceled, cause, evidence: None });
            return Exchange { sent, first_byte: None, result, replaced: false };
        };
        let before = lease.info();
        let answered = settings.dress(&lease.client, request).send().await;
        let at = Instant::now();
        let made = lease.note(closed_by);
        let (sent, before) = made.unwrap_or((sent, before));
        let replaced = made.is_some() && lease.begun > 1;
        let (first_byte, result) = match answered {
            Ok(response) => (Some(at), Ok(answer(response).await)),
            Err(error) => {
                let moved = |(before, after): (TcpInfo, TcpInfo)| Evidence {
                    sent: after.bytes_sent.saturating_sub(before.bytes_sent),
                    acked: after.bytes_acked.saturating_sub(before.bytes_acked),
                };
                let evidence = before.zip(lease.info()).map(moved);
                let failure = failure(&error, evidence);
                if failure.kind == FailureKind::Timeout
                    && let Some(connection) = &lease.connection
                {
                    // What was not acknowledged yet is not to arrive later, beside the next attempt.
                    socket::reset_when_closed(&*connection.socket);
                }
                (None, Err(failure))
            }
        };
        Exchange { sent, first_byte, result, replaced }
    }
}

/// How `address` is reached: TLS settings, and whether a proxy may be between.
pub(super) fn way_to(
    address: &Url,
    http2: bool,
    access: &Access,
) -> Result<(ClientConfig, bool), StartError> {
    // A proxy has no business between us and this very machine.
    let proxied = !is_loopback(address);
    let encrypted = address.scheme() == "https" || (proxied && proxy_is_set());
    Ok((tls(encrypted, http2, access)?, proxied))
}

/// What all our clients have in common: they go where they are told, and say who they are.
pub(super) fn builder(tls: ClientConfig, proxied: bool, timeout: Duration) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls);
    if proxied { builder } else { builder.no_proxy() }
}

impl Settings {
    fn lease(&self, noting: Noting) -> Result<reqwest::Client, StartError> {
        let mut builder = builder(self.tls.clone(), self.proxied, self.timeout)
            .pool_max_idle_per_host(1)
            // Only we say when it is closed; and no timer runs for it.
            .pool_idle_timeout(None)
            .connector_layer(noting);
        builder = match (self.http2, self.address.scheme()) {
            (false, _) => builder.http1_only(),
            // The two ends agree on it while they set up the encryption.
            (true, "https") => builder,
            (true, _) => builder.http2_prior_knowledge(),
        };
        builder.build().map_err(StartError::Client)
    }

    fn dress(&self, client: &reqwest::Client, request: Outgoing) -> reqwest::RequestBuilder {
        let Outgoing { query, gzip, body } = request;
        let mut address = self.address.clone();
        if !query.is_empty() {
            address.query_pairs_mut().extend_pairs(query);
        }
        let mut request = client
            .post(address)
            .body(body)
            .headers(self.access.headers())
            .header(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if gzip {
            request = request.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.http2 {
            // HTTP/2 forbids the header.
            return request;
        }
        // The default of HTTP/1.1, but some servers advertise their timeout only to those who say it.
        request.header(CONNECTION, HeaderValue::from_static("keep-alive"))
    }
}

impl Lease {
    fn info(&self) -> Option<TcpInfo> {
        self.connection.as_ref().and_then(|connection| socket::info(&*connection.socket))
    }

    /// Watches the connection that was made since the last time, if one was. When that was, and what the kernel knew
    /// of it then.
    fn note(
        &mut self,
        closed_by: &UnboundedSender<(ConnectionId, Closed)>,
    ) -> Option<(Instant, Option<TcpInfo>)> {
        let mut notes = self.noting.notes();
        self.begun = notes.begun;
        let Made { at, socket, info } = notes.made.take()?;
        drop(notes);
        self.connection = socket.map(|socket| {
            let socket = Arc::new(socket);
            let (id, watched, closed_by) = (self.id, Arc::clone(&socket), closed_by.clone());
            let watch = tokio::spawn(async move {
                if let Ok(closed) = socket::closed(watched).await {
                    // The other end of the channel goes only with all connections.
                    let _ = closed_by.send((id, closed));
                }
            });
            Watched { socket, watch: watch.abort_handle() }
        });
        Some((at, info))
    }
}

/// Reads an answer. Its head alone decides what it means, so a body that never ends costs only the connection.
async fn answer(mut response: Response) -> Answer {
    let headers = response.headers();
    let closes = closes(response.version(), headers);
    let keep_alive = KeepAlive::read(headers.get_all(KEEP_ALIVE).iter().map(HeaderValue::as_bytes));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after =
        headers.get(RETRY_AFTER).and_then(|value| retry_after(value.as_bytes(), SystemTime::now()));
    let html = text(CONTENT_TYPE).is_some_and(|value| value.trim_start().starts_with("text/html"));
    let location = headers.get(LOCATION).map(|to| to.as_bytes().to_vec());
    let status = response.status().as_u16();

    let (mut body, mut read, mut whole) = (Vec::new(), 0, false);
    while read <= ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                // One more than an error can have, so that a longer answer is seen to be none.
                let kept = chunk.len().min(BODY_BYTES_MAX + 1 - body.len());
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
    let error = ConnectError::read(&body);
    let message = error.as_ref().map(|error| error.message.as_bytes()).filter(|message| !message.is_empty());
    let words = quotable(location.as_deref().or(message).unwrap_or(&body));
    let (code, closes) = (error.map(|error| error.code), closes || !whole);
    Answer { status, html, code, said: Said { keep_alive, closes }, retry_after, words }
}

/// Finds out how a request failed: the kind is somewhere down the chain of causes.
pub(super) fn failure(error: &reqwest::Error, evidence: Option<Evidence>) -> Failure {
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
    if let Some(trouble) = certificates::trouble(error) {
        cause = trouble;
    }
    // Where the time was up, the chain ends with words that add nothing.
    Failure { kind, cause: quotable(cause.as_bytes()), evidence }
}

fn kind_of(error: &(dyn Error + 'static)) -> FailureKind {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return match () {
            () if error.is_incomplete_message() => FailureKind::Eof,
            () if error.is_canceled() => FailureKind::Canceled,
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
pub(crate) fn tls(encrypted: bool, http2: bool, access: &Access) -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    if encrypted {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        for authority in access.authorities.iter() {
            roots.add(authority.clone()).map_err(StartError::Identity)?;
        }
        if roots.is_empty() {
            let cause = found.errors.first().map_or("none is installed".to_owned(), ToString::to_string);
            return Err(StartError::Certificates { cause });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of the default versions")
        .with_root_certificates(roots);
    let mut tls = match &access.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(StartError::Identity)?,
    };
    let versions: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    tls.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
    Ok(tls)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::deliver::connection::{Carrier, Config, Keeper, WhenShort};

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
        let mut client =
            Client::new(address, "application/proto", Duration::from_secs(3), false, Access::default())
                .unwrap();
        let mut keeper = Keeper::new(Config {
            interval: Duration::from_secs(10),
            guard_min: Duration::ZERO,
            timeout: None,
            when_short: WhenShort::Retire,
            hint: None,
        });
        let begun = std::time::Instant::now();
        for _ in 0..1_000 {
            if let Carrier::Fresh(id, _) = keeper.begin(begun) {
                client.open(id);
                client.close(id);
            }
        }
        // Microseconds in truth; what this must catch is certificates being read again each time.
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
