//! `bench-kernel` (hidden): what one program of the object costs. For `cargo xtask bench`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::app::{self, Failure};
use crate::capture;
use crate::config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Program to run: cpu, bench_empty, bench_get_stack, bench_walk or kernel_names
    #[arg(long)]
    program: String,
    /// Samples per second and processor
    #[arg(short = 'F', long, default_value = "99")]
    frequency: u32,
    /// How long
    #[arg(short, long, default_value = "5s", value_parser = |text: &str| config::duration(text).ok_or("a duration is wanted"))]
    duration: Duration,
    /// Walk by the bounded loop of old kernels
    #[arg(long)]
    bounded_loop: bool,
    /// Walk by frame pointer alone
    #[arg(long, conflicts_with = "tables")]
    pointers: bool,
    /// Load this eBPF object instead of the one that is built in, to compare two
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Walk this process by unwind tables; may be given more than once
    #[arg(long, value_name = "PID")]
    tables: Vec<u32>,
}

/// Prints `program ns_per_run frames_per_run runs verified_instructions`.
pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = capture::Config {
        frequency_hz: arguments.frequency,
        bounded_loop: arguments.bounded_loop,
        unwind_bytes_max: if arguments.pointers { 0 } else { capture::UNWIND_BYTES_MAX },
        object: arguments.object.clone(),
        ..capture::Config::default()
    };
    if arguments.program == NAMES {
        return names(&config, arguments.duration);
    }
    let place = |tables: &mut capture::Tables| app::bench::place(&arguments.tables, tables);
    let cost = capture::bench(&config, &arguments.program, arguments.duration, place)?;
    print(&arguments.program, cost);
    Ok(ExitCode::SUCCESS)
}

/// The program that nothing but a question runs.
const NAMES: &str = "kernel_names";

/// Asks for the names of the first functions that the kernel lists.
fn names(config: &capture::Config, duration: Duration) -> Result<ExitCode, Failure> {
    const ADDRESSES: usize = 32;
    let list = std::fs::read_to_string("/proc/kallsyms").map_err(Failure::other("reading /proc/kallsyms"))?;
    let functions = list.lines().filter(|line| line.get(16..19) == Some(" T "));
    let addresses = functions.filter_map(|line| u64::from_str_radix(line.get(..16)?, 16).ok());
    let addresses: Vec<u64> = addresses.filter(|address| *address != 0).take(ADDRESSES).collect();
    print(NAMES, capture::bench_names(config, &addresses, duration)?);
    Ok(ExitCode::SUCCESS)
}

fn print(program: &str, cost: capture::ProgramCost) {
    let capture::ProgramCost { verified_instructions, runs, ns_per_run, frames_per_run } = cost;
    println!("{program} {ns_per_run:.1} {frames_per_run:.2} {runs} {verified_instructions}");
}
