//! How a server treats idle connections, and whether the push interval fits that.
//!
//! In: the server's address, and the interval. Out: who closed first, FIN or RST, after how long, what is
//! advertised, and what to change. It does what a packet capture does, without one. Not here: the daemon's own view,
//! which is on `/metrics`; pushing.

mod address;
mod families;
mod probe;
pub mod report;
pub mod seen;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

pub use self::address::{Address, BadAddress};
pub use self::probe::Trouble;
use self::seen::{Answer, Ending, Opened, Seen};
use self::verdict::{Verdict, judge};
use super::Health;
use crate::deliver::{self, StartError};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of whom.
    pub address: Address,
    /// Time between two pushes.
    pub interval: Duration,
    /// How long connections are left idle at most.
    pub patience: Duration,
}

impl Question {
    /// How long connections are left idle for an interval: half as long again, and five seconds at least, so that
    /// servers whose clocks tick coarsely are seen too.
    pub fn patience_for(interval: Duration) -> Duration {
        (interval * 3 / 2).max(interval + Duration::from_secs(5))
    }
}

/// A step, as it happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The name has several addresses; this one is asked.
    Chosen {
        /// Which.
        peer: SocketAddr,
        /// How many there are.
        of: usize,
    },
    /// A connection was opened, and an answer came over it.
    Answered {
        /// Number of the connection, from zero.
        number: usize,
        /// How it was opened.
        opened: Opened,
        /// What came.
        answer: Box<Answer>,
    },
    /// A connection's end, or the end of watching it.
    Ended {
        /// Number of the connection, from zero.
        number: usize,
        /// Our end of it.
        local: SocketAddr,
        /// How.
        ending: Ending,
    },
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Each connection, and what it means; or why there is none.
    pub result: Result<(Vec<Seen>, Verdict), Trouble>,
}

impl Found {
    /// What the command comes to.
    pub fn health(&self) -> Health {
        match &self.result {
            Ok((_, verdict)) => verdict.kind.health(),
            Err(_) => Health::Unknown,
        }
    }

    /// True if something else was found `before`. No two closes come after the very same time.
    pub fn differs(&self, before: &Self) -> bool {
        match (&self.result, &before.result) {
            (Ok((_, now)), Ok((_, before))) => {
                let timeouts = match (now.idle_timeout, before.idle_timeout) {
                    (Some(now), Some(before)) => {
                        now.abs_diff(before) > before / 20 + Duration::from_millis(20)
                    }
                    (now, before) => now != before,
                };
                timeouts
                    || (now.kind, now.closed, now.advertised)
                        != (before.kind, before.closed, before.advertised)
            }
            (Err(now), Err(before)) => now.to_string() != before.to_string(),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => true,
        }
    }
}

/// Asks questions of one server.
#[derive(Debug)]
pub struct Doctor {
    question: Question,
    tls: Option<Arc<ClientConfig>>,
    proxied: bool,
}

impl Doctor {
    /// Reads the machine's certificates, where they are needed.
    pub fn new(question: Question) -> Result<Self, StartError> {
        let tls = question
            .address
            .encrypted
            .then(|| deliver::tls(true, false, &deliver::Access::default()))
            .transpose()?;
        let proxied = !is_loopback(&question.address.host) && proxy_is_set(question.address.encrypted);
        Ok(Self { question, tls: tls.map(Arc::new), proxied })
    }

    /// What is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Measures once. To be run on a current-thread runtime with I/O and time.
    pub async fn examine(&self, tell: &dyn Fn(Event)) -> Found {
        let Question { address, interval, patience } = &self.question;
        let seen = probe::probe(address, self.tls.as_ref(), *patience, tell).await;
        let result = seen.map(|seen| {
            let mut verdict = judge(&seen, *interval);
            if self.proxied {
                verdict.notes.push(
                    "the environment names a proxy, by which the daemon may go; this check went straight to the server"
                        .to_owned(),
                );
            }
            (seen, verdict)
        });
        Found { result }
    }
}

/// Nobody goes to this very machine by a proxy.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
}

/// Whether the environment names a proxy for this kind of address. Whom it excepts is not looked at.
fn proxy_is_set(encrypted: bool) -> bool {
    let names = if encrypted { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    let names = names.into_iter().chain(["all_proxy", "ALL_PROXY"]);
    names.into_iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
