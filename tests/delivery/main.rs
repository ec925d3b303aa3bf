//! Delivery against real servers: no push fails where that could be foreseen, no profile is lost, and none counts twice.
//!
//! A grid of cells, each of which is a real server with an idle timeout, a wire with a delay and perhaps a fault, and
//! some agents that push through it once per interval. docs/delivery.md says how to read it.
//!
//! Needs Go, Node, nginx, Apache and HAProxy. Says aloud when one is missing, and fails instead when
//! `TEST_REQUIRE_SERVERS=1`. With `TEST_LONG=1` it pushes several times as often.

mod cells;
mod configs;
mod experiment;
mod judge;
mod pairs;
mod receiver;
mod relay;
mod servers;
mod table;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use profiler_tests::harness::gate;
use profiler_tests::harness::weather::Weather;

use crate::cells::Cell;
use crate::judge::{WEATHER_MAX, judge};
use crate::table::Line;

/// Experiments of one test that run at the same time.
const LANES: usize = 34;
/// And of those that are done again: what was late for so much company must not have it again.
const LANES_AGAIN: usize = 4;
/// How often an experiment is done at most, where the machine was too busy to say anything.
const TIMES_MAX: u32 = 4;
/// Pushes of each agent in the table.
const TABLE_PUSHES: u32 = 24;

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
        Scale { agents: 7, times: 4, pushes_min: 100_000 }
    } else {
        Scale { agents: 4, times: 1, pushes_min: 10_000 }
    }
}

/// Makes ready what is needed, unless something is missing, which it says aloud.
fn ready(test: &str) -> bool {
    if let Some(missing) = servers::missing() {
        gate::skip(test, &missing);
        return false;
    }
    // What others do meanwhile is none of our business. Only root may, and without it goes too.
    let _ = rustix::process::setpriority_process(None, -10);
    // Before many want them at once.
    servers::certificates();
    true
}

#[test]
fn delivery_fails_no_push_that_could_be_foreseen_loses_nothing_and_counts_nothing_twice() {
    if !ready("the grid of servers") {
        return;
    }
    let begun = Instant::now();
    let scale = scale();
    let weather = Weather::watch();
    let only = std::env::var("TEST_CELLS").unwrap_or_default();
    let wanted = |cell: &Cell| only.split('+').all(|word| cell.to_string().contains(word));
    let cells: Vec<Cell> = cells::all().into_iter().filter(wanted).collect();
    let reports = settled(&cells, |cell| {
        let begun = Instant::now();
        let report = judge(cell, &cell.experiment(scale.agents, scale.times).run());
        let late = report.late.max(weather.worst_since(begun));
        println!("{cell}: {report}");
        if report.faults.is_empty() || late <= report.late_max(cell) {
            return (report, true);
        }
        println!("AGAIN, for the machine was {late:?} late: {:?}", report.faults);
        (report, false)
    });
    let pushes: u64 = reports.iter().map(|report| report.fed).sum();
    let failed: u64 = reports.iter().map(|report| report.failed).sum();
    let faults: Vec<&String> = reports.iter().flat_map(|report| &report.faults).collect();
    println!(
        "{} cells, {pushes} profiles, {failed} attempts failed, {} s; {weather}",
        reports.len(),
        begun.elapsed().as_secs()
    );
    assert!(faults.is_empty(), "{} of {} cells: {faults:#?}", faults.len(), cells.len());
    assert!(!only.is_empty() || pushes >= scale.pushes_min, "{pushes} pushes are too few");
}

#[test]
fn delivery_by_other_clients_shows_the_danger() {
    if !ready("the table of clients") {
        return;
    }
    let weather = Weather::watch();
    let experiments = table::experiments(TABLE_PUSHES);
    let mut lines = settled(&(0..experiments.len()).collect::<Vec<_>>(), |&number| {
        let (experiment, line) = &experiments[number];
        let begun = Instant::now();
        let line = line.clone().filled(&experiment.run());
        let late = weather.worst_since(begun);
        if !line.is_wrong() || late <= WEATHER_MAX {
            return ((number, line), true);
        }
        println!("AGAIN, for the machine was {late:?} late: {line:?}");
        ((number, line), false)
    });
    lines.sort_by_key(|(number, _)| *number);
    let lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
    println!("{}", table::table(&lines));
    let wrong: Vec<&Line> = lines.iter().filter(|line| line.is_wrong()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(lines.iter().any(Line::shows_danger), "the danger was not there");
}

/// What `work` makes of each of `items`, in no order. With it comes whether that says something: it is right, or wrong while the machine
/// was calm. What says nothing is done again when the others are through; the last time it counts.
fn settled<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> (R, bool) + Sync) -> Vec<R> {
    let mut results = Vec::new();
    let mut left: Vec<&T> = items.iter().collect();
    for time in 1..=TIMES_MAX {
        let lanes = if time == 1 { LANES } else { LANES_AGAIN };
        let mut again = Vec::new();
        for (item, (result, says_something)) in in_lanes(&left, lanes, |item| (*item, work(item))) {
            if says_something || time == TIMES_MAX {
                results.push(result);
            } else {
                again.push(item);
            }
        }
        left = again;
    }
    results
}

/// What `work` makes of each of `items`, as many at a time as there are `lanes`, in no order.
fn in_lanes<T: Sync, R: Send>(items: &[T], lanes: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    results.lock().expect("no lane panics while it holds this").push(result);
                }
            });
        }
    });
    results.into_inner().expect("every lane has ended")
}
