//! `bench-programs` (hidden): what every eBPF program of this machine has cost. For `cargo xtask bench`.

use std::process::ExitCode;

use crate::capture::{self, LoadedProgram};

/// Prints `id ns runs name` of each.
pub(super) fn main() -> ExitCode {
    for LoadedProgram { id, name, ns, runs } in capture::loaded_programs() {
        println!("{id} {ns} {runs} {name}");
    }
    ExitCode::SUCCESS
}
