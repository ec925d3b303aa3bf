//! Tier 6: storms of 200 processes a second that live 5 to 50 ms, once of one binary, once each of a copy of its own that is
//! deleted when it has ended. What they spend keeps its service, its functions and its whole stacks, although they are gone before
//! anybody could look.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use profiler_tests::harness::daemon::Recording;
use profiler_tests::harness::gate;
use profiler_tests::harness::profile::Stack;
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;

const PROCESSES_PER_SECOND: u32 = 200;
const SECONDS: u32 = 30;
/// The service, and so the executable, of every process of the storm; copies have a number behind it.
const SERVICE: &str = "wl-short";
/// What starts them.
const STORM: &str = "wl-storm";

/// One test at a time has the machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// What a storm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    OfOneBinary,
    OfCopies,
}

/// What must be known of it, percent.
struct Limits {
    /// Of its samples, with their service; and of those in user code, with function and whole stack.
    known_min: f64,
    /// How far its weight may be from the CPU time that the kernel's accounts say.
    weight_off_max: f64,
}

#[track_caller]
fn check(made: Made, frequency_hz: u32, limits: &Limits) {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(workloads::storm());
    command.arg(if made == Made::OfCopies { workloads::short_shared() } else { workloads::short() });
    command.args([PROCESSES_PER_SECOND.to_string(), SECONDS.to_string()]);
    if made == Made::OfCopies {
        command.arg(folder.path());
    }
    let recording = Recording::start(frequency_hz);
    let spent = Running::start(&mut command).finish();
    let recorded = recording.stop();
    println!("{}", recorded.ended.said.lines().take(3).collect::<Vec<_>>().join("\n"));
    assert_eq!(spent.processes, u64::from(PROCESSES_PER_SECOND * SECONDS));

    let profile = &recorded.pprof;
    let own = profile.of(SERVICE);
    let sum = |is_counted: &dyn Fn(&Stack) -> bool| -> u64 {
        own.stacks.iter().filter(|stack| is_counted(stack)).map(|stack| stack.samples).sum()
    };
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;

    // Before exec a child has its parent's name, so the parent belongs to the sum, on both sides.
    let all = own.samples() + profile.of(STORM).samples();
    let weight = percent(all * profile.period_ns, spent.cpu_ns);
    let is_served = |stack: &Stack| stack.service_name.starts_with(SERVICE);
    let served = percent(sum(&is_served), own.samples());
    let in_user_code = sum(&Stack::in_user_code);
    let is_known = |stack: &Stack| stack.in_user_code() && is_named(stack) && is_whole(stack);
    let known = percent(sum(&is_known), in_user_code);
    let is_burning = |stack: &Stack| {
        let names: Vec<_> = stack.user().map(|frame| frame.name.as_str()).collect();
        names.windows(2).any(|two| two == ["main", "burn"])
    };
    let burning =
        sum(&is_burning) as f64 * profile.period_ns as f64 / spent.stacks["main;burn"] as f64 * 100.0;
    let lost = recorded.lost_percent();
    println!(
        "{made:?} at {frequency_hz} Hz: {} processes used {:.1} CPU s; {} samples, {weight:.1} % of that time; {served:.2} % \
         with service; of {in_user_code} in user code {known:.2} % with function and whole stack; {burning:.1} % of what they \
         say they burnt; {lost:.2} % of all ticks lost",
        spent.processes,
        spent.cpu_ns as f64 / 1e9,
        own.samples(),
    );

    let mut strangers: BTreeMap<String, u64> = BTreeMap::new();
    for stack in
        own.stacks.iter().filter(|stack| !is_served(stack) || (stack.in_user_code() && !is_known(stack)))
    {
        let names: Vec<_> = stack.frames.iter().map(|frame| frame.name.as_str()).collect();
        let service = if is_served(stack) { SERVICE } else { &stack.service_name };
        *strangers.entry(format!("{service} {}", names.join(";"))).or_default() += stack.samples;
    }
    let mut strangers: Vec<_> = strangers.into_iter().map(|(line, samples)| (samples, line)).collect();
    strangers.sort_by(|a, b| b.cmp(a));
    strangers.truncate(12);
    let strangers: Vec<_> =
        strangers.into_iter().map(|(samples, line)| format!("    {samples} {line}")).collect();

    let Limits { known_min, weight_off_max } = *limits;
    // A tick that a hypervisor swallows is counted, and whose it was is not known.
    let is_right = |percent: f64, off_max: f64| (-off_max - lost..=off_max).contains(&(percent - 100.0));
    assert!(is_right(weight, weight_off_max), "{weight:.1} % of the CPU time has the program's name");
    assert!(served >= known_min, "{served:.2} % with service:\n{}", strangers.join("\n"));
    assert!(known >= known_min, "{known:.2} % with function and whole stack:\n{}", strangers.join("\n"));
    assert!(is_right(burning, weight_off_max + 1.0), "{burning:.1} % of what they say they burnt");
}

/// The function has its name, unless it is one of the loader's, which distributions strip.
fn is_named(stack: &Stack) -> bool {
    let is_name = |name: &str| !name.starts_with('[') && !name.contains("+0x");
    stack.frames.last().is_some_and(|leaf| is_name(&leaf.name) || leaf.module.contains("ld-linux"))
}

/// A stack that was cut says why at its root.
fn is_whole(stack: &Stack) -> bool {
    stack.frames.first().is_some_and(|root| !root.name.starts_with('[') || !root.module.is_empty())
}

// Six thousand lives of half a period each: one standard deviation is 1.2 % of their samples.
#[test]
fn a_storm_of_one_binary_is_known_at_99_hz() {
    check(Made::OfOneBinary, 99, &Limits { known_min: 99.0, weight_off_max: 5.0 });
}

// Six hundred samples: one standard deviation is 4 % of them.
#[test]
fn a_storm_of_one_binary_is_known_at_19_hz() {
    check(Made::OfOneBinary, 19, &Limits { known_min: 99.0, weight_off_max: 15.0 });
}

#[test]
fn a_storm_of_copies_is_known_at_99_hz() {
    check(Made::OfCopies, 99, &Limits { known_min: 95.0, weight_off_max: 5.0 });
}

#[test]
fn a_storm_of_copies_is_known_at_19_hz() {
    check(Made::OfCopies, 19, &Limits { known_min: 95.0, weight_off_max: 15.0 });
}
