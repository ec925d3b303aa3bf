//! Delivery against real servers: no push fails where that could be foreseen, no profile is lost, and none counts twice.
//!
//! A grid of cells, each of which is a real server with an idle timeout, a wire with a delay and perhaps a fault, and
//! some agents that push through it once per interval. docs/delivery.md says how to read it.
//!
//! Needs Go, Node, nginx, Apache and HAProxy. Says aloud when one is missing, and fails instead when
//! `TEST_REQUIRE_SERVERS=1`. With `TEST_LONG=1` it pushes ten times as often.

mod cells;
mod configs;
mod pairs;
mod receiver;
mod relay;
mod run;
mod servers;
mod weather;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use profiler_tests::harness::gate;

use crate::cells::Cell;
use crate::run::{Report, run};
use crate::weather::Weather;

/// Cells that run at the same time.
const LANES: usize = 28;
/// How often a cell is run at most, where the machine was too busy to say anything.
const RUNS_MAX: u32 = 4;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Scale {
    agents: u32,
    /// Pushes of each, by what is usual.
    times: u32,
    pushes_min: u64,
}

fn scale() -> Scale {
    if std::env::var("TEST_LONG").is_ok_and(|value| value == "1") {
        Scale { agents: 8, times: 5, pushes_min: 100_000 }
    } else {
        Scale { agents: 4, times: 1, pushes_min: 10_000 }
    }
}

#[test]
fn no_push_fails_no_profile_is_lost_and_none_counts_twice() {
    if let Some(missing) = servers::missing() {
        return gate::skip("the grid of servers", &missing);
    }
    let begun = Instant::now();
    // Before others want them at once.
    servers::certificates();
    let scale = scale();
    let weather = Weather::watch();
    let only = std::env::var("TEST_CELLS").unwrap_or_default();
    let cells: Vec<Cell> = cells::all()
        .into_iter()
        .filter(|cell| only.split('+').all(|word| cell.to_string().contains(word)))
        .collect();
    let reports = in_lanes(&cells, |cell| settled(cell, scale, &weather));
    let pushes: u64 = reports.iter().map(|report| report.fed).sum();
    let failed: u64 = reports.iter().map(|report| report.failed).sum();
    let faults: Vec<&String> = reports.iter().flat_map(|report| &report.faults).collect();
    println!(
        "{} cells, {pushes} profiles, {failed} attempts failed, {} s; {weather}",
        reports.len(),
        begun.elapsed().as_secs()
    );
    for fault in &faults {
        println!("FAULT {fault}");
    }
    assert!(faults.is_empty(), "{} of {} cells: {faults:#?}", faults.len(), cells.len());
    assert!(!only.is_empty() || pushes >= scale.pushes_min, "{pushes} pushes are too few");
}

/// Runs a cell until it is right, or wrong while the machine was calm.
fn settled(cell: &Cell, scale: Scale, weather: &Weather) -> Report {
    for time in 1.. {
        let begun = Instant::now();
        let mut report = run(cell, scale.agents, scale.times);
        let late = report.late.max(weather.worst_since(begun));
        println!("{cell}: {report}");
        if report.faults.is_empty() || late <= run::LATE_MAX || time == RUNS_MAX {
            if late > run::LATE_MAX {
                report
                    .faults
                    .iter_mut()
                    .for_each(|fault| fault.push_str(&format!(" (the machine was {late:?} late)")));
            }
            return report;
        }
        println!("{cell}: the machine was {late:?} late; again, after {:?}", report.faults);
    }
    unreachable!("the last time is not repeated")
}

/// Each of `cells` once, some at a time.
fn in_lanes(cells: &[Cell], work: impl Fn(&Cell) -> Report + Sync) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = work(cell);
                    reports.lock().expect("no lane panics while it holds this").push(report);
                }
            });
        }
    });
    reports.into_inner().expect("every lane has ended")
}
