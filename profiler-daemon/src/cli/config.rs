//! `config`: what the configuration says, and whether it may.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::app::{self, Failure};
use crate::config;

/// Look at the configuration.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell everything that is wrong, files that it names included. Exit codes: 0 nothing is, 2 something is.
    Check(File),
    /// Print the values that would be used, each with its place, and the memory that comes of them; secrets are hidden.
    Show(File),
    /// Print a file with every key, what it accepts and its default.
    Default,
}

#[derive(Debug, Args)]
struct File {
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    file: Option<PathBuf>,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.verb {
        Verb::Check(File { file }) => {
            let config = super::configuration(file, &[])?;
            app::check(&config)?;
            println!("nothing is wrong");
        }
        Verb::Show(File { file }) => {
            let resolved = super::resolved(file, &[])?;
            print!("{}", resolved.show());
            match app::budget(&resolved.config) {
                Ok(budget) => print!("{}", budget.comments()),
                Err(problem) => println!("# {problem}"),
            }
        }
        Verb::Default => print!("{}", config::default_file()),
    }
    Ok(ExitCode::SUCCESS)
}
