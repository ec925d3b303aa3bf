//! The command line: one file per command.
//!
//! In: arguments. Out: an exit code. The only place that names clap.

mod access;
mod bench_kernel;
mod bench_programs;
mod bench_table;
mod completions;
mod config;
mod doctor;
mod namer;
mod query;
mod record;
mod replay;
mod run;
mod serve;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::Failure;
use crate::config::{Config, Resolved, resolve};

/// A system-wide eBPF profiler that is light enough to leave on.
#[derive(Debug, Parser)]
#[command(
    name = "profiler-daemon",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a privilege or a kernel feature is \
                  missing, 4 nothing was sampled, or a query found nothing, 5 a port is taken, 6 the eBPF object is missing or damaged; \
                  `record -- COMMAND` exits with the command's code, \
                  128 and the signal's number if one ended it, 127 if there is no such command and 126 if it cannot \
                  be started; a second Ctrl-C ends at once with 130.\n\
                  PROFILER_LOG=error|warn|info|debug|trace sets how much is logged [default: info]."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Arguments>),
    Record(record::Arguments),
    Serve(serve::Arguments),
    Query(Box<query::Arguments>),
    Replay(replay::Arguments),
    Doctor(doctor::Arguments),
    Config(config::Arguments),
    #[command(hide = true)]
    Completions(completions::Arguments),
    /// Print the manual page, in the form that `man` reads.
    #[command(hide = true)]
    Man,
    /// Print the version of this program and of the kernel, for bug reports.
    Version,
    #[command(hide = true)]
    Namer(namer::Arguments),
    #[command(hide = true)]
    BenchKernel(bench_kernel::Arguments),
    #[command(hide = true)]
    BenchPrograms,
    #[command(hide = true)]
    BenchTable(bench_table::Arguments),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    let done = match cli.command {
        Command::Run(arguments) => run::main(*arguments),
        Command::Record(arguments) => record::main(arguments),
        Command::Serve(arguments) => serve::main(arguments),
        Command::Query(arguments) => query::main(*arguments),
        Command::Replay(arguments) => replay::main(&arguments),
        Command::Doctor(arguments) => doctor::main(arguments),
        Command::Config(arguments) => config::main(arguments),
        Command::Completions(arguments) => completions::main(&arguments),
        Command::Man => completions::man(),
        Command::Version => version::main(),
        Command::Namer(arguments) => Ok(namer::main(&arguments)),
        Command::BenchKernel(arguments) => bench_kernel::main(&arguments),
        Command::BenchPrograms => Ok(bench_programs::main()),
        Command::BenchTable(arguments) => bench_table::main(&arguments),
    };
    done.unwrap_or_else(|failure: Failure| {
        eprintln!("profiler-daemon: {failure}");
        ExitCode::from(failure.exit_code())
    })
}

/// The configuration, from `file` or that which `PROFILER_CONFIG` names, the environment and `flags`.
fn configuration(file: Option<PathBuf>, flags: &[(&'static str, String)]) -> Result<Config, Failure> {
    resolved(file, flags).map(|resolved| resolved.config)
}

/// [`configuration`], with the place of each value.
fn resolved(file: Option<PathBuf>, flags: &[(&'static str, String)]) -> Result<Resolved, Failure> {
    let file = file.or_else(|| std::env::var_os("PROFILER_CONFIG").map(PathBuf::from));
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.to_string_lossy().into_owned())));
    resolve(file.as_deref(), environment, flags).map_err(|problems| Failure::Usage(problems.to_string()))
}

/// Log lines are changes of state and go to stderr, with time unless the journal adds it.
fn start_logging() {
    use std::io::IsTerminal;
    let level = std::env::var("PROFILER_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing::Level::INFO);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        subscriber.without_time().init();
    } else {
        subscriber.init();
    }
}
