//! The keeper of the connection: whether the next request may go over the one that is there.
//!
//! In: moments, what the server said, and who closed what. Out: reuse or open, and when to close. Not here:
//! sockets, clocks, waiting; all of it can be computed, and `tests` does so for whole grids of servers.
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
//! T is what was configured; else what the server says, unless it was seen to close earlier; else what it was seen
//! to do. To see that without risking a push, each goes over a fresh connection while up to three earlier ones stay
//! open and idle as *sentinels*: one that is still there after one and a quarter intervals proves that there is
//! room, three that the server closed at the same age say what T is. A first contact costs two to four connections.

mod fit;
#[cfg(test)]
mod grid;
mod learned;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use fit::{Basis, Fit, Notice};
pub use learned::{Bound, Hint, Margin};

use self::learned::{Learned, Verdict};
use super::keep_alive::KeepAlive;

/// How many times to first byte are remembered. A stall is over after as many pushes.
const FIRST_BYTES_MAX: usize = 16;
/// Connections that are left idle to see when they are closed.
pub const SENTINELS_MAX: usize = 3;
/// A push may be moved forward by a tenth of the interval: a machine's load differs more from minute to minute.
const TRIM_SHARE_MAX: u32 = 10;
/// A push that is late by up to a hundredth of the interval is allowed for when the interval is trimmed.
const LATENESS_SHARE_MAX: u32 = 100;
/// What a trimmed interval keeps clear beside the guard and what pushes were late by.
const TRIM_SLACK: Duration = Duration::from_millis(3);

/// What the keeper is told before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often pushes come.
    pub interval: Duration,
    /// The smallest guard: what a busy machine may take to get from the decision to the write.
    pub guard_min: Duration,
    /// The server's idle timeout, where the operator knows better.
    pub timeout: Option<Duration>,
    /// What to do where the interval does not fit.
    pub when_short: WhenShort,
    /// What was learned of this server before.
    pub hint: Option<Hint>,
}

/// What to do where pushes come too seldom for the server's timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenShort {
    /// Each push has its own connection, which we close.
    #[default]
    Retire,
    /// Pushes come a little earlier, by a tenth of the interval at most.
    Trim,
}

/// Names a connection between the keeper and whoever holds the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What carries the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The connection that is there.
    Kept(ConnectionId),
    /// A new one, which has this name.
    Fresh(ConnectionId, Opened),
}

/// Why a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opened {
    /// It is the first.
    First,
    /// It is not known yet how long the server keeps the last one.
    Probing,
    /// The last one was too close to the server's timeout, or would have been.
    PastTimeout,
    /// The last one was of an age at which the server was seen to close connections.
    DangerBand,
    /// The server takes no more requests on the last one.
    RequestsSpent,
    /// The server said that it closes the last one.
    ServerCloses,
    /// The server had closed the last one.
    ServerClosed,
    /// The last one turned out to be closed when it was to be used.
    PeekDead,
    /// The last one failed.
    Retry,
}

impl Opened {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Probing => "probing",
            Self::PastTimeout => "past_advertised",
            Self::DangerBand => "danger_band",
            Self::RequestsSpent => "requests_spent",
            Self::ServerCloses => "server_closes",
            Self::ServerClosed => "server_closed",
            Self::PeekDead => "peek_dead",
            Self::Retry => "retry",
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

/// What a failed request says of idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omen {
    /// Nothing: the request had arrived, or the connection was no idle one.
    None,
    /// The server had closed the connection before the request arrived.
    Closed,
    /// The connection was closed after someone had acknowledged the request: the server, which then lost the answer,
    /// or something in between, which did not know yet that the server had closed.
    Doubtful,
    /// The request was never acknowledged.
    Silent,
}

/// Decides which connection carries a request, and when the one that is there has to go.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    learned: Learned,
    first_bytes: VecDeque<Duration>,
    /// When pushes were begun, and by how much they were late.
    begun: Option<Instant>,
    lateness: VecDeque<Duration>,
    /// The connection that may be used again.
    held: Option<Idle>,
    /// What the last answer advertised.
    advertised: Option<Duration>,
    flight: Option<Flight>,
    sentinels: Vec<Idle>,
    /// Connections that have to be closed by whoever holds them.
    closing: Vec<ConnectionId>,
    /// Why there is none, if so.
    opened: Opened,
    /// The age at which a connection seemed to have fallen silent: to be confirmed by an answer on a fresh one.
    suspect: Option<Duration>,
    next: u64,
    told: Told,
}

/// A connection that nothing is under way on.
#[derive(Clone, Copy, Debug)]
struct Idle {
    id: ConnectionId,
    /// When its last request was begun: the server cannot have started its clock earlier.
    begun: Instant,
    timeout: Option<Duration>,
    /// Requests that the server still takes on it.
    requests: Option<u64>,
}

/// The request that is under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    id: ConnectionId,
    begun: Instant,
    /// How long the connection had been idle; `None` for a fresh one.
    age: Option<Duration>,
    requests: Option<u64>,
}

/// What the log knows.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The timeout that the last mismatch was about.
    mismatch: Option<Duration>,
    basis: Option<Basis>,
    disagrees: Option<Duration>,
}

impl Keeper {
    /// A keeper that has seen nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            learned: Learned::new(config.hint),
            first_bytes: VecDeque::with_capacity(FIRST_BYTES_MAX),
            begun: None,
            lateness: VecDeque::with_capacity(FIRST_BYTES_MAX),
            held: None,
            advertised: None,
            flight: None,
            sentinels: Vec::with_capacity(SENTINELS_MAX),
            closing: Vec::new(),
            opened: Opened::First,
            suspect: None,
            next: 0,
            told: Told::default(),
        }
    }

    /// A request is begun now. Says what carries it.
    pub fn begin(&mut self, now: Instant) -> Carrier {
        self.learned.pushed();
        self.release(now);
        self.note_lateness(now);
        if let Some(held) = self.held.take() {
            let age = now.saturating_duration_since(held.begun);
            match self.decide(held, age) {
                Decision::Reuse => {
                    let Idle { id, requests, .. } = held;
                    self.flight = Some(Flight { id, begun: now, age: Some(age), requests });
                    return Carrier::Kept(id);
                }
                Decision::Close(why) => self.close(held.id, why),
                Decision::Leave(why) => self.leave(held, why),
            }
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.flight = Some(Flight { id, begun: now, age: None, requests: None });
        Carrier::Fresh(id, self.opened)
    }

    fn decide(&self, held: Idle, age: Duration) -> Decision {
        let margin = self.margin();
        let safe = |timeout: Duration| age + margin.of(timeout) <= timeout;
        if let Some(timeout) = self.config.timeout {
            return if safe(timeout) { Decision::Reuse } else { Decision::Close(Opened::PastTimeout) };
        }
        if held.timeout.is_some_and(|timeout| !safe(timeout)) {
            return Decision::Close(Opened::PastTimeout);
        }
        match self.learned.verdict(age, margin) {
            Verdict::Safe => Decision::Reuse,
            Verdict::Danger => Decision::Close(Opened::DangerBand),
            Verdict::Suspect => Decision::Leave(Opened::DangerBand),
            Verdict::Unproven if held.timeout.is_some() && !self.learned.doubts(age, margin) => {
                Decision::Reuse
            }
            Verdict::Unproven => Decision::Leave(Opened::Probing),
        }
    }

    /// The answer to the request that is under way has come, in full or as much of it as we care to read. `sent` is
    /// when the request was begun to be written, which for a fresh connection is when it was there.
    pub fn answered(&mut self, sent: Instant, first_byte: Instant, said: Said) {
        let Some(flight) = self.flight.take() else { return };
        if self.first_bytes.len() == FIRST_BYTES_MAX {
            self.first_bytes.pop_front();
        }
        self.first_bytes.push_back(first_byte.saturating_duration_since(sent));
        let margin = self.margin();
        match flight.age {
            Some(age) => self.learned.used(age, margin),
            None => {
                if let Some(age) = self.suspect.take() {
                    self.learned.fell_silent(age, margin);
                }
            }
        }
        let KeepAlive { timeout, requests } = said.keep_alive;
        // A server that says the same number in every answer means it for the connection as a whole.
        let left = flight.requests.map(|left| left.saturating_sub(1));
        let requests = match (requests, left) {
            (Some(said), Some(left)) => Some(said.min(left)),
            (said, left) => said.or(left),
        };
        self.advertised = timeout;
        if said.closes {
            self.close(flight.id, Opened::ServerCloses);
        } else if requests == Some(0) {
            self.close(flight.id, Opened::RequestsSpent);
        } else {
            self.held = Some(Idle { id: flight.id, begun: sent.max(flight.begun), timeout, requests });
        }
    }

    /// The request that is under way failed: whatever carried it is not to be used again.
    pub fn failed(&mut self, omen: Omen) {
        let Some(Flight { id, age, .. }) = self.flight.take() else { return };
        self.suspect = match (age, omen) {
            (Some(age), Omen::Silent) => Some(age),
            _ => None,
        };
        match (age, omen) {
            (Some(age), Omen::Closed) => self.learned.closed(age, self.margin()),
            (Some(age), Omen::Doubtful) => self.learned.doubted(age, self.margin()),
            (None, _) | (_, Omen::None | Omen::Silent) => {}
        }
        self.close(id, Opened::Retry);
    }

    /// The connection that was to carry the request had gone before it was written, and another carries it.
    pub fn replaced(&mut self) {
        let margin = self.margin();
        if let Some(flight) = &mut self.flight
            && let Some(age) = flight.age.take()
        {
            flight.requests = None;
            self.learned.closed(age, margin);
        }
    }

    /// The other end closed this connection at `at`. Its age, if it was idle: what happens to the one that carries a
    /// request is known from how that ends.
    pub fn closed(&mut self, id: ConnectionId, at: Instant) -> Option<Duration> {
        let sentinel = self.sentinels.iter().position(|sentinel| sentinel.id == id);
        let idle = match sentinel {
            Some(place) => self.sentinels.swap_remove(place),
            None => match self.held.take_if(|held| held.id == id) {
                Some(held) => {
                    self.opened = Opened::ServerClosed;
                    held
                }
                None => return None,
            },
        };
        let age = at.saturating_duration_since(idle.begun);
        self.learned.closed(age, self.margin());
        Some(age)
    }

    /// The connection that is there is not as it should be, and nobody knows since when.
    pub fn doubted(&mut self) {
        if let Some(held) = self.held.take() {
            self.close(held.id, Opened::PeekDead);
        }
    }

    /// When [`Self::time_passed`] has something to do, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let sentinels = self.sentinels.iter().map(|sentinel| sentinel.begun + self.patience());
        self.retire_at().into_iter().chain(sentinels).min()
    }

    /// Closes what is due: the held connection before the server can, sentinels that have outlived what they are
    /// left for.
    pub fn time_passed(&mut self, now: Instant) {
        if self.retire_at().is_some_and(|at| at <= now)
            && let Some(held) = self.held.take()
        {
            let learned = self.basis() == Basis::Bounded;
            self.close(held.id, if learned { Opened::DangerBand } else { Opened::PastTimeout });
        }
        self.release(now);
    }

    /// Lets sentinels go that have outlived what they are left for.
    fn release(&mut self, now: Instant) {
        let (patience, margin) = (self.patience(), self.margin());
        let Self { sentinels, learned, closing, .. } = self;
        sentinels.retain(|sentinel| {
            let outlived = now >= sentinel.begun + patience;
            if outlived {
                learned.survived(patience, margin);
                closing.push(sentinel.id);
            }
            !outlived
        });
    }

    /// Connections that have to be closed now, by whoever holds them.
    pub fn take_closing(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.closing)
    }

    /// The connection that would carry the next request, if one is there.
    pub fn holds(&self) -> Option<ConnectionId> {
        self.held.map(|held| held.id)
    }

    /// Connections that are there, at most: one that is held or carries a request, and the sentinels.
    pub fn connections(&self) -> usize {
        usize::from(self.held.is_some()) + usize::from(self.flight.is_some()) + self.sentinels.len()
    }

    /// When the connection that is there has to be closed by us, if no request comes before. Where the next one
    /// will come too late anyway, that is at once.
    fn retire_at(&self) -> Option<Instant> {
        let held = self.held?;
        let fit = self.fit()?;
        if self.interval() <= fit.window() {
            return Some(held.begun + fit.window());
        }
        // Now and then one is left, to see whether it is still so.
        let looks = fit.basis == Basis::Bounded && self.learned.may_probe();
        (!looks).then_some(held.begun)
    }

    /// How interval and timeout go together, if there is a timeout.
    pub fn fit(&self) -> Option<Fit> {
        let advertised = self.advertised.map(|timeout| (timeout, Basis::Advertised));
        let bounded = self.learned.bound().map(|bound| (bound.timeout, Basis::Bounded));
        let known = match self.config.timeout {
            Some(timeout) => Some((timeout, Basis::Configured)),
            None => match (advertised, bounded) {
                (Some(advertised), Some(bounded)) => {
                    // A band that agrees with the header is the header's.
                    let earlier = bounded.0 + self.margin().of(advertised.0) < advertised.0;
                    Some(if earlier { bounded } else { advertised })
                }
                (advertised, bounded) => advertised.or(bounded),
            },
        };
        known.map(|(timeout, basis)| {
            let guard = self.margin().of(timeout);
            Fit { timeout, basis, guard, interval: self.config.interval }
        })
    }

    /// Where what is known of the server comes from.
    pub fn basis(&self) -> Basis {
        match self.fit() {
            Some(fit) => fit.basis,
            None if self.learned.proven() >= self.config.interval => Basis::Proven,
            None => Basis::Probing,
        }
    }

    /// The longest age at which a connection may carry a request, as far as that is known.
    pub fn window(&self) -> Option<Duration> {
        match self.fit() {
            Some(fit) => Some(fit.window()),
            None => Some(self.learned.proven()).filter(|proven| !proven.is_zero()),
        }
    }

    /// True where pushes come too seldom for the server's timeout.
    pub fn mismatch(&self) -> bool {
        self.fit().is_some_and(|fit| self.interval() > fit.window())
    }

    /// How often pushes should come: as configured, or a little earlier where that is wanted and enough.
    pub fn interval(&self) -> Duration {
        let wanted = self.config.interval;
        match (self.config.when_short, self.fit()) {
            // At that age a connection had fallen silent already, and nobody knows at which it does.
            (WhenShort::Trim, Some(fit)) if self.learned.silent() != Some(fit.timeout) => {
                let late = self.lateness.iter().max().copied().unwrap_or_default();
                let trimmed = fit.window().saturating_sub(TRIM_SLACK + late);
                if trimmed < wanted - wanted / TRIM_SHARE_MAX { wanted } else { trimmed.min(wanted) }
            }
            _ => wanted,
        }
    }

    /// What is worth remembering of this server.
    pub fn hint(&self) -> Option<Hint> {
        self.learned.hint()
    }

    /// How the connection is kept now, whether that was told or not; `None` while it is not known.
    pub fn standing(&self) -> Option<Notice> {
        let Some(fit) = self.fit() else {
            let proven = self.basis() == Basis::Proven;
            return proven.then(|| Notice::Proven(self.learned.proven(), self.config.interval));
        };
        let interval = self.interval();
        Some(match () {
            () if fit.fits() => Notice::Fits(fit),
            () if interval < fit.interval => Notice::Trimmed(fit, interval),
            () => Notice::Mismatch(fit),
        })
    }

    /// What has changed since it was asked last and is worth a line of log. A mismatch is told once per timeout: slow
    /// answers alone, which come and go, are not told again.
    pub fn notice(&mut self) -> Option<Notice> {
        let (basis, fit) = (self.basis(), self.fit());
        if let Some(bound) = self.disagreement() {
            self.told.disagrees = Some(bound.timeout);
            let timeout = self.config.timeout.or(self.advertised).unwrap_or_default();
            let (basis, guard) = match self.config.timeout {
                Some(_) => (Basis::Configured, self.margin().of(timeout)),
                None => (Basis::Advertised, self.margin().of(timeout)),
            };
            return Some(Notice::Disagrees(
                Fit { timeout, basis, guard, interval: self.config.interval },
                bound,
            ));
        }
        let before = self.told.basis.replace(basis);
        let Some(fit) = fit else {
            self.told.mismatch = None;
            return self.standing().filter(|_| before != Some(basis));
        };
        // What is measured differs by a little each time.
        let same = |told: Duration| told.abs_diff(fit.timeout) <= fit.timeout / 20;
        if self.told.mismatch.is_some_and(same) {
            return None;
        }
        if fit.fits() {
            let learned = basis == Basis::Bounded && before != Some(basis);
            return self.standing().filter(|_| self.told.mismatch.take().is_some() || learned);
        }
        self.told.mismatch = Some(fit.timeout);
        self.standing()
    }

    /// A timeout that closes have shown and that is shorter than what was said, if that was not told yet.
    fn disagreement(&self) -> Option<Bound> {
        let bound = self.learned.bound()?;
        let said = self.config.timeout.or(self.advertised)?;
        let earlier = bound.timeout + bound.spread + self.margin().of(said) < said;
        let new = self.told.disagrees.is_none_or(|told| told.abs_diff(bound.timeout) > told / 20);
        (earlier && new).then_some(bound)
    }

    /// What is left for later comes this far before the guard of a timeout.
    fn margin(&self) -> Margin {
        let net = self.first_bytes.iter().max().copied().unwrap_or_default();
        Margin { least: self.config.guard_min, net }
    }

    /// How long a sentinel has to last to prove that there is room for the interval.
    fn patience(&self) -> Duration {
        let Config { interval, guard_min, .. } = self.config;
        interval + (interval / 4).max(guard_min) + self.margin().net
    }

    fn note_lateness(&mut self, now: Instant) {
        let interval = self.interval();
        if let Some(begun) = self.begun.replace(now) {
            let late = now.saturating_duration_since(begun).saturating_sub(interval);
            // More is not jitter but a pause, or a push that came by the interval of before.
            if late < self.config.interval / LATENESS_SHARE_MAX {
                if self.lateness.len() == FIRST_BYTES_MAX {
                    self.lateness.pop_front();
                }
                self.lateness.push_back(late);
            }
        }
    }

    /// Leaves a connection idle to see when it is closed, if there are not enough of them.
    fn leave(&mut self, held: Idle, why: Opened) {
        if self.sentinels.len() < SENTINELS_MAX {
            self.learned.probed();
            self.sentinels.push(held);
            self.opened = why;
        } else {
            self.close(held.id, why);
        }
    }

    fn close(&mut self, id: ConnectionId, next: Opened) {
        self.closing.push(id);
        self.opened = next;
    }
}

/// What becomes of the connection that is there when a request is begun.
#[derive(Clone, Copy, Debug)]
enum Decision {
    Reuse,
    Close(Opened),
    Leave(Opened),
}
