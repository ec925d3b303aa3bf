//! `doctor`: checks of this machine and its surroundings; those that take their time are subcommands.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;

use crate::app::{self, Failure};
use crate::config;
use crate::doctor::Health;
use crate::doctor::connection::{Address, Doctor, Question, report};
use crate::doctor::machine::{self, Finding};

/// Find out what is wrong: of this machine, and whether its programs can be loaded by who asks. Run it as the user of the
/// service, or as root.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 all is well, 1 something is to be changed, 2 it could not be found out."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    check: Option<Check>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Check {
    Connection(ConnectionArguments),
    Why(WhyArguments),
}

/// Why a process has no data, or poor data: whether it is there, may be looked at, uses CPU time, can be walked and named, which
/// labels it has, and how good the stacks of its service were. The agent that runs is asked, at the configured admin address; where none
/// answers, this command looks by itself, which it should do as the user of the service, or as root.
///
/// Exit codes: 0 nothing is wrong, 1 something is to be changed, 2 something could not be found out.
#[derive(Debug, Args)]
struct WhyArguments {
    /// The process
    pid: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whether the push interval fits the server's keep-alive timeout: opens three connections, leaves them idle and tells
/// who closes them first, FIN or RST, after how long, what the server advertises, and which setting to change.
///
/// Nothing is pushed. Exit codes: 0 the interval fits, 1 it does not, 2 nothing could be measured.
#[derive(Debug, Args)]
struct ConnectionArguments {
    /// The server [default: the configured one, else the embedded server's address]
    url: Option<String>,
    /// Time between two pushes, 1s to 1h [default: the configured one, else 10s]
    #[arg(long, value_name = "DURATION")]
    interval: Option<String>,
    /// How long to watch idle connections at most [default: half as long again as the interval, and 5s more at least]
    #[arg(long, value_name = "DURATION")]
    patience: Option<String>,
    /// Measure again and again, and tell what changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print one JSON object (with --watch: one per change, each on its own line)
    #[arg(long)]
    json: bool,
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.check {
        Some(Check::Connection(arguments)) => connection(arguments),
        Some(Check::Why(arguments)) => why(arguments),
        None => machine(arguments.json, arguments.config),
    }
}

/// Everything that is known at once.
fn machine(json: bool, file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let config = super::configuration(file, &[])?;
    let budget = app::budget(&config).map_err(Failure::Usage)?;
    let place = machine::Place {
        root: PathBuf::from("/"),
        memory_bytes_max: budget.sum(),
        memory_bytes_least: budget.least(),
        data_dir: config.data_dir,
        free_bytes_min: config.spool_free_bytes_min,
        server: config.server,
    };
    let mut findings = machine::examine(&place);
    findings.push(match app::try_sampling() {
        Ok(()) => Finding::fits("sampling", "programs were loaded and attached"),
        Err(failure) => Finding::does_not_fit("sampling", "programs cannot be loaded", failure.to_string()),
    });
    Ok(told(&findings, json))
}

/// About one process.
fn why(arguments: WhyArguments) -> Result<ExitCode, Failure> {
    let WhyArguments { pid, json, config: file } = arguments;
    let config = super::configuration(file, &[])?;
    Ok(told(&app::why::findings(&config, pid)?, json))
}

/// Prints `findings`; the exit code that they come to.
fn told(findings: &[Finding], json: bool) -> ExitCode {
    let health = machine::health(findings);
    if json {
        let findings: Vec<_> = findings.iter().map(Finding::json).collect();
        say(&serde_json::json!({ "checks": findings }).to_string());
    } else {
        findings.iter().for_each(|finding| say(&finding.text()));
    }
    ExitCode::from(health.exit_code())
}

fn connection(arguments: ConnectionArguments) -> Result<ExitCode, Failure> {
    let ConnectionArguments { url, interval, patience, watch, json, config: file } = arguments;
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let flags: Vec<(&'static str, String)> =
        interval.map(|interval| ("interval", interval)).into_iter().collect();
    let config = super::configuration(file, &flags)?;
    let url = url.or(config.server).unwrap_or_else(|| format!("http://{}", config.listen));
    let usual = Question::patience_for(config.interval);
    let patience = match &patience {
        None => usual,
        Some(text) => config::duration(text)
            .filter(|patience| !patience.is_zero())
            .map(|patience| patience.min(usual))
            .ok_or_else(|| usage(&format!("flag --patience: {text:?} is not a duration such as 30s")))?,
    };
    let address = Address::parse(&url).map_err(|error| usage(&error))?;
    let question = Question { address, interval: config.interval, patience };
    let doctor = Doctor::new(question).map_err(|error| usage(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other("starting the check"))?;
    let health = runtime.block_on(async {
        if watch { again_and_again(&doctor, json).await } else { once(&doctor, json).await }
    });
    // A resolver that hangs is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::from(health.exit_code()))
}

async fn once(doctor: &Doctor, json: bool) -> Health {
    let begun = Instant::now();
    if !json {
        say(&report::opening(doctor.question()));
    }
    let found = doctor
        .examine(&|event| {
            if !json {
                say(&report::step(begun.elapsed(), &event));
            }
        })
        .await;
    say(&if json { report::json(doctor.question(), &found) } else { report::closing(&found) });
    found.health()
}

/// Until Ctrl-C. The health is that of the last time.
async fn again_and_again(doctor: &Doctor, json: bool) -> Health {
    let begun = Instant::now();
    if !json {
        say(&report::opening(doctor.question()));
    }
    let mut before = None;
    let measure = async {
        loop {
            let asked = Instant::now();
            let found = doctor.examine(&|_| {}).await;
            if before.as_ref().is_none_or(|before| found.differs(before)) {
                say(&if json {
                    report::json(doctor.question(), &found)
                } else {
                    format!("{}  {}", report::moment(begun.elapsed()), report::line(&found))
                });
                before = Some(found);
            }
            // What fails at once is not tried at once again.
            tokio::time::sleep_until(asked + doctor.question().interval.min(PAUSE_MAX)).await;
        }
    };
    tokio::select! {
        () = measure => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    before.map_or(Health::Unknown, |found| found.health())
}

/// Between two measurements that begin, at most.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A reader that has gone is no fault.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
