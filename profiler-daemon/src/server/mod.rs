//! The embedded server: a small Pyroscope in a process of its own.
//!
//! In: pushes over HTTP, and questions of the page. Out: answers. The last hour is in memory; nothing here runs when
//! nobody asks. The server and the agent know each other by HTTP only.
//! Not here: how the process is started and confined (`children`), the command line (`cli`).

mod connection;
mod meters;
mod page;
mod profile;
mod push;
mod query;
mod refusal;
mod store;
mod web;
pub mod wire;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use axum::extract::Query;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use self::connection::{Patience, Progress, Timed};
use self::meters::ServerMeters;
pub use self::profile::Limits;
use self::query::{Host, Question, Resolved};
use self::store::{Bounds, Store};
use self::web::{
    Answer, BodyError, BodyRoom, check_origin, json, method_not_allowed, plain, refused, says_close,
};
use crate::meters::{CONTENT_TYPE, Meters};
use crate::time::WallNs;

/// How the embedded server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens if the caller has no socket for it yet.
    pub listen: SocketAddr,
    /// How long a connection is kept between two requests, and that is what answers advertise. The slowest SDK pushes
    /// every 60 s, and whoever closes while a push is on its way loses it: twice that.
    pub idle_timeout: Duration,
    /// How long a request may take from its first byte to its last.
    pub read_timeout: Duration,
    /// How long an answer may take from its first byte to its last.
    pub write_timeout: Duration,
    /// Bytes of one request, as sent and as decompressed.
    pub body_bytes_max: usize,
    /// Bytes of all requests that are arriving.
    pub bodies_bytes_max: usize,
    /// Connections at once: one for each client, and a browser opens six.
    pub connections_max: usize,
    /// Memory for profiles, bytes. When it is short the oldest go.
    pub memory_bytes_max: usize,
    /// Series at a time.
    pub series_max: usize,
    /// How long profiles are kept.
    pub keep: Duration,
    /// What a profile may be.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4040)),
            idle_timeout: Duration::from_secs(120),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            body_bytes_max: 16 << 20,
            bodies_bytes_max: 64 << 20,
            connections_max: 256,
            memory_bytes_max: 64 << 20,
            series_max: 5_000,
            keep: Duration::from_secs(3600),
            limits: Limits::default(),
        }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Profiles show what every user of a machine runs.
    #[error(
        "the embedded server listens on loopback only, not on {0}: profiles show what runs on this machine to whoever \
         can connect. Listen on 127.0.0.1 and reach it by `ssh -L 4040:127.0.0.1:4040`, or push to a Pyroscope"
    )]
    NotLoopback(SocketAddr),
    /// The socket is of no use.
    #[error("cannot serve on the socket: {0}. Choose another address with --listen")]
    Socket(#[from] io::Error),
}

/// How long requests that are being answered may take once the server is to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// After the machine had no file for a new connection: how long to leave it in peace.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves on `listener` until `stop`. To be run on a current-thread runtime with I/O and time.
pub async fn serve(
    listener: std::net::TcpListener,
    config: Config,
    meters: &Meters,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let server = Rc::new(Server::new(config, address.ip(), meters));
    LocalSet::new().run_until(accept(listener, &server, stop)).await;
    Ok(())
}

async fn accept(listener: TcpListener, server: &Rc<Server>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let socket = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match socket {
            Ok((socket, _)) if connections.len() >= server.config.connections_max => {
                server.meters.connection_refused();
                turn_away(&socket);
            }
            Ok((socket, _)) => {
                connections.spawn_local(converse(socket, Rc::clone(server), stopped.clone()));
            }
            // The other side gave up already, or there is no file descriptor: both pass.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    drop(stopping);
    let all_done = async { while connections.join_next().await.is_some() {} };
    // Who is slower than that is cut off.
    let _ = tokio::time::timeout(STOP_GRACE, all_done).await;
}

/// Says why there is no conversation, if the words fit into the socket at once.
fn turn_away(socket: &TcpStream) {
    let _ = socket.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    );
}

/// One connection, from its first request to its end.
async fn converse(socket: TcpStream, server: Rc<Server>, mut stopped: watch::Receiver<()>) {
    // Answers are written in one piece; without this the last part of a long one waits for an acknowledgement.
    let _ = socket.set_nodelay(true);
    let Config { idle_timeout: idle, read_timeout: read, write_timeout: write, .. } = server.config;
    let (socket, progress) = Timed::new(socket, Patience { idle, read, write });
    server.meters.connection_opened();
    let answer = service_fn(|request| {
        let (server, progress) = (Rc::clone(&server), progress.clone());
        async move { server.answer(request, &progress).await }
    });
    let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
    // Whatever ended it, the other side has noticed; how it ended is counted.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.as_mut().await;
        }
    }
    server.meters.connection_ended(progress.expired());
}

/// Why a request gets no answer: its connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[error("the request did not arrive whole")]
struct Unanswerable(#[source] hyper::Error);

struct Server {
    config: Config,
    address: IpAddr,
    host: Host,
    bodies: BodyRoom,
    store: RefCell<Store>,
    meters: ServerMeters,
    /// Another number each time the server starts, so that nobody takes an old answer for a new one.
    boot: u64,
}

impl Server {
    fn new(config: Config, address: IpAddr, meters: &Meters) -> Self {
        let bounds = Bounds {
            keep: config.keep,
            memory_bytes_max: config.memory_bytes_max,
            series_max: config.series_max,
        };
        Self {
            bodies: BodyRoom::new(config.body_bytes_max, config.bodies_bytes_max),
            config,
            address,
            host: Host::this(),
            store: RefCell::new(Store::new(bounds)),
            meters: ServerMeters::new(meters),
            boot: WallNs::now().0.unsigned_abs(),
        }
    }

    async fn answer(&self, request: Request<Incoming>, progress: &Progress) -> Result<Answer, Unanswerable> {
        let close = says_close(request.headers());
        let answer = self.route(request, progress).await?;
        progress.request_is_whole();
        self.meters.answered(answer.status());
        Ok(web::finish(answer, (!close).then_some(self.config.idle_timeout.as_secs())))
    }

    async fn route(&self, request: Request<Incoming>, progress: &Progress) -> Result<Answer, Unanswerable> {
        let (head, body) = request.into_parts();
        if let Err(refusal) = check_origin(&head.method, &head.uri, &head.headers, self.address) {
            return Ok(refused(&refusal));
        }
        if head.uri.path() == push::PATH {
            let accepted = match push::accept(&head.method, &head.headers) {
                Ok(accepted) => accepted,
                Err(answer) => return Ok(*answer),
            };
            let body = match self.bodies.read(body).await {
                Ok(body) => body,
                Err(BodyError::Broken(error)) => return Err(Unanswerable(error)),
                Err(BodyError::Refused(refusal)) => {
                    self.meters.refused(&refusal);
                    return Ok(refused(&refusal));
                }
            };
            progress.request_is_whole();
            let Config { body_bytes_max, ref limits, .. } = self.config;
            let store = &mut self.store.borrow_mut();
            return Ok(push::answer(accepted, &body, body_bytes_max, limits, store, &self.meters));
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            let known = matches!(head.uri.path(), "/ready" | "/metrics" | "/");
            return Ok(if known {
                method_not_allowed("GET, HEAD")
            } else {
                plain(StatusCode::NOT_FOUND, "not found")
            });
        }
        Ok(match head.uri.path() {
            "/ready" => plain(StatusCode::OK, "ready"),
            "/metrics" => web::text(StatusCode::OK, CONTENT_TYPE, self.meters.all.render()),
            "/api/services" => {
                self.ask(&head, |asked, now, store| query::services(asked, now, &self.host, store))
            }
            "/api/flamegraph" => self.ask(&head, |asked, _, store| query::flamegraph(asked, store)),
            path => {
                page::answer(path, &head.headers).unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "not found"))
            }
        })
    }

    /// Answers a question of the page, unless it knows the answer.
    fn ask(
        &self,
        head: &http::request::Parts,
        answer: impl Fn(&Resolved, WallNs, &Store) -> String,
    ) -> Answer {
        let now = WallNs::now();
        let store = &mut self.store.borrow_mut();
        self.meters.evicted(store.evict(now));
        self.meters.store_bytes(store.bytes());
        let question = match Query::<Question>::try_from_uri(&head.uri) {
            Ok(Query(question)) => question,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match Resolved::new(question, now, store) {
            Err(refusal) => refused(&refusal),
            Ok(asked) => {
                let tag = asked.tag(self.boot, store);
                web::unchanged(&head.headers, &tag)
                    .unwrap_or_else(|| web::tagged(json(StatusCode::OK, answer(&asked, now, store)), &tag))
            }
        }
    }
}
