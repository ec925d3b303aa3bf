//! Keeps a child running.
//!
//! In: how to start it, and a line that it is to know, which may change. Out: a child that is started again when it ends, ever later
//! if it ends soon, until it is told to stop; and that is told the line, each time that it is started or the line changes, by its
//! lifeline. One thread sleeps in `wait`; nothing wakes without a reason.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::time::MonoNs;

/// A child and the other end of its lifeline, which is cut when this is dropped.
#[derive(Debug)]
pub struct Spawned {
    /// The process.
    pub child: Child,
    /// Held, and what the child is told the line by.
    pub lifeline: OwnedFd,
}

/// A child that is kept running. Dropped, it stops the child without grace.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the child is to know, without the end of the line. May be a secret.
    line: String,
    /// Set once the child is to stop: what it was told, or will be told as soon as it is there.
    told: Option<Signal>,
    running: Option<OwnedFd>,
    lifeline: Option<OwnedFd>,
    done: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line: _, told, running, lifeline: _, done } = self;
        out.debug_struct("State").field("told", told).field("running", running).field("done", done).finish()
    }
}

/// A child that lived this long ended for a reason of that moment; the next is started at once.
const LONG_LIFE: Duration = Duration::from_secs(60);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Keeper {
    /// Starts the child, which is to know `line`; an error if it cannot be started even once.
    pub fn start(
        name: &'static str,
        line: String,
        mut spawn: impl FnMut() -> io::Result<Spawned> + Send + 'static,
        meters: &Meters,
    ) -> io::Result<Self> {
        let restarts = meters.counter(
            "profiler_child_restarts",
            "Times the embedded server ended without being asked to, and was started again",
        );
        let shared = Arc::new(Shared::default());
        shared.lock().line = line;
        let first = spawn()?;
        let keep = {
            let shared = shared.clone();
            move || shared.keep(name, first, &mut spawn, &restarts)
        };
        std::thread::Builder::new().name(format!("{name}-keeper")).spawn(keep)?;
        Ok(Self { shared })
    }

    /// Tells the child another line, and those that are started after it.
    pub fn say(&self, line: String) {
        let mut state = self.shared.lock();
        if state.line != line {
            state.line = line;
            state.say();
        }
    }

    /// Asks the child to end, waits for `grace`, then ends it. True if it ended by itself.
    pub fn stop(&self, grace: Duration) -> bool {
        if self.shared.signal_and_wait(Signal::TERM, grace) {
            return true;
        }
        tracing::warn!("the embedded server did not stop within {grace:?} and was ended");
        self.shared.signal_and_wait(Signal::KILL, Duration::from_secs(1));
        false
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.tell(Signal::KILL);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(
        &self,
        name: &str,
        first: Spawned,
        spawn: &mut dyn FnMut() -> io::Result<Spawned>,
        restarts: &Counter,
    ) {
        let mut spawned = Ok(first);
        let mut pause = PAUSE_FIRST;
        loop {
            let started = MonoNs::now();
            match spawned {
                Ok(child) => self.wait_for(name, child),
                Err(error) => tracing::warn!("the {name} cannot be started: {error}"),
            }
            pause = if MonoNs::now().since(started) >= LONG_LIFE { PAUSE_FIRST } else { pause };
            let state = self.lock();
            let waited = self.changed.wait_timeout_while(state, pause, |state| state.told.is_none());
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.told.is_some() {
                state.done = true;
                self.changed.notify_all();
                return;
            }
            drop(state);
            pause = (pause * 2).min(PAUSE_MAX);
            restarts.inc();
            spawned = spawn();
        }
    }

    /// Until the child has ended.
    fn wait_for(&self, name: &str, spawned: Spawned) {
        let Spawned { mut child, lifeline } = spawned;
        let pidfd = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // Not reaped before `wait`, so the number is still its own.
        let pidfd = pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        {
            let mut state = self.lock();
            match pidfd {
                Some(pidfd) => state.running = Some(pidfd),
                None => drop(child.kill()), // what cannot be told to stop must not run
            }
            state.lifeline = Some(lifeline);
            state.say();
            if let Some(signal) = state.told {
                state.tell(signal);
            }
        }
        let ended = child.wait();
        let mut state = self.lock();
        state.running = None;
        state.lifeline = None;
        if state.told.is_none() {
            match ended {
                Ok(status) => tracing::warn!("the {name} ended unasked ({status}) and is started again"),
                Err(error) => tracing::warn!("the {name} cannot be waited for: {error}"),
            }
        }
    }

    fn signal_and_wait(&self, signal: Signal, patience: Duration) -> bool {
        let mut state = self.lock();
        state.tell(signal);
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, patience, |state| !state.done);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.done
    }
}

impl State {
    /// Tells the child that runs the line. One that does not listen would go on by what it was told before, so it is ended, and the
    /// next is told.
    fn say(&self) {
        let Some(lifeline) = &self.lifeline else { return };
        let line = format!("{}\n", self.line);
        let sent = send(lifeline, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if sent != Ok(line.len())
            && let Some(pidfd) = &self.running
        {
            let _ = pidfd_send_signal(pidfd, Signal::KILL); // or it ended this moment
        }
    }

    fn tell(&mut self, signal: Signal) {
        self.told = Some(signal);
        if let Some(pidfd) = &self.running {
            let _ = pidfd_send_signal(pidfd, signal); // or it ended this moment
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::{Command, Stdio};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Keeps a shell running `script`, whose output goes to nobody and whose input is the lifeline.
    fn keeper(script: &'static str) -> (Keeper, Arc<Mutex<Vec<u32>>>) {
        let pids = Arc::new(Mutex::new(Vec::new()));
        let seen = pids.clone();
        let spawn = move || {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            let child =
                Command::new("/bin/sh").args(["-c", script]).stdin(theirs).stdout(Stdio::null()).spawn()?;
            seen.lock().unwrap().push(child.id());
            Ok(Spawned { child, lifeline: ours })
        };
        (Keeper::start("shell", "a line".to_owned(), spawn, &Meters::default()).unwrap(), pids)
    }

    fn soon(mut is_so: impl FnMut() -> bool) {
        for _ in 0..500 {
            if is_so() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never was");
    }

    #[test]
    fn a_child_that_ends_is_started_again() {
        let (keeper, pids) = keeper("exec sleep 0.01");
        soon(|| pids.lock().unwrap().len() >= 3);
        assert!(keeper.stop(Duration::from_secs(5)));
    }

    #[test]
    fn a_child_is_told_the_line_each_time_it_is_started_or_the_line_changes() {
        // It ends where it is told anything but what it should be.
        let (keeper, pids) = keeper(
            "read a; [ \"$a\" = 'a line' ] || exit; read b; [ \"$b\" = other ] || exit; exec sleep 1000",
        );
        soon(|| keeper.shared.lock().lifeline.is_some());
        keeper.say("a line".to_owned());
        keeper.say("other".to_owned());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(pids.lock().unwrap().len(), 1, "it was told something else");
        let pid = Pid::from_raw(i32::try_from(pids.lock().unwrap()[0]).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        // The next is told the newer line alone, and says so by ending.
        soon(|| pids.lock().unwrap().len() >= 3);
    }

    #[test]
    fn a_child_that_listens_ends_with_grace() {
        let (keeper, pids) = keeper("exec sleep 1000");
        assert!(keeper.stop(Duration::from_secs(5)));
        assert_eq!(pids.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_child_that_does_not_listen_is_ended() {
        let (keeper, pids) = keeper("trap '' TERM; while :; do sleep 0.05; done");
        let pid = pids.lock().unwrap()[0];
        let stat = move || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // Who started us may ignore others, which is inherited.
        let ignored = || {
            let line = stat().lines().find_map(|line| line.strip_prefix("SigIgn:").map(str::to_owned))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        soon(|| ignored().is_some_and(|signals| signals & (1 << (libc::SIGTERM - 1)) != 0));
        assert!(!keeper.stop(Duration::from_millis(100)));
        soon(|| stat().is_empty());
    }

    #[test]
    fn stopping_does_not_wait_for_a_pause() {
        let (keeper, _) = keeper("exit 1");
        std::thread::sleep(Duration::from_millis(300));
        let begun = MonoNs::now();
        assert!(keeper.stop(Duration::from_secs(20)));
        assert!(MonoNs::now().since(begun) < Duration::from_secs(10));
    }

    #[test]
    fn a_child_sees_that_the_parent_is_gone() {
        let (keeper, pids) = keeper("cat; exit 0");
        let pid = pids.lock().unwrap()[0];
        // The thread that keeps it holds the lifeline: ending it by force is all that drop can do.
        drop(keeper);
        soon(|| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().is_empty());
    }
}
