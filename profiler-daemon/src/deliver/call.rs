//! One question to a server and its whole answer: what a person at the command line waits for.
//!
//! In: a path below the server's address, and a body in protobuf, or none. Out: the body of the answer, or a sentence that says
//! why there is none and what to do. Not here: pushes, whose connections are kept and whose failures are tried again
//! (`client`, `retry`).

use std::io;
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tokio::runtime::{self, Runtime};

use super::answer::quotable;
use super::client::{builder, failure, way_to};
use super::connect_error::{BODY_BYTES_MAX, ConnectError};
use super::sinks::pyroscope::{CONTENT_TYPE as PROTO, address_below, without_secret};
use super::{Access, StartError};
use crate::pprof::gunzip;

/// Longest answer, bytes, as it comes and as it is decompressed: a day of a large fleet has some megabytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long all of it may take: servers give up after half of it.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Asks one server.
#[derive(Debug)]
pub struct Caller {
    client: Client,
    /// As it was given: its path is kept.
    server: String,
    access: Access,
    runtime: Runtime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing can be asked at all.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No answer came.
    #[error("{server} does not answer: {cause}. Is it running, and is that its address?")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        cause: String,
    },
    /// It asks who we are.
    #[error(
        "{server} does not let us in ({status}{words}): give --user with --password-file, --bearer-token-file or \
         --tenant, as for the agent"
    )]
    Access {
        /// Its address.
        server: String,
        /// The status.
        status: u16,
        /// What it says, after a colon.
        words: String,
    },
    /// It does not know the question.
    #[error("{server} is no Pyroscope, or one before 1.0, at this path ({status}{words})")]
    Unknown {
        /// Its address.
        server: String,
        /// The status.
        status: u16,
        /// What it says, after a colon.
        words: String,
    },
    /// It refuses.
    #[error("{server} refuses ({status}{words})")]
    Refused {
        /// Its address.
        server: String,
        /// The status.
        status: u16,
        /// What it says, after a colon.
        words: String,
    },
    /// More than there is room for.
    #[error("the answer of {server} has more than {ANSWER_BYTES_MAX} bytes: ask about less")]
    TooLarge {
        /// Its address.
        server: String,
    },
}

impl Caller {
    /// Makes ready to ask the server at `server`.
    pub fn new(server: &str, access: Access) -> Result<Self, StartError> {
        let (tls, proxied) = way_to(&address_below(server, &[])?, false, &access)?;
        let client = builder(tls, proxied, TIME_MAX).http1_only().build().map_err(StartError::Client)?;
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        Ok(Self { client, server: server.to_owned(), access, runtime })
    }

    /// The server's address, as it may be shown.
    pub fn server(&self) -> String {
        without_secret(&self.server)
    }

    /// The answer to `body`, posted to `path` below the server's address.
    pub fn call(&self, path: &[&str], body: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let address = address_below(&self.server, path)?;
        let request = self
            .client
            .post(address)
            .headers(self.access.headers())
            .header(CONTENT_TYPE, HeaderValue::from_static(PROTO))
            // Without the last a Pyroscope keeps names with dots to itself.
            .header(ACCEPT, HeaderValue::from_static("*/*;allow-utf8-labelnames=true"))
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
            .body(body);
        self.answer(request)
    }

    /// The answer to a question for `path` below the server's address with `query`, within `patience`.
    pub fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let mut address = address_below(&self.server, path)?;
        address.query_pairs_mut().extend_pairs(query);
        self.answer(self.client.get(address).headers(self.access.headers()).timeout(patience))
    }

    fn answer(&self, request: RequestBuilder) -> Result<Vec<u8>, CallError> {
        self.runtime.block_on(async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let (status, gzip) = (response.status(), is_gzip(&response));
            let body = self.body(response).await?;
            let body = if gzip { self.unpacked(&body)? } else { body };
            if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        CallError::Unreachable { server: self.server(), cause: failure(error, None).cause }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CallError::TooLarge { server: self.server() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unpacked(&self, body: &[u8]) -> Result<Vec<u8>, CallError> {
        use crate::pprof::GunzipError;
        gunzip(body, ANSWER_BYTES_MAX).map_err(|error| match error {
            GunzipError::TooLarge { .. } => CallError::TooLarge { server: self.server() },
            GunzipError::Malformed(cause) => self.garbage(&cause),
        })
    }

    fn garbage(&self, cause: &io::Error) -> CallError {
        CallError::Unreachable { server: self.server(), cause: format!("what came is damaged: {cause}") }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> CallError {
        let error = ConnectError::read(body).map(|error| error.message);
        let words = match &error {
            Some(message) => quotable(message.as_bytes()),
            None => quotable(&body[..body.len().min(BODY_BYTES_MAX)]),
        };
        let words = if words.is_empty() { words } else { format!(": {words}") };
        let (server, number) = (self.server(), status.as_u16());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                CallError::Access { server, status: number, words }
            }
            // Of a Pyroscope's own, 404 has an error of the protocol: something that was asked about is not there.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNSUPPORTED_MEDIA_TYPE
                if error.is_none() =>
            {
                CallError::Unknown { server, status: number, words }
            }
            _ if status.is_redirection() => CallError::Unknown { server, status: number, words },
            _ => CallError::Refused { server, status: number, words },
        }
    }
}

fn is_gzip(response: &Response) -> bool {
    response.headers().get(CONTENT_ENCODING).is_some_and(|value| value == "gzip")
}
