//! `record`: profile for a while, or while a command runs, and write files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::app::record::{Options, Subject};
use crate::app::{self, Failure};
use crate::capture::UNWIND_BYTES_MAX;
use crate::config;
use crate::model::Pid;

/// Profile the whole system, some processes or a command with its descendants, and write files.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Samples per second and processor, 1 to 999
    #[arg(short = 'F', long, value_name = "HZ", default_value = "99", value_parser = parse_frequency)]
    frequency: u32,
    /// How long [default: while the command runs, or until Ctrl-C]
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Only these processes and their descendants; may be repeated [default: every process]
    #[arg(short, long, value_name = "PID")]
    pid: Vec<u32>,
    /// File to write, its format by its ending: .pb.gz (pprof), .svg (a flame graph), .json (speedscope), .folded (text for flame graph
    /// tools), .jsonl or .jsonl.gz (a recording for `replay`); may be repeated [default: profile.pb.gz]
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// Read inlined functions, files and lines from debug information
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    inlines: bool,
    /// Most kernel memory for unwind tables, by which stacks without frame pointers are walked; 0 for frame pointers alone [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    unwind_bytes_max: Option<u64>,
    /// Load this eBPF object instead of the one that is built in
    #[arg(long, value_name = "FILE", hide = true)]
    object: Option<PathBuf>,
    /// Walk stacks as on a kernel without bpf_loop
    #[arg(long, hide = true)]
    bounded_loop: bool,
    /// Command to run and profile with its descendants
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

fn parse_frequency(text: &str) -> Result<u32, &'static str> {
    config::frequency(text).ok_or("a whole number of Hz from 1 to 999 is wanted")
}

fn parse_size(text: &str) -> Result<u64, &'static str> {
    config::size(text).ok_or("a size such as 16MiB, or 0, is wanted")
}

fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    config::duration(text).filter(|d| !d.is_zero()).ok_or("a duration such as 30s or 500ms is wanted")
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        frequency,
        duration,
        pid,
        output,
        inlines,
        unwind_bytes_max,
        object,
        bounded_loop,
        command,
    } = arguments;
    let subject = match (command.is_empty(), pid.is_empty()) {
        (true, true) => Subject::System,
        (true, false) => Subject::Processes(pid.into_iter().map(Pid).collect()),
        (false, true) => Subject::Command(command),
        (false, false) => return Err(Failure::Usage("--pid and a command exclude each other".to_owned())),
    };
    let outputs = if output.is_empty() { vec![PathBuf::from("profile.pb.gz")] } else { output };
    app::record::record(&Options {
        frequency_hz: frequency,
        duration,
        subject,
        outputs,
        inlines,
        object,
        bounded_loop,
        unwind_bytes_max: unwind_bytes_max.unwrap_or(UNWIND_BYTES_MAX),
    })
}
