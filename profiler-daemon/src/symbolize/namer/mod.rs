//! The namer: a process of its own that reads strangers' files.
//!
//! In: questions on a socket, with the file beside them. Out: answers. It opens nothing but what it is handed,
//! knows nothing that would be missed, and may end at any time: at a file that shrinks under a mapping, at its
//! memory limit, at a bug in a parser. Its parent starts another and asks again. It ends itself when the other
//! end of the socket is gone.

mod elf;
mod kallsyms;
mod modules;

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use self::kallsyms::Kallsyms;
use self::modules::{Modules, Writer};
use super::protocol::{
    ADDRESSES_MAX, ANSWER_BYTES_MAX, Answer, Found, Names, Outcome, Place, REQUEST_BYTES_MAX, Refusal,
    Request, Subject, TalkError, receive, send,
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
        let outcome = namer.answer(&request, file).map_or_else(Outcome::Refused, Outcome::Names);
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
}

impl Namer {
    fn answer(&mut self, request: &Request, file: Option<OwnedFd>) -> Result<Names, Refusal> {
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
                    Some(kernel) if !kernel.is_empty() => Ok(in_kernel(kernel, addresses)),
                    Some(_) | None => Err(Refusal::NoKallsyms),
                }
            }
            Subject::File { slot, size, debug_bytes_max } => {
                let file = file.ok_or(Refusal::Nonsense)?;
                self.modules.name(slot, file, size, debug_bytes_max, addresses)
            }
        }
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
