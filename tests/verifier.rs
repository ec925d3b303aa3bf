//! Tier 5: every program of the object through this kernel's verifier, within its instruction budget.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use profiler_daemon::capture::{AttachError, Config, Kernel, bench, bench_names};
use profiler_daemon::meters::Meters;
use profiler_tests::harness::gate;
use profiler_tests::need;

/// Instructions the verifier may look at, with `bpf_loop` and with the chain of programs of older kernels. It gives up at
/// a million.
const VERIFIED_INSTRUCTIONS_MAX: [u32; 2] = [10_000, 10_000];

/// The same for the sampler with its diagnostics on, who tells a log what it does.
const VERIFIED_WITH_DIAGNOSTICS_MAX: u32 = 15_000;

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

/// Functions of the kernel with all their names, by address: of every so many one.
fn functions() -> BTreeMap<u64, Vec<String>> {
    const EVERY: usize = 300;
    let list = std::fs::read_to_string("/proc/kallsyms").expect("the list of symbols");
    let mut functions = BTreeMap::<u64, Vec<String>>::new();
    for line in list.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(address), Some("T" | "t" | "W" | "w"), Some(name)) =
            (words.next(), words.next(), words.next())
        {
            let address = u64::from_str_radix(address, 16).expect("an address");
            functions.entry(address).or_default().push(name.to_owned());
        }
    }
    // What the kernel threw away after it had started has names, and is code no more.
    functions.into_iter().filter(|(address, _)| *address != 0).step_by(EVERY).collect()
}

#[test]
fn the_kernel_says_the_names_of_its_functions() {
    need!(gate::bpf());
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let functions = functions();
    assert!(functions.len() > 100, "{} functions", functions.len());
    let (stop, _held) = UnixStream::pair().expect("a socket");
    let mut kernel =
        Kernel::open(Config::default(), stop.as_fd(), &Meters::default()).expect("a kernel to profile");
    let mut names = kernel.names().expect("a kernel that can be asked");
    let addresses: Vec<u64> = functions.keys().copied().chain([0x1000, u64::MAX]).collect();
    let found = names.of(&addresses).expect("an answer");
    let (known, strange) = found.split_at(functions.len());
    assert_eq!(strange, [None, None]);
    let wrong: Vec<_> = known
        .iter()
        .zip(&functions)
        .filter(|(found, (_, names))| !found.as_ref().is_some_and(|found| names.contains(found)))
        .collect();
    // Code that was thrown away after the start is listed, and belongs to none.
    assert!(wrong.len() * 20 <= functions.len(), "{} of {}: {wrong:?}", wrong.len(), functions.len());
}

#[test]
fn the_program_that_names_passes_the_verifier() {
    need!(gate::bpf());
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let addresses: Vec<u64> = functions().into_keys().take(32).collect();
    let cost = bench_names(&Config::default(), &addresses, Duration::from_millis(200)).expect("it runs");
    println!("kernel_names: {cost:?}");
    assert!(cost.runs > 0 && cost.frames_per_run > 16.0, "{cost:?}");
    check_noted("kernel_names", "loop", cost.verified_instructions);
}
