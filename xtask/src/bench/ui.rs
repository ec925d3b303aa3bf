//! What the page costs a browser's main thread, beside other flame graphs in the same run.
//!
//! In: this daemon, whose embedded server shows the page. Out: milliseconds, printed, and an error if the aims are missed.
//! Not here: the measuring, which is done from where browsers are driven (`profiler-daemon/ui/bench`).

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::host;

/// Measures and prints.
pub(super) fn measure() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bench = root.join("profiler-daemon/ui/bench");
    let program = match std::env::var_os("PROFILER_DAEMON_BIN") {
        Some(program) => program.into(),
        None => {
            host::run(host::cargo().args(["build", "--release", "--package", "profiler-daemon"]))?;
            root.join("target/release/profiler-daemon")
        }
    };
    let started = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&bench).status();
    match started {
        Ok(status) if status.success() => {}
        _ => {
            bail!("`npm ci` failed in profiler-daemon/ui/bench: node and npm are needed, and their registry")
        }
    }
    host::run(Command::new("node").arg("bench.mjs").arg(program.canonicalize()?).current_dir(&bench))
}
