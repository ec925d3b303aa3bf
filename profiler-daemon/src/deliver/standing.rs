//! How the connection to the server is kept, in words, for whoever asks.
//!
//! In: what the keeper of the connection says after each push. Out: one sentence. Not here: the log, which is told of
//! changes only.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::connection::Notice;

/// Where things stand, kept up to date. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Option<Notice>>>);

impl Standing {
    pub(super) fn set(&self, notice: Option<Notice>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = notice;
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notice = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Some(notice) => write!(out, "{notice}"),
            None => out.write_str(
                "keep-alive: it is not known yet how long the server keeps idle connections: each push opens one",
            ),
        }
    }
}
