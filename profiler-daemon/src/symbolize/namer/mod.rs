//! The namer: a process of its own that reads strangers' files.
//!
//! In: questions on a socket, with a handle of the file beside them. Out: answers. It opens nothing but what it is handed,
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
mod stubs;
mod writer;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

pub use self::go::go_names_of;
use self::kallsyms::Kallsyms;
use self::modules::{Modules, is_still};
pub use self::perf_map::perf_map_names_of;
pub(super) use self::rows::{Builder as TableBuilder, TABLE_WORDS_MAX, TABLES_VERSION, keeps_frames};
use self::writer::Writer;
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
        let (request, files) = match receive::<Request>(socket, REQUEST_BYTES_MAX, true, None) {
            Ok(question) => question,
            Err(TalkError::Ended) => return ExitCode::SUCCESS,
            Err(TalkError::Late | TalkError::Rubbish) => return ExitCode::FAILURE,
        };
        limit_cpu();
        let id = request.id;
        let outcome = namer.answer(&request, files).unwrap_or_else(Outcome::Refused);
        let answer = Answer { id, memory_bytes: anonymous_bytes(), cpu_ns: cpu_ns(), outcome };
        match send(socket, &answer, ANSWER_BYTES_MAX, &[], None) {
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
    fn answer(&mut self, request: &Request, files: Vec<OwnedFd>) -> Result<Outcome, Refusal> {
        let addresses = &request.addresses;
        let mut files = files.into_iter();
        let mut opened = || files.next().ok_or(Refusal::Nonsense).and_then(|handle| open_again(&handle));
        if addresses.len() > ADDRESSES_MAX {
            return Err(Refusal::Nonsense);
        }
        match request.subject {
            Subject::Kernel => {
                if let Some(file) = files.next() {
                    // Opened by who may see addresses, and not again.
                    self.kernel = Kallsyms::read(File::from(file)).ok();
                }
                match &self.kernel {
                    Some(kernel) if !kernel.is_empty() => Ok(Outcome::Names(in_kernel(kernel, addresses))),
                    Some(_) | None => Err(Refusal::NoKallsyms),
                }
            }
            Subject::File { slot, size, debug } => {
                self.modules.name(slot, opened()?, size, debug, addresses).map(Outcome::Names)
            }
            Subject::DebugFile { slot } => self.modules.take(slot, opened()?).map(Outcome::Taken),
            Subject::PerfMap { from, to } => {
                perf_map::names(&opened()?, from..to, addresses).map(Outcome::Names)
            }
            Subject::Table { slot, size, from } => {
                let file = opened()?;
                is_still(&file, size)?;
                self.rows(slot, &file, from).map(Outcome::Rows)
            }
            Subject::Copy { size } => {
                let file = opened()?;
                let memory = File::from(files.next().ok_or(Refusal::Nonsense)?);
                copy(&file, size, &memory).map(|()| Outcome::Copied)
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

/// Opens what a handle names, to read it: without becoming its terminal, and without waiting but for who serves the file system.
fn open_again(handle: &OwnedFd) -> Result<File, Refusal> {
    const TO_READ: OFlags =
        OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
    let is = fstat(handle).map_err(|_| Refusal::Unopenable)?;
    if FileType::from_raw_mode(is.st_mode) != FileType::RegularFile {
        return Err(Refusal::NotRegular);
    }
    let file = open(format!("/proc/self/fd/{}", handle.as_raw_fd()), TO_READ, Mode::empty());
    file.map(File::from).map_err(|refused| {
        tracing::debug!("a file cannot be opened: {refused}");
        Refusal::Unopenable
    })
}

/// Copies `size` bytes of `file`, all that it has.
fn copy(file: &File, size: u64, memory: &File) -> Result<(), Refusal> {
    is_still(file, size)?;
    let mut piece = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at).map_err(|_| Refusal::Unopenable)?;
        if read == 0 {
            break;
        }
        if at + read as u64 > size {
            return Err(Refusal::Changed);
        }
        memory.write_all_at(&piece[..read], at).map_err(|_| Refusal::Nonsense)?;
        at += read as u64;
    }
    if at == size { Ok(()) } else { Err(Refusal::Changed) }
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
