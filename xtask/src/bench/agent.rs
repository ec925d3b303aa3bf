//! Our half: what all processes of the daemon's use, from the start on, at several rates and on several machines.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::daemon::Daemon;
use super::load::{Load, Scene};
use super::meter::Reading;
use super::peer::{self, Perf};
use super::{Budget, Plan, Tools};

/// After that long everything that belongs to the start has been done.
const START: Duration = Duration::from_secs(3);
/// After that long the first whole window has been pushed, and what it needed has been read.
const SETTLED: Duration = Duration::from_secs(14);

/// What a run of the daemon cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    page_s: f64,
    first_data_s: f64,
    start_cpu_s: f64,
    steady_percent: f64,
    wakeups_per_second: f64,
    anonymous: u64,
    anonymous_all: u64,
    proportional: u64,
    machine_cores: f64,
}

/// Measures every rate on every machine, and prints a table with perf beside.
pub(super) fn measure(tools: &Tools, plan: Plan) -> Result<Vec<Budget>> {
    println!("\nall processes of `profiler-daemon run` beside `perf record -a -g` and its `perf script`");
    println!(
        "{:<19} {:>4}  {:<6} {:>9} {:>10} {:>11} {:>10} {:>8} {:>8} {:>8} {:>9}",
        "machine",
        "Hz",
        "",
        "page s",
        "1st data s",
        "start CPU s",
        "steady %",
        "wakes/s",
        "anon MB",
        "PSS MB",
        "cores busy"
    );
    let mut budgets = Vec::new();
    for scene in Scene::ALL {
        for &hz in plan.frequencies_hz {
            let _load = Load::of(scene, &tools.deep)?;
            let ours = once(tools, hz, plan.steady_seconds)?;
            let perf = peer::measure(hz, plan.steady_seconds)?;
            print_rows(scene, hz, ours, perf);
            budgets.extend(budgets_of(scene, hz, ours));
        }
    }
    Ok(budgets)
}

fn once(tools: &Tools, hz: u32, steady_seconds: u64) -> Result<Cost> {
    let mut daemon = Daemon::start(&tools.daemon, hz)?;
    let (begun, pid) = (daemon.begun(), daemon.id());
    let page_s = daemon.wait_for_page()?;
    let first_data_s = daemon.wait_for_data()?;
    sleep_until(begun + START);
    let started = Reading::of(pid);
    sleep_until(begun + SETTLED);
    let first = Reading::of(pid);
    std::thread::sleep(Duration::from_secs(steady_seconds));
    let last = Reading::of(pid);
    Ok(Cost {
        page_s,
        first_data_s,
        start_cpu_s: started.cpu_s,
        steady_percent: last.cpu_percent_since(&first),
        wakeups_per_second: last.wakeups_per_second_since(&first),
        anonymous: last.anonymous_without("serve"),
        anonymous_all: last.anonymous_without("-"),
        proportional: last.proportional(),
        machine_cores: last.machine_cores_since(&first),
    })
}

fn print_rows(scene: Scene, hz: u32, ours: Cost, perf: Perf) {
    const MB: f64 = 1e6;
    println!(
        "{:<19} {hz:>4}  {:<6} {:>9.2} {:>10.2} {:>11.3} {:>10.3} {:>8.2} {:>8.1} {:>8.1} {:>9.2}",
        scene.name(),
        "ours",
        ours.page_s,
        ours.first_data_s,
        ours.start_cpu_s,
        ours.steady_percent,
        ours.wakeups_per_second,
        ours.anonymous_all as f64 / MB,
        ours.proportional as f64 / MB,
        ours.machine_cores,
    );
    println!(
        "{:<19} {:>4}  {:<6} {:>9} {:>10} {:>11.3} {:>10.3} {:>8.2} {:>8.1} {:>8.1}   script {:.2} CPU s: {:.3} % in all, {:.1}× ours",
        "",
        "",
        "perf",
        "-",
        "-",
        perf.ends_s,
        perf.steady_percent,
        perf.wakeups_per_second,
        perf.anonymous as f64 / MB,
        perf.proportional as f64 / MB,
        perf.script_s,
        perf.whole_percent,
        perf.whole_percent / ours.steady_percent.max(1e-6),
    );
}

/// The figures that the project holds itself to: at 99 Hz.
fn budgets_of(scene: Scene, hz: u32, ours: Cost) -> Vec<Budget> {
    let budget = |what: &str, found: f64, most: f64, unit: &'static str| Budget {
        what: format!("{what} ({}, {hz} Hz)", scene.name()),
        found,
        most,
        unit,
    };
    let steady = |most| budget("steady CPU of one core", ours.steady_percent, most, "%");
    let memory = budget("anonymous memory of agent and namer", ours.anonymous as f64 / 1e6, 40.0, "MB");
    match (scene, hz) {
        (Scene::Busy, 99) => vec![
            steady(0.25),
            memory,
            budget("CPU to start", ours.start_cpu_s, 0.2, "s"),
            budget("page up after", ours.page_s, 10.0, "s"),
            budget("first data after", ours.first_data_s, 10.0, "s"),
        ],
        (Scene::Sleeping, 99) => vec![memory],
        (Scene::Idle, 99) => vec![steady(0.05), memory],
        _ => Vec::new(),
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
