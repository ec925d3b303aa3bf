//! A server as values: what it answers, or how asking it fails, at the cost of neither a network nor an HTTP client.
//!
//! In: requests. Out: exchanges. Not here: how real failures become such values; the tests beside this one that have
//! sockets are about that. Hours of pushes are thousands, and each would take a debug build a millisecond.

use std::fmt;
use std::time::SystemTime;

use super::*;
use crate::deliver::answer::{Answer, Failure, FailureKind};
use crate::deliver::client::Exchange;
use crate::deliver::connection::Said;
use crate::deliver::keep_alive::{KeepAlive, retry_after};
use crate::deliver::sinks::Outgoing;

/// How long an answer takes.
const ANSWER_TIME: Duration = Duration::from_millis(5);
/// How long the server says that it keeps connections.
const KEPT: Duration = MINUTE;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    Answered(Answer),
    Failed(FailureKind),
    /// Nothing comes until nobody waits any more.
    Silent,
}

impl Turn {
    /// An answer of that status, with the value of `Retry-After` if it has one.
    pub(super) fn status(status: u16, wish: Option<&str>) -> Self {
        let retry_after = wish.and_then(|wish| retry_after(wish.as_bytes(), SystemTime::now()));
        let keep_alive = KeepAlive { timeout: Some(KEPT), requests: None };
        let said = Said { keep_alive, closes: false };
        Self::Answered(Answer { status, said, retry_after, ..Answer::default() })
    }
}

/// Says what becomes of a request.
type Say = Box<dyn FnMut(&[u8]) -> Turn + Send>;

/// What is done with each request, by its body as it was before it was compressed.
pub(in crate::deliver) struct Script {
    /// How long an answer is waited for.
    timeout: Duration,
    turn: Say,
}

impl fmt::Debug for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Script").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Script {
    pub(super) fn new(timeout: Duration, turn: impl FnMut(&[u8]) -> Turn + Send + 'static) -> Self {
        Self { timeout, turn: Box::new(turn) }
    }

    /// One request.
    pub(in crate::deliver) async fn post(&mut self, request: Outgoing) -> Exchange {
        let sent = Instant::now();
        let raw = crate::pprof::gunzip(&request.body, usize::MAX).unwrap();
        let turn = (self.turn)(&raw);
        let failed = |kind| Err(Failure { kind, cause: "as it is written".to_owned(), evidence: None });
        let (took, result) = match turn {
            Turn::Answered(answer) => (ANSWER_TIME, Ok(answer)),
            Turn::Failed(kind) => (ANSWER_TIME, failed(kind)),
            Turn::Silent => (self.timeout, failed(FailureKind::Timeout)),
        };
        sleep(took).await;
        Exchange { sent, first_byte: result.is_ok().then(Instant::now), result, replaced: false }
    }
}
