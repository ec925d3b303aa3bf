//! Being built.

use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::children::{Confinement, enter};

/// Runs the command line.
pub fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("namer") => namer(),
        _ => ExitCode::SUCCESS,
    }
}

/// The namer's side; started by the daemon itself.
fn namer() -> ExitCode {
    match enter(&Confinement::namer()) {
        Ok((handed, report)) => {
            tracing::debug!("namer: {report}");
            crate::symbolize::namer::run(handed.work.as_fd())
        }
        Err(error) => {
            eprintln!("profiler-daemon namer: {error}");
            ExitCode::FAILURE
        }
    }
}
