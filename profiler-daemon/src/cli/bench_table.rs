//! `bench-table` (hidden): what the unwind table of a file costs. For `cargo xtask bench`.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use crate::app::Failure;
use crate::model::NoTable;
use crate::symbolize::table_of;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An ELF file
    file: PathBuf,
}

/// Prints `bytes seconds keeps_frames`: of the table, to build it in this process, and whether pointers serve behind the innermost
/// frame.
pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let name = arguments.file.display();
    let file = File::open(&arguments.file).map_err(Failure::other(format!("opening {name}")))?;
    let begun = Instant::now();
    let table = table_of(&file).map_err(|why| Failure::Other {
        what: format!("building the unwind table of {name}"),
        error: match why {
            NoTable::Never => "it has none".to_owned(),
            NoTable::NotNow => "not now".to_owned(),
        },
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} {seconds:.4} {}", table.words() * 4, table.keeps_frames);
    Ok(ExitCode::SUCCESS)
}
