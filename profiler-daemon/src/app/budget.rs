//! What all of us may hold in memory: every bound, in one list that adds up to one number.
//!
//! In: the configuration, and how many processors there are. Out: bytes for each part, which the rooms are built with. Each part has a
//! least, with which we still do our work, and a most, which is its bound where nothing else is said. Under `memory_max` all parts get their
//! least, and what is left goes to one after the other, in the order of [`Part::BY_WORTH`]. Not here: who keeps a bound, and what
//! becomes of what is beyond it; each room does, and counts it. Pages of files that the kernel keeps for us are not in it: it takes
//! them back when it likes.

use std::fmt::Write;

use super::{builder, stacks};
use crate::config::Config;
use crate::meters::{Meters, label};
use crate::{attribute, capture, children, deliver, processes, symbolize};

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rings and maps of the kernel side, whose size is fixed.
    Kernel,
    /// Unwind tables, and lists of mappings, in the kernel.
    UnwindTables,
    /// The agent itself: threads, labels, counters, profiles in the making, what its allocator keeps.
    Agent,
    /// Stacks that came along with samples and wait for a table.
    Stacks,
    /// Unwind tables on their way from the namer to the kernel.
    TablesOnTheWay,
    /// Names that are remembered.
    Names,
    /// What is known of processes and the files that they map.
    Processes,
    /// Windows that are gathered, wait, or are named and encoded.
    Windows,
    /// Profiles that wait to be pushed, for all sinks.
    Pushes,
    /// The copy of a file whose table is kept on disk.
    Copies,
    /// Both namers.
    Namers,
    /// The embedded server.
    Server,
}

impl Part {
    /// Those that can do with less, in the order in which they get more than their least: what makes stacks whole and names known comes first;
    /// what would only be made again or kept on the disk, last.
    const BY_WORTH: [Self; 8] = [
        Self::UnwindTables,
        Self::Names,
        Self::Namers,
        Self::Server,
        Self::Processes,
        Self::Windows,
        Self::Pushes,
        Self::Copies,
    ];

    /// Its name in metrics and in words.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel rings and maps",
            Self::UnwindTables => "unwind tables in the kernel",
            Self::Agent => "the agent itself",
            Self::Stacks => "stacks that wait for a table",
            Self::TablesOnTheWay => "unwind tables on their way",
            Self::Names => "names",
            Self::Processes => "processes and mappings",
            Self::Windows => "windows",
            Self::Pushes => "profiles that wait to be pushed",
            Self::Copies => "copies of files",
            Self::Namers => "namers",
            Self::Server => "embedded server",
        }
    }
}

/// What the agent takes beside what is listed, bytes. With nothing else it has some ten million.
const AGENT_BYTES: u64 = 32 << 20;
/// Windows at a time: the one that is gathered, the one that waits for the queue, those in it, the one that is named, and the profiles
/// that come of it.
const WINDOWS: u64 = super::BATCHES_WAITING_MAX as u64 + 4;
/// The namer of names, and that of unwind tables.
const NAMERS: u64 = 2;
/// With less a namer cannot read the largest libraries.
const NAMER_BYTES_LEAST: u64 = 96 << 20;
/// What the embedded server gets, bytes: it is asked by the people of one machine.
const SERVER_BYTES_MOST: u64 = 512 << 20;
/// With less it cannot answer for a day of a busy machine.
const SERVER_BYTES_LEAST: u64 = 160 << 20;

/// What one part gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    part: Part,
    least: u64,
    bytes: u64,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget(Vec<Share>);

/// Where nothing is configured, on a machine of one processor: for commands that end by themselves.
impl Default for Budget {
    fn default() -> Self {
        Self::unlimited(&Config::default(), 1)
    }
}

impl Budget {
    /// The budget that `config` sets on a machine of `processors`; a sentence if it is less than the least.
    pub fn new(config: &Config, processors: usize) -> Result<Self, String> {
        let usual = Self::unlimited(config, processors);
        let Some(memory_max) = config.memory_max else { return Ok(usual) };
        let least = usual.least();
        let Some(mut left) = memory_max.checked_sub(least) else {
            let each = usual.0.iter().filter(|share| share.least > 0);
            let each = each.map(|share| format!("{} {}", share.part.as_str(), mib(share.least)));
            return Err(format!(
                "memory_max = {} is less than the least that profiling takes here, {}: {}",
                mib(memory_max),
                mib(least),
                each.collect::<Vec<_>>().join(", ")
            ));
        };
        let mut shares = usual.0;
        for part in Part::BY_WORTH {
            for share in shares.iter_mut().filter(|share| share.part == part) {
                let more = left.min(share.bytes - share.least);
                left -= more;
                share.bytes = share.least + more;
            }
        }
        Ok(Self(shares))
    }

    /// What each part takes where nobody minds.
    fn unlimited(config: &Config, processors: usize) -> Self {
        let capture = capture::Config { frequency_hz: config.frequency_hz, ..capture::Config::default() };
        let window = attribute::Config::default().window_bytes_max();
        let symbolize = symbolize::Config::default();
        let sinks = 1 + config.sinks.len() as u64;
        let pushes = deliver::Config::default().waiting_bytes_max as u64 * sinks;
        let unwind = config.unwind_bytes_max.min(capture::UNWIND_BYTES_MAX);
        let processes = processes::Config::default().bytes_max();
        let names = symbolize.names_bytes_max as u64;
        let copies = if config.data_dir.is_some() { symbolize.copied_bytes_max } else { 0 };
        let kernel = capture.kernel_bytes(processors);
        let tables = builder::TABLES_MAX * symbolize::TABLE_BYTES_MAX;
        let server = |bytes| if config.server.is_none() { bytes } else { 0 };
        let share = |part, least, bytes| Share { part, least, bytes };
        Self(vec![
            share(Part::Kernel, kernel, kernel),
            share(Part::UnwindTables, unwind / 4, unwind),
            share(Part::Agent, AGENT_BYTES, AGENT_BYTES),
            share(Part::Stacks, stacks::BYTES_MAX, stacks::BYTES_MAX),
            share(Part::TablesOnTheWay, tables, tables),
            share(Part::Names, names / 4, names),
            share(Part::Processes, processes / 4, processes),
            share(Part::Windows, WINDOWS * window / 2, WINDOWS * window),
            share(Part::Pushes, pushes / 4, pushes),
            share(Part::Copies, copies / 4, copies),
            share(Part::Namers, NAMERS * NAMER_BYTES_LEAST, NAMERS * children::NAMER_BYTES_MAX),
            share(Part::Server, server(SERVER_BYTES_LEAST), server(SERVER_BYTES_MOST)),
        ])
    }

    /// What `part` may take, bytes.
    pub fn bytes(&self, part: Part) -> u64 {
        self.0.iter().filter(|share| share.part == part).map(|share| share.bytes).sum()
    }

    /// All of it, bytes.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|share| share.bytes).sum()
    }

    /// What it cannot be less than, bytes.
    pub fn least(&self) -> u64 {
        self.0.iter().map(|share| share.least).sum()
    }

    /// What one window may take, bytes.
    pub(super) fn window_bytes(&self) -> u64 {
        self.bytes(Part::Windows) / WINDOWS
    }

    /// What one namer may take, bytes.
    pub(super) fn namer_bytes(&self) -> u64 {
        self.bytes(Part::Namers) / NAMERS
    }

    /// What waits for one sink of `config` may take, bytes.
    pub(super) fn waiting_bytes(&self, config: &Config) -> usize {
        let bytes = self.bytes(Part::Pushes) / (1 + config.sinks.len() as u64);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Shows it on `/metrics`.
    pub(super) fn meter(&self, meters: &Meters) {
        let budget = meters.gauges(
            "profiler_memory_budget_bytes",
            "Memory that a part of the agent, of its children or of its maps in the kernel may take at most, bytes",
        );
        for share in &self.0 {
            budget.get_or_create(&label("part", share.part.as_str())).set(share.bytes as f64);
        }
    }

    /// The list, as comments of a configuration file.
    pub fn comments(&self) -> String {
        let mut text = format!("# {} of memory at most:\n", mib(self.sum()));
        for share in self.0.iter().filter(|share| share.bytes > 0) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "#   {:>8}  {}", mib(share.bytes), share.part.as_str());
        }
        text
    }
}

/// `12 MiB`; parts of one are rounded up, so that nothing is called nothing.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn config(memory_max: Option<u64>) -> Config {
        Config { memory_max, data_dir: Some("/data".into()), ..Config::default() }
    }

    #[test]
    fn without_a_limit_each_part_has_its_own_bound() {
        let budget = Budget::new(&config(None), 2).unwrap();
        assert_eq!(budget.bytes(Part::UnwindTables), capture::UNWIND_BYTES_MAX);
        assert_eq!(budget.namer_bytes(), children::NAMER_BYTES_MAX);
        assert_eq!(budget.window_bytes(), attribute::Config::default().window_bytes_max());
        assert_eq!(budget.waiting_bytes(&config(None)), deliver::Config::default().waiting_bytes_max);
        // What each room does with its share is its usual bound.
        let usual = processes::Config::default();
        assert_eq!(
            processes::Config::within(budget.bytes(Part::Processes)).processes_max,
            usual.processes_max
        );
        let usual = attribute::Config::default();
        assert_eq!(attribute::Config::default().within(budget.window_bytes()).frames_max, usual.frames_max);
    }

    /// Under `memory_max`, the parts add up to no more, and to that number if they can make use of it.
    #[track_caller]
    fn check(memory_max: u64, processors: usize, sum: u64) {
        let budget = Budget::new(&config(Some(memory_max)), processors).unwrap();
        assert_eq!(budget.sum(), sum, "{}", budget.comments());
        for share in &budget.0 {
            assert!(share.bytes >= share.least, "{share:?}");
        }
    }

    #[test]
    fn parts_add_up_to_the_limit_or_to_what_they_can_use() {
        check(600 << 20, 2, 600 << 20);
        check(640 << 20, 64, 640 << 20);
        check(800 << 20, 2, 800 << 20);
        let all = Budget::new(&config(None), 2).unwrap().sum();
        check(all, 2, all);
        check(1 << 40, 2, all);
    }

    #[test]
    fn what_is_worth_most_is_served_first() {
        let budget = Budget::new(&config(Some(640 << 20)), 2).unwrap();
        assert_eq!(budget.bytes(Part::UnwindTables), capture::UNWIND_BYTES_MAX);
        assert!(budget.bytes(Part::Copies) < symbolize::Config::default().copied_bytes_max);
        let asked = Config { unwind_bytes_max: 0, ..config(Some(640 << 20)) };
        assert_eq!(Budget::new(&asked, 2).unwrap().bytes(Part::UnwindTables), 0);
    }

    #[test]
    fn what_is_not_there_takes_nothing() {
        let pushing = Config { server: Some("http://a".to_owned()), ..Config::default() };
        let budget = Budget::new(&pushing, 2).unwrap();
        assert_eq!((budget.bytes(Part::Server), budget.bytes(Part::Copies)), (0, 0));
        assert!(!budget.comments().contains("embedded server"), "{}", budget.comments());
    }

    #[test]
    fn too_little_is_told_with_all_that_it_is_too_little_for() {
        let problem = Budget::new(&config(Some(100 << 20)), 2).unwrap_err();
        assert!(problem.starts_with("memory_max = 100 MiB is less than the least"), "{problem}");
        for part in ["namers 192 MiB", "embedded server 160 MiB", "the agent itself 32 MiB"] {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn every_part_can_be_scraped_and_read() {
        let (budget, meters) = (Budget::new(&config(None), 2).unwrap(), Meters::default());
        budget.meter(&meters);
        let page = meters.render();
        let lines = page.lines().filter(|line| line.starts_with("profiler_memory_budget_bytes{"));
        let sum: f64 = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        assert!(sum == budget.sum() as f64, "{page}");
        assert!(budget.comments().lines().all(|line| line.starts_with('#')), "{}", budget.comments());
        assert_eq!(budget.comments().lines().count(), 13, "{}", budget.comments());
    }
}
