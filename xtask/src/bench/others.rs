//! Any other profiler, alternately with ours under the same load: what both cost for a sample, in the kernel and beside it.
//!
//! In: a command. Out: a line for it and one for us. A peer's own CPU is that of its processes; what its eBPF programs take is
//! spent by the programs that are profiled, so it is asked of the kernel: all runs of programs that were not there before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::daemon::Daemon;
use super::load::{Load, Stacks};
use super::meter::Reading;
use super::{Budget, Tools, output_of};
use crate::host;

/// Both settle for that long before they are measured.
const SETTLE: Duration = Duration::from_secs(15);
/// The rate of ours; a peer's is its command's business.
const FREQUENCY_HZ: u32 = 99;
/// The kernel's switch for its statistics of programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `NAME=COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    name: String,
    command: String,
}

impl FromStr for Other {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && !command.is_empty() => {
                Ok(Self { name: name.to_owned(), command: command.to_owned() })
            }
            _ => Err("NAME='COMMAND' is wanted"),
        }
    }
}

/// What one of them cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Samples: runs of its programs, or where it has none, ticks of the processors that were busy.
    samples: f64,
    kernel_us: f64,
    user_us: f64,
    anonymous: u64,
}

/// Measures each of `others` after ours, `rounds` times, and prints a table. Ours may cost a third: machines differ, and so does a machine
/// from one minute to the next, but not two that take turns.
pub(super) fn measure(tools: &Tools, others: &[Other], rounds: usize, seconds: u64) -> Result<Vec<Budget>> {
    let _statistics = Statistics::on()?;
    let _load = Load::deep(&tools.bare, Stacks::Mixed)?;
    println!(
        "\nper sample, all in: programs without frame pointers, 20 and 70 frames deep, keep all processors busy"
    );
    println!(
        "{:<14} {:>9} {:>12} {:>12} {:>12} {:>9}",
        "", "samples", "kernel µs", "user µs", "all in µs", "anon MB"
    );
    let mut all = vec![Vec::new(); others.len()];
    for _ in 0..rounds {
        let own = ours(tools, seconds)?;
        print_row("ours", own);
        for (other, ratios) in others.iter().zip(&mut all) {
            let peer = theirs(tools, other, seconds)?;
            print_row(&other.name, peer);
            ratios.push((own.kernel_us / peer.kernel_us, own.all_in_us() / peer.all_in_us()));
        }
    }
    let budget = |name: &str, what: &str, mut found: Vec<f64>| {
        found.retain(|ratio| ratio.is_finite()); // a peer may have no programs
        found.sort_by(f64::total_cmp);
        let median = *found.get(found.len() / 2)?;
        Some(Budget { what: format!("{what}, of {name}"), found: median, most: 1.0 / 3.0, unit: "×" })
    };
    let budgets = others.iter().zip(&all).flat_map(|(Other { name, .. }, ratios)| {
        let kernel = ratios.iter().map(|ratio| ratio.0).collect();
        let whole = ratios.iter().map(|ratio| ratio.1).collect();
        [budget(name, "a sample in the kernel", kernel), budget(name, "a sample, all in", whole)]
    });
    Ok(budgets.flatten().collect())
}

impl Cost {
    fn all_in_us(&self) -> f64 {
        self.kernel_us + self.user_us
    }
}

fn print_row(name: &str, cost: Cost) {
    let Cost { samples, kernel_us, user_us, anonymous } = cost;
    println!(
        "{name:<14} {samples:>9.0} {kernel_us:>12.2} {user_us:>12.2} {:>12.2} {:>9.1}",
        cost.all_in_us(),
        anonymous as f64 / 1e6
    );
}

fn ours(tools: &Tools, seconds: u64) -> Result<Cost> {
    let before = programs(&tools.daemon)?;
    let mut daemon = Daemon::start(&tools.daemon, FREQUENCY_HZ)?;
    daemon.wait_for_data()?;
    cost(tools, daemon.id(), &before, seconds)
}

fn theirs(tools: &Tools, other: &Other, seconds: u64) -> Result<Cost> {
    let before = programs(&tools.daemon)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {}", other.command)]);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let peer = Interrupted(shell.spawn().with_context(|| format!("`{}` cannot be started", other.command))?);
    let cost = cost(tools, peer.0.id(), &before, seconds)?;
    Ok(cost)
}

/// What process `root`, its descendants and the programs that were not there `before` cost.
fn cost(tools: &Tools, root: u32, before: &Programs, seconds: u64) -> Result<Cost> {
    std::thread::sleep(SETTLE);
    let (first, from) = (Reading::of(root), programs(&tools.daemon)?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (last, to) = (Reading::of(root), programs(&tools.daemon)?);
    let (ns, runs) = since(before, &from, &to);
    let ticks = last.machine_s_since(&first) * f64::from(FREQUENCY_HZ);
    let samples = if runs == 0 { ticks } else { runs as f64 };
    let per_sample = |us: f64| us / samples.max(1.0);
    Ok(Cost {
        samples,
        kernel_us: per_sample(ns as f64 / 1e3),
        user_us: per_sample((last.cpu_s - first.cpu_s) * 1e6),
        anonymous: last.anonymous_without("-"),
    })
}

/// Nanoseconds and runs, by number of the program.
type Programs = BTreeMap<u32, (u64, u64)>;

fn programs(daemon: &Path) -> Result<Programs> {
    Ok(parse(&output_of(Command::new(daemon).arg("bench-programs"))?))
}

/// Reads lines of `id ns runs name`.
fn parse(text: &str) -> Programs {
    let program = |line: &str| {
        let mut numbers = line.split_whitespace();
        let id = numbers.next()?.parse().ok()?;
        let ns = numbers.next()?.parse().ok()?;
        Some((id, (ns, numbers.next()?.parse().ok()?)))
    };
    text.lines().filter_map(program).collect()
}

/// Nanoseconds and runs between `from` and `to` of programs that were not there `before`.
fn since(before: &Programs, from: &Programs, to: &Programs) -> (u64, u64) {
    let fresh = to.iter().filter(|(id, _)| !before.contains_key(id));
    fresh.fold((0, 0), |(ns, runs), (id, last)| {
        let first = from.get(id).copied().unwrap_or_default();
        (ns + last.0.saturating_sub(first.0), runs + last.1.saturating_sub(first.1))
    })
}

/// A peer, which is interrupted with this value.
#[derive(Debug)]
struct Interrupted(Child);

impl Drop for Interrupted {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = host::output(Command::new("sh").args(["-c", "kill -INT \"$1\"", "sh", &pid]));
        let _ = self.0.wait();
    }
}

/// The kernel counts what programs cost until this is dropped.
#[derive(Debug)]
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let was = fs::read_to_string(STATISTICS).context("this kernel has no statistics of eBPF programs")?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))?;
        Ok(Self(was))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_command() {
        let other = Other { name: "perf".to_owned(), command: "perf record -F 99 -o a=b".to_owned() };
        assert_eq!("perf=perf record -F 99 -o a=b".parse(), Ok(other));
        assert!("perf".parse::<Other>().is_err() && "=perf".parse::<Other>().is_err());
    }

    #[test]
    fn programs_that_were_there_before_are_nobodys() {
        let before = parse("1 100 10 old\n");
        let from = parse("1 200 20 old\n2 50 5 cpu\n");
        let to = parse("1 900 90 old\n2 150 15 cpu\n3 7 1 a name with spaces\n");
        assert_eq!(since(&before, &from, &to), (107, 11));
    }
}
