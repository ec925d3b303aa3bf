//! Tier 5: every program of the object through this kernel's verifier, within its instruction budget.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use profiler_daemon::capture::{AttachError, Config, bench};
use profiler_tests::harness::gate;
use profiler_tests::need;

/// Instructions the verifier may look at, with `bpf_loop` and with the chain of programs of older kernels. It gives up at
/// a million.
const VERIFIED_INSTRUCTIONS_MAX: [u32; 2] = [20_000, 120_000];

/// The same for the sampler with its diagnostics on, who tells a log what it does.
const VERIFIED_WITH_DIAGNOSTICS_MAX: u32 = 25_000;

/// What it looked at when that was last noted, by kernel: a change of the programs that costs much more, or less, is to be seen.
const NOTED: &str = include_str!("verified.txt");
const NOTED_PERCENT_OFF_MAX: f64 = 10.0;

/// While one program is loaded no file can be opened in this process, and so no map of another be made: the agent loads
/// before it has any other thread, the tests of this file do so one after the other.
static LOADING: Mutex<()> = Mutex::new(());

#[track_caller]
fn check(program: &str, config: &Config) {
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let cost = bench(config, program, Duration::from_millis(300), |_| Ok::<_, AttachError>(()))
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    println!("{program}, bounded loop {}, log level {}: {cost:?}", config.bounded_loop, config.log_level);
    let most = match config.log_level {
        0 => VERIFIED_INSTRUCTIONS_MAX[usize::from(config.bounded_loop)],
        _ => VERIFIED_WITH_DIAGNOSTICS_MAX,
    };
    assert!(cost.verified_instructions <= most, "{cost:?}");
    assert!(cost.runs > 0, "{program} never ran");
    if config.log_level == 0 {
        check_noted(program, if config.bounded_loop { "chain" } else { "loop" }, cost.verified_instructions);
    }
}

/// Compares with what was noted for a kernel of this series, if one was.
#[track_caller]
fn check_noted(program: &str, way: &str, found: u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let series: String = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let line = format!("{series} {program} {way}");
    let Some(noted) = NOTED.lines().find_map(|noted| noted.strip_prefix(&line)?.trim().parse::<u32>().ok())
    else {
        println!("not noted: {line} {found}");
        return;
    };
    let off = (f64::from(found) / f64::from(noted) - 1.0) * 100.0;
    assert!(
        off.abs() <= NOTED_PERCENT_OFF_MAX,
        "{line}: the verifier looked at {found} instructions, {noted} are noted in verified.txt ({off:+.1} %)"
    );
}

#[test]
fn every_program_passes_the_verifier_and_runs() {
    need!(gate::bpf());
    for program in ["cpu", "bench_empty", "bench_get_stack", "bench_walk"] {
        for bounded_loop in [false, true] {
            check(program, &Config { frequency_hz: 99, bounded_loop, ..Config::default() });
        }
    }
}

#[test]
fn the_sampler_passes_with_its_diagnostics_on() {
    need!(gate::bpf());
    check("cpu", &Config { frequency_hz: 99, log_level: 5, ..Config::default() });
}
