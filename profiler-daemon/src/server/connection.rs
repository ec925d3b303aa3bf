//! A connection that ends when the other side takes too long.
//!
//! In: a socket. Out: the same socket for hyper, with three clocks: how long it may be idle between two
//! requests, how long a request may take to arrive, how long an answer may take to leave. hyper's own
//! `header_read_timeout` also runs while a connection is idle, so it cannot keep an idle connection for longer than
//! it bears a slow head; hence the clocks are here.
//! Not here: what is in a request.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long each phase of a connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the end of an answer, or from the start, to the first byte of a request.
    pub(super) idle: Duration,
    /// From the first byte of a request to its last.
    pub(super) read: Duration,
    /// From the first byte of an answer to its last.
    pub(super) write: Duration,
}

/// What a connection is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request.
    Idle,
    /// A request is arriving.
    Reading,
    /// An answer is being made or is leaving.
    Answering,
}

/// What a connection and whoever answers its requests tell each other.
#[derive(Clone, Debug)]
pub(super) struct Progress(Rc<State>);

#[derive(Debug)]
struct State {
    phase: Cell<Phase>,
    expired: Cell<Option<Phase>>,
}

impl Progress {
    /// A request has arrived whole: from now on the other side waits for us.
    pub(super) fn request_is_whole(&self) {
        self.0.phase.set(Phase::Answering);
    }

    /// The phase that took too long and so ended the connection, if one did.
    pub(super) fn expired(&self) -> Option<Phase> {
        self.0.expired.get()
    }
}

/// A socket with clocks.
#[derive(Debug)]
pub(super) struct Timed<T> {
    socket: T,
    patience: Patience,
    state: Rc<State>,
    /// The phase that `deadline` was set for.
    armed: Phase,
    deadline: Pin<Box<Sleep>>,
}

impl<T> Timed<T> {
    /// `socket`, idle from now on.
    pub(super) fn new(socket: T, patience: Patience) -> (Self, Progress) {
        let state = Rc::new(State { phase: Cell::new(Phase::Idle), expired: Cell::new(None) });
        let deadline = Box::pin(sleep_until(Instant::now() + patience.idle));
        let timed = Self { socket, patience, state: Rc::clone(&state), armed: Phase::Idle, deadline };
        (timed, Progress(state))
    }

    fn phase(&self) -> Phase {
        self.state.phase.get()
    }

    /// Sets the clock for `phase`, which begins now.
    fn enter(&mut self, phase: Phase) {
        let patience = match phase {
            Phase::Idle => self.patience.idle,
            Phase::Reading => self.patience.read,
            Phase::Answering => self.patience.write,
        };
        self.state.phase.set(phase);
        self.armed = phase;
        self.deadline.as_mut().reset(Instant::now() + patience);
    }

    /// The first write of an answer sets its clock, the others leave it.
    fn answering(&mut self) {
        if self.phase() != Phase::Answering || self.armed != Phase::Answering {
            self.enter(Phase::Answering);
        }
    }

    /// Nothing can move now: has the phase taken too long?
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase();
        if self.armed != phase {
            self.enter(phase);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(self.expire(phase))
    }

    fn expire(&self, phase: Phase) -> io::Error {
        self.state.expired.set(Some(phase));
        io::ErrorKind::TimedOut.into()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Timed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, room) {
            Poll::Ready(Ok(())) => {
                if room.filled().len() > before && self.phase() == Phase::Idle {
                    self.enter(Phase::Reading);
                }
                // Bytes that trickle in may always be there when asked for: look at the clock here too.
                if self.phase() == Phase::Reading && Instant::now() >= self.deadline.deadline() {
                    return Poll::Ready(Err(self.expire(Phase::Reading)));
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // While an answer is made or leaves, hyper reads only to learn of the end: the clock for that is
            // read where writing waits.
            Poll::Pending if self.phase() == Phase::Answering => Poll::Pending,
            Poll::Pending => self.poll_expired(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answering();
        match Pin::new(&mut self.socket).poll_write(cx, bytes) {
            Poll::Pending => self.poll_expired(cx).map(Err),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answering();
        match Pin::new(&mut self.socket).poll_write_vectored(cx, slices) {
            Poll::Pending => self.poll_expired(cx).map(Err),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        if self.armed == Phase::Answering {
            self.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
