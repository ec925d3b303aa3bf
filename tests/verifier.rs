//! Tier 5: every program of the object through this kernel's verifier, within its instruction budget.

use std::time::Duration;

use profiler_daemon::capture::{Config, bench};
use profiler_tests::harness::gate;
use profiler_tests::need;

/// Instructions the verifier may look at, with `bpf_loop` and with the bounded loop of older kernels. It gives up at
/// a million.
const VERIFIED_INSTRUCTIONS_MAX: [u32; 2] = [5_000, 500_000];

#[track_caller]
fn check(program: &str, bounded_loop: bool) {
    let config = Config { frequency_hz: 99, bounded_loop, ..Config::default() };
    let cost = bench(&config, program, Duration::from_millis(300))
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    println!("{program}, bounded loop {bounded_loop}: {cost:?}");
    assert!(cost.verified_instructions <= VERIFIED_INSTRUCTIONS_MAX[usize::from(bounded_loop)], "{cost:?}");
    assert!(cost.runs > 0, "{program} never ran");
}

#[test]
fn every_program_passes_the_verifier_and_runs() {
    need!(gate::bpf());
    for program in ["cpu", "bench_empty", "bench_get_stack", "bench_walk"] {
        check(program, false);
        check(program, true);
    }
}
