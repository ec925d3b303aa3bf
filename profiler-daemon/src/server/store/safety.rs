//! Which changes of the store are on the disk.
//!
//! In: what became of what was written. Out: what becomes of a push that waits for it.

/// How far pushes are safe: what the answer to a push waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Safety {
    /// Changes up to this one are on the disk.
    pub(super) saved: u64,
    /// Changes up to this one that are not saved are taken back.
    pub(super) failed: u64,
    /// Why.
    pub(super) why: String,
}

impl Safety {
    /// What became of a change: `None` while nobody knows.
    pub(in crate::server) fn of(&self, change: u64) -> Option<Result<(), String>> {
        if self.saved >= change {
            return Some(Ok(()));
        }
        (self.failed >= change).then(|| Err(self.why.clone()))
    }
}
