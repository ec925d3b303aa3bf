//! Tier 6: a ceiling that cannot be kept at the full rate. The agent samples less, and what it captures still adds up to the CPU
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

#[test]
fn a_lower_rate_weighs_the_same() {
    need!(gate::bpf());
    let server = Pyroscope::start(Mood::Takes);
    let _busy = Running::start(Command::new(workloads::shop_c("wl-ceiling")).arg("300"));
    let agent =
        Agent::start(&["--server", &server.url(), "--interval", "1s", "-F", "99", "--cpu-max", CEILING]);
    let before = busy_s();
    std::thread::sleep(WATCHED);
    let stretch = agent.metric("profiler_sampling_stretch", "");
    assert!(stretch >= 4.0, "one sample of {stretch} ticks");
    assert!(agent.metric("profiler_cpu_rate", "") > agent.metric("profiler_cpu_ceiling", ""));
    // One sample in many ticks still says what runs, with frames and names.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    let since = i64::try_from(now.as_nanos()).expect("this century") - 5_000_000_000;
    server.wait_for("the load, by name", since, |pushed| {
        pushed.profile.stacks.iter().any(|stack| stack.user().any(|frame| frame.name == "price"))
    });

    let ended = agent.stop();
    let busy = busy_s() - before;
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert_eq!(books.delivered, server.samples(), "{}", ended.said);
    let period_ns = server.pushed()[0].profile.period_ns;
    let weight = books.captured as f64 * period_ns as f64 / 1e9;
    let off = (weight / busy - 1.0) * 100.0;
    println!("one sample of {stretch} ticks; weight {weight:.1} s, {off:+.2} % of {busy:.1} s");
    assert!(off.abs() <= WEIGHT_OFF_MAX, "{off:+.2} %");
}
