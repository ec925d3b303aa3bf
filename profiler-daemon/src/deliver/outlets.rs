//! Where to push to, when that is more than one place.
//!
//! In: the configuration. Out: a pusher for each sink, each with a queue, a spool, a connection and meters of its own,
//! so that a slow one holds back no other. Not here: what a pusher does.
//!
//! The first sink is the one whose weight is in the books: what it has taken is delivered. The others are counted for
//! themselves, by name.

use super::quarantine::QuarantineMeters;
use super::sinks::{Sink, SinkConfig};
use super::spool::SpoolMeters;
use super::tally::{SinkMeters, Tally};
use super::{Config, Outbox, Pusher, StartError};
use crate::meters::{Counters, Meters};

/// One place to push to, and what is counted there.
#[derive(Debug)]
pub(super) struct Outlet {
    /// What kind of server it is.
    pub(super) sink: Sink,
    /// Its name: that of its folder too.
    pub(super) name: String,
    /// What was configured, for this one.
    pub(super) config: Config,
    pub(super) tally: Tally,
    pub(super) spool: SpoolMeters,
    pub(super) quarantine: QuarantineMeters,
}

/// A pusher for each sink of `config`, the first one first. `lost` is the family of all losses of the first.
pub(super) fn open(
    config: &Config,
    meters: &Meters,
    lost: Counters,
) -> Result<Vec<(Pusher, Outbox)>, StartError> {
    let mut sinks = vec![(Sink::Pyroscope, config.clone())];
    for sink in &config.sinks {
        let (kind, server) = match sink {
            SinkConfig::Pyroscope { server } => (Sink::Pyroscope, server.clone()),
            SinkConfig::Ingest { server } => (Sink::Ingest, server.clone()),
            SinkConfig::Directory { folder } => (Sink::Directory, folder.display().to_string()),
        };
        // What was set for the connection to the first says nothing of another, and only one can be followed.
        let Config { access, keepalive_timeout, when_short, .. } = Config::default();
        sinks.push((kind, Config { server, access, keepalive_timeout, when_short, ..config.clone() }));
    }
    let names = names(sinks.iter().map(|(sink, _)| *sink));
    let others = (names.len() > 1).then(|| SinkMeters::new(meters));
    let spools = SpoolMeters::new(meters, &names);
    let quarantine = QuarantineMeters::new(meters);
    let mut first = Some(Tally::new(meters, lost));
    let mut pushers = Vec::new();
    for (((sink, config), name), spool) in sinks.into_iter().zip(names).zip(spools) {
        let tally = match (first.take(), &others) {
            (None, Some(others)) => Tally::beside(others, &name),
            (first, _) => first.expect("there are others if there is a second"),
        };
        let outlet = Outlet { sink, name, config, tally, spool, quarantine: quarantine.clone() };
        pushers.push(Pusher::to(outlet)?);
    }
    Ok(pushers)
}

/// A name for each: its kind, and from the second of a kind on a number.
fn names(sinks: impl Iterator<Item = Sink>) -> Vec<String> {
    let mut kinds: Vec<&str> = Vec::new();
    sinks
        .map(|sink| {
            kinds.push(sink.name());
            match kinds.iter().filter(|kind| **kind == sink.name()).count() {
                1 => sink.name().to_owned(),
                number => format!("{}-{number}", sink.name()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        assert_eq!(names([Sink::Pyroscope; 3].into_iter()), ["pyroscope", "pyroscope-2", "pyroscope-3"]);
    }
}
