//! Who is let in: a token, and encryption, where others than this machine's users can knock.
//!
//! In: files with a token, a certificate and its key. Out: what becomes of a request, before anything of it is looked at.
//! Without a token whoever can connect is let in, so that a server without one listens on loopback only.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use http::header::{HeaderValue, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, StatusCode};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::web::{Answer, plain};
use crate::token::{Gate, Token, Verdict};

/// Answered to everybody: whether it lives is no secret.
const OPEN: &str = "/ready";

/// What the door asks for. By default nothing.
#[derive(Clone, Default)]
pub struct Door {
    gate: Gate,
    encryption: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Door")
            .field("gate", &self.gate)
            .field("encryption", &self.encryption.is_some())
            .finish()
    }
}

/// Why there is no such door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The token.
    #[error("{0}")]
    Token(String),
    /// The certificate or its key.
    #[error("{path} holds no {what} in PEM: {error}")]
    Pem {
        /// The file.
        path: String,
        /// What should be in it.
        what: &'static str,
        /// What is wrong with it.
        error: rustls::pki_types::pem::Error,
    },
    /// The two together.
    #[error("the certificate and its key are of no use: {0}")]
    Certificate(#[from] rustls::Error),
}

impl Door {
    /// Asks for the token in the file at `path`.
    pub fn with_token(self, path: &Path) -> Result<Self, DoorError> {
        Ok(self.with_gate(Gate::new(Some(Token::read(path).map_err(DoorError::Token)?))))
    }

    /// Asks for what `gate` asks for, at every moment.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Encrypts what is said, as the owner of `certificate`, a file with the certificate and those that vouch for it; `key`
    /// is the file with its key.
    pub fn with_certificate(self, certificate: &Path, key: &Path) -> Result<Self, DoorError> {
        let pem = |path: &Path, what| {
            let path = path.display().to_string();
            move |error| DoorError::Pem { path, what, error }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
        let chain = chain.map_err(pem(certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key, "private key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut encryption = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        encryption.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { encryption: Some(Arc::new(encryption)), ..self })
    }

    /// The same as it may be shown to anybody.
    #[must_use]
    pub fn without_token(self) -> Self {
        Self { gate: Gate::default(), ..self }
    }

    /// True if it asks for a token.
    pub fn asks(&self) -> bool {
        self.gate.token().is_some()
    }

    /// Where a browser finds the page of the server that listens on `address`. The token is part of it, so it is for the
    /// eyes of whoever started the server.
    pub fn address(&self, address: std::net::SocketAddr) -> String {
        let scheme = if self.encryption.is_some() { "https" } else { "http" };
        let query = self.gate.token().map(|token| format!("?{}", token.query())).unwrap_or_default();
        format!("{scheme}://{address}/{query}")
    }

    /// What makes a connection an encrypted one.
    pub(super) fn encryption(&self) -> Option<TlsAcceptor> {
        self.encryption.clone().map(TlsAcceptor::from)
    }

    /// The answer to a request that is not let in, or not yet.
    pub(super) fn turns_away(&self, head: &Parts) -> Option<Answer> {
        if head.uri.path() == OPEN {
            return None;
        }
        match self.gate.check(&head.headers, &head.uri) {
            Verdict::Granted => None,
            // Who pushes so keeps no cookies, and would not push where it is sent on to.
            Verdict::Introduced { .. } if head.method != Method::GET && head.method != Method::HEAD => None,
            Verdict::Introduced { location, cookie } => {
                let mut answer = plain(StatusCode::SEE_OTHER, "see there");
                for (name, value) in [(LOCATION, location), (SET_COOKIE, cookie)] {
                    answer.headers_mut().insert(name, HeaderValue::try_from(value).ok()?);
                }
                Some(answer)
            }
            Verdict::Refused => {
                let mut answer = plain(
                    StatusCode::UNAUTHORIZED,
                    "this server asks for its token: as `Authorization: Bearer`, or once in the address, as ?token=",
                );
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                Some(answer)
            }
        }
    }
}
