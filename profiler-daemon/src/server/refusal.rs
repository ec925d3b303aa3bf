//! Why a push is not stored, in the words of the Connect protocol that Pyroscope's clients understand.

use http::StatusCode;

/// How a refusal is coded: decides the status, and with it whether a client tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// It will never be accepted.
    InvalidArgument,
    /// Too much of something: perhaps accepted later, or in smaller parts.
    ResourceExhausted,
    /// Asked for something that this server does not do.
    Unimplemented,
    /// From another site.
    PermissionDenied,
    /// It could not be stored: the disk.
    Unavailable,
}

impl Code {
    /// As it is written in an answer.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unimplemented => "unimplemented",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
        }
    }

    /// The status of the answer.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    /// How it is coded.
    pub(super) code: Code,
    /// Its name in metrics.
    pub(super) reason: &'static str,
    /// For people. Short, whatever was sent.
    pub(super) message: String,
}

/// Bytes of a message: what was sent may be quoted, and may be long.
const MESSAGE_BYTES_MAX: usize = 500;

impl Refusal {
    /// A refusal for good.
    pub(super) fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, message)
    }

    /// A refusal because of how much there is.
    pub(super) fn exhausted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, reason, message)
    }

    /// A refusal.
    pub(super) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        Self { code, reason, message }
    }
}
