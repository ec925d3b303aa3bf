//! The agent: `run` on this machine, as it looks from outside. What it says, what it counts, its children, its memory.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::daemon::binary;

/// How long a test waits for what should come within seconds.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long after its end a process may still be heard.
const HEARD_MAX: Duration = Duration::from_secs(3);

/// What a process said so far, and who waits for more.
#[derive(Debug, Default)]
struct Said {
    text: Mutex<String>,
    more: Condvar,
}

impl Said {
    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let said = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut text = said.text.lock().unwrap_or_else(PoisonError::into_inner);
                *text += &line;
                text.push('\n');
                said.more.notify_all();
            }
        })
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        let begun = Instant::now();
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        while !text.contains(words) {
            assert!(begun.elapsed() < WAIT_MAX, "it did not say {words:?} but:\n{text}");
            let waited = self.more.wait_timeout(text, Duration::from_millis(500));
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A process of the daemon's binary in a process group of its own, listened to.
#[derive(Debug)]
pub struct Spoken {
    child: Child,
    said: Arc<Said>,
    ears: Vec<JoinHandle<()>>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// All it said, on standard output and standard error.
    pub said: String,
    /// How long that took since it was waited for.
    pub took: Duration,
}

/// The last line of `run`: where every captured sample went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// Samples captured.
    pub captured: u64,
    /// Samples of an earlier run that were found in the spool.
    pub recovered: u64,
    /// Of them all, delivered.
    pub delivered: u64,
    /// Of them, left in the spool.
    pub kept: u64,
    /// Of them, lost.
    pub lost: u64,
    /// Of those, lost by us: all but ticks that the kernel or the hypervisor skipped.
    pub lost_by_us: u64,
}

impl Ended {
    /// The books, balanced.
    ///
    /// # Panics
    ///
    /// When there are none, or they do not balance.
    #[track_caller]
    pub fn books(&self) -> Books {
        let Self { said, .. } = self;
        let line = said.lines().rev().find(|line| line.contains("stopped: captured "));
        let line = line.unwrap_or_else(|| panic!("it left no books:\n{said}"));
        let number = |after: &str| -> u64 {
            let rest = line.split_once(after).map(|(_, rest)| rest.trim_start());
            let digits =
                rest.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
            digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("strange books: {line}"))
        };
        let skipped = line.split(['(', ',']).find_map(|part| part.trim().split_once(" tick skipped"));
        let skipped = skipped.map_or(0, |(number, _)| number.parse().expect("a number"));
        let lost = number("lost ");
        let books = Books {
            captured: number("captured "),
            recovered: if line.contains("recovered ") { number("recovered ") } else { 0 },
            delivered: number("delivered "),
            kept: if line.contains("kept ") { number("kept ") } else { 0 },
            lost,
            lost_by_us: lost - skipped,
        };
        let Books { captured, recovered, delivered, kept, lost, .. } = books;
        assert_eq!(captured + recovered, delivered + kept + lost, "the books do not balance:\n{said}");
        books
    }
}

impl Spoken {
    /// Starts `command`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.process_group(0).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let said = Arc::new(Said::default());
        let ears = vec![
            said.hear(child.stdout.take().expect("it was piped")),
            said.hear(child.stderr.take().expect("it was piped")),
        ];
        Self { child, said, ears }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        self.said.text()
    }

    /// Waits until it has said `words`.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    #[track_caller]
    pub fn wait_until_said(&self, words: &str) {
        self.said.wait_for(words);
    }

    /// Sends `signal` to it alone.
    pub fn signal(&self, signal: Signal) {
        // A process that ended already is no fault.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Sends `signal` to all its process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it takes longer than `limit`.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < limit, "it did not end within {limit:?}; it said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = begun.elapsed();
        // A child of its that cannot be ended holds its output for longer than it lives.
        let ended = Instant::now();
        while self.ears.iter().any(|ear| !ear.is_finished()) && ended.elapsed() < HEARD_MAX {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ended { status, said: self.said(), took }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Spoken {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The agent, sampling.
#[derive(Debug)]
pub struct Agent {
    process: Spoken,
    admin: SocketAddr,
    /// What is shown with each question.
    token: Option<String>,
}

impl Agent {
    /// Starts `run` with `arguments`, and ports of its own, and waits until it samples.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["run", "--admin-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]).args(arguments);
        Self::of(Spoken::start(&mut command))
    }

    /// The agent that `process` is, once it samples.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[track_caller]
    pub fn of(process: Spoken) -> Self {
        process.wait_until_said("metrics: http://");
        let admin = address(&process.said(), "metrics: http://");
        Self { process, admin, token: None }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Spoken {
        &mut self.process
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Shows `token` from now on.
    pub fn show(&mut self, token: Option<&str>) {
        self.token = token.map(str::to_owned);
    }

    /// Where its admin port is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where its page is.
    pub fn page(&self) -> SocketAddr {
        address(&self.process.said(), "page: http://")
    }

    /// What the admin port answers to `GET path`: status and body.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[track_caller]
    pub fn ask(&self, path: &str) -> (u16, String) {
        get_with(self.admin, path, self.token.as_deref()).expect("the admin port answers")
    }

    /// The sum of a metric over its labels that contain `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, metrics) = self.ask("/metrics");
        let of_it = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            (found.is_empty() || found.starts_with('{')).then_some(())?;
            found.contains(labels).then(|| value.parse::<f64>().ok())?
        });
        of_it.sum()
    }

    /// The process id of its child called `command` (`namer`, `serve`), if it runs; of several, of any.
    pub fn child(&self, command: &str) -> Option<u32> {
        self.children(command).first().copied()
    }

    /// The process ids of its children called `command`.
    pub fn children(&self, command: &str) -> Vec<u32> {
        let own = self.process.id();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|&pid| parent_of(pid) == Some(own) && is_called(pid, command)).collect()
    }

    /// Waits for its child called `command`, other than `not`.
    ///
    /// # Panics
    ///
    /// When there is none for too long.
    #[track_caller]
    pub fn wait_for_child(&self, command: &str, not: Option<u32>) -> u32 {
        let begun = Instant::now();
        loop {
            match self.child(command) {
                Some(pid) if Some(pid) != not => return pid,
                _ => {}
            }
            assert!(begun.elapsed() < WAIT_MAX, "it has no {command}; it said:\n{}", self.process.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The most memory it ever had resident, bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.trim().parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10)
    }

    /// Sends `signal` to it alone.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to stop, as a service manager does, and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not stop, or fails.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.process.signal(Signal::TERM);
        let ended = self.process.end(WAIT_MAX);
        assert!(ended.status.success(), "it failed ({}):\n{}", ended.status, ended.said);
        assert!(!ended.said.contains("panicked"), "{}", ended.said);
        ended
    }

    /// Waits for its end without asking.
    #[track_caller]
    pub fn end(self, limit: Duration) -> Ended {
        self.process.end(limit)
    }
}

/// The address that follows `words`.
#[track_caller]
fn address(said: &str, words: &str) -> SocketAddr {
    let rest = said.split_once(words).map_or("", |(_, rest)| rest);
    let address = rest.split(['/', ' ', '\n']).next().unwrap_or_default();
    address.parse().unwrap_or_else(|_| panic!("no address behind {words:?}:\n{said}"))
}

/// Status and body of `GET path` at `address`.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    get_with(address, path, None)
}

/// Status and body of `GET path` at `address`, asked by who shows `token`.
pub fn get_with(address: SocketAddr, path: &str, token: Option<&str>) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let shown = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{shown}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

/// Waits until process `pid` has ended.
///
/// # Panics
///
/// When it has not within seconds.
#[track_caller]
pub fn wait_until_gone(pid: u32) {
    let begun = Instant::now();
    while parent_of(pid).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(3), "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The parent of process `pid`; `None` if it has ended, though nobody may have taken note of that yet.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

fn is_called(pid: u32, command: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
}
