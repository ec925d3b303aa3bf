//! Tier 6: a ceiling that cannot be kept at the full rate. The agent samples less, and what it pushes still adds up to the CPU time
//! that was used, before, while and after the rate changes.

use std::process::Command;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;

/// The lowest ceiling there is: a ten-thousandth of the machine.
const CEILING: &str = "0.01%";
/// CPU time of the load, which must outlive the first changes of the rate, seconds.
const SECONDS: u32 = 45;
/// How far its weight may be from the truth, percent.
const WEIGHT_OFF_MAX: f64 = 4.0;
/// How long a push may take.
const PUSHED_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_lower_rate_weighs_the_same() {
    need!(gate::bpf());
    let server = Pyroscope::start(Mood::Takes);
    let agent =
        Agent::start(&["--server", &server.url(), "--interval", "1s", "-F", "99", "--cpu-max", CEILING]);
    assert!((agent.metric("profiler_sampling_stretch", "") - 1.0).abs() < 0.1, "it begins with all ticks");
    let spent =
        Running::start(Command::new(workloads::shop_c("wl-ceiling")).arg(SECONDS.to_string())).finish();
    let stretch = agent.metric("profiler_sampling_stretch", "");
    assert!(stretch >= 16.0, "one sample of {stretch} ticks");
    assert!(agent.metric("profiler_cpu_rate", "") > 0.0);

    let weight = || -> f64 {
        let pushed = server.pushed();
        let own = pushed.iter().filter(|pushed| pushed.service.starts_with("wl-ceiling"));
        own.map(|pushed| pushed.profile.samples() as f64 * pushed.profile.period_ns as f64).sum()
    };
    // The last of it may be on its way.
    let begun = Instant::now();
    let off = || (weight() / spent.cpu_ns as f64 - 1.0) * 100.0;
    while off().abs() > WEIGHT_OFF_MAX && begun.elapsed() < PUSHED_MAX {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "one sample of {stretch} ticks; weight {:+.2} % of {:.1} CPU s",
        off(),
        spent.cpu_ns as f64 / 1e9
    );
    assert!(off().abs() <= WEIGHT_OFF_MAX, "{:+.2} %", off());

    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert_eq!(books.delivered, server.samples(), "{}", ended.said);
}
