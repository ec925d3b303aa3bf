//! How the push interval and the server's timeout go together, and what is said of it in the log.
//!
//! In: the two times. Out: whether they fit, and lines with what can be done about it. Not here: where the times
//! come from.

use std::fmt;
use std::time::Duration;

use super::learned::Bound;

/// Where the server's timeout is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// From the configuration.
    Configured,
    /// The server says it.
    Advertised,
    /// It was seen to close three connections.
    Bounded,
    /// It was seen to keep one for longer than the interval.
    Proven,
    /// It is not known yet.
    Probing,
}

impl Basis {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Configured, Self::Advertised, Self::Bounded, Self::Proven, Self::Probing];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Advertised => "advertised",
            Self::Bounded => "bounded",
            Self::Proven => "proven",
            Self::Probing => "probing",
        }
    }
}

/// How interval and timeout go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// How long the server keeps an idle connection.
    pub timeout: Duration,
    /// Where that is known from.
    pub basis: Basis,
    /// How much of that is kept clear of requests.
    pub guard: Duration,
    /// How often we push.
    pub interval: Duration,
}

impl Fit {
    /// The longest age at which a connection may carry a request.
    pub fn window(self) -> Duration {
        self.timeout.saturating_sub(self.guard)
    }

    /// True if a connection lasts from one push to the next.
    pub fn fits(self) -> bool {
        self.interval + self.guard <= self.timeout
    }
}

/// A change worth a line of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Pushes come too seldom for this server's timeout.
    Mismatch(Fit),
    /// The same, and they are made to come a little earlier than configured: so often.
    Trimmed(Fit, Duration),
    /// There is room now, or it is known now that there is.
    Fits(Fit),
    /// The server keeps connections for longer than the interval, this long at least.
    Proven(Duration, Duration),
    /// The server closes connections earlier than it says, or than was configured.
    Disagrees(Fit, Bound),
}

impl Notice {
    /// True if something should be done about it.
    pub const fn is_trouble(&self) -> bool {
        match self {
            Self::Mismatch(_) | Self::Disagrees(..) => true,
            Self::Trimmed(..) | Self::Fits(_) | Self::Proven(..) => false,
        }
    }
}

/// The line that goes to the log, with what can be done about it.
impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("keep-alive: ")?;
        match *self {
            Self::Mismatch(fit) => {
                let Fit { interval, guard, .. } = fit;
                write!(
                    out,
                    "{}, pushes come every {} (guard {}): each push opens its own connection, closed by us before \
                     the server can; set the server's idle timeout to {} or more",
                    Keeps(fit),
                    Seconds(interval),
                    Seconds(guard),
                    Seconds(timeout_needed(interval, guard)),
                )?;
                match interval_that_fits(fit) {
                    Some(interval) => write!(out, ", or --interval to {} or less", Seconds(interval)),
                    None => Ok(()),
                }
            }
            Self::Trimmed(fit, interval) => write!(
                out,
                "{}, too short for pushes every {} (guard {}): they come every {} instead, windows with them",
                Keeps(fit),
                Seconds(fit.interval),
                Seconds(fit.guard),
                Seconds(interval),
            ),
            Self::Fits(fit) => write!(
                out,
                "{}, pushes every {} fit (guard {}): connections are kept",
                Keeps(fit),
                Seconds(fit.interval),
                Seconds(fit.guard),
            ),
            Self::Proven(age, interval) => write!(
                out,
                "the server does not say how long it keeps idle connections, and kept one for {}: pushes every {} \
                 fit, connections are kept",
                Seconds(age),
                Seconds(interval),
            ),
            Self::Disagrees(fit, bound) => write!(
                out,
                "{}, and closed three after {} (spread {}): {}",
                Keeps(fit),
                Seconds(bound.timeout + bound.spread),
                Seconds(bound.spread),
                match fit.basis {
                    Basis::Configured =>
                        "the configured time is used all the same; lower --keepalive-timeout, or leave it out",
                    _ => "what was seen is believed",
                },
            ),
        }
    }
}

/// The clause that says how long the server keeps a connection and how we know.
struct Keeps(Fit);

impl fmt::Display for Keeps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeout = Seconds(self.0.timeout);
        match self.0.basis {
            Basis::Advertised => write!(out, "the server keeps idle connections {timeout}"),
            Basis::Configured => write!(out, "the server is configured to keep idle connections {timeout}"),
            Basis::Bounded | Basis::Proven | Basis::Probing => {
                write!(out, "the server keeps idle connections {timeout} (three closes seen)")
            }
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
