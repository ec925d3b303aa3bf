//! Windows on their way from the reader to the workshop.
//!
//! In: closed windows. Out: the same, into q1, in order. The reader never waits for a workshop that is late, for a namer or for a
//! disk: while one window waits here, the next is left open and becomes longer. Only when that one can take no more does it wait.

use std::sync::mpsc::{SyncSender, TrySendError};

use super::Failure;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Handover<'a, T> {
    q1: &'a SyncSender<T>,
    waiting: Option<T>,
}

impl<'a, T> Handover<'a, T> {
    /// Hands over by `q1`.
    pub(super) fn by(q1: &'a SyncSender<T>) -> Self {
        Self { q1, waiting: None }
    }

    /// Whether a window may be closed now: none waits, or what waited has gone.
    pub(super) fn is_free(&mut self) -> Result<bool, Failure> {
        if let Some(batch) = self.waiting.take() {
            self.give(batch)?;
        }
        Ok(self.waiting.is_none())
    }

    /// Waits until there is room for one.
    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        self.waiting.take().map_or(Ok(()), |batch| self.q1.send(batch).map_err(|_| ended()))
    }

    /// Hands `batch` over, now or as soon as it is asked whether there is room. To be called where there is.
    pub(super) fn give(&mut self, batch: T) -> Result<(), Failure> {
        match self.q1.try_send(batch) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(batch)) => {
                self.waiting = Some(batch);
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(ended()),
        }
    }
}

fn ended() -> Failure {
    Failure::Other { what: "handing a window over".to_owned(), error: "the workshop has ended".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn what_finds_no_room_waits_and_goes_first() -> Result<(), Failure> {
        let (q1, batches) = sync_channel(1);
        let mut handover = Handover::by(&q1);
        assert!(handover.is_free()?);
        handover.give(1)?;
        assert!(handover.is_free()?, "it is in the queue");
        handover.give(2)?;
        assert!(!handover.is_free()?, "it waits");
        assert_eq!(batches.try_recv(), Ok(1));
        assert!(handover.is_free()?, "it has gone");
        handover.give(3)?;
        assert_eq!(batches.try_recv(), Ok(2));
        handover.wait()?;
        assert_eq!(batches.try_recv(), Ok(3));
        Ok(())
    }

    #[test]
    fn a_workshop_that_has_ended_is_a_failure() {
        let (q1, batches) = sync_channel(1);
        let mut handover = Handover::by(&q1);
        assert!(handover.give(1).is_ok() && handover.give(2).is_ok());
        drop(batches);
        assert!(handover.is_free().is_err() && handover.wait().is_ok(), "it is told once");
        assert!(handover.give(3).is_err());
    }
}
