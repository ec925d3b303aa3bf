//! What has to be right in each cell of the grid.
//!
//! In: a cell, and the outcome of its experiment. Out: a report, and in it each thing that is wrong, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::cells::{Cell, Fault, Policy};
use crate::experiment::{Outcome, Seen};
use crate::receiver::Received;

/// Later than this, and what failed may have failed for that.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(15);

/// What came of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) fed: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    how: BTreeMap<String, u64>,
    pub(crate) late: Duration,
    received: Received,
    /// Attempts on a fresh connection, and on one that was kept.
    fresh: u64,
    reused: u64,
    broken: u64,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

/// Sums `outcome` up, and says what is wrong with it.
pub(crate) fn judge(cell: &Cell, outcome: &Outcome) -> Report {
    let Outcome { seen, received, broken, connections: _ } = outcome;
    let mut report = Report {
        fed: seen.iter().map(|seen| seen.fed).sum(),
        failed: seen.iter().map(Seen::failed).sum(),
        how: BTreeMap::new(),
        late: seen.iter().map(|seen| seen.late).max().unwrap_or_default(),
        received: *received,
        fresh: seen.iter().map(Seen::fresh).sum(),
        reused: seen.iter().map(Seen::reused).sum(),
        broken: *broken,
        faults: Vec::new(),
    };
    for (how, count) in seen.iter().flat_map(Seen::failures) {
        *report.how.entry(how.to_owned()).or_default() += count;
    }
    report.faults =
        faults(cell, seen, &report).iter().map(|fault| format!("{cell}: {fault}; {report}")).collect();
    report
}

fn faults(cell: &Cell, seen: &[Seen], report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    let Report { fed, received, broken, .. } = report;
    let sum = |count: fn(&Seen) -> u64| seen.iter().map(count).sum::<u64>();
    let (delivered, lost) = (sum(|seen| seen.delivered), sum(|seen| seen.lost));
    if cell.at_most_once {
        let unknown = sum(Seen::unknown);
        if lost != unknown || received.profiles + unknown < *fed {
            faults.push(format!("{lost} were given up, {unknown} of them for they may have arrived"));
        }
        if received.repeats > 0 {
            faults.push(format!("{} requests were sent twice", received.repeats));
        }
    } else if received.profiles != *fed || delivered != *fed || lost > 0 {
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
    if cell.fault == Fault::None && !cell.program.is_proxy() {
        let count = seen.iter().filter(|seen| seen.failed() > u64::from(cell.lies())).count();
        if count > 0 {
            faults.push(format!("attempts of {count} agents failed that could be foreseen"));
        }
        let fresh: u64 = seen.iter().filter(|seen| keeps(cell, seen)).map(Seen::fresh_late).sum();
        if fresh > 0 {
            faults.push(format!("{fresh} connections were opened where one could be kept"));
        }
    }
    faults
}

/// One connection is enough for all pushes of that agent's second half.
fn keeps(cell: &Cell, seen: &Seen) -> bool {
    let interval = match cell.policy {
        Policy::Retire => cell.interval(),
        // So much earlier it may push.
        Policy::Trim => cell.interval().mul_f64(0.9),
    };
    interval + seen.guard() + LATE_MAX < cell.keeps()
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fed, failed, how, late, received, fresh, reused, broken, faults: _ } = self;
        let Received { profiles, repeats, doubles } = received;
        write!(
            out,
            "fed {fed}, received {profiles}, repeated {repeats}, doubled {doubles}, failed {failed} {how:?}, \
             fresh {fresh}, reused {reused}, broken {broken}, late {late:?}"
        )
    }
}
