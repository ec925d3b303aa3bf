//! Tier 6: 200 processes a second that live 5 to 50 ms. What they spend keeps its name although they are gone before
//! anybody could look.

use std::collections::BTreeMap;
use std::process::Command;

use profiler_tests::harness::daemon::Recording;
use profiler_tests::harness::gate;
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;

const PROCESSES_PER_SECOND: u32 = 200;
const SECONDS: u32 = 30;
const FREQUENCY_HZ: u32 = 99;

#[test]
fn short_lived_processes_keep_their_names() {
    need!(gate::bpf());
    let (short, storm) = (workloads::short(), workloads::storm());
    let recording = Recording::start(FREQUENCY_HZ);
    let mut command = Command::new(storm);
    command.arg(short).args([PROCESSES_PER_SECOND.to_string(), SECONDS.to_string()]);
    let spent = Running::start(&mut command).finish();
    let recorded = recording.stop();
    println!("{}", recorded.ended.said);
    assert_eq!(spent.processes, u64::from(PROCESSES_PER_SECOND * SECONDS));

    let profile = &recorded.pprof;
    let own = profile.of("wl-short");
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;

    // Before exec a child has its parent's name; that is little, and the kernel's account has it too.
    let used = spent.cpu_ns / profile.period_ns;
    let with_comm = percent(own.samples(), used);
    let mut services: BTreeMap<&str, u64> = BTreeMap::new();
    for stack in &own.stacks {
        *services.entry(&stack.service_name).or_default() += stack.samples;
    }
    let in_user_code: u64 = own.stacks.iter().filter(|s| s.in_user_code()).map(|s| s.samples).sum();
    let in_module = own.stacks.iter().filter(|stack| {
        stack.in_user_code() && stack.frames.last().is_some_and(|leaf| leaf.module.ends_with("wl-short"))
    });
    let in_module = in_module.map(|stack| stack.samples).sum();
    let named = own.stacks.iter().filter(|stack| {
        let is_name = |name: &str| !name.starts_with('[') && !name.contains("+0x");
        stack.in_user_code() && stack.frames.last().is_some_and(|leaf| is_name(&leaf.name))
    });
    let named = named.map(|stack| stack.samples).sum();
    let burning = own.stacks.iter().filter(|stack| {
        let names: Vec<_> = stack.user().map(|frame| frame.name.as_str()).collect();
        names.windows(2).any(|two| two == ["main", "burn"])
    });
    let burning: u64 = burning.map(|stack| stack.samples).sum();
    let burning = percent(burning, own.samples());
    let told = percent(spent.stacks["main;burn"], spent.cpu_ns);
    println!(
        "{} processes used {:.1} CPU s; {} samples, {with_comm:.1} % of that time; services {services:?}; {burning:.1} % in \
         burn() and {told:.1} % told; of {in_user_code} in user code {:.2} % in the executable, {:.2} % named",
        spent.processes,
        spent.cpu_ns as f64 / 1e9,
        own.samples(),
        percent(in_module, in_user_code),
        percent(named, in_user_code),
    );

    assert!((97.0..=103.0).contains(&with_comm), "{with_comm:.1} % of the CPU time has the program's name");
    let (_, with_executable) = services.iter().max_by_key(|(_, samples)| **samples).expect("samples");
    assert!(percent(*with_executable, own.samples()) >= 99.0, "executables: {services:?}");
    assert!(percent(in_module, in_user_code) >= 99.0, "{in_module} of {in_user_code} in the executable");
    assert!(percent(named, in_user_code) >= 99.0, "{named} of {in_user_code} have the name of a function");
    // What is not burnt is what the kernel and the C library do to start and end a process.
    assert!(
        (burning - told).abs() <= 3.0,
        "{burning:.1} % in the burning function, and {told:.1} % were told to be"
    );
}
