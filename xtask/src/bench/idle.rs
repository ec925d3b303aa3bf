//! What a resident costs where nothing happens: its start, its idling beside two hundred processes that sleep, its stop in the middle of
//! a window.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::daemon::{Daemon, Stopped};
use super::load::{Load, Scene};
use super::meter::Reading;
use super::{Budget, Tools};

/// The rate that a service has unless it is told another, and the one that other figures are for.
const FREQUENCIES_HZ: [u32; 2] = [19, 99];
/// Starts at each rate; what is shown is the middle one.
const ROUNDS: usize = 3;
/// After that long everything that belongs to the start has been done.
const START: Duration = Duration::from_secs(3);
/// After that long the first whole window has been pushed, and helpers of the start have been ended.
const SETTLED: Duration = Duration::from_secs(24);
/// How long it idles: to the middle of the fifth window after that.
const IDLE: Duration = Duration::from_secs(45);

/// One life.
#[derive(Clone, Copy, Debug)]
struct Life {
    start_cpu_s: f64,
    idle_percent: f64,
    wakeups_per_second: f64,
    /// Of the rest of the machine: where it is not idle, the agent has work.
    busy_cores: f64,
    stopped: Stopped,
}

/// Measures, and prints a table.
pub(super) fn measure(tools: &Tools) -> Result<Vec<Budget>> {
    println!(
        "\n`profiler-daemon run`, all its processes, beside 200 that sleep: the middle of {ROUNDS} lives"
    );
    println!(
        "{:>4}  {:>11} {:>9} {:>9} {:>11} {:>7} {:>9} {:>6}",
        "Hz", "start CPU s", "idle %", "wakes/s", "cores busy", "stop s", "captured", "lost"
    );
    let _load = Load::of(Scene::Sleeping, &tools.deep)?;
    let mut budgets = Vec::new();
    for hz in FREQUENCIES_HZ {
        let lives = (0..ROUNDS).map(|_| live(tools, hz)).collect::<Result<Vec<_>>>()?;
        let middle = |of: fn(&Life) -> f64| {
            let mut found: Vec<f64> = lives.iter().map(of).collect();
            found.sort_by(f64::total_cmp);
            found[found.len() / 2]
        };
        let (start, idle) = (middle(|life| life.start_cpu_s), middle(|life| life.idle_percent));
        let (captured, lost) = lives.iter().fold((0, 0), |(captured, lost), life| {
            (captured + life.stopped.captured, lost + life.stopped.lost)
        });
        println!(
            "{hz:>4}  {start:>11.3} {idle:>9.3} {:>9.2} {:>11.2} {:>7.2} {captured:>9} {lost:>6}",
            middle(|life| life.wakeups_per_second),
            middle(|life| life.busy_cores),
            middle(|life| life.stopped.took_s),
        );
        let budget = |what: &str, found: f64, most: f64, unit: &'static str| Budget {
            what: format!("{what} (200 idle processes, {hz} Hz)"),
            found,
            most,
            unit,
        };
        budgets.push(budget("CPU to start", start, 0.2, "s"));
        budgets.push(budget("idle CPU of one core", idle, 0.05, "%"));
        budgets.push(budget("samples lost by a stop in mid-window", lost as f64, 0.0, ""));
    }
    Ok(budgets)
}

fn live(tools: &Tools, hz: u32) -> Result<Life> {
    let daemon = Daemon::start(&tools.daemon, hz)?;
    let (begun, pid) = (daemon.begun(), daemon.id());
    // Nobody asks it anything: answers would be work.
    sleep_until(begun + START);
    let started = Reading::of(pid);
    sleep_until(begun + SETTLED);
    let settled = Reading::of(pid);
    sleep_until(begun + SETTLED + IDLE);
    let idled = Reading::of(pid);
    let busy_cores = idled.machine_cores_since(&settled) - idled.cpu_percent_since(&settled) / 100.0;
    Ok(Life {
        start_cpu_s: started.cpu_s,
        idle_percent: idled.cpu_percent_since(&settled),
        wakeups_per_second: idled.wakeups_per_second_since(&settled),
        busy_cores,
        stopped: daemon.stop()?,
    })
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
