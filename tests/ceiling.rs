//! Tier 6: a ceiling that cannot be kept at the full rate, and hardly at any. The agent samples less, and what it captures still adds up to the CPU
//! time that the machine was busy for, before, while and after the rate changes.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;

/// The lowest ceiling there is: a ten-thousandth of the machine.
const CEILING: &str = "0.01%";
/// How long it is watched: the first changes of the rate are in the middle of it.
const WATCHED: Duration = Duration::from_secs(45);
/// How far the weight of all samples may be from the machine's own account of its CPU time, percent.
const WEIGHT_OFF_MAX: f64 = 4.0;

/// CPU time that all processors were busy for since boot, by the kernel's account, seconds. What a hypervisor took is none of it.
fn busy_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("the kernel's account");
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).expect("all processors");
    let ticks: Vec<f64> = line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy: f64 = [0, 1, 2, 5, 6].into_iter().map(|field: usize| ticks[field]).sum();
    busy / rustix::param::clock_ticks_per_second() as f64
}

/// What was captured when a window ends, seconds with samples of `period_s`, and what the machine was busy for until then.
fn at_a_windows_end(agent: &Agent, period_s: f64) -> (f64, f64) {
    let captured = || agent.metric("profiler_samples_captured_total", "");
    let before = captured();
    loop {
        let (now, busy) = (captured(), busy_s());
        if now > before {
            return (now * period_s, busy);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lower_rate_weighs_the_same() {
    need!(gate::bpf());
    let server = Pyroscope::start(Mood::Takes);
    let processors = std::thread::available_parallelism().expect("processors").get();
    // All are busy, so that the ticks that wait to become a sample are few beside those that have.
    let load = workloads::shop_c("wl-ceiling");
    let _busy: Vec<_> = (0..processors).map(|_| Running::start(Command::new(&load).arg("300"))).collect();
    let agent =
        Agent::start(&["--server", &server.url(), "--interval", "1s", "-F", "99", "--cpu-max", CEILING]);
    server.wait_for("a profile", 0, |_| true);
    let period_s = server.pushed()[0].profile.period_ns as f64 / 1e9;
    let (weight_before, busy_before) = at_a_windows_end(&agent, period_s);
    std::thread::sleep(WATCHED);
    let (weight, busy) = at_a_windows_end(&agent, period_s);
    let (weight, busy) = (weight - weight_before, busy - busy_before);
    let stretch = agent.metric("profiler_sampling_stretch", "");
    assert!(stretch >= 4.0, "one sample of {stretch} ticks");
    let (spent, ceiling) = (agent.metric("profiler_cpu_rate", ""), agent.metric("profiler_cpu_ceiling", ""));
    println!("spends {spent} of a ceiling of {ceiling}");
    assert!(spent > 0.0 && ceiling > 0.0);
    // One sample in many ticks still says what runs, with frames and names.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    let since = i64::try_from(now.as_nanos()).expect("this century") - 5_000_000_000;
    server.wait_for("the load, by name", since, |pushed| {
        pushed.profile.stacks.iter().any(|stack| stack.user().any(|frame| frame.name == "price"))
    });

    // Ticks of each processor wait to become a sample together, and are none yet.
    let waiting = stretch * period_s * processors as f64;
    let off = |weight: f64| (weight / busy - 1.0) * 100.0;
    println!(
        "one sample of {stretch} ticks; weight {weight:.1} s and up to {waiting:.1} s to come, {:+.2} to {:+.2} % of {busy:.1} s",
        off(weight),
        off(weight + waiting)
    );
    assert!(off(weight) <= WEIGHT_OFF_MAX && off(weight + waiting) >= -WEIGHT_OFF_MAX);
    assert!(waiting < busy / 50.0, "the machine was busy for too short a time: {busy:.1} s");

    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert_eq!(books.delivered, server.samples_once(), "{}", ended.said);
}
