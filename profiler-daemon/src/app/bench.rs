//! Unwind tables for what the benchmark measures: the way of the agent, but at once.
//!
//! In: processes. Out: their mappings and tables where the programs find them. Not here: what is measured.

use super::build::{self, Patience};
use super::usage::Roll;
use super::{Budget, Failure};
use crate::capture::Tables;
use crate::meters::Meters;
use crate::model::Pid;
use crate::processes::{self, Tracker};
use crate::procfs::Procfs;

/// Tells the kernel side of processes `pids`, each with the tables of all its files.
pub fn place(pids: &[u32], tables: &mut Tables) -> Result<(), Failure> {
    if pids.is_empty() {
        return Ok(());
    }
    let meters = Meters::default();
    let mut tracker = Tracker::new(processes::Config::default(), Procfs::new("/proc"), &meters);
    tracker.snapshot();
    let mut symbolizer =
        build::symbolizer(false, Patience::Recording, &Budget::default(), &Roll::default(), &meters);
    let present = tracker.present();
    for pid in pids.iter().copied().map(Pid) {
        let Some(mappings) = present.mappings(pid) else {
            return Err(Failure::Usage(format!("there is no process {}", pid.0)));
        };
        tables.follow(pid, Some(mappings));
        for module in tables.take_wanted(pid) {
            let table = symbolizer.table(&module);
            tables.fill(module.id, table.as_ref().map_err(|no_table| *no_table));
        }
    }
    Ok(())
}
