//! What has to be right in each cell of the grid.
//!
//! In: a cell, and the outcome of its experiment. Out: a report, and in it each thing that is wrong, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::cells::{Cell, Fault, Policy};
use crate::experiment::{Outcome, Seen};
use crate::receiver::Received;
use crate::servers::{LONG, Program, Protocol};

/// The guard: what one push may be late by.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(15);

/// A machine later than this, and what failed may have failed for that: an agent, a wire and a server are late in turn, and the guard is
/// for all three.
pub(crate) const WEATHER_MAX: Duration = Duration::from_millis(5);

/// The same for a connection that was opened where one could be kept, if pushes are moved to just before the server's
/// timeout: so much they keep clear of it, beside the guard and what they were late by before.
pub(crate) const TRIMMED_LATE_MAX: Duration = Duration::from_millis(3);

/// What is said of such connections.
const NEEDLESS: &str = "connections were opened where one could be kept";

/// How much of a timeout has to be learnt at least: what answers vary by is taken off, twice.
const LEARNT_SHARE_MIN: f64 = 0.9;

/// What came of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) fed: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    how: BTreeMap<String, u64>,
    /// Connections that were opened, by why.
    opened: BTreeMap<String, u64>,
    pub(crate) late: Duration,
    received: Received,
    /// Attempts on a fresh connection, and on one that was kept.
    fresh: u64,
    reused: u64,
    broken: u64,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

impl Report {
    /// Later than this, and the machine may be to blame for what is wrong.
    pub(crate) fn late_max(&self, cell: &Cell) -> Duration {
        let needless = self.faults.iter().all(|fault| fault.contains(NEEDLESS));
        if needless && cell.policy == Policy::Trim { TRIMMED_LATE_MAX } else { WEATHER_MAX }
    }
}

/// Sums `outcome` up, and says what is wrong with it.
pub(crate) fn judge(cell: &Cell, outcome: &Outcome) -> Report {
    let Outcome { seen, received, broken, connections: _ } = outcome;
    let mut report = Report {
        fed: seen.iter().map(|seen| seen.fed).sum(),
        failed: seen.iter().map(Seen::failed).sum(),
        how: by_name(seen.iter().flat_map(Seen::failures)),
        opened: by_name(seen.iter().flat_map(Seen::opened)),
        late: seen.iter().map(|seen| seen.late).max().unwrap_or_default(),
        received: *received,
        fresh: seen.iter().map(Seen::fresh).sum(),
        reused: seen.iter().map(Seen::reused).sum(),
        broken: *broken,
        faults: Vec::new(),
    };
    report.faults =
        faults(cell, seen, &report).iter().map(|fault| format!("{cell}: {fault}; {report}")).collect();
    report
}

fn by_name<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in counts {
        *sums.entry(name.to_owned()).or_default() += count;
    }
    sums
}

fn faults(cell: &Cell, seen: &[Seen], report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    let Report { fed, received, broken, .. } = report;
    let sum = |count: fn(&Seen) -> u64| seen.iter().map(count).sum::<u64>();
    let (delivered, lost) = (sum(|seen| seen.delivered), sum(|seen| seen.lost));
    // The embedded server has its profiles in memory: started again it takes what it had for new, which can only be what
    // may have arrived before.
    let forgot = (cell.program, cell.fault) == (Program::Embedded, Fault::Restart)
        && (*fed..=*fed + sum(Seen::ambiguous)).contains(&received.profiles);
    if cell.at_most_once {
        let unknown = sum(Seen::unknown);
        if lost != unknown || received.profiles + unknown < *fed {
            faults.push(format!("{lost} were given up, {unknown} of them for they may have arrived"));
        }
        if received.repeats > 0 {
            faults.push(format!("{} requests were sent twice", received.repeats));
        }
    } else if (received.profiles != *fed && !forgot) || delivered != *fed || lost > 0 {
        faults.push(format!(
            "of {fed} profiles {} arrived, {delivered} were taken for delivered, {lost} were given up",
            received.profiles
        ));
    }
    if received.doubles > 0 {
        faults.push(format!("{} profiles came again with other bytes", received.doubles));
    }
    let ambiguous = sum(Seen::ambiguous);
    if received.repeats > ambiguous {
        faults
            .push(format!("{} requests came twice, but only {ambiguous} may have arrived", received.repeats));
    }
    if cell.fault.is_of_the_wire() && *broken == 0 {
        faults.push("nothing went wrong, though it should have".to_owned());
    }
    match cell.fault {
        Fault::None if !cell.program.is_proxy() => faults.extend(idle_faults(cell, seen)),
        // Once it has fallen into it, it knows the hole.
        Fault::BlackHole => faults.extend(more(seen, Seen::fell_silent, 1)),
        _ => {}
    }
    faults
}

/// What is wrong where connections are closed for nothing but being idle.
fn idle_faults(cell: &Cell, seen: &[Seen]) -> Vec<String> {
    let mut faults: Vec<String> = more(seen, Seen::failed, u64::from(cell.lies())).into_iter().collect();
    // A push that comes later than it should finds its connection too old, and so does the one after a slow answer.
    let excused = |seen: &Seen| seen.stumbles + u64::from(seen.grew_careful());
    let needless = |seen: &Seen| seen.fresh_late().saturating_sub(excused(seen));
    let fresh: u64 = seen.iter().filter(|seen| keeps(cell, seen)).map(needless).sum();
    if fresh > 0 {
        faults.push(format!("{fresh} {NEEDLESS}"));
    }
    if cell.is_at_limit() && !seen.iter().any(|seen| keeps(cell, seen)) {
        faults.push("answers were too slow to show what is kept".to_owned());
    }
    let known = seen.iter().filter_map(Seen::known).min();
    if let Some(known) = known.filter(|&known| known + LATE_MAX < cell.keeps().mul_f64(LEARNT_SHARE_MIN)) {
        faults.push(format!("a timeout of {:?} was taken for one of {known:?}", cell.keeps()));
    }
    faults
}

/// Agents of which more attempts failed than could not be foreseen.
fn more(seen: &[Seen], failed: fn(&Seen) -> u64, allowed: u64) -> Option<String> {
    let count = seen.iter().filter(|seen| failed(seen) > allowed).count();
    (count > 0).then(|| format!("attempts of {count} agents failed that could be foreseen"))
}

/// One connection is enough for all pushes of that agent's last third.
fn keeps(cell: &Cell, seen: &Seen) -> bool {
    // Apache closes HTTP/2 at ages that differ by 30 ms, so that what is known of it changes to the end; and a lie is
    // found out when a push fails, which may be at the end.
    if cell.lies() || (cell.program, cell.protocol) == (Program::Apache, Protocol::Http2) {
        return false;
    }
    let interval = match cell.policy {
        Policy::Retire => cell.interval(),
        // So much earlier it may push.
        Policy::Trim => cell.interval().mul_f64(0.9),
    };
    let timeout = seen.known().unwrap_or(LONG).min(cell.keeps());
    interval + seen.guard() + LATE_MAX < timeout
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fed, failed, how, opened, late, received, fresh, reused, broken, faults: _ } = self;
        let Received { profiles, repeats, doubles } = received;
        write!(
            out,
            "fed {fed}, received {profiles}, repeated {repeats}, doubled {doubles}, failed {failed} {how:?}, \
             fresh {fresh} {opened:?}, reused {reused}, broken {broken}, late {late:?}"
        )
    }
}
