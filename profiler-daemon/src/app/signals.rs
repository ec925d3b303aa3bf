//! Signals become a readable descriptor, so that a thread that sleeps in the kernel wakes for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM};

/// The descriptor becomes readable, and stays so, at the first SIGINT or SIGTERM, or when [`Self::stop`] is called.
#[derive(Debug)]
pub struct Signals {
    reader: UnixStream,
    writer: UnixStream,
}

impl Signals {
    /// Takes SIGINT and SIGTERM over.
    pub fn install() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { reader, writer })
    }

    /// What becomes readable.
    pub fn waker(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Something that asks for the stop from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.writer.try_clone()?))
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
