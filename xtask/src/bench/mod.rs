//! `cargo xtask bench`: what profiling costs, beside `perf` in the same run.
//!
//! First the kernel's half: nanoseconds per sample by the kernel's own statistics, beside an empty program and beside
//! the kernel's own stack helper. Then ours: CPU, memory and wake-ups of every process of the daemon's, at several rates
//! and on several machines, beside `perf record -a -g` and the `perf script` that makes it readable. At the end the
//! project's own budgets, kept or not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::{self, Need};

mod agent;
mod kernel;
mod load;
mod meter;
mod peer;
mod store;

/// Something else to measure.
#[derive(clap::Subcommand)]
enum Other {
    /// What history costs the embedded server: bytes, merging a day, taking in
    Store,
}

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Instead of the agent
    #[command(subcommand)]
    other: Option<Other>,
    /// One rate (99 Hz) and shorter runs: three minutes
    #[arg(long)]
    quick: bool,
    /// Only the kernel's half
    #[arg(long)]
    kernel: bool,
}

/// How long things run, and how often.
#[derive(Clone, Copy, Debug)]
struct Plan {
    frequencies_hz: &'static [u32],
    kernel_rounds: usize,
    kernel_seconds: u64,
    steady_seconds: u64,
}

const WHOLE: Plan =
    Plan { frequencies_hz: &[19, 99, 999], kernel_rounds: 3, kernel_seconds: 5, steady_seconds: 40 };
const QUICK: Plan = Plan { frequencies_hz: &[99], kernel_rounds: 1, kernel_seconds: 3, steady_seconds: 20 };

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    match options.other {
        Some(Other::Store) => return store::measure(),
        None => {}
    }
    let plan = if options.quick { QUICK } else { WHOLE };
    if !host::is_root() {
        bail!("the bench loads eBPF programs and reads other processes: as root, run `cargo xtask bench`");
    }
    host::install(&[
        Need { program: "cc", package: "build-essential", purpose: "what is measured is built with it" },
        Need { program: "perf", package: "linux-perf", purpose: "it is measured beside" },
    ])?;
    host::run(host::cargo().args(["build", "--release", "--package", "profiler-daemon"]))?;
    let tools = Tools { daemon: host::target_dir().join("release/profiler-daemon"), deep: build_deep()? };

    let mut budgets = Vec::new();
    budgets.extend(kernel::measure(&tools, plan)?);
    if !options.kernel {
        budgets.extend(agent::measure(&tools, plan)?);
    }
    println!("\n{:<64} {:>10} {:>10}", "budget", "found", "at most");
    for Budget { what, found, most, unit } in &budgets {
        let verdict = if found <= most { "kept" } else { "NOT KEPT" };
        println!("{what:<64} {found:>7.3} {unit:<2} {most:>7.3} {unit:<2} {verdict}");
    }
    Ok(())
}

/// Binaries that are measured.
#[derive(Debug)]
struct Tools {
    daemon: PathBuf,
    deep: PathBuf,
}

/// A figure that the project holds itself to.
#[derive(Clone, Debug)]
struct Budget {
    what: String,
    found: f64,
    most: f64,
    unit: &'static str,
}

/// A program that burns CPU at the bottom of a stack as deep as told.
fn build_deep() -> Result<PathBuf> {
    let built = host::target_dir().join("workloads");
    std::fs::create_dir_all(&built)?;
    let output = built.join("wl-deep");
    let source = host::root().join("tests/workloads/deep.c");
    let mut compile = Command::new("cc");
    compile.args([
        "-O2",
        "-fno-omit-frame-pointer",
        "-mno-omit-leaf-frame-pointer",
        "-fno-optimize-sibling-calls",
    ]);
    host::run(compile.arg("-o").arg(&output).arg(Path::new(&source)))?;
    Ok(output)
}

/// What `command` prints.
fn output_of(command: &mut Command) -> Result<String> {
    host::output(command).with_context(|| format!("`{}` failed", host::typed(command)))
}
