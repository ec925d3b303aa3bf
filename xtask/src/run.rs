//! `cargo xtask run`: the daemon, built and started with the privileges it needs.
//!
//! The daemon takes this process's place, so that a Ctrl-C is its own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::host::{self, Need};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to `profiler-daemon run` (`cargo xtask run --help` is about this verb; try `-- --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds what is needed, then becomes the daemon.
pub(crate) fn run(options: &Options) -> Result<()> {
    host::install(&[Need {
        program: "cc",
        package: "build-essential",
        purpose: "a dependency has C in it",
    }])?;
    host::say("building the daemon (the first time takes some minutes)");
    host::run(host::cargo().args(["build", "--release", "--package", "profiler-daemon"]))?;
    let daemon = host::target_dir().join("release/profiler-daemon");

    let mut start = if host::is_root() {
        Command::new(&daemon)
    } else if let Some(sudo) = host::find("sudo") {
        let mut start = Command::new(sudo);
        start.arg(&daemon);
        start
    } else {
        bail!(
            "profiling the whole system needs root and there is no sudo here; as root, run: {} run {}",
            daemon.display(),
            options.arguments.join(" ")
        );
    };
    start.arg("run").args(&options.arguments);
    host::say(&format!("$ {}", host::typed(&start)));
    Err(anyhow::Error::new(start.exec()).context(format!("cannot start {}", host::typed(&start))))
}
