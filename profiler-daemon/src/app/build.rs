//! Rooms that more than one command needs, each built from its own configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::usage::Roll;
use super::{Budget, Failure, Part};
use crate::attribute::{self, Attributor, Relabel};
use crate::capture::Kernel;
use crate::children;
use crate::meters::Meters;
use crate::processes::{self, Tracker};
use crate::procfs::Procfs;
use crate::symbolize::{self, KernelNamer, NamerProcess, Spawner, Symbolizer};

/// Follows processes and says whose a stack is. `by_task` keeps tasks apart.
pub(super) fn tracking(
    hostname: Option<String>,
    by_task: bool,
    relabel: Relabel,
    budget: &Budget,
    meters: &Meters,
) -> Result<(Tracker, Attributor), Failure> {
    let procfs = Procfs::new("/proc");
    let hostname = match hostname {
        Some(name) => name,
        None => procfs.hostname().map_err(|error| Failure::Other {
            what: "reading this machine's name from /proc (is it mounted?)".to_owned(),
            error: error.to_string(),
        })?,
    };
    let tracker = Tracker::new(processes::Config::within(budget.bytes(Part::Processes)), procfs, meters);
    let defaults = attribute::Config::default().within(budget.window_bytes());
    // A recording is one window, as long as it takes, and its traces are bounded all the same: no server has to keep its series.
    let series_max = if by_task { defaults.traces_max } else { defaults.series_max };
    let attributor = Attributor::new(
        &attribute::Config { hostname, by_task, series_max, relabel, users: users(), ..defaults },
        meters,
    );
    Ok((tracker, attributor))
}

/// Names of this machine's users by their numbers. Of two with one number the first counts, as everywhere.
fn users() -> BTreeMap<u32, String> {
    let accounts = std::fs::read("/etc/passwd").unwrap_or_default();
    let mut users = BTreeMap::new();
    for account in String::from_utf8_lossy(&accounts).lines() {
        let mut fields = account.split(':');
        if let (Some(name), Some(number)) =
            (fields.next(), fields.nth(1).and_then(|number| number.parse().ok()))
        {
            users.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    users
}

/// How long names may be waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// The next window comes: what has no name by then shows its address.
    Window,
    /// Nothing waits behind it: a slow machine gets its names all the same.
    Recording,
}

/// Names frames with the help of a namer, which is started when it is first needed.
pub(super) fn symbolizer(
    inlines: bool,
    patience: Patience,
    budget: &Budget,
    roll: &Roll,
    meters: &Meters,
) -> Symbolizer {
    let (request_timeout, batch_timeout, worth_unpacking) = match patience {
        // To unpack that of the C library takes 60 ms.
        Patience::Window => (Duration::from_secs(5), Duration::from_secs(8), Duration::from_millis(200)),
        Patience::Recording => (Duration::from_secs(30), Duration::from_secs(300), Duration::ZERO),
    };
    let config = symbolize::Config {
        inlines,
        names_bytes_max: usize::try_from(budget.bytes(Part::Names)).unwrap_or(usize::MAX),
        copied_bytes_max: budget.bytes(Part::Copies),
        request_timeout,
        batch_timeout,
        worth_unpacking,
        find_debug_files: processes::find_debug_files,
        ..symbolize::Config::default()
    };
    Symbolizer::new(config, namer(budget, roll.clone()), meters)
}

/// Names the kernel's functions by asking `kernel`, where that can be asked.
pub(super) fn kernel_namer(kernel: &mut Kernel) -> Option<KernelNamer> {
    let mut names = kernel.names()?;
    Some(Box::new(move |addresses| names.of(addresses)))
}

/// Another one, for unwind tables, which are kept below `data_dir`. Without them on disk they are made again after a start.
pub(super) fn unwinder(
    symbolizer: &Symbolizer,
    data_dir: Option<&Path>,
    budget: &Budget,
    roll: &Roll,
    meters: &Meters,
) -> Symbolizer {
    let mut unwinder = symbolizer.beside(namer(budget, roll.clone()));
    if let Some(folder) = data_dir.map(|folder| folder.join("unwind"))
        && let Err(error) = unwinder.keep_tables(&folder, meters)
    {
        tracing::warn!("unwind tables are not kept in {}: {error}", folder.display());
    }
    unwinder
}

fn namer(budget: &Budget, roll: Roll) -> Spawner {
    let bytes_max = budget.namer_bytes();
    Box::new(move || {
        let (socket, child) = children::spawn_namer(Path::new(children::SELF), bytes_max)?;
        roll.add(child.id());
        Ok(NamerProcess { socket, child: Some(child) })
    })
}
