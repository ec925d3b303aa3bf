//! The namer: a process of its own that reads strangers' files.
//!
//! In: questions on a socket, with the file beside them. Out: answers. It opens nothing but what it is handed,
//! knows nothing that would be missed, and may end at any time: at a file that shrinks under a mapping, at its
//! memory limit, at a bug in a parser. Its parent starts another and asks again. It ends itself when the other
//! end of the socket is gone.

mod elf;
mod go;
mod kallsyms;
mod lines;
mod modules;
mod packed;
mod pclntab;
mod perf_map;
mod rows;

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

pub use self::go::go_names_of;
use self::kallsyms::Kallsyms;
use self::modules::{Modules, Writer, is_still};
pub use self::perf_map::perf_map_names_of;
pub(super) use self::rows::{Builder as TableBuilder, TABLE_WORDS_MAX, TABLES_VERSION, keeps_frames};
use super::protocol::{
    ADDRESSES_MAX, ANSWER_BYTES_MAX, Answer, Found, Names, Outcome, Place, REQUEST_BYTES_MAX, Refusal,
    Request, Rows, Subject, TalkError, receive, send,
};

/// Seconds of processor time for one answer. A parser that runs in circles ends even if nobody is left to end
/// it; who waits for the answer loses patience by its own clock.
const ANSWER_CPU_SECONDS_MAX: u64 = 10;

/// Answers questions until nobody asks any more.
pub fn run(socket: BorrowedFd<'_>) -> ExitCode {
    // A parser that panics over a stranger's file is no news: whoever asked counts it.
    std::panic::set_hook(Box::new(|panic| tracing::debug!("the namer ends: {panic}")));
    let mut namer = Namer::default();
    loop {
        let (request, file) = match receive::<Request>(socket, REQUEST_BYTES_MAX, true, None) {
            Ok(question) => question,
            Err(TalkError::Ended) => return ExitCode::SUCCESS,
            Err(TalkError::Late | TalkError::Rubbish) => return ExitCode::FAILURE,
        };
        limit_cpu();
        let id = request.id;
        let outcome = namer.answer(&request, file).unwrap_or_else(Outcome::Refused);
        let answer = Answer { id, memory_bytes: anonymous_bytes(), cpu_ns: cpu_ns(), outcome };
        match send(socket, &answer, ANSWER_BYTES_MAX, None, None) {
            Ok(()) => {}
            Err(TalkError::Ended) => return ExitCode::SUCCESS,
            Err(TalkError::Late | TalkError::Rubbish) => return ExitCode::FAILURE,
        }
    }
}

#[derive(Default)]
struct Namer {
    kernel: Option<Kallsyms>,
    modules: Modules,
    /// The file whose unwind table is being handed out, and its number.
    table: Option<(u32, TableBuilder)>,
}

impl Namer {
    fn answer(&mut self, request: &Request, file: Option<OwnedFd>) -> Result<Outcome, Refusal> {
        let addresses = &request.addresses;
        if addresses.len() > ADDRESSES_MAX {
            return Err(Refusal::Nonsense);
        }
        match request.subject {
            Subject::Kernel => {
                if let Some(file) = file {
                    self.kernel = Kallsyms::read(File::from(file)).ok();
                }
                match &self.kernel {
                    Some(kernel) if !kernel.is_empty() => Ok(Outcome::Names(in_kernel(kernel, addresses))),
                    Some(_) | None => Err(Refusal::NoKallsyms),
                }
            }
            Subject::File { slot, size, debug_bytes_max } => {
                let file = file.ok_or(Refusal::Nonsense)?;
                self.modules.name(slot, file, size, debug_bytes_max, addresses).map(Outcome::Names)
            }
            Subject::DebugFile { slot } => {
                self.modules.take(slot, file.ok_or(Refusal::Nonsense)?).map(Outcome::Taken)
            }
            Subject::PerfMap { from, to } => {
                let file = File::from(file.ok_or(Refusal::Nonsense)?);
                perf_map::names(&file, from..to, addresses).map(Outcome::Names)
            }
            Subject::Table { slot, size, from } => {
                let file = File::from(file.ok_or(Refusal::Nonsense)?);
                is_still(&file, size)?;
                self.rows(slot, &file, from).map(Outcome::Rows)
            }
        }
    }
}

impl Namer {
    /// The part of the table of `file` that begins with page `from`. Whoever asks for the parts in their order has each of
    /// them for its own work; a namer that was started in between makes the ones before again.
    fn rows(&mut self, slot: u32, file: &File, from: u32) -> Result<Rows, Refusal> {
        let known = self.table.take().filter(|(of, table)| *of == slot && table.next_page() == Some(from));
        let mut table = match known {
            Some((_, table)) => table,
            None => TableBuilder::new(file)?,
        };
        while table.next_page().ok_or(Refusal::Nonsense)? != from {
            let _ = table.part(file);
        }
        let part = table.part(file);
        if part.next.is_some() {
            self.table = Some((slot, table));
        }
        Ok(part)
    }
}

fn in_kernel(kernel: &Kallsyms, addresses: &[u64]) -> Names {
    let mut writer = Writer::default();
    for &address in addresses {
        let found = match kernel.name(address) {
            Some(name) => {
                let (name, file) = (writer.text(name), writer.text(""));
                Found::Named(vec![Place { name, file, line: 0 }])
            }
            None => kernel.distance(address).map_or(Found::Nothing, Found::Bare),
        };
        writer.names.found.push(found);
    }
    writer.names
}

/// Anonymous memory of this process, bytes; zero if unknown.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Processor time of this process, nanoseconds.
fn cpu_ns() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(used.tv_nsec).unwrap_or(0))
}

/// Moves the limit of processor time to a little after now; the hard limit stays.
fn limit_cpu() {
    let most = (cpu_ns() / 1_000_000_000).saturating_add(1 + ANSWER_CPU_SECONDS_MAX);
    let maximum = getrlimit(Resource::Cpu).maximum;
    // Where the limit cannot be moved there is still the patience of who waits.
    let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(most), maximum });
}
