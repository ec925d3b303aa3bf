//! What has to be right in each cell of the grid.
//!
//! In: a cell, and the outcome of its experiment. Out: a report, and in it each thing that is wrong, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::cells::{Cell, Fault};
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
    opened: u64,
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
        opened: seen.iter().map(|seen| seen.used("fresh")).sum(),
        reused: seen.iter().map(|seen| seen.used("reused")).sum(),
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
    let Report { fed, failed, received, broken, .. } = report;
    let delivered: u64 = seen.iter().map(|seen| seen.delivered).sum();
    let lost: u64 = seen.iter().map(|seen| seen.lost).sum();
    if received.profiles != *fed || lost > 0 {
        faults.push(format!("of {fed} profiles {} arrived, {lost} were given up", received.profiles));
    }
    if delivered != *fed {
        faults.push(format!("of {fed} profiles {delivered} were taken for delivered"));
    }
    if received.doubles > 0 {
        faults.push(format!("{} profiles came again with other bytes", received.doubles));
    }
    if received.repeats > *failed {
        faults.push(format!("{} bodies came again, but only {failed} attempts failed", received.repeats));
    }
    if cell.fault.is_of_the_wire() && *broken == 0 {
        faults.push("nothing went wrong, though it should have".to_owned());
    }
    if cell.fault == Fault::None && !cell.program.is_proxy() {
        let count = seen.iter().filter(|seen| seen.failed() > u64::from(cell.lies())).count();
        if count > 0 {
            faults.push(format!("attempts of {count} agents failed that could be foreseen"));
        }
        let opened: u64 = seen.iter().filter(|seen| keeps(cell, seen)).map(Seen::opened_late).sum();
        if opened > 0 {
            faults.push(format!("{opened} connections were opened where one could be kept"));
        }
    }
    faults
}

/// One connection is enough for all pushes of that agent's second half.
fn keeps(cell: &Cell, seen: &Seen) -> bool {
    let Some(says) = cell.says() else { return false };
    !cell.lies() && cell.interval() + seen.guard() + LATE_MAX < Duration::from_secs(says)
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fed, failed, how, late, received, opened, reused, broken, faults: _ } = self;
        let Received { profiles, repeats, doubles } = received;
        write!(
            out,
            "fed {fed}, received {profiles}, repeated {repeats}, doubled {doubles}, failed {failed} {how:?}, \
             opened {opened}, reused {reused}, broken {broken}, late {late:?}"
        )
    }
}
