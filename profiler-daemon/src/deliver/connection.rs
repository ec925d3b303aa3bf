//! The keeper of the connection: whether the next request may go over the one that is there.
//!
//! In: moments, and what the server said. Out: reuse or open, and when to close. Not here: sockets, clocks,
//! waiting; all of it can be computed, and `tests` does so for whole grids of servers.
//!
//! A server closes a connection that was idle for its timeout `T`. A request that is under way when it does is
//! lost, and nothing on our side can see the FIN coming: over a network every second push failed where the
//! interval met the timeout. So no request is written unless it must arrive in time. The server's clock starts
//! when it has our request, at `s0`, which is no earlier than `a`, when we began to send it. A request written at
//! `w` arrives at `w + d`, and is safe while `w + d < s0 + T`. Hence the rule: **`w <= a + T - guard`, with a
//! guard no smaller than `d`**. Past that moment *we* close, so that the FIN is ours.
//!
//! guard = max(2 % of T, 50 ms) + the longest of the last 16 times from request to first byte. The first term
//! is for timers that tick coarsely and a process that is not scheduled at once, the second for path and server
//! load. The time of a handshake is too small (a proxy may answer it), the shortest time to first byte too.
//!
//! What the server says is believed. One that closes earlier than it says costs failed attempts, which are tried
//! again on a fresh connection, and counted.
//!
//! Where a server says nothing, each request has its own connection, closed by us once it is answered.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::keep_alive::KeepAlive;

/// How many times to first byte are remembered. A stall is over after as many pushes.
const FIRST_BYTES_MAX: usize = 16;
/// The smallest guard: what a busy machine may take to get from the decision to the write.
const GUARD_MIN: Duration = Duration::from_millis(50);
/// The guard grows with the timeout, because servers with long ones look at them seldom.
const GUARD_SHARE: u32 = 50;

/// What carries the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The connection that is there.
    Kept,
    /// A new one. If there was another, it is to be closed before.
    Fresh(Opened),
}

/// Why a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opened {
    /// It is the first.
    First,
    /// The server does not say how long it would have kept the last one.
    NotAdvertised,
    /// The last one was too close to the server's timeout, or would have been.
    PastTimeout,
    /// The server takes no more requests on the last one.
    RequestsSpent,
    /// The server said that it closes the last one.
    ServerCloses,
    /// The server had closed the last one before the time it advertises.
    Gone,
    /// The last one failed.
    Failed,
}

impl Opened {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::NotAdvertised => "not_advertised",
            Self::PastTimeout => "past_timeout",
            Self::RequestsSpent => "requests_spent",
            Self::ServerCloses => "server_closes",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// What an answer says of the connection it came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The `Keep-Alive` header.
    pub keep_alive: KeepAlive,
    /// The connection ends with this answer: the server said so, or the answer was not read to its end.
    pub closes: bool,
}

/// A change worth a line of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Pushes come too seldom for this server's timeout.
    Mismatch(Fit),
    /// The server's timeout has changed and there is room now.
    Fits(Fit),
}

/// How interval and timeout go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// How long the server keeps an idle connection.
    pub timeout: Duration,
    /// How much of that is kept clear of requests.
    pub guard: Duration,
    /// How often we push.
    pub interval: Duration,
}

impl Fit {
    fn fits(self) -> bool {
        self.interval + self.guard <= self.timeout
    }
}

/// Decides which connection carries a request, and when the one that is there has to go.
#[derive(Debug)]
pub struct Keeper {
    interval: Duration,
    first_bytes: VecDeque<Duration>,
    /// When the last request was begun.
    begun: Option<Instant>,
    /// The connection that is there while it may be used again.
    held: Option<Held>,
    /// Why there is none, if so.
    opened: Opened,
    /// What the last answer advertised.
    timeout: Option<Duration>,
    /// The timeout that the last reported mismatch was about.
    reported: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// When its last request was begun: the server cannot have started its clock earlier.
    begun: Instant,
    timeout: Duration,
    /// Requests that the server still takes on it.
    requests: Option<u64>,
}

impl Keeper {
    /// A keeper for pushes that come every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            first_bytes: VecDeque::with_capacity(FIRST_BYTES_MAX),
            begun: None,
            held: None,
            opened: Opened::First,
            timeout: None,
            reported: None,
        }
    }

    /// A request is begun now. Says what carries it.
    pub fn begin(&mut self, now: Instant) -> Carrier {
        self.begun = Some(now);
        if self.held.is_some_and(|held| self.safe_until(held).is_none_or(|until| now > until)) {
            self.drop_for(Opened::PastTimeout);
        }
        match self.held {
            Some(_) => Carrier::Kept,
            None => Carrier::Fresh(self.opened),
        }
    }

    /// The first byte of the answer to the request that was begun last came now.
    pub fn first_byte(&mut self, now: Instant) {
        let Some(begun) = self.begun else { return };
        if self.first_bytes.len() == FIRST_BYTES_MAX {
            self.first_bytes.pop_front();
        }
        self.first_bytes.push_back(now.saturating_duration_since(begun));
    }

    /// The answer has come in full, or as much of it as we care to read.
    pub fn answered(&mut self, said: Said) -> Option<Notice> {
        let KeepAlive { timeout, requests } = said.keep_alive;
        // A server that says the same number in every answer means it for the connection as a whole.
        let left = self.held.and_then(|held| held.requests).map(|left| left.saturating_sub(1));
        let requests = match (requests, left) {
            (Some(said), Some(left)) => Some(said.min(left)),
            (said, left) => said.or(left),
        };
        self.timeout = timeout;
        match (timeout, self.begun) {
            _ if said.closes => self.drop_for(Opened::ServerCloses),
            _ if requests == Some(0) => self.drop_for(Opened::RequestsSpent),
            (Some(timeout), Some(begun)) => self.held = Some(Held { begun, timeout, requests }),
            (None, _) | (_, None) => self.drop_for(Opened::NotAdvertised),
        }
        self.notice()
    }

    /// The request failed: whatever carried it is not to be used again.
    pub fn failed(&mut self) {
        self.drop_for(Opened::Failed);
    }

    /// The kept connection had gone before the request that was answered last, and another carried it.
    pub fn gone(&mut self) {
        self.drop_for(Opened::Gone);
    }

    /// A connection is there and may be used again.
    pub const fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// When the connection that is there has to be closed by us, if no request comes before. Where the next one
    /// will come too late anyway, that is at once.
    pub fn retire_at(&self) -> Option<Instant> {
        let held = self.held?;
        let fit = Fit { timeout: held.timeout, guard: self.guard(held.timeout), interval: self.interval };
        Some(if fit.fits() { self.safe_until(held).unwrap_or(held.begun) } else { held.begun })
    }

    /// The connection that is there was closed by us, as [`Self::retire_at`] asked.
    pub fn retired(&mut self) {
        self.drop_for(Opened::PastTimeout);
    }

    /// How interval and timeout go together, if the server says its timeout.
    pub fn fit(&self) -> Option<Fit> {
        let timeout = self.timeout?;
        Some(Fit { timeout, guard: self.guard(timeout), interval: self.interval })
    }

    /// True where pushes come too seldom for the server's timeout.
    pub fn mismatch(&self) -> bool {
        self.fit().is_some_and(|fit| !fit.fits())
    }

    /// A mismatch is told once per timeout that the server advertises. Slow answers alone, which come and go, are
    /// not told again.
    fn notice(&mut self) -> Option<Notice> {
        let fit = self.fit()?;
        if self.reported == Some(fit.timeout) {
            return None;
        }
        if !fit.fits() {
            self.reported = Some(fit.timeout);
            return Some(Notice::Mismatch(fit));
        }
        self.reported.take().map(|_| Notice::Fits(fit))
    }

    fn guard(&self, timeout: Duration) -> Duration {
        GUARD_MIN.max(timeout / GUARD_SHARE) + self.first_bytes.iter().max().copied().unwrap_or_default()
    }

    /// The last moment at which a request may be written; `None` if there is none.
    fn safe_until(&self, held: Held) -> Option<Instant> {
        held.timeout.checked_sub(self.guard(held.timeout)).map(|age| held.begun + age)
    }

    fn drop_for(&mut self, next: Opened) {
        self.held = None;
        self.opened = next;
    }
}

/// The line that goes to the log, with what can be done about it.
impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(fit) => {
                let Fit { timeout, guard, interval } = *fit;
                write!(
                    out,
                    "keep-alive: the server keeps idle connections {}, pushes come every {} (guard {}): each push \
                     opens its own connection, closed by us before the server can; set the server's idle timeout \
                     to {} or more",
                    Seconds(timeout),
                    Seconds(interval),
                    Seconds(guard),
                    Seconds(timeout_needed(interval, guard)),
                )?;
                match interval_that_fits(*fit) {
                    Some(interval) => write!(out, ", or --interval to {} or less", Seconds(interval)),
                    None => Ok(()),
                }
            }
            Self::Fits(Fit { timeout, guard, interval }) => write!(
                out,
                "keep-alive: the server keeps idle connections {} now, pushes every {} fit (guard {}): connections \
                 are kept",
                Seconds(*timeout),
                Seconds(*interval),
                Seconds(*guard),
            ),
        }
    }
}

/// A fifth more than the interval, so that a slow answer does not spoil it again; whole seconds, as servers want.
fn timeout_needed(interval: Duration, guard: Duration) -> Duration {
    let needed = (interval + interval / 5).max(interval + guard);
    Duration::from_secs(needed.as_secs() + u64::from(needed.subsec_nanos() > 0))
}

/// The longest interval that fits, in tenths of a second, if that is near to the one that was wanted.
fn interval_that_fits(fit: Fit) -> Option<Duration> {
    let tenths = fit.timeout.checked_sub(fit.guard)?.as_millis() / 100;
    let longest = Duration::from_millis(u64::try_from(tenths).ok()?.saturating_mul(100));
    (longest >= fit.interval.mul_f64(0.8)).then_some(longest)
}

/// A duration in seconds, as short as it can be written to the millisecond.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.3}", self.0.as_secs_f64());
        write!(out, "{} s", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests;
