//! What was received: the books of one cell, which every server that ends its connections fills, and a server of the
//! test's own (hyper's) that stands behind proxies or is met directly.
//!
//! In: bodies of pushes. Out: how many profiles came, and how often. Not here: who sent them.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use profiler_daemon::pprof::{self, Message};
use profiler_daemon::server::wire::PushRequest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;

use crate::servers::LONG;

/// Bytes of a request at most, unpacked.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What came, of one cell.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// By labels and time: the bytes that came, by their hash.
    profiles: Mutex<HashMap<(String, i64), HashSet<u64>>>,
    /// Requests that came, by their hash, each with how often.
    bodies: Mutex<HashMap<u64, u64>>,
    /// Requests to the test's own server, the refused ones too.
    requests: AtomicU64,
}

/// The books, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Profiles, each once.
    pub(crate) profiles: u64,
    /// Requests that had come before, byte by byte.
    pub(crate) repeats: u64,
    /// Profiles that came with other bytes than before: nobody could count them once.
    pub(crate) doubles: u64,
}

impl Books {
    /// Takes the body of a push.
    pub(crate) fn take(&self, body: &[u8]) {
        let bytes = pprof::gunzip(body, REQUEST_BYTES_MAX).expect("a gzipped request");
        let request = PushRequest::decode(bytes.as_slice()).expect("a PushRequest");
        *lock(&self.bodies).entry(hash(body)).or_default() += 1;
        let mut profiles = lock(&self.profiles);
        for series in request.series {
            let labels: Vec<String> =
                series.labels.iter().map(|pair| format!("{}={}", pair.name, pair.value)).collect();
            for sample in series.samples {
                let profile = pprof::Profile::decode(sample.raw_profile.as_slice()).expect("a profile");
                let key = (labels.join(","), profile.time_nanos);
                profiles.entry(key).or_default().insert(hash(&sample.raw_profile));
            }
        }
    }

    /// What came until now.
    pub(crate) fn received(&self) -> Received {
        let profiles = lock(&self.profiles);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Received {
            profiles: count(profiles.len()),
            repeats: lock(&self.bodies).values().map(|times| times - 1).sum(),
            doubles: profiles.values().map(|bytes| count(bytes.len()) - 1).sum(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}

/// How the test's own server behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// How long a connection may be idle; hyper calls it the time to read a request's head.
    pub(crate) idle_timeout: Option<Duration>,
    /// The `Keep-Alive` header.
    pub(crate) keep_alive: Option<String>,
    /// Requests that are answered by a 429, by their number.
    pub(crate) refused: std::ops::Range<u64>,
    /// How encryption is set up, if it is: and which protocol is spoken then.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

const HTTP2: &[u8] = b"h2";

/// TLS with the certificate in `folder`, for HTTP/2 or for HTTP/1.1.
pub(crate) fn tls(folder: &Path, http2: bool) -> Arc<ServerConfig> {
    let certificate =
        CertificateDer::from_pem_file(folder.join("certificate.pem")).expect("it was made before");
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("it was made before");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    config.alpn_protocols = vec![if http2 { HTTP2 } else { b"http/1.1" }.to_vec()];
    Arc::new(config)
}

/// Serves on a port of its own for as long as the runtime runs.
pub(crate) async fn serve(books: Arc<Books>, manners: Manners) -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("it has one");
    tokio::spawn(accept(listener, books, manners));
    address
}

/// Serves on `listener`.
pub(crate) async fn accept(listener: std::net::TcpListener, books: Arc<Books>, manners: Manners) {
    listener.set_nonblocking(true).expect("a socket's option");
    let listener = TcpListener::from_std(listener).expect("a runtime that knows sockets");
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        tokio::spawn(converse(socket, Arc::clone(&books), manners.clone()));
    }
}

async fn converse(socket: TcpStream, books: Arc<Books>, manners: Manners) {
    let _ = socket.set_nodelay(true);
    let Some(tls) = manners.tls.clone() else {
        return converse1(TokioIo::new(socket), &books, &manners).await;
    };
    let Ok(stream) = TlsAcceptor::from(tls).accept(socket).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
        converse2(TokioIo::new(stream), &books, &manners).await;
    } else {
        converse1(TokioIo::new(stream), &books, &manners).await;
    }
}

async fn converse1(io: impl Read + Write + Unpin, books: &Books, manners: &Manners) {
    let mut http = http1::Builder::new();
    match manners.idle_timeout {
        Some(timeout) => http.timer(TokioTimer::new()).header_read_timeout(timeout),
        None => http.header_read_timeout(None),
    };
    // However a connection ends, the other side has noticed.
    let _ = http.serve_connection(io, service_fn(|request| answer(request, books, manners))).await;
}

/// hyper has no timer for idle connections of HTTP/2: a server asks it to say goodbye when nothing was asked for so long.
async fn converse2(io: impl Read + Write + Unpin, books: &Arc<Books>, manners: &Manners) {
    let last = Arc::new(Mutex::new(Instant::now()));
    let answer = service_fn(|request| {
        let (books, manners, last) = (Arc::clone(books), manners.clone(), Arc::clone(&last));
        async move {
            let answered = answer(request, &books, &manners).await;
            *lock(&last) = Instant::now();
            answered
        }
    });
    let mut connection = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer));
    let timeout = manners.idle_timeout.unwrap_or(LONG);
    let mut goes_on = true;
    loop {
        let until = *lock(&last) + timeout;
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep_until(until), if goes_on => {
                if *lock(&last) + timeout <= Instant::now() {
                    connection.as_mut().graceful_shutdown();
                    goes_on = false;
                }
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    books: &Books,
    manners: &Manners,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let number = books.requests.fetch_add(1, Ordering::Relaxed);
    let body = request.into_body().collect().await;
    let mut answer = Response::builder();
    if let Some(keep_alive) = &manners.keep_alive {
        answer = answer.header("keep-alive", keep_alive).header("connection", "keep-alive");
    }
    let mut words = "";
    match body {
        _ if manners.refused.contains(&number) => {
            answer = answer.status(429).header("retry-after", "1");
            words = "slower, please";
        }
        Ok(body) => books.take(&body.to_bytes()),
        // Whoever sent a half of it does not wait for this.
        Err(_) => answer = answer.status(400),
    }
    Ok(answer.body(Full::new(Bytes::from_static(words.as_bytes()))).expect("a plain answer"))
}
