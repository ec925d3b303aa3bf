//! What was seen of a connection, as plain values.
//!
//! In: nothing. Out: types that `probe` fills, `verdict` weighs and `report` shows.

use std::net::SocketAddr;
use std::time::Duration;

use http::Version;

use crate::deliver::keep_alive::KeepAlive;
use crate::socket::{End, How};

/// A connection as it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// What the TCP handshake took.
    pub connect: Duration,
    /// What the TLS handshake took, where there was one.
    pub tls: Option<Duration>,
}

/// What came back over it. Texts are fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked, such as `HEAD`.
    pub method: &'static str,
    /// HTTP status.
    pub status: u16,
    /// HTTP version.
    pub version: Version,
    /// From the beginning of the request to the answer's head.
    pub first_byte: Duration,
    /// The header `Server`.
    pub server: Option<String>,
    /// The header `Via`.
    pub via: Option<String>,
    /// The header `Connection`.
    pub connection: Option<String>,
    /// The header `Keep-Alive`, as it was written.
    pub keep_alive: Option<String>,
    /// The same, as it was understood.
    pub advertised: KeepAlive,
    /// The answer says that the connection ends with it, or has no end itself.
    pub closes: bool,
    /// A push with `POST` would be taken there, or refused for what is in it.
    pub pushable: Option<bool>,
    /// The kernel's smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The shortest round-trip time that it saw.
    pub rtt_min: Option<Duration>,
}

/// How a connection that was left idle ended. All times are counted from the beginning of its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The answer was the end of it: it was announced, or came at once.
    WithAnswer {
        /// Who closed.
        by: End,
        /// How.
        how: How,
    },
    /// It was closed while it was idle.
    Closed {
        /// Who closed.
        by: End,
        /// How.
        how: How,
        /// After so long.
        idle: Duration,
        /// Bytes that came before the end and that nobody had asked for.
        unasked_bytes: u64,
    },
    /// More came after the answer than was asked for, so that it cannot carry another request.
    Spoilt {
        /// When that was looked at.
        idle: Duration,
    },
    /// It was there at the end, and still carried a request.
    Open {
        /// After so long.
        idle: Duration,
    },
    /// Nobody had closed it, but a request on it was not answered any more.
    Dead {
        /// After so long.
        idle: Duration,
    },
}

/// A connection, from its opening to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it was opened.
    pub opened: Opened,
    /// What was answered.
    pub answer: Answer,
    /// How it ended.
    pub ending: Ending,
}
