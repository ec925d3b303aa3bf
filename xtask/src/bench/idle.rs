//! What a resident costs where nothing happens: its start, its idling beside two hundred processes that sleep, its stop in the middle of
//! a window.
//!
//! A start is over when everything that is met at first has its names and its table: so something runs for its first seconds, and what the
//! namers do for that is part of the start, not of the idling. How long it takes is seen from outside, for whoever asks it makes work: and so do we,
//! whose reading of `/proc` is sampled like anything else, and whose own file then needs a table and names. So little is read, and nothing twice.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::daemon::{Daemon, Stopped};
use super::load::{Load, Scene};
use super::meter::Reading;
use super::{Budget, Plan, Tools};

/// How long something runs at the start: over the end of the first window, which is short, so that two have samples.
const BUSY: Duration = Duration::from_secs(3);
/// Whoever names did nothing for so long has settled: more than a window.
const QUIET: Duration = Duration::from_secs(12);
/// Where they never settle there is no idling to measure.
const SETTLED_MAX: Duration = Duration::from_secs(120);
/// CPU time in `QUIET` that is nothing: what a namer takes to be asked for a name or two.
const QUIET_CPU_S: f64 = 0.005;
/// How long it idles: six windows and a half, so that its stop is in the middle of one.
const IDLE: Duration = Duration::from_secs(65);
/// Its processes by the first words of their command lines, and what they are.
const PROCESSES: [(&str, &str); 3] = [("run", "agent"), ("serve", "server"), ("namer", "namers")];

/// One life.
#[derive(Clone, Debug)]
struct Life {
    /// What was used until the namers had settled, and when that was.
    start: Reading,
    settled_s: f64,
    /// At both ends of its idling.
    quiet: Reading,
    idled: Reading,
    stopped: Stopped,
}

impl Life {
    fn idle_percent(&self) -> f64 {
        self.idled.cpu_percent_since(&self.quiet)
    }

    /// Of the rest of the machine: where it is not idle, the agent has work, and most of all by processes that are started.
    fn busy_cores(&self) -> f64 {
        self.idled.machine_cores_since(&self.quiet) - self.idle_percent() / 100.0
    }

    fn print(&self, hz: u32) {
        let Self { start, settled_s, quiet, idled, stopped } = self;
        println!(
            "{hz:>4} {:<13} {:>9.3} {settled_s:>9.0} {:>9.3} {:>8.2} {:>10.2} {:>8.1} {:>7.2} {:>9} {:>6}",
            "all",
            start.cpu_s,
            self.idle_percent(),
            idled.wakeups_per_second_since(quiet),
            self.busy_cores(),
            idled.machine_starts_since(quiet),
            stopped.took_s,
            stopped.captured,
            stopped.lost,
        );
        for (command, name) in PROCESSES {
            let idle_s = idled.cpu_s_of(command) - quiet.cpu_s_of(command);
            println!(
                "     {name:<13} {:>9.3} {:>9} {:>9.3} {:>8.2}",
                start.cpu_s_of(command),
                "",
                idle_s * 100.0 / idled.seconds_since(quiet),
                idled.wakeups_per_second_of(command, quiet),
            );
        }
        let ended = |reading: &Reading| {
            reading.cpu_s - PROCESSES.iter().map(|(command, _)| reading.cpu_s_of(command)).sum::<f64>()
        };
        println!(
            "     {:<13} {:>9.3} {:>9} {:>9.3}",
            "ended namers",
            ended(start),
            "",
            (ended(idled) - ended(quiet)) * 100.0 / idled.seconds_since(quiet),
        );
    }
}

/// Measures, and prints a table.
pub(super) fn measure(tools: &Tools, plan: Plan) -> Result<Vec<Budget>> {
    let rounds = plan.kernel_rounds;
    println!(
        "\n`profiler-daemon run` and its processes, beside 200 that sleep; budgets: the middle of {rounds}"
    );
    println!(
        "{:>4} {:<13} {:>9} {:>9} {:>9} {:>8} {:>10} {:>8} {:>7} {:>9} {:>6}",
        "Hz",
        "",
        "start s",
        "settled s",
        "idle %",
        "wakes/s",
        "cores busy",
        "starts/s",
        "stop s",
        "captured",
        "lost"
    );
    let _load = Load::of(Scene::Sleeping, &tools.deep)?;
    let mut budgets = Vec::new();
    // 999 times a second nobody leaves it on.
    for &hz in plan.frequencies_hz.iter().filter(|hz| **hz < 999) {
        let mut lives = Vec::new();
        for _ in 0..rounds {
            let life = live(tools, hz)?;
            life.print(hz);
            lives.push(life);
        }
        let middle = |of: fn(&Life) -> f64| {
            let mut found: Vec<f64> = lives.iter().map(of).collect();
            found.sort_by(f64::total_cmp);
            found[found.len() / 2]
        };
        let budget = |what: &str, found: f64, most: f64, unit: &'static str| Budget {
            what: format!("{what} (200 idle processes, {hz} Hz)"),
            found,
            most,
            unit,
        };
        let lost: u64 = lives.iter().map(|life| life.stopped.lost).sum();
        budgets.push(budget("CPU to start", middle(|life| life.start.cpu_s), 0.2, "s"));
        budgets.push(budget("idle CPU of one core", middle(Life::idle_percent), 0.05, "%"));
        budgets.push(budget("samples lost by a stop in mid-window", lost as f64, 0.0, ""));
    }
    Ok(budgets)
}

fn live(tools: &Tools, hz: u32) -> Result<Life> {
    let daemon = Daemon::start(&tools.daemon, hz)?;
    let (begun, pid) = (daemon.begun(), daemon.id());
    let busy = Load::of(Scene::Busy, &tools.deep)?;
    sleep_until(begun + BUSY);
    drop(busy);
    let (start, quiet, settled_s) = settle(pid, begun)?;
    sleep_until(quiet.at + IDLE);
    let idled = Reading::without_memory(pid);
    Ok(Life { start, settled_s, quiet, idled, stopped: daemon.stop()? })
}

/// What was used, and how long it took, until the namers did nothing more for a while; between the two, what was used after that while.
fn settle(pid: u32, begun: Instant) -> Result<(Reading, Reading, f64)> {
    // What is neither the agent's nor the server's is the namers', of those that have ended too.
    let named_s = |reading: &Reading| reading.cpu_s - reading.cpu_s_of("run") - reading.cpu_s_of("serve");
    let mut last = Reading::without_memory(pid);
    loop {
        std::thread::sleep(QUIET);
        let now = Reading::without_memory(pid);
        if named_s(&now) - named_s(&last) <= QUIET_CPU_S {
            let took_s = last.at.duration_since(begun).as_secs_f64();
            return Ok((last, now, took_s));
        }
        if begun.elapsed() > SETTLED_MAX {
            bail!("its namers work on and on: this machine is not idle");
        }
        last = now;
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
