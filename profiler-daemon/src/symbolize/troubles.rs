//! Remembers who ended a namer.
//!
//! In: what was asked about when one ended. Out: how often that was so lately. Not here: what is made of it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::FileIdentity;
use crate::time::MonoNs;

/// What trouble is remembered of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subjected {
    Kernel,
    File(FileIdentity),
    Table(FileIdentity),
    /// By the number of its module.
    PerfMap(u32),
}

/// How often each subject ended a namer, oldest first. Forgotten after a while: a namer may have been ended by
/// something else.
pub(super) struct Troubles {
    known: VecDeque<(Subjected, u32, MonoNs)>,
    most: usize,
    kept_for: Duration,
}

impl Troubles {
    pub(super) fn new(most: usize, kept_for: Duration) -> Self {
        Self { known: VecDeque::new(), most, kept_for }
    }

    /// How often this one did, lately.
    pub(super) fn failures(&mut self, subject: Subjected, now: MonoNs) -> u32 {
        while self.known.front().is_some_and(|(_, _, since)| now.since(*since) >= self.kept_for) {
            self.known.pop_front();
        }
        self.known.iter().find(|(known, ..)| *known == subject).map_or(0, |(_, failures, _)| *failures)
    }

    /// Counts one more; when there are too many subjects, the oldest is forgotten.
    pub(super) fn add(&mut self, subject: Subjected, now: MonoNs) -> u32 {
        let failures = self.failures(subject, now) + 1;
        self.known.retain(|(known, ..)| *known != subject);
        if self.known.len() >= self.most {
            self.known.pop_front();
        }
        self.known.push_back((subject, failures, now));
        failures
    }
}
