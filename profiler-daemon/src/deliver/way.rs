//! What carries requests: connections to a server, or a thread that writes files.
//!
//! In: requests, and the word when to open and close. Out: answers and failures. A folder has no connections: it never
//! closes one, and what is said of them does nothing.

use std::future::pending;

use super::client::{Client, Exchange};
use super::connection::ConnectionId;
use super::sinks::{Folder, Outgoing};
use crate::socket::Closed;

/// Either of the two.
#[derive(Debug)]
pub(super) enum Way {
    Http(Box<Client>),
    Folder(Folder),
    /// A server that is only written down.
    #[cfg(test)]
    Script(super::tests::Script),
}

impl Way {
    /// See [`Client::open`].
    pub(super) fn open(&mut self, id: ConnectionId) {
        match self {
            Self::Http(client) => client.open(id),
            Self::Folder(_) => {}
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    /// See [`Client::close`].
    pub(super) fn close(&mut self, id: ConnectionId) -> bool {
        match self {
            Self::Http(client) => client.close(id),
            Self::Folder(_) => false,
            #[cfg(test)]
            Self::Script(_) => false,
        }
    }

    /// See [`Client::close_all`].
    pub(super) fn close_all(&mut self) -> usize {
        match self {
            Self::Http(client) => client.close_all(),
            Self::Folder(_) => 0,
            #[cfg(test)]
            Self::Script(_) => 0,
        }
    }

    /// See [`Client::closed`].
    pub(super) async fn closed(&mut self) -> (ConnectionId, Closed) {
        match self {
            Self::Http(client) => client.closed().await,
            Self::Folder(_) => pending().await,
            #[cfg(test)]
            Self::Script(_) => pending().await,
        }
    }

    /// See [`Client::closed_already`].
    pub(super) fn closed_already(&mut self) -> Option<(ConnectionId, Closed)> {
        match self {
            Self::Http(client) => client.closed_already(),
            Self::Folder(_) => None,
            #[cfg(test)]
            Self::Script(_) => None,
        }
    }

    /// See [`Client::is_doubtful`].
    pub(super) fn is_doubtful(&self, id: ConnectionId) -> bool {
        match self {
            Self::Http(client) => client.is_doubtful(id),
            Self::Folder(_) => false,
            #[cfg(test)]
            Self::Script(_) => false,
        }
    }

    /// See [`Client::post`].
    pub(super) async fn post(&mut self, id: ConnectionId, request: Outgoing) -> Exchange {
        match self {
            Self::Http(client) => client.post(id, request).await,
            Self::Folder(folder) => folder.write(request.body).await,
            #[cfg(test)]
            Self::Script(script) => script.post(request).await,
        }
    }
}
