//! Builds the rooms, connects them and runs them: the only place, with `cli`, that knows every room.
//!
//! Three threads and two queues. The reader (the calling thread) takes up what the kernel saw and says whose it
//! is; the workshop names, merges and encodes; the uploader carries out. Beside the reader, a builder makes what the kernel unwinds
//! by, and where `record` writes a recording, a recorder does that.

pub mod bench;
mod books;
mod budget;
mod build;
mod builder;
mod handover;
mod healing;
mod intake;
mod notify;
mod output;
mod ports;
mod quality;
mod reader;
pub mod record;
mod recorder;
mod reload;
pub mod replay;
mod rights;
pub mod run;
mod service;
mod signals;
mod stacks;
mod steering;
mod usage;
pub mod why;

pub use books::Books;
pub use budget::{Budget, Part};
pub use ports::{PortError, listen};
pub use signals::Signals;

use std::os::fd::AsFd;

use crate::capture::recording::RecordingError;
use crate::capture::{self, AttachError, Kernel};
use crate::config::Config;
use crate::meters::Meters;

/// Where the embedded server keeps history, in the data directory.
pub const STORE: &str = "store";

/// Windows in the queue from reader to workshop at most; one more waits before it, and then the next one is left open.
const BATCHES_WAITING_MAX: usize = 1;

/// Loads and attaches what `run` would, and takes it away again: whether that works is known by doing it.
pub fn try_sampling() -> Result<(), Failure> {
    let (waker, _held) = std::os::unix::net::UnixStream::pair().map_err(Failure::other("making a socket"))?;
    Kernel::open(capture::Config::default(), waker.as_fd(), &Meters::default())?;
    Ok(())
}

/// Whether everything is right with the files that `config` names, and there is memory enough: what is not, a line each.
pub fn check(config: &Config) -> Result<(), Failure> {
    let files = reload::Secrets::read(config).map(drop);
    let problems = [files, budget(config).map(drop)].into_iter().filter_map(Result::err);
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() { Ok(()) } else { Err(Failure::Usage(problems.join("\n"))) }
}

/// What all parts may take in memory on this machine, or a sentence why that is too little.
pub fn budget(config: &Config) -> Result<Budget, String> {
    Budget::new(config, capture::processors())
}

/// Why a command cannot start, or failed: each with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong flags or configuration.
    #[error("{0}")]
    Usage(String),
    /// The kernel side.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The command to record.
    #[error("{program} cannot be started: {error}")]
    Command {
        /// Its name, as given.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// Nothing was sampled.
    #[error("nothing was sampled: {0}")]
    NothingSampled(String),
    /// A server has nothing of what it was asked for.
    #[error("nothing is there: {0}")]
    NothingFound(String),
    /// Anything else.
    #[error("{what}: {error}")]
    Other {
        /// What was tried.
        what: String,
        /// What happened.
        error: String,
    },
}

impl Failure {
    /// A failure that has no advice.
    pub fn other(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Other { what: what.into(), error: error.to_string() }
    }

    /// The exit code, documented in `--help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Other { .. } | Self::Recording(_) => 1,
            Self::Usage(_) => 2,
            Self::Attach(AttachError::Object { .. }) => 6,
            Self::Attach(_) => 3,
            Self::NothingSampled(_) | Self::NothingFound(_) => 4,
            Self::Port(_) => 5,
            // As a shell does.
            Self::Command { error, .. } if error.kind() == std::io::ErrorKind::NotFound => 127,
            Self::Command { .. } => 126,
        }
    }
}
