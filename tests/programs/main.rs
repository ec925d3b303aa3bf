//! Tier 6: real programs, as distributions build them, and such that make code while they run, beside `perf record --call-graph dwarf` on the same run. What share of their
//! stacks is whole, and why the others are not.

mod list;
mod made;
mod perf;

use std::collections::BTreeMap;
use std::time::Duration;

use list::{Program, Whole};
use perf::Perf;
use profiler_tests::harness::daemon::Recording;
use profiler_tests::harness::gate;
use profiler_tests::harness::profile::{Profile, Stack};
use profiler_tests::harness::shares::{Limits, Report};
use profiler_tests::harness::workloads::{Spent, spent, succeed};
use profiler_tests::need;

/// Often, so that seconds make enough samples to see half a percent.
const FREQUENCY_HZ: u32 = 499;
/// Samples of a program in user code at least.
const SAMPLES_MIN: u64 = 400;
/// Four standard deviations of a share of a half, of that many samples.
const SHARE_POINTS_MAX: f64 = 10.0;

/// Samples that go through a stack of which the program told, percent: the others are on the way to it.
const TOLD_PERCENT_MIN: f64 = 98.0;

/// What was found of one program.
struct Found {
    samples: u64,
    whole: u64,
    /// Through the function that it makes.
    named: u64,
    /// Samples by why they are not whole.
    others: BTreeMap<String, u64>,
}

impl Found {
    fn percent(&self) -> f64 {
        self.whole as f64 * 100.0 / self.samples.max(1) as f64
    }
}

#[test]
fn stacks_of_real_programs_are_whole() {
    need!(gate::bpf());
    let only = std::env::var("TEST_PROGRAM").unwrap_or_default();
    let programs: Vec<Program> =
        list::all().into_iter().filter(|program| program.name.contains(&only)).collect();
    let recording = Recording::start(FREQUENCY_HZ);
    let perf = Perf::start();
    // By the number that the kernel gave the first process of each; it gives them in order.
    let mut ran: Vec<(Program, u32, u32, Option<Spent>)> = Vec::new();
    for mut program in programs {
        // The first samples of a file come before its table.
        succeed(&mut program.before);
        std::thread::sleep(Duration::from_millis(500));
        let child = program.start();
        let first = child.id();
        let output = child.wait_with_output().expect("a child can be waited for");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{} failed ({}): {said}", program.name, output.status);
        let last = std::process::Command::new("true").spawn().map_or(u32::MAX, |mut child| {
            let _ = child.wait();
            child.id()
        });
        let told = program.tells.then(|| spent(&said, program.name));
        ran.push((program, first, last, told));
    }
    let theirs = perf.and_then(|perf| {
        perf.stop(|pid| ran.iter().any(|(_, first, last, _)| (*first..*last).contains(&pid)))
    });
    let recorded = recording.stop();
    println!("{}", recorded.ended.said);

    let mut faults = Vec::new();
    println!("{:<16} {:>8} {:>9} {:>9}  others", "program", "samples", "whole %", "perf %");
    for (program, first, last, told) in &ran {
        let range = *first..*last;
        let ours = found(&recorded.pprof, program, |stack| range.contains(&stack.pid));
        let perf = theirs.as_ref().map(|theirs| found(theirs, program, |stack| range.contains(&stack.pid)));
        let perf_percent = perf.as_ref().map_or("-".to_owned(), |perf| format!("{:.2}", perf.percent()));
        let others: Vec<_> = ours.others.iter().map(|(why, samples)| format!("{why} {samples}")).collect();
        println!(
            "{:<16} {:>8} {:>9.2} {perf_percent:>9}  {}",
            program.name,
            ours.samples,
            ours.percent(),
            others.join(", ")
        );
        if ours.samples < SAMPLES_MIN {
            faults.push(format!("{}: {} samples, fewer than {SAMPLES_MIN}", program.name, ours.samples));
        }
        if ours.percent() < program.whole_percent_min {
            faults.push(format!(
                "{}: {:.2} % of its stacks are whole, fewer than {} %",
                program.name,
                ours.percent(),
                program.whole_percent_min
            ));
        }
        if let Some((function, percent_min)) = program.named {
            let percent = ours.named as f64 * 100.0 / ours.samples.max(1) as f64;
            println!("    {percent:.2} % go through {function}");
            if percent < percent_min {
                faults.push(format!("{}: {percent:.2} % of its stacks go through {function}", program.name));
            }
        }
        if let Some(told) = told {
            let limits = Limits {
                samples_min: SAMPLES_MIN,
                share_points_max: SHARE_POINTS_MAX,
                weight_percent_max: 20.0,
                whole_percent_min: TOLD_PERCENT_MIN,
            };
            let period_ns = recorded.pprof.period_ns;
            let stacks = recorded.pprof.stacks.iter().filter(|stack| range.contains(&stack.pid)).cloned();
            let own = Profile { stacks: stacks.collect(), period_ns };
            let report = Report::new(&own, period_ns, program.name, told);
            println!("    {report}");
            faults.extend(report.faults(limits));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What is found of `program` in the part of `profile` that is its own.
fn found(profile: &Profile, program: &Program, is_own: impl Fn(&Stack) -> bool) -> Found {
    let mut found = Found { samples: 0, whole: 0, named: 0, others: BTreeMap::new() };
    let own = profile.stacks.iter().filter(|stack| is_own(stack) && program.is_own(stack));
    for stack in own.filter(|stack| stack.in_user_code()) {
        found.samples += stack.samples;
        if let Some((function, _)) = program.named
            && stack.user().any(|frame| frame.module == "[jit]" && frame.name.contains(function))
        {
            found.named += stack.samples;
        }
        match program.whole(stack) {
            Whole::Yes => found.whole += stack.samples,
            Whole::No(why) => *found.others.entry(why).or_default() += stack.samples,
        }
    }
    found
}
