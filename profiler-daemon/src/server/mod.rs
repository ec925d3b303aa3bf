//! The embedded server: a small Pyroscope in a process of its own.
//!
//! In: pushes over HTTP, and questions of the page. Out: answers. History is in a folder, or the last hour in memory;
//! nothing here runs when nobody asks. The server and the agent know each other by HTTP only.
//! Not here: how the process is started and confined (`children`), the command line (`cli`).

mod connect;
mod connection;
mod ingest;
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
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use axum::extract::Query;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};

use self::connect::Accepted;
use self::connection::{Patience, Progress, Timed};
use self::meters::ServerMeters;
pub use self::profile::Limits;
use self::query::{Host, Question, Resolved};
use self::refusal::{Code, Refusal};
use self::store::{Bounds, Journal, Safety, Store};
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
    /// Where history is kept; without it, in memory.
    pub store: Option<PathBuf>,
    /// Memory for profiles, bytes. When it is short the oldest go to the disk, or are dropped.
    pub memory_bytes_max: usize,
    /// Bytes of history on disk. When there are more the oldest go.
    pub disk_bytes_max: u64,
    /// Bytes that stay free on that disk, or a twentieth of it if that is less. When there are fewer the oldest go.
    pub disk_free_bytes_min: u64,
    /// Series at a time.
    pub series_max: usize,
    /// How long profiles are kept in memory.
    pub keep_in_memory: Duration,
    /// How long profiles are kept on disk.
    pub keep_on_disk: Duration,
    /// What a profile may be.
    pub limits: Limits,
}

impl Config {
    fn bounds(&self) -> Bounds {
        Bounds {
            folder: self.store.clone(),
            keep: if self.store.is_some() { self.keep_on_disk } else { self.keep_in_memory },
            memory_bytes_max: self.memory_bytes_max,
            disk_bytes_max: self.disk_bytes_max,
            disk_free_bytes_min: self.disk_free_bytes_min,
            series_max: self.series_max,
            age_max: self.limits.age_max,
        }
    }
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
            store: None,
            memory_bytes_max: 64 << 20,
            disk_bytes_max: 1 << 30,
            disk_free_bytes_min: 1 << 30,
            series_max: 5_000,
            keep_in_memory: Duration::from_secs(3600),
            keep_on_disk: Duration::from_secs(7 * 24 * 3600),
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
    /// History cannot be kept where it was asked to be.
    #[error("cannot keep history in {0}")]
    Store(String),
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
    let (server, journal) = Server::new(config, address.ip(), meters)?;
    let server = Rc::new(server);
    let serve = async {
        let keeper = journal.map(|journal| tokio::task::spawn_local(keep_safe(Rc::clone(&server), journal)));
        accept(listener, &server, stop).await;
        // What nobody waits for any more need not be safe.
        keeper.inspect(|keeper| keeper.abort());
    };
    LocalSet::new().run_until(serve).await;
    Ok(())
}

/// Writes what pushes have changed, all that came while the last of it was written at once, and tells whoever waits.
async fn keep_safe(server: Rc<Server>, journal: Journal) {
    loop {
        server.changed.notified().await;
        loop {
            let work = server.store.borrow_mut().next_work(WallNs::now());
            server.safety.send_replace(server.store.borrow().safety());
            let Some(work) = work else { break };
            let done = journal.run(work).await;
            let (evicted, goes_on) = server.store.borrow_mut().done(done);
            server.safety.send_replace(server.store.borrow().safety());
            server.meters.evicted(evicted);
            if !goes_on {
                break;
            }
        }
    }
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

/// What a Pyroscope says of itself, said of this.
fn build_info() -> String {
    serde_json::json!({ "status": "success", "data": {
        "version": env!("CARGO_PKG_VERSION"), "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    }})
    .to_string()
}

struct Server {
    config: Config,
    address: IpAddr,
    host: Host,
    bodies: BodyRoom,
    store: RefCell<Store>,
    /// The store has changed and is to be made safe.
    changed: Notify,
    /// How far it is safe.
    safety: watch::Sender<Safety>,
    /// Who may ask the store.
    turns: Semaphore,
    meters: ServerMeters,
    /// Another number each time the server starts, so that nobody takes an old answer for a new one.
    boot: u64,
}

impl Server {
    fn new(config: Config, address: IpAddr, meters: &Meters) -> Result<(Self, Option<Journal>), ServeError> {
        let (store, journal) = Store::open(config.bounds(), WallNs::now())
            .map_err(|error| ServeError::Store(error.to_string()))?;
        let server = Self {
            bodies: BodyRoom::new(config.body_bytes_max, config.bodies_bytes_max),
            config,
            address,
            host: Host::this(),
            safety: watch::Sender::new(store.safety()),
            store: RefCell::new(store),
            changed: Notify::new(),
            turns: Semaphore::new(1),
            meters: ServerMeters::new(meters),
            boot: WallNs::now().0.unsigned_abs(),
        };
        Ok((server, journal))
    }

    /// Waits until all that was pushed up to now is on the disk.
    async fn safe(&self) -> Result<(), Refusal> {
        let change = self.store.borrow().version();
        self.changed.notify_one();
        let mut safety = self.safety.subscribe();
        loop {
            let known = safety.borrow_and_update().of(change);
            match known {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => {
                    let message = format!("the history cannot be written, so nothing was stored: {why}");
                    return Err(Refusal::new(Code::Unavailable, "disk", message));
                }
                None => {}
            }
            safety.changed().await.expect("the sender is ours");
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
        let path = head.uri.path();
        let asked = path.strip_prefix(query::api::PATH).filter(|method| query::api::knows(method));
        if path == push::PATH || asked.is_some() {
            let accepted = match connect::accept(&head.method, &head.headers) {
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
            return Ok(match asked {
                None => self.push(accepted, &body).await,
                Some(method) => {
                    let answer = self.query(method, accepted, &body, &head.headers).await;
                    let answer = answer.unwrap_or_else(|refusal| refused(&refusal));
                    web::compressed(answer, &head.headers).await
                }
            });
        }
        if ingest::PATHS.contains(&path) {
            if let Err(answer) = ingest::accept(&head.method) {
                return Ok(*answer);
            }
            let body = match self.bodies.read(body).await {
                Ok(body) => body,
                Err(BodyError::Broken(error)) => return Err(Unanswerable(error)),
                Err(BodyError::Refused(refusal)) => {
                    self.meters.refused(&refusal);
                    return Ok(ingest::refused(&refusal));
                }
            };
            progress.request_is_whole();
            return Ok(self.ingest(&head, body).await);
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            let known = matches!(path, "/ready" | "/metrics" | "/") || query::render::knows(path);
            return Ok(if known {
                method_not_allowed("GET, HEAD")
            } else {
                plain(StatusCode::NOT_FOUND, "not found")
            });
        }
        Ok(match head.uri.path() {
            "/ready" => plain(StatusCode::OK, "ready"),
            "/metrics" => web::text(StatusCode::OK, CONTENT_TYPE, self.meters.all.render()),
            path if query::render::knows(path) => {
                let _turn = self.turn().await;
                let parameters = Query::<HashMap<String, String>>::try_from_uri(&head.uri);
                let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
                let answer = query::render::answer(path, &parameters, WallNs::now(), &self.store.borrow());
                let answer = answer.map(|answer| json(StatusCode::OK, answer));
                let answer = answer.unwrap_or_else(|refusal| refused(&refusal));
                web::compressed(answer, &head.headers).await
            }
            "/api/v1/status/buildinfo" => json(StatusCode::OK, build_info()),
            "/api/services" => {
                let _turn = self.turn().await;
                self.ask(&head, |asked, now, store| query::services(asked, now, &self.host, store))
            }
            "/api/flamegraph" => {
                let _turn = self.turn().await;
                self.ask(&head, |asked, _, store| query::flamegraph(asked, store))
            }
            path => {
                page::answer(path, &head.headers).unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "not found"))
            }
        })
    }

    /// Takes a push; what it changed is on the disk when it is answered.
    async fn push(&self, accepted: Accepted, body: &[u8]) -> Answer {
        let Config { body_bytes_max, ref limits, .. } = self.config;
        let answer = {
            let store = &mut self.store.borrow_mut();
            push::answer(accepted, body, body_bytes_max, limits, store, &self.meters)
        };
        self.when_safe(answer).await
    }

    /// Takes what an older agent or an SDK sends.
    async fn ingest(&self, head: &http::request::Parts, body: Vec<u8>) -> Answer {
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parameters = Query::<HashMap<String, String>>::try_from_uri(&head.uri);
        let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
        let gzip = head.headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let body = match connect::plain_body(gzip, body, self.config.body_bytes_max) {
            Ok(body) => ingest::parts(body, content_type).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match body {
            Err(refusal) => {
                self.meters.refused(&refusal);
                return ingest::refused(&refusal);
            }
            Ok(body) => {
                let asked = ingest::Asked { parameters: &parameters, content_type };
                let store = &mut self.store.borrow_mut();
                ingest::answer(&asked, body, &self.config.limits, store, &self.meters)
            }
        };
        self.when_safe(answer).await
    }

    /// `answer`, once what was pushed before it is on the disk; another where that cannot be.
    async fn when_safe(&self, answer: Answer) -> Answer {
        match self.safe().await {
            Err(refusal) => {
                self.meters.refused(&refusal);
                refused(&refusal)
            }
            Ok(()) => answer,
        }
    }

    /// Answers a question that a Pyroscope answers.
    async fn query(
        &self,
        method: &str,
        accepted: Accepted,
        body: &[u8],
        headers: &http::HeaderMap,
    ) -> Result<Answer, Refusal> {
        let body = accepted.body(body, self.config.body_bytes_max)?;
        let _turn = self.turn().await;
        let accepts = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
        let dotted = accepts.is_some_and(|accepts| accepts.contains("allow-utf8-labelnames=true"));
        query::api::answer(method, accepted.codec, &body, dotted, WallNs::now(), &self.store.borrow())
    }

    /// Questions are answered one after another, so that a push never waits for more than one.
    async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.acquire().await.expect("turns are never closed")
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
        self.meters.store_bytes(store.bytes(), store.disk_bytes());
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
