//! The embedded server: a small Pyroscope in a process of its own.
//!
//! In: pushes over HTTP, and questions of the page. Out: answers. History is in a folder, or the last hour in memory;
//! nothing here runs when nobody asks. The server and the agent know each other by HTTP only.
//! Not here: how the process is started and confined (`children`), the command line (`cli`).

mod connect;
mod connection;
mod door;
#[doc(hidden)]
pub mod foreign;
mod ingest;
mod meters;
mod page;
mod profile;
mod push;
mod query;
mod refusal;
mod routes;
mod selector;
mod store;
mod web;
pub mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use self::connection::{Patience, Timed};
pub use self::door::{Door, DoorError};
pub use self::profile::Limits;
use self::routes::Server;
use self::store::{Bounds, Journal};
use crate::meters::Meters;
use crate::time::WallNs;

/// How the embedded server behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens if the caller has no socket for it yet.
    pub listen: SocketAddr,
    /// Who is let in, and how.
    pub door: Door,
    /// The profiler of this machine started the server and pushes to it: the page knows then why there may be nothing.
    pub agent: bool,
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
    /// Bytes of all answers that are leaving. Who asks waits until there is room.
    pub answers_bytes_max: usize,
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
    /// The usual bounds, or less where all of us are to have no more than `bytes` of memory: half for profiles and for what comes and goes,
    /// the rest for the question that is being answered.
    pub fn within(bytes: u64) -> Self {
        let usual = Self::default();
        let part = usize::try_from(bytes / 6).unwrap_or(usize::MAX);
        Self {
            memory_bytes_max: usual.memory_bytes_max.min(part),
            // There is room for one request at least.
            bodies_bytes_max: usual.bodies_bytes_max.min(part.max(usual.body_bytes_max)),
            answers_bytes_max: usual.answers_bytes_max.min(part),
            ..usual
        }
    }

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
            door: Door::default(),
            agent: false,
            idle_timeout: Duration::from_secs(120),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            body_bytes_max: 16 << 20,
            bodies_bytes_max: 64 << 20,
            answers_bytes_max: 64 << 20,
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
        "the embedded server listens on loopback only, not on {0}, unless a token keeps others out: profiles show what \
         runs on this machine to whoever can connect. Give `serve` a --token-file; or listen on 127.0.0.1 and reach it by \
         `ssh -L 4040:127.0.0.1:4040`; or push to a Pyroscope"
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
    if !address.ip().is_loopback() && !config.door.asks() {
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
                connections.spawn_local(greet(socket, Rc::clone(server), stopped.clone()));
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

/// One connection, from the moment it is there.
async fn greet(socket: TcpStream, server: Rc<Server>, stopped: watch::Receiver<()>) {
    // Answers are written in one piece; without this the last part of a long one waits for an acknowledgement.
    let _ = socket.set_nodelay(true);
    let Some(acceptor) = server.config.door.encryption() else {
        return converse(socket, server, stopped).await;
    };
    match tokio::time::timeout(server.config.read_timeout, acceptor.accept(socket)).await {
        Ok(Ok(socket)) => converse(socket, server, stopped).await,
        Ok(Err(_)) | Err(_) => server.meters.connection_unencrypted(),
    }
}

/// One connection, from its first request to its end.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    server: Rc<Server>,
    mut stopped: watch::Receiver<()>,
) {
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
