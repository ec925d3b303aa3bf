//! What a resident owes to those around it, beside its work: signs of life, a line on how it goes, an ear for HUP, and an
//! end when somebody makes the file that switches it off.
//!
//! In: how the work goes. Out: words to the service manager, from a thread that sleeps between its turns. Not here: the
//! work. A sign of life is given while windows are closed and pushes are settled, and for no other reason.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::books::Books;
use super::reader::Heartbeat;
use super::reload::Reload;
use super::signals::{Hangup, Stopper};
use super::{Failure, notify};
use crate::deliver::Pulse;
use crate::time::MonoNs;

/// Between two turns at most. A switch that is made is seen as soon.
const TURN: Duration = Duration::from_secs(15);

/// How long a window or a push may be late: a machine that swaps is slow, not stuck.
const LATE_MAX: Duration = Duration::from_secs(20);

/// What the workshop is at, and since when: who waits for it wants to know. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Stage(Arc<Mutex<(&'static str, MonoNs)>>);

impl Default for Stage {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(("waiting for a window", MonoNs::now()))))
    }
}

impl Stage {
    /// From now on it is `doing` that.
    pub(super) fn begin(&self, doing: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (doing, MonoNs::now());
    }

    /// `naming for 12 s`.
    fn line(&self) -> String {
        let (doing, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{doing} for {:.0} s", MonoNs::now().since(since).as_secs_f64())
    }
}

/// Whether the work gets on. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    heartbeat: Heartbeat,
    window: Duration,
    workshop: Stage,
    pulses: Vec<Pulse>,
}

impl Progress {
    /// Of a reader that closes a window each `window`, of the workshop behind it, and of uploaders with these pulses.
    pub(super) fn new(heartbeat: Heartbeat, window: Duration, workshop: Stage, pulses: Vec<Pulse>) -> Self {
        Self { heartbeat, window, workshop, pulses }
    }

    /// Nothing, or what is stuck.
    pub(super) fn check(&self) -> Result<(), String> {
        // The workshop is behind the reader: where it is stuck, the reader waits, and closes no window.
        let window = self.heartbeat.age();
        if window > self.window + LATE_MAX {
            let window = window.as_secs_f64();
            return Err(format!(
                "no window was closed for {window:.0} s, and the workshop has been {}",
                self.workshop.line()
            ));
        }
        let push = self.pulses.iter().map(Pulse::overdue).max().unwrap_or_default();
        if push > LATE_MAX {
            return Err(format!(
                "no push was settled, {:.0} s after it should have been",
                push.as_secs_f64()
            ));
        }
        Ok(())
    }
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) hangup: Hangup,
    pub(super) reload: Reload,
    pub(super) progress: Progress,
    pub(super) books: Books,
    /// While it exists, nothing is to be profiled.
    pub(super) off_file: PathBuf,
    /// Ends the work.
    pub(super) stopper: Stopper,
}

impl Service {
    /// Begins, until the process ends.
    pub(super) fn start(self) -> Result<(), Failure> {
        let thread = std::thread::Builder::new().name("service".to_owned()).spawn(move || self.serve());
        thread.map(drop).map_err(Failure::other("starting a thread"))
    }

    fn serve(&self) {
        // Half of the manager's patience, as it asks for.
        let turn = notify::patience().map_or(TURN, |patience| TURN.min(patience / 2));
        let mut stuck = false;
        loop {
            if self.hangup.wait(turn) {
                notify::reloading();
                self.reload.reload();
                notify::ready();
            }
            if is_switched_off(&self.off_file) {
                self.stopper.stop();
                return;
            }
            match self.progress.check() {
                Ok(()) => {
                    stuck = false;
                    notify::alive();
                    notify::status(&self.line());
                }
                Err(why) => {
                    notify::status(&why);
                    if !std::mem::replace(&mut stuck, true) {
                        tracing::error!(
                            "stuck: {why}; a service manager that waits for signs of life gets none"
                        );
                    }
                }
            }
        }
    }

    fn line(&self) -> String {
        let lost: u64 = self.books.lost_total().iter().map(|(_, weight)| weight).sum();
        format!("{} samples captured, {lost} of them lost", self.books.captured_total())
    }
}

/// Whether somebody wants nothing to be profiled; says so if it is.
pub(super) fn is_switched_off(file: &Path) -> bool {
    let off = file.exists();
    if off {
        tracing::warn!("{} exists, so nothing is profiled; remove it and start again", file.display());
    }
    off
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_closed_a_window_just_now_gets_on() {
        let (heartbeat, workshop) = (Heartbeat::last(MonoNs(0)), Stage::default());
        let pulses = vec![Pulse::default()];
        let progress = Progress::new(heartbeat.clone(), Duration::from_secs(10), workshop.clone(), pulses);
        workshop.begin("naming");
        let why = progress.check().expect_err("it did not beat for long");
        assert!(why.contains("no window") && why.ends_with("the workshop has been naming for 0 s"), "{why}");
        heartbeat.beat();
        assert_eq!(progress.check(), Ok(()));
    }

    #[test]
    fn who_has_just_begun_is_not_stuck() {
        let progress = Progress::new(Heartbeat::default(), Duration::ZERO, Stage::default(), Vec::new());
        assert_eq!(progress.check(), Ok(()));
    }
}
