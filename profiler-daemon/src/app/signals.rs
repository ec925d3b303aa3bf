//! Signals become a readable descriptor, so that a thread that sleeps in the kernel wakes for them.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::time::MonoNs;

/// What a process exits with when a second signal ends it.
const EXIT_SECOND: i32 = 130;

/// A signal that follows so soon is the same one: `timeout` and `sudo` send to the process and then to its group.
const SECOND_AFTER: Duration = Duration::from_millis(500);

/// The descriptor becomes readable, and stays so, at the first SIGINT or SIGTERM, or when [`Stopper::stop`] is called.
/// A second signal ends the process where it is: who asks twice does not want to wait.
#[derive(Debug)]
pub struct Signals {
    reader: UnixStream,
    writer: UnixStream,
    came: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Takes SIGINT and SIGTERM over.
    pub fn install() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        let came = Arc::new(AtomicBool::new(false));
        let terminated = Arc::new(AtomicBool::new(false));
        let (bell, rope) = UnixStream::pair()?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || end_at_second(bell))?;
        // The flags first: who is woken reads them.
        signal_hook::flag::register(SIGTERM, Arc::clone(&terminated))?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&came))?;
            signal_hook::low_level::pipe::register(signal, rope.try_clone()?)?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { reader, writer, came, terminated })
    }

    /// What becomes readable.
    pub fn waker(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Whether it was a SIGTERM.
    pub fn terminated(&self) -> bool {
        self.terminated.load(Ordering::Relaxed)
    }

    /// Something that asks for the stop from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.writer.try_clone()?))
    }
}

/// Reads a byte per signal, and ends the process at the second one. Sleeps until then.
fn end_at_second(mut bell: UnixStream) {
    let mut first = None;
    while bell.read_exact(&mut [0]).is_ok() {
        let now = MonoNs::now();
        if now.since(*first.get_or_insert(now)) >= SECOND_AFTER {
            signal_hook::low_level::exit(EXIT_SECOND);
        }
    }
}

/// Becomes readable at each SIGHUP, which then ends nobody.
#[derive(Debug)]
pub(super) struct Hangup(UnixStream);

impl Hangup {
    /// Takes SIGHUP over.
    pub(super) fn install() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGHUP, writer)?;
        Ok(Self(reader))
    }

    /// Waits for one, at most so long. Several that came meanwhile are one.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut reader = [PollFd::new(&self.0, PollFlags::IN)];
        let limit = Timespec::try_from(limit).ok();
        // An interruption is an early turn.
        let came = poll(&mut reader, limit.as_ref()).is_ok_and(|count| count > 0);
        while came && (&self.0).read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        came
    }
}

/// Asks for the stop.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Makes the descriptor readable.
    pub fn stop(&self) {
        use std::io::Write;
        // A full pipe is readable already.
        let _ = (&self.0).write(&[0]);
    }
}
