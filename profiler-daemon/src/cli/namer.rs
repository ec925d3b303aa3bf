//! `namer` (hidden): the child that reads foreign ELF and DWARF for us.

use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;

use crate::children::{Confinement, NAMER_BYTES_MAX, enter};
use crate::symbolize::namer;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Private memory that it may have, bytes.
    #[arg(long, default_value_t = NAMER_BYTES_MAX)]
    data_bytes_max: u64,
}

pub(super) fn main(&Arguments { data_bytes_max }: &Arguments) -> ExitCode {
    match enter(&Confinement { data_bytes_max, ..Confinement::namer() }) {
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
