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

/// Files that wait at most, here and once more in the channel: more than any machine runs code from when the agent starts. What is over
/// is asked for later.
const WAITING_MAX: usize = 1 << 10;

/// Tables that are built and not yet taken by the reader, at most: some have eight megabytes.
const BUILT_MAX: usize = 1;

/// Tables that are on their way at most: one that is being built, those that are built, and one in the reader's hands.
pub(super) const TABLES_MAX: u64 = BUILT_MAX as u64 + 2;

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
                let mut waiting = Vec::new();
                while let Some(module) = next(&asked, &mut waiting, &mut symbolizer) {
                    tracing::debug!("the unwind table of {} is asked for", module.display_name());
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

/// The next file, the smallest of those that wait: at the start all that runs is asked for at once, and the seconds that the largest
/// libraries take must not keep the stacks of small programs waiting. `None` when there will be none. Meanwhile, an idle namer is
/// ended.
fn next(
    asked: &Receiver<Arc<Module>>,
    waiting: &mut Vec<Arc<Module>>,
    symbolizer: &mut Symbolizer,
) -> Option<Arc<Module>> {
    if waiting.is_empty() {
        waiting.push(match asked.recv_timeout(IDLE) {
            Ok(module) => module,
            Err(RecvTimeoutError::Timeout) => {
                symbolizer.rest();
                asked.recv().ok()?
            }
            Err(RecvTimeoutError::Disconnected) => return None,
        });
    }
    // What does not fit waits in the channel, which refuses what does not fit there.
    waiting.extend(asked.try_iter().take(WAITING_MAX.saturating_sub(waiting.len())));
    let size = |module: &Arc<Module>| module.identity.map_or(0, |identity| identity.size);
    let smallest = (0..waiting.len()).min_by_key(|&at| size(&waiting[at]))?;
    Some(waiting.swap_remove(smallest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::Meters;
    use crate::model::{FileIdentity, ModuleKind};
    use crate::symbolize::Config;

    /// Files of these sizes are asked for, and come in this order.
    #[track_caller]
    fn check(asked: &[u64], order: &[u64]) {
        let spawn = Box::new(|| Err(std::io::ErrorKind::Unsupported.into()));
        let mut symbolizer = Symbolizer::new(Config::default(), spawn, &Meters::default());
        let (wanted, asks) = sync_channel(asked.len());
        for &size in asked {
            let identity = Some(FileIdentity { device: 1, inode: size, size, ctime_ns: 0 });
            let path = b"/bin/new".as_slice().into();
            let module = Module {
                id: 1,
                kind: ModuleKind::File,
                path,
                build_id: None,
                identity,
                file: None,
                root: None,
            };
            wanted.try_send(Arc::new(module)).expect("it has room");
        }
        drop(wanted);
        let mut waiting = Vec::new();
        let sizes = std::iter::from_fn(|| next(&asks, &mut waiting, &mut symbolizer));
        let sizes: Vec<u64> = sizes.filter_map(|module| Some(module.identity?.size)).collect();
        assert_eq!(sizes, order);
    }

    #[test]
    fn the_smallest_file_comes_first() {
        check(&[150, 2, 30, 1], &[1, 2, 30, 150]);
    }

    #[test]
    fn nothing_asked_is_nothing_to_come() {
        check(&[], &[]);
    }
}
