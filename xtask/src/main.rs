//! `cargo xtask VERB`: what a developer of profiler-daemon does.
//!
//! One file per verb, and one line here for each. Every verb does its own set-up where it can, and prints the exact
//! commands where it cannot.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build_ebpf;
mod build_ui;
mod dist;
mod emulator;
mod fuzz;
mod host;
mod install;
mod kernels;
mod run;
mod test;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a developer of profiler-daemon does", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the daemon and start it with the privileges it needs: a live flame graph of this machine
    Run(run::Options),
    /// Run every tier of tests and say which ones ran
    Test(test::Options),
    /// Build the kernel side into the object that the daemon embeds, or check the committed one
    BuildEbpf(build_ebpf::Options),
    /// Make the page that the daemon embeds, or check the committed one
    BuildUi {
        /// Change nothing; fail if the committed page is not what its sources make
        #[arg(long)]
        check: bool,
    },
    /// Feed whatever reads other people's bytes with bytes that no one would send
    Fuzz(fuzz::Options),
    /// Measure what profiling costs, beside `perf`
    Bench(bench::Options),
    /// Boot other kernels in an emulator and profile there: minutes per kernel, not part of `test` but of CI
    Kernels(kernels::Options),
    /// Boot a Debian with systemd in an emulator, and live through the package's life there: minutes, not part of `test`
    Vm(vm::Options),
    /// Install the daemon as a service of this machine, or below a folder
    Install(install::Options),
    /// Remove what `install` installed
    Uninstall(install::Removal),
    /// Make what can be given to others: a Debian package, an archive and their checksums
    Dist(dist::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Run(options) => run::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::BuildEbpf(options) => build_ebpf::run(&options),
        Verb::BuildUi { check } => build_ui::run(check),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Kernels(options) => kernels::run(&options),
        Verb::Vm(options) => vm::run(&options),
        Verb::Install(options) => install::install(&options),
        Verb::Uninstall(removal) => install::uninstall(&removal),
        Verb::Dist(options) => dist::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
