//! Tier 6: the first samples of code that was never seen before, which has no unwind tables yet. Their stacks are as whole as any.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use profiler_tests::harness::daemon::Recording;
use profiler_tests::harness::gate;
use profiler_tests::harness::shares::Report;
use profiler_tests::harness::workloads::{self, Running, Spent};
use profiler_tests::need;

const FREQUENCY_HZ: u32 = 99;
/// Processes of each program, each of a file of its own that it is the first to run.
const PROCESSES: usize = 40;
/// CPU seconds of each: thirty samples, and a table takes a few milliseconds.
const CPU_SECONDS: &str = "0.3";
/// Samples whose stacks are whole, percent.
const WHOLE_PERCENT_MIN: f64 = 99.0;

#[test]
fn the_first_process_of_a_new_binary_has_whole_stacks_from_its_first_sample() {
    need!(gate::bpf());
    let programs = [("wl-bare-c", workloads::frameless_c()), ("wl-bare-cpp", workloads::frameless_cpp())];
    let recording = Recording::start(FREQUENCY_HZ);
    let spent = programs.each_ref().map(|(name, program)| (*name, run_copies(name, program)));
    let recorded = recording.stop();
    println!("{}", recorded.ended.said);
    let mut faults = Vec::new();
    for (name, spent) in &spent {
        let report = Report::new(&recorded.pprof, recorded.pprof.period_ns, name, spent);
        let in_user_code = recorded.pprof.of(name).stacks.into_iter().filter(|stack| stack.in_user_code());
        let in_user_code: u64 = in_user_code.map(|stack| stack.samples).sum();
        // What runs before main() is not among the stacks that the program tells of, but begins where it begins.
        let is_start = |line: &str| line.starts_with("_start") || line.starts_with("_dl_start");
        let cut = report.strangers.iter().filter(|(_, line)| !is_start(line));
        let cut: u64 = cut.map(|(samples, _)| samples).sum();
        let whole = 100.0 - cut as f64 * 100.0 / in_user_code.max(1) as f64;
        println!("{report}\n    {whole:.2} % of {in_user_code} in user code are whole");
        if whole < WHOLE_PERCENT_MIN || in_user_code < (PROCESSES * 20) as u64 {
            let some: Vec<_> = report.strangers.iter().take(8).collect();
            faults.push(format!("{name}: {whole:.2} % of {in_user_code} samples are whole: {some:?}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A stack that is deeper than most is brought along whole, too.
#[test]
fn the_first_samples_of_a_deep_stack_are_whole() {
    const FRAMES: &str = "300";
    need!(gate::bpf());
    let program = workloads::frameless_deep();
    let recording = Recording::start(FREQUENCY_HZ);
    for _ in 0..PROCESSES {
        let folder = tempfile::tempdir_in(program.parent().expect("it lies in a folder")).expect("a folder");
        let copy = folder.path().join("wl-first-deep");
        fs::copy(&program, &copy).expect("a copy");
        workloads::succeed(Command::new(&copy).args([FRAMES, "0.1"]));
    }
    let recorded = recording.stop();
    let own = recorded.folded.of("wl-first-deep");
    let (mut whole, mut all, mut cut) = (0, 0, BTreeMap::new());
    for stack in own.stacks.iter().filter(|stack| stack.user().any(|frame| frame.name == "bottom")) {
        all += stack.samples;
        match stack.cut() {
            None => whole += stack.samples,
            Some(reason) => *cut.entry(reason.to_owned()).or_insert(0) += stack.samples,
        }
    }
    println!("{whole} of {all} samples at the bottom are whole, the others: {cut:?}");
    assert!(all >= (PROCESSES * 6) as u64, "{all} samples are too few");
    assert!(whole as f64 * 100.0 >= all as f64 * WHOLE_PERCENT_MIN, "{whole} of {all}: {cut:?}");
}

/// Runs copies of `program`, one after the other; what they spent together.
fn run_copies(name: &str, program: &Path) -> Spent {
    let mut all = Spent { cpu_ns: 0, stolen_ns: 0, stacks: BTreeMap::new(), processes: 0 };
    for _ in 0..PROCESSES {
        let folder = tempfile::tempdir_in(program.parent().expect("it lies in a folder")).expect("a folder");
        let copy = folder.path().join(name);
        fs::copy(program, &copy).expect("a copy");
        let spent = Running::start(Command::new(&copy).arg(CPU_SECONDS)).finish();
        all.cpu_ns += spent.cpu_ns;
        all.stolen_ns += spent.stolen_ns;
        for (stack, ns) in spent.stacks {
            *all.stacks.entry(stack).or_default() += ns;
        }
    }
    all
}
