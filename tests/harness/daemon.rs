//! The daemon's binary: started, awaited, stopped and read.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::profile::{self, Profile};
use super::workloads::{cargo, succeed, target_dir};

/// How long the daemon may take to attach on a machine whose processors are all taken.
const ATTACH_MAX: Duration = Duration::from_secs(30);
/// How long it may take to write what it has.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The binary under test: the one that `cargo xtask test` names, else the one that cargo builds now. It is the one that
/// ships: naming without optimisation is too slow for the time it is given.
pub fn binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let named = std::env::var_os("PROFILER_DAEMON_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| {
        let build = || {
            succeed(cargo().args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "profiler-daemon",
                "--bins",
            ]));
            target_dir().join("release/profiler-daemon")
        };
        BUILT.get_or_init(build).clone()
    })
}

/// A process of the daemon's, with what it says.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    said: Option<JoinHandle<String>>,
}

/// How the daemon ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// All it wrote to stderr.
    pub said: String,
}

impl Daemon {
    /// Starts `profiler-daemon` with `arguments`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the daemon's binary can be started");
        let mut stderr = child.stderr.take().expect("it was piped");
        let said = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        Self { child, said: Some(said) }
    }

    /// Waits until a program listens on every processor: a program is held, and as many perf events as there are
    /// processors, and no more are being opened.
    ///
    /// # Panics
    ///
    /// When it ends before that, or takes too long.
    #[must_use]
    pub fn attached(mut self) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let begun = Instant::now();
        let mut before = 0;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
                panic!("the daemon ended before it sampled ({status}):\n{said}");
            }
            assert!(begun.elapsed() < ATTACH_MAX, "the daemon did not attach within {ATTACH_MAX:?}");
            let events = held(self.child.id(), "perf_event");
            if held(self.child.id(), "bpf-prog") > 0 && events >= cpus && events == before {
                return self;
            }
            before = events;
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        // A process that ended already is no fault.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it takes longer than `limit`.
    pub fn end(mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < limit, "the daemon did not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        Ended { status, said }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// A test that fails leaves nothing running.
impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How many descriptors of that kind process `pid` holds.
fn held(pid: u32, kind: &str) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.to_string_lossy().contains(kind)).count()
}

/// A recording in the making.
#[derive(Debug)]
pub struct Recording {
    daemon: Daemon,
    folder: TempDir,
}

impl Recording {
    /// Starts `record` of the whole system, to both formats, and waits until it samples.
    pub fn start(frequency_hz: u32) -> Self {
        Self::start_with(frequency_hz, &[])
    }

    /// The same with more options.
    pub fn start_with(frequency_hz: u32, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let outputs = outputs(folder.path());
        let frequency = frequency_hz.to_string();
        let mut arguments =
            vec!["record", "-F", &frequency, "-d", "1h", "-o", &outputs[0], "-o", &outputs[1]];
        arguments.extend(options);
        let daemon = Daemon::start(&arguments);
        Self { daemon: daemon.attached(), folder }
    }

    /// Ends it as Ctrl-C does, and reads both files.
    ///
    /// # Panics
    ///
    /// When it fails, or the files are not there.
    pub fn stop(self) -> Recorded {
        self.daemon.signal(Signal::INT);
        let ended = self.daemon.end(STOP_MAX);
        assert!(ended.status.success(), "record failed ({}):\n{}", ended.status, ended.said);
        Recorded::read(self.folder.path(), ended)
    }
}

/// Records one command to both formats.
///
/// # Panics
///
/// When the files are not there.
pub fn record_command(frequency_hz: u32, command: &[&str]) -> Recorded {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let outputs = outputs(folder.path());
    let frequency = frequency_hz.to_string();
    let mut arguments = vec!["record", "-F", &frequency, "-o", &outputs[0], "-o", &outputs[1], "--"];
    arguments.extend(command);
    let ended = Daemon::start(&arguments).end(STOP_MAX);
    Recorded::read(folder.path(), ended)
}

fn outputs(folder: &Path) -> [String; 2] {
    ["x.folded", "x.pb.gz"].map(|name| folder.join(name).display().to_string())
}

/// What a recording came to.
#[derive(Debug)]
pub struct Recorded {
    /// The pprof file.
    pub pprof: Profile,
    /// The folded file.
    pub folded: Profile,
    /// How the daemon ended.
    pub ended: Ended,
}

impl Recorded {
    /// How much of what was captured is not in the files because it was lost, percent: its own last words.
    ///
    /// # Panics
    ///
    /// When it did not say.
    #[track_caller]
    pub fn lost_percent(&self) -> f64 {
        let after = |name: &str| -> Option<f64> {
            let (_, rest) = self.ended.said.split_once(name)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let said = after("captured ").zip(after("+ lost "));
        let (captured, lost) =
            said.unwrap_or_else(|| panic!("nothing of what was lost in:\n{}", self.ended.said));
        lost * 100.0 / captured.max(1.0)
    }

    fn read(folder: &Path, ended: Ended) -> Self {
        let file = |name: &str| {
            let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(!bytes.is_empty(), "{name} was not written ({}):\n{}", ended.status, ended.said);
            bytes
        };
        let folded =
            profile::from_folded(&String::from_utf8(file("x.folded")).expect("folded text is UTF-8"));
        let pprof = profile::from_pprof(&file("x.pb.gz"));
        Self { pprof, folded, ended }
    }
}
