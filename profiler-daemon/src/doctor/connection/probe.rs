//! Opens connections, asks once over each and leaves them idle until somebody closes them.
//!
//! In: an address and a patience. Out: what was seen, and each step as it happens. Not here: what it means.
//!
//! The connections are ours from the socket up, so that nobody else closes them or uses them again: HTTP is
//! spoken over them for one request and then put aside, and the kernel is asked how they end. Everything that
//! comes from the other side is bounded in time and in bytes.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, HOST, HeaderName, HeaderValue, SERVER, USER_AGENT, VIA};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::Event;
use super::address::Address;
use super::seen::{Answer, Ending, Opened, Seen};
use crate::deliver::keep_alive::{KeepAlive, closes, contains};
use crate::socket::{self, Closed, End, How};

/// How long each step may take: a name, a connection, an answer. As long as a push may.
const STEP_MAX: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried at most: each may take its time to fail.
const PEERS_MAX: usize = 4;
/// Most of an answer's head that is read, bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most of an answer's body that is read, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest header value that is shown, characters.
const SHOWN_MAX: usize = 80;
/// Between the openings of two connections: closes that do not come so far apart are no timeouts.
const STAGGER: Duration = Duration::from_millis(37);
/// A connection that ends so soon after its answer ended because of it.
const WITH_ANSWER: Duration = Duration::from_millis(50);
/// How long a server that said it will close is given for it, before we do.
const CLOSE_MAX: Duration = Duration::from_secs(1);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const AGENT: &str = concat!("profiler-daemon/", env!("CARGO_PKG_VERSION"), " doctor");

/// Why nothing was measured. Whatever the other side said is fit to be shown.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The name leads nowhere.
    #[error("{host} cannot be looked up ({cause})")]
    Name {
        /// The name.
        host: String,
        /// Why.
        cause: String,
    },
    /// Nobody listens, or no way leads there.
    #[error("cannot connect to {peer} ({cause})")]
    Connect {
        /// Where.
        peer: SocketAddr,
        /// Why.
        cause: String,
    },
    /// TLS was not agreed on.
    #[error("the TLS handshake with {peer} failed ({cause})")]
    Tls {
        /// With whom.
        peer: SocketAddr,
        /// Why.
        cause: String,
    },
    /// Something came that is no answer.
    #[error("what {peer} speaks is not HTTP/1.1 ({cause})")]
    NotHttp {
        /// Who.
        peer: SocketAddr,
        /// What is wrong.
        cause: String,
    },
    /// The connection ended instead of an answer.
    #[error("{peer} closed the connection instead of answering ({cause})")]
    Hangup {
        /// Who.
        peer: SocketAddr,
        /// How.
        cause: String,
    },
    /// Nothing came.
    #[error("{peer} took the connection and gave no answer within {} s", STEP_MAX.as_secs())]
    Silent {
        /// Who.
        peer: SocketAddr,
    },
}

impl Trouble {
    /// The word in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Name { .. } | Self::Connect { .. } => "unreachable",
            Self::Tls { .. } => "tls_failure",
            Self::NotHttp { .. } | Self::Hangup { .. } => "not_http",
            Self::Silent { .. } => "no_answer",
        }
    }

    /// What to look at.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Name { .. } => "is the name right, and is there a resolver?",
            Self::Connect { .. } => "is the server running there, and does a firewall let us through?",
            Self::Tls { .. } => {
                "is TLS spoken on that port, does the certificate have that name, and is its authority known here (SSL_CERT_FILE)?"
            }
            Self::NotHttp { .. } | Self::Hangup { .. } => {
                "is that the port of the server, and is the scheme right (http or https)?"
            }
            Self::Silent { .. } => "does the server hang, or is that another's port?",
        }
    }
}

/// Opens three connections to `address`, asks once over each, and watches them while they are idle, `patience` at most.
/// Tells each step. Whoever fails beside one that does not is left out.
pub(super) async fn probe(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    patience: Duration,
    tell: &dyn Fn(Event),
) -> Result<Vec<Seen>, Trouble> {
    let asker = Asker { address, tls, patience, tell };
    let (peer, stream) = asker.connect().await?;
    let mut request = &PUSH;
    let mut first = asker.ask(stream, peer, request, 0).await?;
    // A server may close only because of what it was asked.
    if first.is_over().await {
        let again = async { asker.ask(open(peer).await?, peer, &READY, 0).await };
        if let Ok(mut other) = again.await
            && !other.is_over().await
        {
            other.answer.pushable = first.answer.pushable;
            other.answer.status = first.answer.status;
            request = &READY;
            first = other;
        }
    }
    let later = async |number: usize| {
        sleep(STAGGER * u32::try_from(number).unwrap_or(1)).await;
        let line = asker.ask(open(peer).await?, peer, request, number).await?;
        Ok::<_, Trouble>(asker.watch(line, number).await)
    };
    let (first, second, third) = tokio::join!(asker.watch(first, 0), later(1), later(2));
    Ok([Ok(first), second, third].into_iter().filter_map(Result::ok).collect())
}

/// What is asked.
struct Asked {
    method: Method,
    path: fn(&Address) -> &str,
}

static PUSH: Asked = Asked { method: Method::HEAD, path: |address| &address.push_path };
static READY: Asked = Asked { method: Method::GET, path: |address| &address.ready_path };

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection over which was asked.
struct Line {
    stream: Box<dyn Stream>,
    asked: &'static Asked,
    /// A second descriptor of its socket.
    socket: OwnedFd,
    begun: Instant,
    answered: Instant,
    /// Bytes that had come by then.
    received: u64,
    opened: Opened,
    answer: Answer,
    /// How it ended with the answer, if it is known to have.
    over: Option<(End, How)>,
}

impl Line {
    /// Whether the connection ends with its answer.
    async fn is_over(&mut self) -> bool {
        if self.over.is_none() {
            let grace = if self.answer.closes { CLOSE_MAX } else { WITH_ANSWER };
            let ended = closed_until(&self.socket, self.answered + grace).await;
            self.over = ended.map(|closed| (closed.by, closed.how));
            if self.answer.closes {
                self.over.get_or_insert((End::Client, How::Fin));
            }
        }
        self.over.is_some()
    }
}

struct Asker<'a> {
    address: &'a Address,
    tls: Option<&'a Arc<ClientConfig>>,
    patience: Duration,
    tell: &'a dyn Fn(Event),
}

/// A connection and how long it took to get it.
type Fresh = (TcpStream, Duration);

impl Asker<'_> {
    /// Looks the name up and connects to the first of its addresses that takes it.
    async fn connect(&self) -> Result<(SocketAddr, Fresh), Trouble> {
        let Address { host, port, .. } = self.address;
        let unknown = |cause: String| Trouble::Name { host: host.clone(), cause };
        let looked_up = timeout(STEP_MAX, tokio::net::lookup_host((host.as_str(), *port))).await;
        let peers = looked_up
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| unknown(plain(error.to_string().as_bytes())))?;
        let peers: Vec<SocketAddr> = peers.take(PEERS_MAX).collect();
        let mut last = unknown("it has no address".to_owned());
        for &peer in &peers {
            match open(peer).await {
                Ok(fresh) => {
                    if peers.len() > 1 {
                        (self.tell)(Event::Chosen { peer, of: peers.len() });
                    }
                    return Ok((peer, fresh));
                }
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// Asks once over a new connection.
    async fn ask(
        &self,
        (stream, connect): Fresh,
        peer: SocketAddr,
        asked: &'static Asked,
        number: usize,
    ) -> Result<Line, Trouble> {
        let broken = |error: io::Error| Trouble::Connect { peer, cause: error.to_string() };
        let local = stream.local_addr().map_err(broken)?;
        let socket = stream.as_fd().try_clone_to_owned().map_err(broken)?;
        let (stream, tls): (Box<dyn Stream>, _) = match self.tls {
            None => (Box::new(stream), None),
            Some(config) => {
                let begun = Instant::now();
                (Box::new(self.encrypt(config, stream, peer).await?), Some(begun.elapsed()))
            }
        };
        let Exchange { stream, begun, answered, mut answer } =
            exchange(stream, self.address, asked, peer).await?;
        let info = socket::info(&socket);
        answer.rtt = info.map(|info| info.rtt);
        answer.rtt_min = info.map(|info| info.rtt_min);
        let opened = Opened { local, peer, connect, tls };
        (self.tell)(Event::Answered { number, opened, answer: Box::new(answer.clone()) });
        Ok(Line {
            stream,
            asked,
            socket,
            begun,
            answered,
            received: info.map_or(0, |info| info.bytes_received),
            opened,
            answer,
            over: None,
        })
    }

    async fn encrypt(
        &self,
        config: &Arc<ClientConfig>,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<impl Stream + use<>, Trouble> {
        let host = &self.address.host;
        let name = ServerName::try_from(host.clone())
            .map_err(|error| Trouble::Tls { peer, cause: error.to_string() })?;
        let failed = |error: io::Error| Trouble::Tls { peer, cause: plain(error.to_string().as_bytes()) };
        timeout(STEP_MAX, TlsConnector::from(Arc::clone(config)).connect(name, stream))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)
    }

    /// Leaves a connection idle until it is closed, or the patience is over.
    async fn watch(&self, mut line: Line, number: usize) -> Seen {
        let ending = if line.is_over().await {
            let (by, how) = line.over.unwrap_or((End::Client, How::Fin));
            Ending::WithAnswer { by, how }
        } else {
            self.idle(&mut line).await
        };
        (self.tell)(Event::Ended { number, local: line.opened.local, ending });
        Seen { opened: line.opened, answer: line.answer, ending }
    }

    async fn idle(&self, line: &mut Line) -> Ending {
        let until = line.begun + self.patience;
        if let Some(closed) = closed_until(&line.socket, until).await {
            return line.ended(closed);
        }
        sleep_until(until).await;
        // Nobody closed it. Whether it is alive only a request can tell: what sits in between may have forgotten it.
        let idle = line.begun.elapsed();
        let stream = std::mem::replace(&mut line.stream, Box::new(tokio::io::empty()));
        match exchange(stream, self.address, line.asked, line.opened.peer).await {
            Ok(_) => Ending::Open { idle },
            // It may have been closed at this very moment.
            Err(trouble) => match (closed_until(&line.socket, Instant::now()).await, trouble) {
                (Some(closed), _) => line.ended(closed),
                (None, Trouble::Silent { .. }) => Ending::Dead { idle },
                (None, _) => Ending::Spoilt { idle },
            },
        }
    }
}

impl Line {
    fn ended(&self, closed: Closed) -> Ending {
        let received = socket::info(&self.socket).map_or(0, |info| info.bytes_received);
        // A FIN counts as a byte.
        let fin = u64::from(closed.how == How::Fin);
        Ending::Closed {
            by: closed.by,
            how: closed.how,
            idle: closed.at.saturating_duration_since(self.begun),
            unasked_bytes: received.saturating_sub(self.received).saturating_sub(fin),
        }
    }
}

async fn open(peer: SocketAddr) -> Result<Fresh, Trouble> {
    let begun = Instant::now();
    let connected = timeout(STEP_MAX, TcpStream::connect(peer)).await;
    let stream = connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| Trouble::Connect { peer, cause: error.to_string() })?;
    let took = begun.elapsed();
    // A request is one write; whether it is sent at once must not depend on what was sent before.
    let _ = stream.set_nodelay(true);
    Ok((stream, took))
}

/// The end of the connection, if it comes before `until`.
async fn closed_until(socket: &OwnedFd, until: Instant) -> Option<Closed> {
    // Without a descriptor to watch nothing can be seen, and the request at the end tells.
    let copy = socket.try_clone().ok()?;
    timeout_at(until, socket::closed(copy)).await.ok()?.ok()
}

/// An answer, and the connection it came over.
struct Exchange {
    stream: Box<dyn Stream>,
    begun: Instant,
    answered: Instant,
    answer: Answer,
}

/// Sends one request and reads what comes back.
async fn exchange(
    stream: Box<dyn Stream>,
    address: &Address,
    asked: &Asked,
    peer: SocketAddr,
) -> Result<Exchange, Trouble> {
    let trouble = |error: &hyper::Error| {
        let cause = plain(deepest(error).as_bytes());
        match () {
            () if error.is_incomplete_message() || error.is_canceled() || is_io(error) => {
                Trouble::Hangup { peer, cause }
            }
            () => Trouble::NotHttp { peer, cause },
        }
    };
    let request = Request::builder()
        .method(&asked.method)
        .uri((asked.path)(address))
        .header(HOST, &address.authority)
        // The default of HTTP/1.1, but some servers advertise their timeout only to those who say it.
        .header(CONNECTION, HeaderValue::from_static("keep-alive"))
        .header(USER_AGENT, HeaderValue::from_static(AGENT))
        .body(Empty::<Bytes>::new())
        .expect("paths and authority come from a URL that was understood");

    let conversation = async {
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| trouble(&error))?;
        let begun = Instant::now();
        let answering = async {
            let response = sender.send_request(request).await?;
            let first_byte = begun.elapsed();
            Ok::<_, hyper::Error>(read(response, first_byte, asked).await)
        };
        let answer = {
            let mut answering = pin!(answering);
            let mut failed = None;
            let mut over = false;
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                        // What the connection failed of says more than that the request did.
                        return Poll::Ready(answer.map_err(|error| failed.take().unwrap_or(error)));
                    }
                    if over {
                        return Poll::Pending;
                    }
                    match connection.poll_without_shutdown(cx) {
                        Poll::Ready(ended) => (over, failed) = (true, ended.err()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            })
            .await
            .map_err(|error| trouble(&error))?
        };
        let stream = connection.into_parts().io.into_inner();
        Ok(Exchange { stream, begun, answered: Instant::now(), answer })
    };
    timeout(STEP_MAX, conversation).await.unwrap_or(Err(Trouble::Silent { peer }))
}

/// Reads an answer. A body that does not end within bounds leaves a connection that nobody can use again.
async fn read(mut response: Response<Incoming>, first_byte: Duration, asked: &Asked) -> Answer {
    let mut whole = false;
    let mut read = 0;
    while read <= BODY_BYTES_MAX {
        match response.body_mut().frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => break,
            None => {
                whole = true;
                break;
            }
        }
    }
    let headers = response.headers();
    let shown = |name: HeaderName| {
        let values: Vec<String> = headers.get_all(name).iter().map(|value| plain(value.as_bytes())).collect();
        (!values.is_empty()).then(|| values.join(", "))
    };
    let advertised = KeepAlive::read(headers.get_all(KEEP_ALIVE).iter().map(HeaderValue::as_bytes));
    let closes = closes(response.version(), headers);
    Answer {
        method: if asked.method == Method::HEAD { "HEAD" } else { "GET" },
        status: response.status().as_u16(),
        version: response.version(),
        first_byte,
        server: shown(SERVER),
        via: shown(VIA),
        connection: shown(CONNECTION),
        keep_alive: shown(KEEP_ALIVE),
        advertised,
        closes: closes || !whole || advertised.requests == Some(0),
        pushable: pushable(response.status(), headers),
        rtt: None,
        rtt_min: None,
    }
}

/// Whether the push path is known where this answered to a `HEAD` for it; `None` if that cannot be told.
fn pushable(status: StatusCode, headers: &HeaderMap) -> Option<bool> {
    match status.as_u16() {
        405 => Some(contains(headers, ALLOW, "POST")),
        415 => Some(true),
        401 | 403 | 407 | 408 | 429 | 500.. => None,
        _ => Some(false),
    }
}

fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<io::Error>())
}

/// The innermost cause.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

/// What someone else wrote, fit for a terminal: no control characters, and not too long.
fn plain(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(4 * SHOWN_MAX)];
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}
