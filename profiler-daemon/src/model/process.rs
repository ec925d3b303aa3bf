//! What happened to processes, by the kernel's own word, and what was pinned of it.

use std::sync::Arc;

use super::{Comm, Module, Pid, Tid, UserAddr};
use crate::time::MonoNs;

/// One thing that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEvent {
    /// When, on the clock of the samples.
    pub time: MonoNs,
    /// The process.
    pub pid: Pid,
    /// What.
    pub change: ProcessChange,
}

/// What can happen to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    /// It was there already: what `/proc` said, at the start or after lost records.
    Found(Box<ProcessFacts>),
    /// `parent` forked it (a new process, not a thread): it inherits mappings, cgroup and name.
    Forked {
        /// The process that forked.
        parent: Pid,
    },
    /// It executed a new program: every mapping before this is gone. `cgroup` is what `/proc` said at the time
    /// the record was read, if the process was still there.
    Executed {
        /// The new name.
        comm: Comm,
        /// Contents of `/proc/PID/cgroup`.
        cgroup: Option<Arc<str>>,
    },
    /// A thread of it took another name.
    Renamed {
        /// The thread.
        tid: Tid,
        /// The new name.
        comm: Comm,
    },
    /// Executable memory was mapped.
    Mapped(Box<Mapping>),
    /// Its main thread ended.
    Exited,
}

/// A piece of executable memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: UserAddr,
    /// First address after it.
    pub end: UserAddr,
    /// Offset in the file of the first address, bytes.
    pub file_offset: u64,
    /// The file's name as the kernel prints it: a path in the process's own mount namespace, `//anon`,
    /// `[vdso]`, `/memfd:x (deleted)`. Any bytes.
    pub path: Arc<[u8]>,
    /// The build id, if the kernel read one.
    pub build_id: Option<super::BuildId>,
    /// What was pinned of it; `None` until then, and where nothing could be.
    pub module: Option<Arc<Module>>,
}

/// What `/proc` says of a process that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Field 22 of `/proc/PID/stat`, on the samples' clock; with the pid it identifies the process.
    pub started: MonoNs,
    /// Its name.
    pub comm: Comm,
    /// Contents of `/proc/PID/cgroup`.
    pub cgroup: Option<Arc<str>>,
    /// Target of `/proc/PID/exe`; `None` for a kernel thread.
    pub executable: Option<Arc<[u8]>>,
    /// True for a task without user memory.
    pub kernel_thread: bool,
    /// Its executable mappings, in address order.
    pub mappings: Vec<Mapping>,
}
