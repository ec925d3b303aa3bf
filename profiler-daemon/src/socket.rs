//! What the kernel knows of a TCP connection of ours: who closed it, how, and what of our bytes arrived.
//!
//! In: the two ends of a connection that some library holds. Out: a second descriptor of it, figures of
//! `TCP_INFO`, and the moment at which the other end closed it. Nothing is written and nothing is read, so the
//! library is not disturbed. Not here: what to make of it.
//!
//! A second descriptor keeps a connection open after the library has closed its own. Whoever closes a connection
//! drops the second descriptor too, or calls [`hang_up`].
#![expect(unsafe_code, reason = "getsockopt(TCP_INFO); a descriptor known by its number only")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, Shutdown, SocketAddrAny, getpeername, getsockname, recv, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Bytes of `struct tcp_info` that are asked for: up to and including `tcpi_bytes_sent`, which 4.19 has.
const TCP_INFO_BYTES: usize = 208;

/// As much of `struct tcp_info` as says what became of a request (linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// The connection's state, as the kernel numbers them.
    state: u8,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Shortest round-trip time seen.
    pub rtt_min: Duration,
    /// Bytes of ours that the other end has acknowledged.
    pub bytes_acked: u64,
    /// Bytes of ours that were given to the network, repeats included.
    pub bytes_sent: u64,
    /// Bytes that came; a FIN counts as one.
    pub bytes_received: u64,
}

/// Asks for `TCP_INFO`; `None` where this is no TCP connection.
pub fn info(socket: impl AsFd) -> Option<TcpInfo> {
    let mut bytes = [0_u8; TCP_INFO_BYTES];
    let mut length = libc::socklen_t::try_from(bytes.len()).ok()?;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes `length` bytes at most, which
    // is how many there are.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (asked == 0).then(|| TcpInfo::read(&bytes))
}

impl TcpInfo {
    /// What a kernel is too old to know stays zero.
    fn read(bytes: &[u8; TCP_INFO_BYTES]) -> Self {
        let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let whole = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(eight)
        };
        let micros = |at| Duration::from_micros(u64::from(half(at)));
        Self {
            state: bytes[0],
            rtt: micros(68),
            rtt_min: micros(148),
            bytes_acked: whole(120),
            bytes_sent: whole(200),
            bytes_received: whole(128),
        }
    }

    /// True if our end sent its FIN before the other end did.
    const fn we_closed_first(self) -> bool {
        /// `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_TIME_WAIT`, `TCP_CLOSING` (net/tcp_states.h).
        const OURS: [u8; 4] = [4, 5, 6, 11];
        let mut at = 0;
        while at < OURS.len() {
            if OURS[at] == self.state {
                return true;
            }
            at += 1;
        }
        false
    }
}

/// A second descriptor of the TCP connection of this process with these two ends; `None` if there is none, or
/// `/proc` cannot be read.
pub fn find(local: SocketAddr, peer: SocketAddr) -> Option<OwnedFd> {
    let numbers = std::fs::read_dir("/proc/self/fd").ok()?;
    numbers.flatten().find_map(|entry| {
        let number: RawFd = entry.file_name().to_str()?.parse().ok()?;
        // SAFETY: used for this one call. If another thread has closed the number meanwhile the call fails, and if it
        // stands for another file by now, that one's names tell.
        let found = unsafe { BorrowedFd::borrow_raw(number) };
        has_ends(found, local, peer).then_some(())?;
        let copy = rustix::io::fcntl_dupfd_cloexec(found, 3).ok()?;
        has_ends(&copy, local, peer).then_some(copy)
    })
}

fn has_ends(socket: impl AsFd, local: SocketAddr, peer: SocketAddr) -> bool {
    let is = |name: Option<SocketAddrAny>, wanted| {
        name.and_then(|name| SocketAddr::try_from(name).ok()) == Some(wanted)
    };
    is(getsockname(&socket).ok(), local) && is(getpeername(&socket).ok().flatten(), peer)
}

/// True while nothing has come that nobody has read: no answer, no FIN, no error.
pub fn is_quiet(socket: impl AsFd) -> bool {
    let mut byte = [0_u8; 1];
    matches!(recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(rustix::io::Errno::AGAIN))
}

/// Sends our FIN, however many descriptors there are.
pub fn hang_up(socket: impl AsFd) {
    // It may have gone already.
    let _ = shutdown(socket, Shutdown::Both);
}

/// Makes the close, whenever it comes, a reset: what is not acknowledged by then is thrown away instead of being sent
/// for some time yet.
pub fn reset_when_closed(socket: impl AsFd) {
    // Where it cannot be set, the kernel goes on sending: nothing is lost by that.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Which end closed a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Ours.
    Client,
    /// The server's, or that of whatever is in between.
    Server,
}

/// How it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// In order.
    Fin,
    /// By a reset.
    Rst,
}

impl How {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

/// A connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// When we were told.
    pub at: Instant,
    /// Who did it.
    pub by: End,
    /// How.
    pub how: How,
}

/// Completes when the connection is closed by either end. Fails where it cannot be watched at all.
pub async fn closed(socket: impl Into<Arc<OwnedFd>>) -> io::Result<Closed> {
    let socket = socket.into();
    // SAFETY: an `OwnedFd` has one number for as long as it lives, and lives for as long as it is shared here.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::ERROR) }?;
    loop {
        let mut guard = watched.ready(Interest::READABLE | Interest::ERROR).await?;
        let ready = guard.ready();
        if ready.is_error() || ready.is_read_closed() {
            let at = Instant::now();
            let how = if ready.is_error() { How::Rst } else { How::Fin };
            let ours = info(watched.get_ref()).is_some_and(TcpInfo::we_closed_first);
            return Ok(Closed { at, by: if ours { End::Client } else { End::Server }, how });
        }
        // Bytes, which are for the library.
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Both ends of a connection, and a second descriptor of the first.
    fn connected() -> (TcpStream, TcpStream, OwnedFd) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let copy = find(ours.local_addr().unwrap(), ours.peer_addr().unwrap()).unwrap();
        (ours, theirs, copy)
    }

    async fn check(close: impl FnOnce(TcpStream, TcpStream), by: End, how: How) {
        let (ours, theirs, copy) = connected();
        close(ours, theirs);
        let closed = tokio::time::timeout(Duration::from_secs(5), closed(copy)).await.unwrap().unwrap();
        assert_eq!((closed.by, closed.how), (by, how));
    }

    #[tokio::test]
    async fn a_servers_fin_is_told_from_ours() {
        check(|ours, theirs| drop((theirs, std::mem::ManuallyDrop::new(ours))), End::Server, How::Fin).await;
        let ours_first = |ours: TcpStream, theirs| {
            hang_up(&ours);
            std::mem::forget((ours, theirs));
        };
        check(ours_first, End::Client, How::Fin).await;
    }

    #[tokio::test]
    async fn a_servers_fin_is_known_though_the_library_has_closed_too() {
        let both = |ours: TcpStream, theirs: TcpStream| {
            drop(theirs);
            let mut end = [0];
            assert_eq!((&ours).read(&mut end).unwrap(), 0);
            hang_up(ours);
        };
        check(both, End::Server, How::Fin).await;
    }

    #[tokio::test]
    async fn a_reset_is_told_from_a_fin() {
        let reset = |ours, theirs: TcpStream| {
            socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
            drop(theirs);
            std::mem::forget(ours);
        };
        check(reset, End::Server, How::Rst).await;
    }

    #[test]
    fn bytes_that_arrived_are_counted() {
        let (mut ours, mut theirs, copy) = connected();
        assert!(is_quiet(&copy));
        let before = info(&copy).unwrap();
        ours.write_all(&[7; 1_000]).unwrap();
        theirs.read_exact(&mut [0; 1_000]).unwrap();
        theirs.write_all(b"x").unwrap();
        while is_quiet(&copy) {
            std::thread::yield_now();
        }
        let after = info(&copy).unwrap();
        let moved = |field: fn(TcpInfo) -> u64| field(after) - field(before);
        assert_eq!(moved(|info| info.bytes_acked), 1_000);
        assert_eq!(moved(|info| info.bytes_sent), 1_000);
        assert_eq!(moved(|info| info.bytes_received), 1);
        assert!(after.rtt > Duration::ZERO && after.rtt_min <= after.rtt, "{after:?}");
    }

    #[test]
    fn what_is_no_connection_of_ours_is_not_found() {
        let (ours, _theirs, copy) = connected();
        let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        drop((ours, copy));
        assert!(find(local, peer).is_none());
        assert_eq!(info(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
