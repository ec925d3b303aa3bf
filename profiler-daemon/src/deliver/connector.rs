//! Notes each connection that the HTTP library opens: when it was there, and a second descriptor of it.
//!
//! In: the library's own connector. Out: the same, and the last note. Not here: what is done with it.
//!
//! The library says nothing of its connections but their two ends, at the moment they are made; by those the
//! descriptor is found.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connection, HttpInfo};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::socket::{self, TcpInfo};

/// What is known of the connections of one client.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// How many it has begun to open.
    pub(super) begun: u64,
    /// The last one that was there, until it is taken.
    pub(super) made: Option<Made>,
}

/// A connection as it was made, encryption included.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) at: Instant,
    /// A second descriptor of it, where one could be had.
    pub(super) socket: Option<OwnedFd>,
    /// What the kernel knew of it then: the handshake's bytes are no request's.
    pub(super) info: Option<TcpInfo>,
}

/// Puts notes where its clones find them.
#[derive(Clone, Debug, Default)]
pub(super) struct Noting(Arc<Mutex<Notes>>);

impl Noting {
    /// The notes so far.
    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Noting {
    type Service = NotingService<S>;

    fn layer(&self, inner: S) -> NotingService<S> {
        NotingService { inner, noting: self.clone() }
    }
}

/// A connector that takes notes.
#[derive(Clone, Debug)]
pub(super) struct NotingService<S> {
    inner: S,
    noting: Noting,
}

impl<S, Request> Service<Request> for NotingService<S>
where
    S: Service<Request>,
    S::Response: Connection + Send,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.noting.notes().begun += 1;
        let connecting = self.inner.call(request);
        let noting = self.noting.clone();
        Box::pin(async move {
            let connection = connecting.await?;
            let at = Instant::now();
            let mut extras = http::Extensions::new();
            connection.connected().get_extras(&mut extras);
            let ends = extras.get::<HttpInfo>();
            let socket = ends.and_then(|ends| socket::find(ends.local_addr(), ends.remote_addr()));
            let info = socket.as_ref().and_then(socket::info);
            noting.notes().made = Some(Made { at, socket, info });
            Ok(connection)
        })
    }
}
