//! A wire between client and server: it delays what goes over it, and breaks on request.
//!
//! In: connections. Out: the same bytes and the same ends (FIN as FIN, RST as RST), all of them later by the same
//! time. Not here: HTTP. The relay knows a request only as many bytes that come from a client after bytes from the
//! server, or first of all; what TLS says to shake hands is none.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Fewer bytes are no request: they end a handshake, or a connection, or acknowledge something.
const REQUEST_BYTES_MIN: usize = 200;
/// The first byte of a TLS record that shakes hands.
const HANDSHAKE: u8 = 22;

/// What the wire does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The client gets an RST instead of an answer, before the server hears of the request.
    Reset,
    /// The server gets the request; when its answer comes, the client gets an RST.
    AnswerReset,
    /// The server gets the request; when its answer comes, the client gets a FIN.
    AnswerLost,
    /// A part of the answer gets through, then a FIN.
    AnswerHalf,
    /// A part of the request gets through, the rest after this time.
    Stall(Duration),
}

/// What the wire does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// Nothing.
    #[default]
    None,
    /// It breaks every so many requests.
    Often(Break, u64),
    /// It forgets connections that were idle for so long, and tells nobody.
    BlackHole(Duration),
    /// After so many requests, in the middle of one, everything is reset, and nobody listens for so long. Whoever
    /// waits for [`Relay::cut`] is told.
    Cut(u64, Duration),
}

/// A relay that runs for as long as the runtime does.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    delay: Duration,
    mischief: Mischief,
    connections: AtomicU64,
    requests: AtomicU64,
    broken: AtomicU64,
    /// True while nobody listens.
    down: watch::Sender<bool>,
}

impl Relay {
    /// Starts one; `delay` is that of one direction.
    pub(crate) async fn start(server: SocketAddr, delay: Duration, mischief: Mischief) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let shared = Arc::new(Shared {
            server,
            delay,
            mischief,
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            down: watch::Sender::new(false),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    /// How many connections it has carried.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many requests it has broken, or connections it has forgotten.
    pub(crate) fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Completes when everything is cut.
    pub(crate) async fn cut(&self) {
        cut(&mut self.shared.down.subscribe()).await;
    }
}

async fn cut(down: &mut watch::Receiver<bool>) {
    // Its sender is shared by all who wait here.
    let _ = down.wait_for(|down| *down).await;
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().expect("it has one");
    let mut listener = Some(listener);
    let mut down = shared.down.subscribe();
    loop {
        let open = match listener.take() {
            Some(open) => open,
            None => listen_again(address),
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((client, _)) = accepted {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(carry(client, Arc::clone(&shared)));
                }
                listener = Some(open);
            }
            () = cut(&mut down) => {
                drop(open);
                let Mischief::Cut(_, lasting) = shared.mischief else { return };
                sleep(lasting).await;
                shared.down.send_replace(false);
            }
        }
    }
}

fn listen_again(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket's option");
    socket.bind(address).expect("the port is still ours");
    socket.listen(1024).expect("it can be listened on")
}

/// Makes a socket deaf: the kernel throws away whatever comes for it, and acknowledges nothing.
fn deafen(socket: &TcpStream) {
    const RETURN_NOTHING: SockFilter = SockFilter::new(6, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[RETURN_NOTHING]).expect("a filter of one line");
}

/// What goes to one side.
enum Message {
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

type Line = mpsc::UnboundedSender<(Instant, Message)>;

/// One connection, from its first byte to its end.
async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.server).await else {
        // Nobody there: the client is told as the kernel would tell it, only later.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let to_client = deliver(to_client, shared.delay);
    let to_server = deliver(to_server, shared.delay);
    let mut talk = Talk {
        to_client,
        to_server,
        shared: Arc::clone(&shared),
        asking: false,
        broken: None,
        last: Instant::now(),
    };
    let mut down = shared.down.subscribe();
    let (mut of_client, mut of_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut client_open, mut server_open) = (true, true);
    while client_open || server_open {
        let go_on = tokio::select! {
            read = from_client.read(&mut of_client), if client_open => match read {
                Ok(0) => { client_open = false; send(&talk.to_server, Message::Fin, Duration::ZERO); true }
                Ok(length) => talk.asks(&of_client[..length]),
                Err(_) => { send(&talk.to_server, Message::Rst, Duration::ZERO); false }
            },
            read = from_server.read(&mut of_server), if server_open => match read {
                Ok(0) => { server_open = false; send(&talk.to_client, Message::Fin, Duration::ZERO); true }
                Ok(length) => talk.answers(&of_server[..length]),
                Err(_) => { send(&talk.to_client, Message::Rst, Duration::ZERO); false }
            },
            () = cut(&mut down) => talk.reset(),
            () = talk.is_forgotten() => {
                shared.broken.fetch_add(1, Ordering::Relaxed);
                deafen(from_client.as_ref());
                // The server is not left with it; but what is dropped says goodbye, which the client must not hear.
                send(&talk.to_server, Message::Fin, Duration::ZERO);
                drop(from_server);
                return pending().await;
            }
        };
        if !go_on {
            return;
        }
    }
}

/// What has been said on a connection. Its methods say whether it goes on.
struct Talk {
    to_client: Line,
    to_server: Line,
    shared: Arc<Shared>,
    /// A request is under way.
    asking: bool,
    broken: Option<Break>,
    last: Instant,
}

impl Talk {
    fn asks(&mut self, bytes: &[u8]) -> bool {
        self.last = Instant::now();
        if !self.asking && bytes.len() >= REQUEST_BYTES_MIN && bytes[0] != HANDSHAKE {
            self.asking = true;
            let number = 1 + self.shared.requests.fetch_add(1, Ordering::Relaxed);
            match self.shared.mischief {
                Mischief::Often(what, every) if number.is_multiple_of(every) => {
                    self.shared.broken.fetch_add(1, Ordering::Relaxed);
                    self.broken = Some(what);
                }
                Mischief::Cut(after, _) if number == after => {
                    send(&self.to_server, Message::Bytes(bytes[..bytes.len() / 2].to_vec()), Duration::ZERO);
                    self.shared.broken.fetch_add(1, Ordering::Relaxed);
                    self.shared.down.send_replace(true);
                    return self.reset();
                }
                Mischief::None | Mischief::Often(..) | Mischief::BlackHole(_) | Mischief::Cut(..) => {}
            }
        }
        match self.broken {
            Some(Break::Reset) => return self.reset(),
            Some(Break::Stall(time)) => {
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                send(&self.to_server, Message::Bytes(first.to_vec()), Duration::ZERO);
                send(&self.to_server, Message::Bytes(rest.to_vec()), time);
                self.broken = None;
            }
            Some(Break::AnswerReset | Break::AnswerLost | Break::AnswerHalf) | None => {
                send(&self.to_server, Message::Bytes(bytes.to_vec()), Duration::ZERO);
            }
        }
        true
    }

    fn answers(&mut self, bytes: &[u8]) -> bool {
        self.last = Instant::now();
        self.asking = false;
        match self.broken {
            Some(Break::AnswerReset) => return self.reset(),
            Some(Break::AnswerLost | Break::AnswerHalf) => {
                if self.broken == Some(Break::AnswerHalf) {
                    let half = bytes[..bytes.len() / 2].to_vec();
                    send(&self.to_client, Message::Bytes(half), Duration::ZERO);
                }
                send(&self.to_client, Message::Fin, Duration::ZERO);
                send(&self.to_server, Message::Fin, Duration::ZERO);
                return false;
            }
            Some(Break::Reset | Break::Stall(_)) | None => {
                send(&self.to_client, Message::Bytes(bytes.to_vec()), Duration::ZERO);
            }
        }
        true
    }

    /// Completes when the connection has been idle for so long that a wire like this forgets it.
    async fn is_forgotten(&self) {
        match self.shared.mischief {
            Mischief::BlackHole(after) => sleep_until(self.last + after).await,
            Mischief::None | Mischief::Often(..) | Mischief::Cut(..) => pending().await,
        }
    }

    fn reset(&self) -> bool {
        send(&self.to_client, Message::Rst, Duration::ZERO);
        send(&self.to_server, Message::Rst, Duration::ZERO);
        false
    }
}

fn send(to: &Line, message: Message, later: Duration) {
    // A side that is gone needs nothing.
    let _ = to.send((Instant::now() + later, message));
}

/// The way to one side: everything arrives in its order, `delay` after it was sent.
fn deliver(mut to: OwnedWriteHalf, delay: Duration) -> Line {
    let (line, mut messages) = mpsc::unbounded_channel::<(Instant, Message)>();
    tokio::spawn(async move {
        while let Some((sent, message)) = messages.recv().await {
            if !delay.is_zero() || sent > Instant::now() {
                sleep_until(sent + delay).await;
            }
            match message {
                Message::Bytes(bytes) => {
                    if to.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Message::Fin => {
                    let _ = to.shutdown().await;
                }
                Message::Rst => {
                    let _ = to.as_ref().set_zero_linger();
                    // Dropped as it is, it would say goodbye first.
                    to.forget();
                    return;
                }
            }
        }
    });
    line
}
