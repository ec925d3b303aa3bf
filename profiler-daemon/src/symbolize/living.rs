//! A namer that runs: what it holds, what it owes, and whether it is given the time to answer.
//!
//! In: its answers. Out: what is known of it. Not here: what it is asked, and when it is ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use super::protocol::{ANSWER_BYTES_MAX, Answer, Outcome, TalkError, receive};
use super::troubles::Subjected;
use crate::time::MonoNs;

/// A namer that was started.
#[derive(Debug)]
pub struct NamerProcess {
    /// Our end of the socket it listens on.
    pub socket: OwnedFd,
    /// The process; `None` if it is none of our children.
    pub child: Option<Child>,
}

/// Starts a namer.
pub type Spawner = Box<dyn FnMut() -> io::Result<NamerProcess> + Send>;

/// A namer that runs, with what is known of it.
pub(super) struct Namer {
    pub(super) process: NamerProcess,
    pub(super) has_kallsyms: bool,
    pub(super) started: MonoNs,
    pub(super) memory_bytes: u64,
    /// What the last question added to it.
    pub(super) growth_bytes: u64,
    pub(super) cpu_ns: u64,
    /// The device of the file of the last question, unless it was answered.
    pub(super) busy_with: Option<u64>,
    pub(super) owed: Option<Owed>,
}

/// An answer that is still to come.
#[derive(Clone, Copy)]
pub(super) struct Owed {
    pub(super) id: u32,
    pub(super) subject: Subjected,
    pub(super) since: MonoNs,
}

/// How long an answer may be owed before the namer is ended after all.
const OWED_MAX: Duration = Duration::from_secs(60);

/// Why a question has no answer.
pub(super) enum Failure {
    Start(io::Error),
    /// The namer was not given the time to answer.
    Starved,
    /// The file system of the file does not answer: another namer waits for it, and cannot be ended.
    Silent,
    /// Whom to blame may not be who is asked about.
    Talk {
        error: TalkError,
        subject: Subjected,
    },
}

impl Namer {
    pub(super) fn note(&mut self, answer: &Answer) {
        self.growth_bytes = answer.memory_bytes.saturating_sub(self.memory_bytes);
        self.memory_bytes = answer.memory_bytes;
        self.cpu_ns = answer.cpu_ns;
    }

    /// Takes the answer that is owed. Nobody waits for it any more, but what was read for it stays read.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let Some(Owed { id, subject, since }) = self.owed else { return Ok(()) };
        let now = MonoNs::now();
        match receive::<Answer>(self.process.socket.as_fd(), ANSWER_BYTES_MAX, false, Some(now)) {
            Ok((answer, _)) if answer.id == id => {
                self.note(&answer);
                self.has_kallsyms |=
                    subject == Subjected::Kernel && matches!(answer.outcome, Outcome::Names(_));
                (self.owed, self.busy_with) = (None, None);
                Ok(())
            }
            Ok(_) => Err(Failure::Talk { error: TalkError::Rubbish, subject }),
            Err(TalkError::Late) if now.since(since) < OWED_MAX => Err(Failure::Starved),
            Err(error) => Err(Failure::Talk { error, subject }),
        }
    }

    /// True if it could run, but did for less than half of the time it was waited for. A parser that runs in
    /// circles is ended by its limit of processor time, if not by this.
    pub(super) fn is_starved(&self, waited: Duration) -> bool {
        let Some(child) = &self.process.child else { return false };
        let read = |name| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let runnable = read("stat").rsplit(')').next().is_some_and(|rest| rest.starts_with(" R"));
        let ran = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        let ran = ran.map(|ns| Duration::from_nanos(ns.saturating_sub(self.cpu_ns)));
        runnable && ran.is_some_and(|ran| ran < waited / 2)
    }
}
