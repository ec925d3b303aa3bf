//! Whether an interval fits a server.
//!
//! In: what was seen. Out: a verdict, in one word and in one sentence, and what to change. Not here: sockets, clocks.
//!
//! The rule and the guard are those of the keeper of the connection: a connection that was idle for the interval may
//! be used again if interval and guard together are no longer than the server's timeout. The timeout is the shortest
//! that was seen, or what is advertised if that is shorter, since what is advertised is believed.

use std::time::Duration;

use super::families::{Signs, setting};
use super::seen::{Ending, Seen};
use crate::deliver;
use crate::deliver::connection::Margin;
use crate::doctor::Health;
use crate::socket::{End, How};

/// Shortest interval that can be configured.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What was found, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Idle connections are kept longer than the interval.
    Fits,
    /// No idle connection was closed at all.
    Open,
    /// They are closed just when the next push comes.
    Race,
    /// They are closed, or to be given up, before the next push comes.
    NoReuse,
    /// Every answer is the end of its connection.
    ClosesEach,
    /// They are closed before the time that is advertised, and the interval does not fit.
    HeaderLies,
    /// They die without a word.
    SilentDrop,
    /// They were open when the time was up, before anything was known.
    TooShort,
}

impl Kind {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Open => "open",
            Self::Race => "race",
            Self::NoReuse => "no_reuse",
            Self::ClosesEach => "closes_each",
            Self::HeaderLies => "header_lies",
            Self::SilentDrop => "silent_drop",
            Self::TooShort => "too_short",
        }
    }

    /// Whether anything has to be changed.
    pub const fn health(self) -> Health {
        match self {
            Self::Fits | Self::Open => Health::Fits,
            Self::Race | Self::NoReuse | Self::ClosesEach | Self::HeaderLies | Self::SilentDrop => {
                Health::DoesNotFit
            }
            Self::TooShort => Health::Unknown,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In one word.
    pub kind: Kind,
    /// In one sentence.
    pub words: String,
    /// What to change, if anything.
    pub advice: Option<String>,
    /// After how long an idle connection was closed: the shortest.
    pub idle_timeout: Option<Duration>,
    /// What the server says of that.
    pub advertised: Option<Duration>,
    /// What is to be kept clear of requests before the timeout.
    pub guard: Duration,
    /// Who closed first, and how.
    pub closed: Option<(End, How)>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// Weighs what was `seen`.
///
/// # Panics
///
/// Where nothing was seen.
pub fn judge(seen: &[Seen], interval: Duration) -> Verdict {
    let [first, ..] = seen else { panic!("a verdict on nothing") };
    let mut closes: Vec<(Duration, End, How)> = Vec::new();
    let (mut open, mut spent, mut dead) = (None, None, None);
    for connection in seen {
        match connection.ending {
            Ending::WithAnswer { by, how } => spent = Some((by, how)),
            // Whoever sees that gives the connection up.
            Ending::Spoilt { .. } => spent = Some((End::Client, How::Fin)),
            Ending::Closed { by, how, idle, .. } => closes.push((idle, by, how)),
            Ending::Open { idle } => open = open.max(Some(idle)),
            Ending::Dead { idle } => dead = dead.max(Some(idle)),
        }
    }
    closes.sort_unstable_by_key(|close| close.0);
    let shortest = closes.first().copied();
    let idle_timeout = shortest.map(|close| close.0);
    let advertised = seen.iter().filter_map(|connection| connection.answer.advertised.timeout).min();
    let timeout = match (idle_timeout, advertised) {
        (Some(kept), Some(said)) => Some(kept.min(said)),
        (kept, said) => kept.or(said),
    };
    let first_byte = seen.iter().map(|connection| connection.answer.first_byte).max().unwrap_or_default();
    let margin = Margin { least: deliver::Config::default().guard_min, net: first_byte };
    let guard = margin.of(timeout.unwrap_or(interval));
    let fits = |timeout: Duration| interval + guard <= timeout;

    let kind = match (timeout, idle_timeout) {
        _ if dead.is_some() => Kind::SilentDrop,
        (_, None) if open.is_none() && spent.is_some() => Kind::ClosesEach,
        (None, _) if open.is_some_and(|open| open >= interval + guard) => Kind::Open,
        (None, _) => Kind::TooShort,
        (Some(timeout), _) if fits(timeout) => Kind::Fits,
        (Some(_), None) => Kind::NoReuse,
        (Some(_), Some(kept)) if advertised.is_some_and(|said| said > kept + guard) => Kind::HeaderLies,
        (Some(_), Some(kept)) if !fits(kept) && interval <= kept + guard => Kind::Race,
        (Some(_), Some(_)) => Kind::NoReuse,
    };
    let closed = match kind {
        Kind::ClosesEach => spent,
        _ => shortest.map(|(_, by, how)| (by, how)),
    };
    let found = Found { kind, interval, guard, timeout, idle_timeout, advertised, open, dead };
    let signs = Signs {
        server: first.answer.server.as_deref(),
        via: first.answer.via.as_deref(),
        pyroscope: first.answer.pushable == Some(true),
        advertises: first.answer.keep_alive.is_some(),
        closed_after: idle_timeout,
    };
    Verdict {
        kind,
        words: found.words(),
        advice: found.advice(signs),
        idle_timeout,
        advertised,
        guard,
        closed,
        notes: found.notes(seen, &closes),
    }
}

struct Found {
    kind: Kind,
    interval: Duration,
    guard: Duration,
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    advertised: Option<Duration>,
    open: Option<Duration>,
    dead: Option<Duration>,
}

impl Found {
    fn words(&self) -> String {
        let (interval, guard) = (Seconds(self.interval), Seconds(self.guard));
        let timeout = Seconds(self.timeout.unwrap_or_default());
        let kept = Seconds(self.idle_timeout.or(self.timeout).unwrap_or_default());
        match self.kind {
            Kind::Fits => format!(
                "idle connections are kept {timeout}, longer than the interval of {interval} and the guard of {guard}: \
                 every push can use the last one's connection"
            ),
            Kind::Open => format!(
                "no connection was closed in {} of idleness: every push at {interval} can use the last one's connection",
                Seconds(self.open.unwrap_or_default()),
            ),
            Kind::Race => format!(
                "idle connections are closed after {kept}, which is the push interval of {interval} within the guard of \
                 {guard}: a client that reuses its connection loses pushes here, and this one must not reuse it"
            ),
            Kind::NoReuse => match self.idle_timeout {
                Some(_) if self.timeout == self.idle_timeout => format!(
                    "idle connections are closed after {kept}, before the next push at {interval}: no push is lost, but \
                     each opens a connection"
                ),
                _ => format!(
                    "idle connections are promised for {timeout} only, and the next push comes after {interval} (guard \
                     {guard}): each push opens a connection"
                ),
            },
            Kind::ClosesEach => {
                "the server closes every connection with its answer: no push is lost, but each opens a connection"
                    .to_owned()
            }
            Kind::HeaderLies => format!(
                "idle connections are closed after {kept} though {} is advertised: a client that believes it loses \
                 pushes at {interval}",
                Seconds(self.advertised.unwrap_or_default()),
            ),
            Kind::SilentDrop => format!(
                "a connection that was idle for {} is dead, and nobody said so: no FIN, no RST, no answer. A push on it \
                 fails only when its time is up",
                Seconds(self.dead.unwrap_or_default()),
            ),
            Kind::TooShort => format!(
                "no connection was closed in {} of idleness, which says nothing of an interval of {interval}",
                Seconds(self.open.unwrap_or_default()),
            ),
        }
    }

    fn advice(&self, signs: Signs<'_>) -> Option<String> {
        let needed = timeout_needed(self.interval, self.guard);
        let (family, setting) = setting(signs, needed);
        let mut advice = match self.kind {
            Kind::Fits | Kind::Open => return None,
            Kind::Race | Kind::NoReuse => format!("{family}: set {setting}"),
            Kind::HeaderLies => {
                format!(
                    "{family}: keep connections for as long as the Keep-Alive header says, or let it say less; set {setting}"
                )
            }
            Kind::ClosesEach => {
                return Some(format!(
                    "{family}: keep-alive is off there, or the answer is in HTTP/1.0; turn it on and set {setting}"
                ));
            }
            Kind::SilentDrop => format!(
                "a firewall, NAT or load balancer on the way forgets idle connections: let it keep them for {} s or more",
                needed.as_secs()
            ),
            Kind::TooShort => {
                return Some(format!("watch longer: --patience {}s", needed.as_secs()));
            }
        };
        if let Some(longest) = self.timeout.and_then(|timeout| interval_that_fits(timeout, self.guard)) {
            advice += &format!(
                "; or push every {} or more often (--interval {}ms)",
                Seconds(longest),
                longest.as_millis()
            );
            // The pusher shortens its interval by a tenth at most.
            if longest > self.interval - self.interval / 10 {
                advice += ", or let the daemon do so (--keepalive-policy trim)";
            }
        }
        Some(advice)
    }

    fn notes(&self, seen: &[Seen], closes: &[(Duration, End, How)]) -> Vec<String> {
        let mut notes = Vec::new();
        if let (Kind::Fits | Kind::NoReuse | Kind::Race, Some(kept), Some(said)) =
            (self.kind, self.idle_timeout, self.advertised)
        {
            if said > kept + self.guard {
                notes.push(format!(
                    "{} is advertised, {} is kept: the header lies",
                    Seconds(said),
                    Seconds(kept)
                ));
            } else if kept > said + self.guard {
                notes.push(format!(
                    "{} is advertised, {} is kept: what is advertised counts",
                    Seconds(said),
                    Seconds(kept)
                ));
            }
        }
        if let (Some((shortest, ..)), Some((longest, ..))) = (closes.first(), closes.last())
            && *longest > *shortest + *shortest / 20 + Duration::from_millis(20)
        {
            notes.push(format!(
                "the closes do not agree, {} to {}: a coarse timer, or a restart; the shortest counts",
                Seconds(*shortest),
                Seconds(*longest)
            ));
        }
        if !closes.is_empty() && closes.len() < seen.len() {
            notes.push(format!("{} of {} connections were closed while idle", closes.len(), seen.len()));
        }
        if seen.iter().any(|connection| matches!(connection.ending, Ending::Spoilt { .. })) {
            notes.push(
                "more comes after the answer than was asked for: no client can use the connection again"
                    .to_owned(),
            );
        }
        let resets = closes.iter().filter(|(_, _, how)| *how == How::Rst).count();
        if resets > 0 {
            notes.push("idle connections are reset, not closed in order: something on the way, or a server that is killed, does that".to_owned());
        }
        let first = &seen[0].answer;
        match (first.pushable, first.status) {
            (Some(false), status) => {
                notes.push(format!("status {status} for the push path: is a Pyroscope there?"));
            }
            (None, status @ (401 | 403 | 407)) => {
                notes.push(format!(
                    "status {status}: this check sends no credentials and needs none, any answer will do"
                ));
            }
            (None, status @ (502 | 504)) => {
                notes.push(format!(
                    "status {status}: a proxy answers, and the server behind it does not, or had closed the idle \
                     connection between them: let the server keep connections for longer than the proxy does"
                ));
            }
            (None, status) => {
                notes.push(format!("status {status}: whether a Pyroscope is there cannot be told"))
            }
            (Some(true), _) => {}
        }
        notes
    }
}

/// A fifth more than the interval, so that a slow answer does not spoil it again; whole seconds, as servers want.
fn timeout_needed(interval: Duration, guard: Duration) -> Duration {
    let needed = (interval + interval / 5).max(interval + guard);
    Duration::from_secs(needed.as_secs() + u64::from(needed.subsec_nanos() > 0))
}

/// The longest interval that fits, in tenths of a second.
fn interval_that_fits(timeout: Duration, guard: Duration) -> Option<Duration> {
    let tenths = u64::try_from(timeout.checked_sub(guard)?.as_millis() / 100).ok()?;
    Some(Duration::from_millis(tenths * 100)).filter(|longest| *longest >= INTERVAL_MIN)
}

/// A duration in seconds, as short as it can be written to the millisecond.
pub(super) struct Seconds(pub(super) Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.3}", self.0.as_secs_f64());
        write!(out, "{} s", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests;
