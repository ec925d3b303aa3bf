//! How busy the machine is: how late a thread is that only wants to wake.
//!
//! In: time. Out: the worst lateness since a moment. What failed in bad weather says nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the thread sleeps each time.
const NAP: Duration = Duration::from_millis(3);
/// What is not worth remembering.
const CALM: Duration = Duration::from_millis(5);
/// Gusts that are remembered; the oldest go. Those of half an hour of storm.
const GUSTS_MAX: usize = 1 << 16;

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct Weather {
    gusts: Arc<Mutex<VecDeque<(Instant, Duration)>>>,
}

impl Weather {
    /// Begins to watch.
    pub fn watch() -> Self {
        let gusts = Arc::new(Mutex::new(VecDeque::new()));
        let seen = Arc::downgrade(&gusts);
        std::thread::spawn(move || {
            loop {
                let begun = Instant::now();
                std::thread::sleep(NAP);
                let late = begun.elapsed().saturating_sub(NAP);
                let Some(gusts) = seen.upgrade() else { return };
                if late > CALM {
                    let mut gusts = gusts.lock().unwrap_or_else(PoisonError::into_inner);
                    if gusts.len() == GUSTS_MAX {
                        gusts.pop_front();
                    }
                    gusts.push_back((Instant::now(), late));
                }
            }
        });
        Self { gusts }
    }

    /// The worst since then.
    pub fn worst_since(&self, since: Instant) -> Duration {
        let gusts = self.gusts.lock().unwrap_or_else(PoisonError::into_inner);
        gusts.iter().rev().take_while(|(at, _)| *at > since).map(|(_, late)| *late).max().unwrap_or_default()
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gusts = self.gusts.lock().unwrap_or_else(PoisonError::into_inner);
        let worst = gusts.iter().map(|(_, late)| *late).max().unwrap_or_default();
        write!(out, "the machine was late by more than {CALM:?} {} times, by {worst:?} at worst", gusts.len())
    }
}
