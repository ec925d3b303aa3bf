//! Carries payloads out of the house, to a Pyroscope.
//!
//! In: payloads, as the workshop makes them. Out: HTTP requests, and the books of what became of each weight. Not
//! here: what is in a payload. This is the only room that speaks HTTP outwards.
//!
//! The promise is that no push fails because of how we hold the connection ([`connection`] says how that is
//! kept), and that a push which fails for another reason is tried again with the same bytes, in bounded memory.

mod access;
mod answer;
mod call;
mod certificates;
mod client;
pub mod connect_error;
pub mod connection;
mod connector;
mod hint;
mod journal;
pub mod keep_alive;
mod outlets;
mod pace;
mod parcel;
mod pulse;
mod pusher;
mod quarantine;
mod retry;
mod sinks;
pub mod spool;
mod standing;
mod tally;
mod waiting;
mod way;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;

pub use access::{Access, AccessConfig, Secret};
pub use call::{CallError, Caller};
pub(crate) use client::tls;
pub use connection::WhenShort;
pub use pulse::Pulse;
pub use pusher::{Cadence, Outbox, Pusher};
pub use retry::Ambiguous;
pub use sinks::SinkConfig;
pub use standing::Standing;
pub use waiting::Outcome;

use crate::meters::{Counters, Meters};
use crate::model::Payload;

/// A thread that was used to look up a name is kept no longer than this: the next push is an interval away.
const RESOLVER_KEEP: Duration = Duration::from_millis(100);

/// Where and how to push.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the server: http or https, host, and perhaps port, path, and `user:password@`.
    pub server: String,
    /// What goes with each push to that server, and to no other.
    pub access: Access,
    /// Where to push beside that.
    pub sinks: Vec<SinkConfig>,
    /// How often payloads come. A request may take as long, but three seconds at least and ten at most: longer
    /// than any healthy server takes, short enough that what waits behind it is still fresh.
    pub interval: Duration,
    /// The server's idle timeout, where the operator knows better than the server says or shows.
    pub keepalive_timeout: Option<Duration>,
    /// What to do where pushes come too seldom for the server's timeout.
    pub when_short: WhenShort,
    /// How much of the server's timeout is kept clear of pushes at least, beside what the path takes.
    pub guard_min: Duration,
    /// What is worse where nobody knows whether the server has a profile.
    pub ambiguous: Ambiguous,
    /// Speak HTTP/2: over TLS where the server offers it, else from the first byte.
    pub http2: bool,
    /// Where what was learned of servers is remembered.
    pub hint_file: Option<PathBuf>,
    /// Most memory for what waits to be pushed and is not on disk, bytes: some hours at a usual rate, for it is kept
    /// compressed. The oldest goes when it is full, and is counted as a loss (`spool full`).
    pub waiting_bytes_max: usize,
    /// Where what waits is kept on disk; without it, it is kept in memory alone.
    pub spool: Option<spool::Config>,
    /// Where profiles that the server refuses for good are kept for inspection.
    pub quarantine: Option<PathBuf>,
    /// The server takes no window that began longer ago: it is not sent, and is counted as a loss (`too old for
    /// server`). Zero: it takes all.
    pub reject_older_than: Duration,
    /// How long the end may take, for what still waits.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: "http://127.0.0.1:4040".to_owned(),
            access: Access::default(),
            sinks: Vec::new(),
            interval: Duration::from_secs(10),
            keepalive_timeout: None,
            when_short: WhenShort::default(),
            guard_min: Duration::from_millis(50),
            ambiguous: Ambiguous::default(),
            http2: false,
            hint_file: None,
            waiting_bytes_max: 32 << 20,
            spool: None,
            quarantine: None,
            reject_older_than: Duration::ZERO,
            grace: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.interval.clamp(Duration::from_secs(3), Duration::from_secs(10))
    }
}

/// A server's address as it may be shown: without what stands before an `@`.
pub fn shown(server: &str) -> String {
    sinks::pyroscope::without_secret(server)
}

/// Why nothing can be pushed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is none.
    #[error("{given:?} is no address of a server ({why}): give one like http://127.0.0.1:4040")]
    Address {
        /// What was given, without its secrets.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// An encrypted connection needs certificates to trust.
    #[error(
        "no certificate authority is known on this machine ({cause}): install the package ca-certificates, or set \
         SSL_CERT_FILE"
    )]
    Certificates {
        /// What went wrong with the first.
        cause: String,
    },
    /// A certificate cannot be used.
    #[error("ca_file, client_certificate_file or client_key_file cannot be used: {0}")]
    Identity(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error(
        "the HTTP client cannot be set up: check the environment's proxy settings (HTTP_PROXY, HTTPS_PROXY)"
    )]
    Client(#[source] reqwest::Error),
    /// The system gives no thread, or no descriptors for it.
    #[error("the uploader's thread cannot be started: check the limits on processes and open files")]
    Thread(#[source] io::Error),
}

/// The uploader: a [`Pusher`] for each sink, on a thread of their own.
#[derive(Debug)]
pub struct Uploader {
    outbox: Outbox,
    others: Vec<Outbox>,
    grace: Duration,
    thread: JoinHandle<Outcome>,
}

/// Starts the uploader. It opens no connection before there is something to push. `lost` is the family of all
/// losses.
pub fn start(config: &Config, meters: &Meters, lost: Counters) -> Result<Uploader, StartError> {
    let mut all = outlets::open(config, meters, lost)?;
    let (pusher, outbox) = all.remove(0);
    let (other_pushers, others): (Vec<Pusher>, Vec<Outbox>) = all.into_iter().unzip();
    // One thread, on purpose: with several, a request that meets the server's FIN can hang for ever between a
    // connection's task and its user.
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_keep_alive(RESOLVER_KEEP)
        .build()
        .map_err(StartError::Thread)?;
    let work = move || {
        let others: Vec<_> = other_pushers.into_iter().map(|pusher| runtime.spawn(pusher.run())).collect();
        let outcome = runtime.block_on(async {
            let outcome = pusher.run().await;
            for other in others {
                // A panic of one is that of all.
                if let Err(error) = other.await {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            outcome
        });
        // A resolver that hangs is not waited for.
        runtime.shutdown_background();
        outcome
    };
    let thread =
        std::thread::Builder::new().name("uploader".to_owned()).spawn(work).map_err(StartError::Thread)?;
    Ok(Uploader { outbox, others, grace: config.grace, thread })
}

impl Uploader {
    /// Hands payloads over, to every sink; see [`Outbox::send`].
    pub fn send(&self, payloads: Vec<Payload>) {
        for other in &self.others {
            other.send(payloads.clone());
        }
        self.outbox.send(payloads);
    }

    /// How the connection to the server is kept, kept up to date.
    pub fn standing(&self) -> Standing {
        self.outbox.standing()
    }

    /// How often payloads should come, kept up to date.
    pub fn cadence(&self) -> Cadence {
        self.outbox.cadence()
    }

    /// Whether each of the sinks is served, kept up to date.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.others.iter().chain([&self.outbox]).map(Outbox::pulse).collect()
    }

    /// Pushes what waits, for as long as the configured grace, and says what became of everything, as the first sink has
    /// it. What is left is kept on disk, or is lost under `Stopped`.
    ///
    /// # Panics
    ///
    /// If the uploader did: then our picture of the world is wrong.
    pub fn finish(self) -> Outcome {
        let grace = self.grace;
        self.finish_within(grace)
    }

    /// [`Self::finish`] with another grace.
    ///
    /// # Panics
    ///
    /// If the uploader did.
    pub fn finish_within(self, grace: Duration) -> Outcome {
        self.others.iter().chain([&self.outbox]).for_each(|outbox| outbox.close(grace));
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
