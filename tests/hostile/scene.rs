//! What every case needs: an agent, a server that takes what it pushes, and a well-behaved program whose weight is known.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use profiler_tests::harness::agent::{Agent, Books};
use profiler_tests::harness::pyroscope::{Mood, Pushed, Pyroscope};
use profiler_tests::harness::workloads;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Memory the agent may ever have resident. (Its own code is part of it, and large without optimisation.)
pub(crate) const RESIDENT_BYTES_MAX: u64 = 80 << 20;
/// How long the names of a well-behaved program may be missing.
pub(crate) const NAMES_MAX: Duration = Duration::from_secs(30);
/// How far the weight of the well-behaved program may be from the CPU time that it used, percent.
const WEIGHT_OFF_MAX: f64 = 4.0;
/// CPU time it has to have used for that to be asked.
const HONEST_S_MIN: f64 = 6.0;
/// Of so many samples: where it shares a processor with a crowd, which of them a tick meets is chance, and of 600 samples at 99 Hz
/// that alone is 2.7 % (one standard deviation). Of 3,000 it is 1.2 %.
pub(crate) const FREQUENCY: &str = "499";

/// Cases run side by side, but none beside a crowd: its processes are on every agent's books.
static MACHINE: RwLock<()> = RwLock::new(());

/// A place on the machine.
#[expect(dead_code, reason = "they are held")]
pub(crate) enum Room {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Room {
    /// Waits until no crowd is there.
    fn shared() -> Self {
        Self::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until nobody else is there.
    pub(crate) fn alone() -> Self {
        Self::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the head of this file.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) server: Pyroscope,
    honest: Honest,
    resident_bytes_max: u64,
    room: Room,
}

pub(crate) fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that is set");
    i64::try_from(now.as_nanos()).expect("this century")
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether the well-behaved program is named as it should be.
pub(crate) fn is_honest(pushed: &Pushed) -> bool {
    pushed.profile.stacks.iter().any(|stack| {
        let names: Vec<_> = stack.user().map(|frame| frame.name.as_str()).collect();
        names.windows(4).any(|names| names == ["main", "serve", "checkout", "price"])
    })
}

/// Whether any stack has a function whose name begins with `name`.
pub(crate) fn has(pushed: &Pushed, name: &str) -> bool {
    let mut frames = pushed.profile.stacks.iter().flat_map(|stack| &stack.frames);
    frames.any(|frame| frame.name.starts_with(name))
}

/// The well-behaved program, under a name that no other has on this machine. It is ended when dropped.
struct Honest {
    child: Child,
    name: String,
    _folder: TempDir,
}

impl Honest {
    fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("wl-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copy = folder.path().join(&name);
        std::fs::copy(workloads::shop_c("wl-honest"), &copy).expect("a copy");
        let mut command = Command::new(copy);
        command.arg("300").stdout(Stdio::null());
        Self { child: command.spawn().expect("a program of ours"), name, _folder: folder }
    }

    /// CPU time it used, by the scheduler's account, seconds.
    fn cpu_s(&self) -> f64 {
        let account = std::fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()));
        let ns = account.ok().and_then(|account| account.split(' ').next()?.parse::<f64>().ok());
        ns.expect("the kernel's account of it") / 1e9
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Scene {
    /// The agent as root has it.
    #[track_caller]
    pub(crate) fn set() -> Self {
        Self::set_in(Room::shared())
    }

    /// The same in a room that one has.
    #[track_caller]
    pub(crate) fn set_in(room: Room) -> Self {
        let start = |server: &Pyroscope| {
            Agent::start(&["--server", &server.url(), "--interval", "1s", "-F", FREQUENCY])
        };
        Self::with_in(room, start)
    }

    /// An agent that `start` starts, which pushes every second.
    #[track_caller]
    pub(crate) fn with(start: impl FnOnce(&Pyroscope) -> Agent) -> Self {
        Self::with_in(Room::shared(), start)
    }

    #[track_caller]
    fn with_in(room: Room, start: impl FnOnce(&Pyroscope) -> Agent) -> Self {
        let server = Pyroscope::start(Mood::Takes);
        let agent = start(&server);
        // After the agent, so that all it uses is seen.
        let scene =
            Self { agent, server, honest: Honest::start(), resident_bytes_max: RESIDENT_BYTES_MAX, room };
        scene.server.wait_for("the honest program's names", 0, is_honest);
        scene
    }

    /// The agent may have more memory resident than it has in other cases.
    pub(crate) fn with_resident_bytes_max(self, resident_bytes_max: u64) -> Self {
        Self { resident_bytes_max, ..self }
    }

    /// What began after this moment is named as before; the well-behaved program weighs what it used; nothing is lost; the agent is
    /// well and small.
    #[track_caller]
    pub(crate) fn check(self) -> Books {
        let Self { mut agent, server, honest, resident_bytes_max, room: _room } = self;
        let begun = Instant::now();
        server.wait_for("the honest program's names", now_ns(), is_honest);
        assert!(begun.elapsed() < NAMES_MAX, "names were missing for {:?}", begun.elapsed());
        while honest.cpu_s() < HONEST_S_MIN && begun.elapsed() < 2 * NAMES_MAX {
            std::thread::sleep(Duration::from_millis(100));
        }
        // It uses no more, and is there yet to be asked.
        signal(honest.child.id(), Signal::STOP);
        std::thread::sleep(Duration::from_millis(100));
        let used_s = honest.cpu_s();
        assert!(agent.process().is_alive(), "{}", agent.process().said());
        assert_eq!(agent.ask("/-/healthy").0, 200);
        let resident = agent.resident_bytes_max();
        assert!(resident < resident_bytes_max, "{} MiB resident", resident >> 20);
        let ended = agent.stop();
        let books = ended.books();
        assert_eq!(books.lost_by_us, 0, "{}", ended.said);
        // A machine that is busy enough answers too late.
        assert_eq!(books.delivered, server.samples_once(), "{}", ended.said);
        let weight_s = weight_s(&server.pushed_once(), &honest.name);
        let off = (weight_s / used_s - 1.0) * 100.0;
        println!(
            "{} MiB resident; the honest program weighs {weight_s:.2} s, {off:+.2} % of {used_s:.2} s too much; {books:?}",
            resident >> 20
        );
        assert!(off.abs() <= WEIGHT_OFF_MAX, "{weight_s:.2} s of {used_s:.2} s: {}", ended.said);
        books
    }
}

/// What a program weighs: the stacks that go through a function in its file.
fn weight_s(pushed: &[Pushed], name: &str) -> f64 {
    let weights = pushed.iter().map(|pushed| {
        let stacks = pushed.profile.stacks.iter();
        let own = stacks.filter(|stack| stack.user().any(|frame| frame.module.ends_with(name)));
        let samples: u64 = own.map(|stack| stack.samples).sum();
        samples as f64 * pushed.profile.period_ns as f64 / 1e9
    });
    weights.sum()
}
