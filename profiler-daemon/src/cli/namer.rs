//! `namer` (hidden): the child that reads foreign ELF and DWARF for us.

use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;

use crate::children::{Confinement, enter};
use crate::symbolize::namer;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn main(_arguments: &Arguments) -> ExitCode {
    match enter(&Confinement::namer()) {
        Ok((handed, report)) => {
            tracing::debug!("namer: {report}");
            namer::run(handed.work.as_fd())
        }
        Err(error) => {
            eprintln!("profiler-daemon namer: {error}");
            ExitCode::FAILURE
        }
    }
}
