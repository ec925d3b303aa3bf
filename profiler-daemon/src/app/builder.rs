//! The builder: a thread that has unwind tables built.
//!
//! In: files whose tables are wanted, from the reader. Out: tables, back to it. A thread of its own, because a large library takes
//! its namer a second: the reader would lose samples by waiting, and the workshop would be late with a window's names. It has a
//! namer of its own for the same reason, which is ended when nothing has been asked for a while.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::Failure;
use crate::model::{Module, NoTable, Table};
use crate::symbolize::Symbolizer;
use crate::time::MonoNs;

/// Files that wait at most: more than any machine runs code from when the agent starts. What is over is asked for later.
const WAITING_MAX: usize = 1 << 10;

/// Tables that are built and not yet taken by the reader, at most: some may have eight megabytes.
const BUILT_MAX: usize = 2;

/// How long the namer is kept without a question.
const IDLE: Duration = Duration::from_secs(10);

/// What came of a question.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) module: u32,
    pub(super) table: Result<Table, NoTable>,
}

/// The reader's end. Dropping it ends the thread after the table that it is at.
#[derive(Debug)]
pub(super) struct Builder {
    wanted: SyncSender<Arc<Module>>,
    built: Receiver<Built>,
    call: Arc<OwnedFd>,
}

impl Builder {
    /// Starts the thread, which asks through `symbolizer`.
    pub(super) fn start(mut symbolizer: Symbolizer) -> Result<Self, Failure> {
        let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Failure::other("making an eventfd")(error.into()))?;
        let call = Arc::new(call);
        let (wanted, asked) = sync_channel::<Arc<Module>>(WAITING_MAX);
        let (tell, built) = sync_channel(BUILT_MAX);
        let caller = Arc::clone(&call);
        std::thread::Builder::new()
            .name("builder".to_owned())
            .spawn(move || {
                while let Some(module) = next(&asked, &mut symbolizer) {
                    let built = Built { module: module.id, table: symbolizer.table(&module) };
                    drop(module);
                    if tell.send(built).is_err() {
                        break;
                    }
                    // It is full only if the reader has not taken the last 2^64 of them.
                    let _ = rustix::io::write(&caller, &1_u64.to_ne_bytes());
                }
            })
            .map_err(Failure::other("starting a thread"))?;
        Ok(Self { wanted, built, call })
    }

    /// Becomes readable when something was built.
    pub(super) fn call(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Asks for the table of `module`, unless too many are asked for already.
    pub(super) fn ask(&self, module: Arc<Module>) -> Result<(), NoTable> {
        self.wanted.try_send(module).map_err(|_| NoTable::NotNow)
    }

    /// What is built next; nothing if that takes until after `deadline`.
    pub(super) fn wait(&self, deadline: MonoNs) -> Option<Built> {
        self.built.recv_timeout(deadline.since(MonoNs::now())).ok()
    }

    /// What was built since the last call.
    pub(super) fn built(&self) -> impl Iterator<Item = Built> {
        // What is built after this calls again.
        let _ = rustix::io::read(&self.call, &mut [0_u8; 8]);
        self.built.try_iter()
    }
}

/// The next file; `None` when there will be none. Meanwhile, an idle namer is ended.
fn next(asked: &Receiver<Arc<Module>>, symbolizer: &mut Symbolizer) -> Option<Arc<Module>> {
    match asked.recv_timeout(IDLE) {
        Ok(module) => Some(module),
        Err(RecvTimeoutError::Timeout) => {
            symbolizer.rest();
            asked.recv().ok()
        }
        Err(RecvTimeoutError::Disconnected) => None,
    }
}
