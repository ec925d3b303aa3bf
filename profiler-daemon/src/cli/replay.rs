//! `replay`: run a recording through the same rooms, without root.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::app::{self, Failure};

/// Run a recording (record -o FILE.jsonl.gz) through the same pipeline, without root, and write files.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recording
    recording: PathBuf,
    /// File to write, .pb.gz, .svg, .json (speedscope) or .folded; may be repeated [default: folded text on standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
}

pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    app::replay::replay(&arguments.recording, &arguments.output)?;
    Ok(ExitCode::SUCCESS)
}
