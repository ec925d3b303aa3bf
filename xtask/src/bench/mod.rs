//! `cargo xtask bench`: what profiling costs, beside `perf` in the same run.
//!
//! First the kernel's half: nanoseconds per sample by the kernel's own statistics, by frame pointers and by tables, beside an
//! empty program and beside the kernel's own stack helper. Then what the tables cost: bytes and time by file. Then ours: CPU, memory
//! and wake-ups of every process of the daemon's, at several rates and on several machines, beside `perf record -a -g` and the
//! `perf script` that makes it readable. Or, instead of all that, what `bench idle`, `store` and `ui` say. Then any other profiler that is named, alternately with ours. At the end the project's
//! own budgets, kept or not.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::{self, Need};

mod agent;
mod daemon;
mod files;
mod idle;
mod kernel;
mod load;
mod meter;
mod others;
mod peer;
mod store;
mod ui;

/// Something else to measure.
#[derive(clap::Subcommand)]
enum Other {
    /// What history costs the embedded server: bytes, merging a day, taking in
    Store,
    /// What the page costs a browser, beside other flame graphs
    Ui,
    /// What a resident costs where nothing happens: start, idling beside 200 sleeping processes, stop; eleven minutes, with --quick two
    Idle,
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
    /// Only unwind tables: bytes and time by file, and memory of an agent that meets many
    #[arg(long, conflicts_with = "kernel")]
    tables: bool,
    /// Another profiler to measure alternately with ours, started by the shell, such as perf='perf record -a -g -F 99 -o /dev/null';
    /// nothing else is measured then. May be given more than once
    #[arg(long, value_name = "NAME=COMMAND", conflicts_with_all = ["kernel", "tables"])]
    peer: Vec<others::Other>,
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
        Some(Other::Ui) => return ui::measure(),
        Some(Other::Idle) | None => {}
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
    let tools = Tools::build()?;
    if matches!(options.other, Some(Other::Idle)) {
        print_budgets(&idle::measure(&tools, plan)?);
        return Ok(());
    }
    if !options.peer.is_empty() {
        print_budgets(&others::measure(&tools, &options.peer, plan.kernel_rounds, plan.steady_seconds)?);
        return Ok(());
    }

    let mut budgets = Vec::new();
    if !options.tables {
        budgets.extend(kernel::measure(&tools, plan)?);
    }
    if !options.kernel {
        budgets.extend(files::measure(&tools)?);
        budgets.extend(files::measure_many(&tools)?);
    }
    if !options.kernel && !options.tables {
        budgets.extend(agent::measure(&tools, plan)?);
    }
    print_budgets(&budgets);
    Ok(())
}

fn print_budgets(budgets: &[Budget]) {
    println!("\n{:<64} {:>10} {:>10}", "budget", "found", "at most");
    for Budget { what, found, most, unit } in budgets {
        let verdict = if found <= most { "kept" } else { "NOT KEPT" };
        println!("{what:<64} {found:>7.3} {unit:<2} {most:>7.3} {unit:<2} {verdict}");
    }
}

/// Binaries that are measured.
#[derive(Debug)]
struct Tools {
    daemon: PathBuf,
    /// Burns CPU at the bottom of a stack as deep as told, of functions that are all different.
    deep: PathBuf,
    /// The same without frame pointers.
    bare: PathBuf,
    /// The same, not linked yet.
    bare_object: PathBuf,
}

impl Tools {
    fn build() -> Result<Self> {
        let folder = host::target_dir().join("workloads");
        std::fs::create_dir_all(&folder)?;
        let built = |name: &str, options: &[&str]| {
            let output = folder.join(name);
            let mut compile = Command::new("c++");
            compile
                .args(["-std=c++17", "-O2", "-fno-optimize-sibling-calls"])
                .args(options)
                .arg("-o")
                .arg(&output);
            compile.arg(host::root().join("tests/workloads/tower.cpp"));
            host::run(&mut compile).map(|()| output)
        };
        Ok(Self {
            daemon: host::target_dir().join("release/profiler-daemon"),
            deep: built("wl-tower", &["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"])?,
            bare: built("wl-tower-bare", &["-fomit-frame-pointer"])?,
            bare_object: built("wl-tower-bare.o", &["-fomit-frame-pointer", "-c"])?,
        })
    }
}

/// A figure that the project holds itself to.
#[derive(Clone, Debug)]
struct Budget {
    what: String,
    found: f64,
    most: f64,
    unit: &'static str,
}

/// What `command` prints.
fn output_of(command: &mut Command) -> Result<String> {
    host::output(command).with_context(|| format!("`{}` failed", host::typed(command)))
}
