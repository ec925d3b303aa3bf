//! The namer's other end.
//!
//! In: questions. Out: answers, or the word that there is none. A namer that dies, falls silent or talks
//! rubbish is ended, another is started, and what it was asked is asked again: first as before but for names
//! only, since it is debug information that is large and easily hostile; a subject that ends a namer twice is
//! set aside for a while. A namer that got no processor to answer with is not to blame: its answer is taken when
//! the next batch asks, and what it read is read by then. Every question waits for a bounded time and every batch asks for a bounded time, so
//! strangers' files cannot hold up the stream. Not here: how a namer is started; that closure is `app`'s gift.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::Config;
use super::ending::{Ending, device_of};
use super::living::{Failure, Namer, NamerProcess, Owed, Spawner};
use super::protocol::{
    ANSWER_BYTES_MAX, Answer, DebugBounds, DebugInfo, Found, Names, Outcome, REQUEST_BYTES_MAX, Refusal,
    Request, Rows, Sought, Subject, TalkError, is_over, receive, send,
};
use super::sense::makes_sense;
use super::troubles::{Subjected, Troubles};
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Meters, label};
use crate::model::{DebugFile, FileIdentity, Module};
use crate::time::MonoNs;

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    Kernel,
    File {
        slot: u32,
        identity: FileIdentity,
        file: BorrowedFd<'a>,
        /// Where its debug information is looked for if it is in another file.
        module: Option<&'a Module>,
        /// Whether its debug information is worth being unpacked, however much that is.
        unpack: bool,
    },
    /// Code that was made at run time, by the bytes `part` of the file that says what it is.
    PerfMap {
        module: u32,
        file: BorrowedFd<'a>,
        part: (u64, u64),
    },
    /// The unwind table of a file.
    Table {
        identity: FileIdentity,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Reply {
    /// An answer. Unless it is `settled`, a later one may know more where this has no names.
    Names { names: Names, settled: bool },
    /// Nothing can be known of the file, now or later.
    Refused,
    /// Not now.
    Unavailable,
}

pub(super) struct Client {
    config: Config,
    spawn: Spawner,
    namer: Option<Namer>,
    next_id: u32,
    /// Namers that were told to end and whose end was not yet seen.
    ending: Ending,
    troubles: Troubles,
    /// True from a failure to start a namer, which is said once, to the next success.
    unstartable: bool,
    kallsyms_read: Option<MonoNs>,
    kernel_hidden: Option<MonoNs>,
    /// When this batch must stop asking, and how many namers it may still lose.
    patience: (MonoNs, u32),
    meters: ClientMeters,
}

/// Namers that one batch may lose: two for each of a few bad files. The next batch asks on.
const FAILURES_MAX: u32 = 8;
/// Before this age a namer may use twice its memory. Where the files in use need more than the budget, the budget
/// is kept by starting again and again, and this is how often.
const NAMER_AGE_MIN: Duration = Duration::from_secs(300);
/// kallsyms is read again for an address without a name at most this often: it costs 40 ms, and modules and BPF
/// programs come seldom.
const KALLSYMS_AGE_MIN: Duration = Duration::from_secs(60);
/// Where the kernel hides its addresses, it is asked again after this.
const KERNEL_HIDDEN_FOR: Duration = Duration::from_secs(600);

impl Client {
    pub(super) fn new(config: Config, spawn: Spawner, meters: &Meters) -> Self {
        Self::with(config, spawn, Ending::new(meters), ClientMeters::new(meters))
    }

    /// Another one, which asks a namer of its own, started by `spawn`, and counts with this one.
    pub(super) fn beside(&self, spawn: Spawner) -> Self {
        Self::with(self.config.clone(), spawn, self.ending.beside(), self.meters.clone())
    }

    fn with(config: Config, spawn: Spawner, ending: Ending, meters: ClientMeters) -> Self {
        Self {
            troubles: Troubles::new(config.set_aside_max, config.set_aside_for),
            config,
            spawn,
            namer: None,
            next_id: 0,
            ending,
            unstartable: false,
            kallsyms_read: None,
            kernel_hidden: None,
            patience: (MonoNs(0), 0),
            meters,
        }
    }

    /// How it was configured.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    #[cfg(test)]
    pub(super) fn socket(&self) -> Option<&std::os::fd::OwnedFd> {
        self.namer.as_ref().map(|namer| &namer.process.socket)
    }

    /// A batch begins: patience is new.
    pub(super) fn begin(&mut self) {
        self.patience = (MonoNs::now().plus(self.config.batch_timeout), FAILURES_MAX);
        self.ending.reap();
    }

    /// Asks about `addresses`, ascending and no more than fit one question.
    pub(super) fn ask(&mut self, asked: Asked<'_>, addresses: &[u64]) -> Reply {
        loop {
            let now = MonoNs::now();
            let Some(failures) = self.tries(asked, now) else { return Reply::Unavailable };
            let names_only = failures > 0 || !self.config.inlines;
            let exchanged = match asked {
                Asked::Kernel => self.ask_kernel(addresses, now),
                Asked::File { slot, identity, file, module, unpack } => {
                    let Config { debug_bytes_max: bytes_max, unpacked_bytes_max, .. } = self.config;
                    let unpacked_bytes_max = if unpack { bytes_max } else { unpacked_bytes_max };
                    let debug = (!names_only).then_some(DebugBounds { bytes_max, unpacked_bytes_max });
                    let subject = Subject::File { slot, size: identity.size, debug };
                    self.ask_file(asked, subject, (file, module), addresses)
                }
                Asked::PerfMap { module: _, file, part: (from, to) } => {
                    self.ask_perf_map(asked, Subject::PerfMap { from, to }, file, addresses)
                }
                Asked::Table { .. } => return Reply::Unavailable, // has no names
            };
            match exchanged {
                Ok(reply) => {
                    let debug = match &reply {
                        Reply::Names { names, .. } => names.debug,
                        Reply::Refused | Reply::Unavailable => None,
                    };
                    self.weigh(asked, names_only, debug);
                    return reply;
                }
                Err(failure) => {
                    if self.gives_up(failure) {
                        return Reply::Unavailable;
                    }
                }
            }
        }
    }

    /// How often this one ended a namer lately; nothing if it is not to be asked about now.
    fn tries(&mut self, asked: Asked<'_>, now: MonoNs) -> Option<u32> {
        let failures = self.troubles.failures(asked.into(), now);
        (failures < 2 && now < self.patience.0 && self.patience.1 > 0).then_some(failures)
    }

    fn ask_file(
        &mut self,
        asked: Asked<'_>,
        subject: Subject,
        (file, module): (BorrowedFd<'_>, Option<&Module>),
        addresses: &[u64],
    ) -> Result<Reply, Failure> {
        let mut outcome = self.exchange(asked, subject, &[file], addresses)?;
        if let (Outcome::Names(Names { sought: Some(sought), .. }), Some(module)) = (&outcome, module)
            && let Some(debug) = self.hand_debug_file(asked, module, sought)?
        {
            outcome = self.exchange(asked, subject, &[file], addresses)?;
            if let Outcome::Names(names) = &mut outcome {
                names.debug = Some(debug);
            }
        }
        Ok(match outcome {
            Outcome::Names(names) => Reply::Names { names, settled: true },
            Outcome::Rows(_) | Outcome::Taken(_) | Outcome::Copied => Reply::Unavailable, // no sense
            Outcome::Refused(refusal) => self.refused(refusal, Reply::Refused),
        })
    }

    fn ask_perf_map(
        &mut self,
        asked: Asked<'_>,
        subject: Subject,
        file: BorrowedFd<'_>,
        addresses: &[u64],
    ) -> Result<Reply, Failure> {
        Ok(match self.exchange(asked, subject, &[file], addresses)? {
            Outcome::Names(names) => Reply::Names { names, settled: true },
            Outcome::Rows(_) | Outcome::Taken(_) | Outcome::Copied => Reply::Unavailable, // no sense
            Outcome::Refused(refusal) => self.refused(refusal, Reply::Refused),
        })
    }

    /// Looks for the file with the debug information of `module`, which its own says is `sought`, and hands it to the namer.
    fn hand_debug_file(
        &mut self,
        asked: Asked<'_>,
        module: &Module,
        sought: &Sought,
    ) -> Result<Option<DebugInfo>, Failure> {
        let Asked::File { slot, .. } = asked else { return Ok(None) };
        let mut result = "none";
        let found = (self.config.find_debug_files)(module, &DebugFile::new(&sought.build_id, &sought.name));
        for file in found {
            if MonoNs::now() >= self.patience.0 {
                result = "no time";
                break;
            }
            match self.exchange(asked, Subject::DebugFile { slot }, &[file.as_fd()], &[])? {
                Outcome::Taken(debug) => {
                    self.meters.debug_files.get_or_create(&label("result", "taken")).inc();
                    return Ok(Some(debug));
                }
                Outcome::Refused(refusal) => result = refusal.as_str(),
                Outcome::Names(_) | Outcome::Rows(_) | Outcome::Copied => {} // no sense
            }
        }
        self.meters.debug_files.get_or_create(&label("result", result)).inc();
        Ok(None)
    }

    /// Asks for the part of the unwind table of a file that begins with page `from`. Nothing: not now.
    pub(super) fn ask_rows(
        &mut self,
        slot: u32,
        identity: FileIdentity,
        file: BorrowedFd<'_>,
        from: u32,
    ) -> Option<Result<Rows, Refusal>> {
        let asked = Asked::Table { identity };
        loop {
            self.tries(asked, MonoNs::now())?;
            let subject = Subject::Table { slot, size: identity.size, from };
            match self.exchange(asked, subject, &[file], &[]) {
                Ok(Outcome::Rows(rows)) => {
                    // What it holds now it needs for the next part, and gives back after the last.
                    if rows.next.is_none() {
                        self.weigh(asked, true, None);
                    }
                    return Some(Ok(rows));
                }
                Ok(Outcome::Refused(refusal)) => {
                    self.weigh(asked, true, None);
                    return Some(Err(self.refused(refusal, refusal)));
                }
                Ok(Outcome::Names(_) | Outcome::Taken(_) | Outcome::Copied) => return None, // no sense
                Err(failure) => {
                    if self.gives_up(failure) {
                        return None;
                    }
                }
            }
        }
    }

    /// Has a file copied to `memory`, which is as large. True if it was.
    pub(super) fn ask_copy(
        &mut self,
        identity: FileIdentity,
        file: BorrowedFd<'_>,
        memory: BorrowedFd<'_>,
    ) -> bool {
        let asked = Asked::Table { identity };
        if self.tries(asked, MonoNs::now()).is_none() {
            return false;
        }
        match self.exchange(asked, Subject::Copy { size: identity.size }, &[file, memory], &[]) {
            Ok(Outcome::Copied) => true,
            Ok(Outcome::Refused(refusal)) => self.refused(refusal, false),
            Ok(Outcome::Names(_) | Outcome::Taken(_) | Outcome::Rows(_)) => false, // no sense
            Err(failure) => {
                self.gives_up(failure);
                false
            }
        }
    }

    /// After a question that brought nothing: true if this batch asks no more.
    fn gives_up(&mut self, failure: Failure) -> bool {
        match failure {
            Failure::Start(error) => {
                if !std::mem::replace(&mut self.unstartable, true) {
                    tracing::warn!("the namer cannot be started, names are missing: {error}");
                }
                self.meters.failures.get_or_create(&label("cause", "start")).inc();
                self.patience.1 = 0; // the next batch tries again
                true
            }
            Failure::Starved => {
                self.patience.1 = 0;
                true
            }
            Failure::Silent => {
                self.meters.refused.get_or_create(&label("reason", "file system does not answer")).inc();
                true
            }
            Failure::Talk { error, subject } => {
                let cause = match error {
                    TalkError::Ended => "ended",
                    TalkError::Late => "late",
                    TalkError::Rubbish => "rubbish",
                };
                tracing::debug!("the namer failed ({cause}) and is started again");
                self.meters.failures.get_or_create(&label("cause", cause)).inc();
                self.end();
                self.patience.1 -= 1;
                if self.troubles.add(subject, MonoNs::now()) == 2 {
                    self.meters.set_aside.inc();
                }
                false
            }
        }
    }

    fn ask_kernel(&mut self, addresses: &[u64], now: MonoNs) -> Result<Reply, Failure> {
        if self.kernel_hidden.is_some_and(|since| now.since(since) < KERNEL_HIDDEN_FOR) {
            return Ok(Reply::Unavailable);
        }
        let fresh = self.kallsyms_read.is_none_or(|read| now.since(read) >= KALLSYMS_AGE_MIN);
        if self.running()?.has_kallsyms {
            let outcome = self.exchange(Asked::Kernel, Subject::Kernel, &[], addresses)?;
            let Outcome::Names(names) = outcome else { return Ok(self.kernel_is_hidden(now)) };
            let complete = names.found.iter().all(|found| matches!(found, Found::Named(_)));
            if complete || !fresh {
                return Ok(Reply::Names { names, settled: complete });
            }
        }
        let Ok(kallsyms) = File::open(&self.config.kallsyms) else { return Ok(self.kernel_is_hidden(now)) };
        self.kallsyms_read = Some(now);
        match self.exchange(Asked::Kernel, Subject::Kernel, &[kallsyms.as_fd()], addresses)? {
            Outcome::Names(names) => {
                self.running()?.has_kallsyms = true;
                Ok(Reply::Names { names, settled: true })
            }
            Outcome::Refused(_) | Outcome::Rows(_) | Outcome::Taken(_) | Outcome::Copied => {
                Ok(self.kernel_is_hidden(now))
            }
        }
    }

    fn kernel_is_hidden(&mut self, now: MonoNs) -> Reply {
        if self.kernel_hidden.is_none() {
            tracing::warn!(
                "the kernel hides its symbols: kernel frames have no names. CAP_SYSLOG shows them, \
                 or kernel.kptr_restrict=0 with kernel.perf_event_paranoid=1"
            );
        }
        self.kernel_hidden = Some(now);
        self.refused(Refusal::NoKallsyms, Reply::Unavailable)
    }

    fn refused<T>(&self, refusal: Refusal, reply: T) -> T {
        self.meters.refused.get_or_create(&label("reason", refusal.as_str())).inc();
        reply
    }

    /// One question to a living namer.
    fn exchange(
        &mut self,
        asked: Asked<'_>,
        subject: Subject,
        files: &[BorrowedFd<'_>],
        addresses: &[u64],
    ) -> Result<Outcome, Failure> {
        let device = files.first().and_then(device_of);
        if device.is_some_and(|device| self.ending.is_silent(device)) {
            return Err(Failure::Silent);
        }
        self.next_id = self.next_id.wrapping_add(1);
        let (id, patience) = (self.next_id, self.config.request_timeout);
        let namer = self.running()?;
        let since = MonoNs::now();
        let deadline = Some(since.plus(patience));
        let socket = namer.process.socket.as_fd();
        let request = Request { id, subject, addresses: addresses.to_vec() };
        let answer = send(socket, &request, REQUEST_BYTES_MAX, files, deadline)
            .and_then(|()| receive::<Answer>(socket, ANSWER_BYTES_MAX, false, deadline));
        let failed = |error| Failure::Talk { error, subject: asked.into() };
        namer.busy_with = if answer.is_ok() { None } else { device };
        match answer {
            Ok((answer, _)) if answer.id == id && makes_sense(subject, &answer.outcome, addresses.len()) => {
                namer.note(&answer);
                self.meters.count(&answer.outcome);
                Ok(answer.outcome)
            }
            Ok(_) => Err(failed(TalkError::Rubbish)),
            Err(TalkError::Late) if namer.is_starved(patience) => {
                namer.owed = Some(Owed { id, subject: asked.into(), since });
                Err(Failure::Starved)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A namer that is there and owes nothing. One that went between two questions went for no fault of the next.
    fn running(&mut self) -> Result<&mut Namer, Failure> {
        if let Some(namer) = &mut self.namer {
            namer.settle()?;
        }
        if self.namer.as_ref().is_some_and(|namer| is_over(&namer.process.socket)) {
            self.meters.failures.get_or_create(&label("cause", "gone")).inc();
            self.end();
        }
        match &mut self.namer {
            Some(namer) => Ok(namer),
            none => {
                let process = (self.spawn)().map_err(Failure::Start)?;
                self.meters.starts.inc();
                self.unstartable = false;
                Ok(none.insert(Namer {
                    process,
                    has_kallsyms: false,
                    started: MonoNs::now(),
                    memory_bytes: 0,
                    growth_bytes: 0,
                    cpu_ns: 0,
                    busy_with: None,
                    owed: None,
                }))
            }
        }
    }

    /// Ends a namer that has grown beyond its budget: no allocator gives memory back as surely. A file whose
    /// debug information made it so is asked for names only from now on.
    fn weigh(&mut self, asked: Asked<'_>, names_only: bool, debug: Option<DebugInfo>) {
        if let Some(debug) = debug {
            let why = match debug {
                DebugInfo::Read | DebugInfo::Unwanted | DebugInfo::Absent => None,
                DebugInfo::TooLarge => Some("too large"),
                DebugInfo::Packed => Some("not worth unpacking yet"),
                DebugInfo::Elsewhere => Some("in another file"),
            };
            if let Some(why) = why {
                self.meters.debug_skipped.get_or_create(&label("reason", why)).inc();
            }
        }
        let Some(namer) = &self.namer else { return };
        let young = MonoNs::now().since(namer.started) < NAMER_AGE_MIN;
        let bytes_max = self.config.namer_bytes_max.saturating_mul(if young { 2 } else { 1 });
        if namer.memory_bytes <= bytes_max {
            return;
        }
        tracing::debug!("the namer holds {} bytes and is started again", namer.memory_bytes);
        self.meters.retired.inc();
        let heavy = namer.growth_bytes > self.config.namer_bytes_max / 2;
        if heavy && !names_only && matches!(asked, Asked::File { .. }) {
            self.meters.debug_skipped.get_or_create(&label("reason", "memory")).inc();
            self.troubles.add(asked.into(), MonoNs::now());
        }
        self.end();
    }

    /// Ends the namer. It is not waited for beyond a moment: a process can be stuck in the kernel.
    pub(super) fn end(&mut self) {
        let Some(Namer { process: NamerProcess { socket, child }, busy_with, .. }) = self.namer.take() else {
            return;
        };
        drop(socket);
        if let Some(child) = child {
            self.ending.end(child, busy_with);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

impl From<Asked<'_>> for Subjected {
    fn from(asked: Asked<'_>) -> Self {
        match asked {
            Asked::Kernel => Self::Kernel,
            Asked::File { identity, .. } => Self::File(identity),
            Asked::PerfMap { module, .. } => Self::PerfMap(module),
            Asked::Table { identity } => Self::Table(identity),
        }
    }
}

#[derive(Clone)]
struct ClientMeters {
    starts: Counter,
    failures: Counters,
    retired: Counter,
    set_aside: Counter,
    refused: Counters,
    debug_skipped: Counters,
    debug_files: Counters,
    bounds: Counters,
}

impl ClientMeters {
    fn new(meters: &Meters) -> Self {
        Self {
            starts: meters.counter("profiler_namer_starts", "Namers started"),
            failures: meters
                .counters("profiler_namer_failures", "Namers that ended or had to be ended, by cause"),
            retired: meters.counter("profiler_namer_retired", "Namers ended because they had grown"),
            set_aside: meters.counter(
                "profiler_namer_files_set_aside",
                "Files set aside because they ended the namer twice",
            ),
            refused: meters.counters(
                "profiler_namer_questions_refused",
                "Questions about files that cannot be read, by reason",
            ),
            debug_skipped: meters.counters(
                "profiler_namer_debug_info_skipped",
                "Files opened for names only although they have debug information, by reason",
            ),
            debug_files: meters.counters(
                "profiler_namer_debug_files",
                "Files whose debug information was looked for in another file, by result",
            ),
            bounds: meters.counters(
                "profiler_namer_bounds_reached",
                "What the namer left out of files because there was too much of it, by bound",
            ),
        }
    }

    /// Counts which bounds were reached for an answer.
    fn count(&self, outcome: &Outcome) {
        let (Outcome::Rows(Rows { reached, .. }) | Outcome::Names(Names { reached, .. })) = outcome else {
            return;
        };
        for (bound, times) in reached.iter() {
            self.bounds.get_or_create(&label("bound", bound.as_str())).inc_by(times);
        }
    }
}
