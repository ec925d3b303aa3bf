//! `completions` and `man`: what a shell and a reader need to know of the command line, made from it. For packagers.

use std::io;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::app::Failure;

/// Print what a shell completes commands and options by.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    shell: Shell,
}

pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "profiler-daemon", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man() -> Result<ExitCode, Failure> {
    let page = clap_mangen::Man::new(Cli::command());
    page.render(&mut io::stdout()).map_err(Failure::other("printing the manual page"))?;
    Ok(ExitCode::SUCCESS)
}
