//! `version`: what this is, for bug reports.

use std::process::ExitCode;

use crate::app::Failure;

/// Never fails.
#[expect(clippy::unnecessary_wraps, reason = "every command has this shape")]
pub(super) fn main() -> Result<ExitCode, Failure> {
    println!("profiler-daemon {}", env!("CARGO_PKG_VERSION"));
    println!("kernel {}", rustix::system::uname().release().to_string_lossy());
    Ok(ExitCode::SUCCESS)
}
