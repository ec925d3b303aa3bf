//! What programs of the kernel cost, by the kernel's own statistics. For `cargo xtask bench` and the tests.
//!
//! In: a program of the object, and tables to walk by. Out: nanoseconds per run, and what the verifier looked at. Not here: what
//! runs meanwhile.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aya::maps::{PerCpuArray, RingBuf};
use profiler_common::knobs::Counters;
use profiler_common::limits::SAMPLE_RING_BYTES_MIN;

use super::{AttachError, Config, KernelNames, Tables, counters, load, online_cpus, samplers, sys};
use crate::meters::Meters;

/// How often what comes in is thrown away: the ring does not fill in that time.
const SLICE: Duration = Duration::from_millis(50);

/// What a program of the object costs.
#[derive(Clone, Copy, Debug)]
pub struct ProgramCost {
    /// Instructions the verifier looked at.
    pub verified_instructions: u32,
    /// Times it ran.
    pub runs: u64,
    /// Nanoseconds per run, by the kernel's own statistics (`kernel.bpf_stats_enabled`); zero where they are off.
    pub ns_per_run: f64,
    /// User frames found per run, for the programs of the benchmark.
    pub frames_per_run: f64,
}

/// Runs `name` alone for `duration`, after `place` has put tables where it finds them, and says what it cost.
pub fn bench<E: From<AttachError>>(
    config: &Config,
    name: &str,
    duration: Duration,
    place: impl FnOnce(&mut Tables) -> Result<(), E>,
) -> Result<ProgramCost, E> {
    // What has no table here gets none: one stack, into an empty ring, is enough for the verifier to look at how it gets there.
    let settings = load::settings(config, u64::MAX, 1);
    let mut ebpf = load::object(config, settings, SAMPLE_RING_BYTES_MIN)?;
    load::program(&mut ebpf, name)?;
    let _chain = load::chain(&mut ebpf, &settings)?;
    let mut tables = load::tables(&mut ebpf, config, &Meters::default())?;
    place(&mut tables)?;
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
    let counts = PerCpuArray::<_, counters::Wire>::try_from(load::map(&mut ebpf, "COUNTERS")?)
        .map_err(|error| AttachError::map(&error))?;
    let mut ring =
        RingBuf::try_from(load::map(&mut ebpf, "SAMPLES")?).map_err(|error| AttachError::map(&error))?;
    let loaded = load::perf_program(&mut ebpf, name)?;
    let fd = loaded.fd().map_err(AttachError::program(name))?;
    let mut clocks = Vec::new();
    for cpu in online_cpus()? {
        clocks.push(
            samplers::cpu::attach(cpu, config.period_ns(), fd.as_fd())
                .map_err(AttachError::perf_event(cpu))?,
        );
    }
    for _ in 0..duration.as_millis() / SLICE.as_millis() {
        std::thread::sleep(SLICE);
        while ring.next().is_some() {}
    }
    drop(clocks);
    let info = loaded.info().map_err(AttachError::program(name))?;
    let (ns, runs) = sys::run_statistics(fd.as_fd()).unwrap_or((0, 0));
    let mut sum = Counters::default();
    if let Ok(values) = counts.get(&0, 0) {
        for words in values.iter() {
            let counters = Counters::from_words(*words);
            sum.runs += counters.runs;
            sum.sent += counters.sent;
        }
    }
    let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    Ok(ProgramCost {
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        runs,
        ns_per_run: ratio(ns, runs),
        frames_per_run: ratio(sum.sent, sum.runs),
    })
}

/// The same for the program that names functions of the kernel: asked about `addresses` for `duration`, one question after the other.
/// Its frames are names that it knew.
pub fn bench_names(
    config: &Config,
    addresses: &[u64],
    duration: Duration,
) -> Result<ProgramCost, AttachError> {
    let mut ebpf = load::object(config, load::settings(config, u64::MAX, 1), SAMPLE_RING_BYTES_MIN)?;
    let mut names = KernelNames::open(&mut ebpf)?;
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
    let (begun, mut asked, mut known) = (Instant::now(), 0, 0);
    while begun.elapsed() < duration {
        let answer = names.of(addresses).map_err(|error| AttachError::System { call: "bpf", error })?;
        asked += 1;
        known += answer.iter().flatten().count();
    }
    let (ns, runs) = names.run_statistics();
    Ok(ProgramCost {
        verified_instructions: names.verified_instructions(),
        runs,
        ns_per_run: ns as f64 / runs.max(1) as f64,
        frames_per_run: known as f64 / f64::from(asked.max(1)),
    })
}

/// A program that somebody has loaded, and what it cost while the statistics were on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProgram {
    /// Its number, never given twice.
    pub id: u32,
    /// Its name, or what the kernel keeps of it.
    pub name: String,
    /// Nanoseconds spent in it.
    pub ns: u64,
    /// Times it ran; a program that only others call has none.
    pub runs: u64,
}

/// All programs that are loaded, whoever did it. One that goes meanwhile, or that we may not see, is left out.
pub fn loaded_programs() -> Vec<LoadedProgram> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let looked_at = programs.filter_map(|program| {
        let fd = program.fd().ok()?;
        let (ns, runs) = sys::run_statistics(fd.as_fd())?;
        let name = String::from_utf8_lossy(program.name()).into_owned();
        Some(LoadedProgram { id: program.id(), name, ns, runs })
    });
    looked_at.collect()
}
