//! `record`: one profile of the whole system, some processes or a command, written to files.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::books::{Books, Room};
use super::build::Patience;
use super::builder::Builder;
use super::intake::{Family, Intake};
use super::output::{FileFormat, Output, format_of};
use super::reader::{Heartbeat, Plan, Reader};
use super::recorder::{self, Recorded};
use super::usage::Roll;
use super::{Budget, Failure, Signals, build, quality};
use crate::aggregate::{Grain, aggregate};
use crate::attribute::Relabel;
use crate::capture::{self, Kernel, recording};
use crate::deliver::Cadence;
use crate::encode;
use crate::meters::Meters;
use crate::model::{
    Function, Labels, Lost, NamedBatch, NamedTrace, Pid, Profile, SampleKind, Task, TraceBatch, Weight,
};
use crate::symbolize::Symbolizer;
use crate::time::Window;

/// What to profile.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Everything.
    System,
    /// These processes and their descendants.
    Processes(Vec<Pid>),
    /// This command and its descendants.
    Command(Vec<OsString>),
}

/// What `record` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ticks per second and processor.
    pub frequency_hz: u32,
    /// How long; `None` until the command ends or a signal comes.
    pub duration: Option<Duration>,
    /// What.
    pub subject: Subject,
    /// Files to write.
    pub outputs: Vec<PathBuf>,
    /// Whether debug information is read.
    pub inlines: bool,
    /// Another eBPF object than the committed one.
    pub object: Option<PathBuf>,
    /// Whether stacks are walked as on a kernel without `bpf_loop`.
    pub bounded_loop: bool,
    /// Most kernel memory for unwind tables, bytes.
    pub unwind_bytes_max: u64,
}

/// How long a command may take to end by itself after a Ctrl-C, which a terminal sends to it too, before it is asked
/// to end.
const COMMAND_GRACE: Duration = Duration::from_secs(3);

/// Profiles and writes; the exit code is the command's, if there is one.
pub fn record(options: &Options) -> Result<ExitCode, Failure> {
    let formats = options.outputs.iter().map(|path| format_of(path)).collect::<Result<Vec<_>, _>>()?;
    if formats.iter().filter(|format| **format == FileFormat::Recording).count() > 1 {
        return Err(Failure::Usage("only one recording can be written at a time".to_owned()));
    }
    if let Subject::Processes(pids) = &options.subject {
        pids.iter().try_for_each(|pid| exists(*pid))?;
    }
    let signals = Signals::install().map_err(Failure::other("taking over signals"))?;
    let meters = Meters::default();
    let books = Books::new(&meters);
    let capture_config = capture::Config {
        frequency_hz: options.frequency_hz,
        object: options.object.clone(),
        bounded_loop: options.bounded_loop,
        unwind_bytes_max: options.unwind_bytes_max,
        ..capture::Config::default()
    };
    let kind = SampleKind::CpuTime { period_ns: capture_config.period_ns() };
    let mut kernel = Kernel::open(capture_config, signals.waker(), &meters)?;
    let (roll, budget) = (Roll::default(), Budget::default());
    let (tracker, attributor) = build::tracking(None, true, Relabel::default(), &budget, &meters)?;
    let mut symbolizer = build::symbolizer(options.inlines, Patience::Recording, &budget, &roll, &meters);
    symbolizer.name_kernel_by(build::kernel_namer(&mut kernel));

    let mut files = Vec::new();
    let (mut recorder, mut recorded) = (None, None);
    for (path, format) in options.outputs.iter().zip(formats) {
        match format {
            FileFormat::Recording => {
                let (readers, ours) = recorder::start(recording::Writer::create(path)?)?;
                (recorder, recorded) = (Some(readers), Some(ours));
            }
            FileFormat::Pprof | FileFormat::Folded | FileFormat::Svg | FileFormat::Speedscope => {
                files.push((format, Output::open(path)?))
            }
        }
    }

    // Everything listens by now: nothing of the command is missed.
    let mut command = None;
    let family = match &options.subject {
        Subject::System => None,
        Subject::Processes(pids) => Some(Family::of(pids.iter().copied())),
        Subject::Command(words) => {
            let child = start(words)?;
            let family = Family::of([Pid(child.id())]);
            command = Some(wait_for(child, &signals)?);
            Some(family)
        }
    };
    let progress = std::io::stderr().is_terminal();
    // What is recorded waits in memory for its window's end.
    let window = Duration::from_secs(if progress || recorder.is_some() { 1 } else { 10 });
    let plan = Plan { first: window, cadence: Cadence::new(window), total: options.duration };
    let builder = Builder::start(build::unwinder(&symbolizer, None, &budget, &roll, &meters))?;
    let (q1, batches) = sync_channel(super::BATCHES_WAITING_MAX);
    let workshop = {
        let books = books.clone();
        std::thread::Builder::new()
            .name("workshop".to_owned())
            .spawn(move || collect(&batches, symbolizer, &books, progress))
            .map_err(Failure::other("starting a thread"))?
    };
    let intake = Intake::new(tracker, attributor, family, &meters);
    let reader = Reader::new(kernel, intake, kind, books.clone(), Heartbeat::default(), recorder, &meters);
    let read = reader.with(builder)?.run(&plan, &q1);
    drop(q1);
    let collected = workshop.join().map_err(|_| Failure::Other {
        what: "naming".to_owned(),
        error: "the workshop ended with a bug; its message is above".to_owned(),
    })?;
    read?;
    let profiles = collected.profiles(kind);
    report(&collected, &profiles, &books, &options.outputs);
    let written = collected.write(&profiles, kind, files);
    // Only now: a command or a disk that takes its time must not keep the profile from being written.
    let code = command.map(|command| command.end(&signals));
    written?;
    recorded.map_or(Ok(()), Recorded::end)?;
    match code {
        Some(code) => Ok(code),
        None if collected.weight() == Weight(0) => Err(Failure::NothingSampled(
            "no process that was asked for ran meanwhile; a machine that does nothing has no profile"
                .to_owned(),
        )),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Fails if there is no such process.
fn exists(pid: Pid) -> Result<(), Failure> {
    if Path::new(&format!("/proc/{}/maps", pid.0)).exists() {
        return Ok(());
    }
    Err(Failure::Usage(format!("--pid {}: there is no such process; `ps -e` lists those that are", pid.0)))
}

fn start(words: &[OsString]) -> Result<Child, Failure> {
    let (program, arguments) = words.split_first().expect("clap asks for a command");
    std::process::Command::new(program)
        .args(arguments)
        .spawn()
        .map_err(|error| Failure::Command { program: program.display().to_string(), error })
}

/// The command that is recorded.
#[derive(Debug)]
struct Running {
    pid: rustix::process::Pid,
    ended: Receiver<std::io::Result<ExitStatus>>,
}

/// Waits for `child` in a thread of its own, which then stops the recording.
fn wait_for(mut child: Child, signals: &Signals) -> Result<Running, Failure> {
    let stopper = signals.stopper().map_err(Failure::other("waiting for the command"))?;
    let pid = rustix::process::Pid::from_child(&child);
    let (tell, ended) = sync_channel(1);
    std::thread::Builder::new()
        .name("command".to_owned())
        .spawn(move || {
            let status = child.wait();
            stopper.stop();
            // Nobody listens any more: the recording failed.
            let _ = tell.send(status);
        })
        .map_err(Failure::other("starting a thread"))?;
    Ok(Running { pid, ended })
}

impl Running {
    /// Waits for its end and gives its code as a shell would: 128 and the signal's number if one ended it.
    fn end(self, signals: &Signals) -> ExitCode {
        use std::os::unix::process::ExitStatusExt;
        let Self { pid, ended } = self;
        // A terminal's Ctrl-C has reached the command itself; a SIGTERM was for us alone, and is passed on.
        let patience = match (signals.came(), signals.terminated()) {
            (false, _) => Duration::MAX,
            (true, false) => COMMAND_GRACE,
            (true, true) => Duration::ZERO,
        };
        let status = ended.recv_timeout(patience).or_else(|_| {
            // Not reaped before the answer is there, or this very moment: then nobody has the number yet.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            ended.recv()
        });
        let Ok(Ok(status)) = status else { return ExitCode::FAILURE };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        ExitCode::from(u8::try_from(code).unwrap_or(1))
    }
}

/// What makes two named traces the same.
type Key = (Task, Arc<Labels>, Vec<Arc<Function>>);

/// Everything recorded so far, equal stacks merged.
#[derive(Debug, Default)]
pub(super) struct Collected {
    traces: FxHashMap<Key, Weight>,
    first: Option<Window>,
    last: Option<Window>,
    lost: Lost,
}

impl Collected {
    pub(super) fn add(&mut self, batch: NamedBatch) -> Weight {
        let mut weight = Weight(0);
        for trace in batch.traces {
            weight += trace.weight;
            *self.traces.entry((trace.task, trace.labels, trace.functions)).or_default() += trace.weight;
        }
        self.first.get_or_insert(batch.window);
        self.last = Some(batch.window);
        self.lost.merge(&batch.lost);
        weight
    }

    fn weight(&self) -> Weight {
        self.traces.values().copied().sum()
    }

    fn processes(&self) -> usize {
        self.traces.keys().map(|(task, ..)| task.pid).collect::<HashSet<_>>().len()
    }

    fn window(&self) -> Window {
        match (self.first, self.last) {
            (Some(first), Some(last)) => {
                let end = last.start.0.saturating_add_unsigned(last.duration_ns);
                Window { start: first.start, duration_ns: u64::try_from(end - first.start.0).unwrap_or(0) }
            }
            _ => Window { start: crate::time::WallNs(0), duration_ns: 0 },
        }
    }

    pub(super) fn profiles(&self, kind: SampleKind) -> Vec<Profile> {
        let traces = self
            .traces
            .iter()
            .map(|((task, labels, functions), weight)| NamedTrace {
                task: *task,
                labels: Arc::clone(labels),
                functions: functions.clone(),
                weight: *weight,
            })
            .collect();
        aggregate(&NamedBatch { window: self.window(), kind, traces, lost: self.lost.clone() }, Grain::Task)
    }

    /// Writes its `profiles` to `files`.
    pub(super) fn write(
        &self,
        profiles: &[Profile],
        kind: SampleKind,
        files: Vec<(FileFormat, Output)>,
    ) -> Result<(), Failure> {
        for (format, file) in files {
            let bytes = match format {
                FileFormat::Folded => encode::folded::encode(profiles).into_bytes(),
                FileFormat::Svg if profiles.is_empty() => continue,
                FileFormat::Svg => {
                    encode::svg::encode(profiles).map_err(Failure::other("drawing a flame graph"))?
                }
                FileFormat::Speedscope => encode::speedscope::encode(profiles),
                FileFormat::Pprof | FileFormat::Recording => {
                    encode::pprof::file(profiles, self.window(), kind.period_ns())
                }
            };
            file.write(&bytes)?;
        }
        Ok(())
    }
}

/// The workshop of a recording: names each batch and keeps it.
fn collect(
    batches: &Receiver<TraceBatch>,
    mut symbolizer: Symbolizer,
    books: &Books,
    progress: bool,
) -> Collected {
    let mut collected = Collected::default();
    let mut weight = Weight(0);
    let mut seconds = 0.0;
    for batch in batches {
        seconds += Duration::from_nanos(batch.window.duration_ns).as_secs_f64();
        let added = collected.add(symbolizer.name(batch));
        books.pass(Room::Workshop, None, added);
        weight += added;
        if progress {
            eprint!("\r{seconds:.0} s · {} samples · {} lost ", weight.0, lost(books));
        }
    }
    if progress {
        eprintln!();
    }
    collected
}

fn lost(books: &Books) -> u64 {
    books.lost_total().iter().map(|(_, weight)| weight).sum()
}

/// One line about the whole, with the books: what was captured is what was written, lost, or of somebody else. Then how good
/// its stacks are.
fn report(collected: &Collected, profiles: &[Profile], books: &Books, outputs: &[PathBuf]) {
    let names: Vec<String> = outputs.iter().map(|path| path.display().to_string()).collect();
    let reasons: Vec<String> =
        books.lost_total().iter().map(|(reason, weight)| format!("{weight} {reason}")).collect();
    let window = Duration::from_nanos(collected.window().duration_ns);
    eprintln!(
        "{}: {} samples of {} processes in {:.1} s; captured {} = written {} + elsewhere {} + lost {}{}",
        names.join(", "),
        collected.weight().0,
        collected.processes(),
        window.as_secs_f64(),
        books.captured_total(),
        collected.weight().0,
        books.elsewhere_total(),
        lost(books),
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) },
    );
    if !profiles.is_empty() {
        eprintln!("{}", quality::summary(profiles));
    }
}
