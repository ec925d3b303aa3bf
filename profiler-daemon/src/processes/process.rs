//! What is known of one process at one moment.

use std::sync::Arc;

use super::mappings::Mappings;
use crate::model::{Comm, FileOffset, Module, Pid, Reason, UserAddr};
use crate::time::MonoNs;

/// Mappings of a process whose table may be copied for a sample: a browser has a few hundred.
const NARROW_OVER: usize = 1 << 10;

/// A process: a pid from a start to an end. A pid that is used again is another one.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id while it lives.
    pub pid: Pid,
    /// When it started; when it was first heard of, if its start was missed.
    pub started: MonoNs,
    /// The name of its main thread; zeros if unknown.
    pub comm: Comm,
    /// The path of its executable as the kernel prints it; `None` for a kernel thread, and if unknown.
    pub executable: Option<Arc<[u8]>>,
    /// Contents of `/proc/PID/cgroup`, if they could be read.
    pub cgroup: Option<Arc<str>>,
    /// True for a task without user memory.
    pub kernel_thread: bool,
    /// Changes whenever anything above does that labels are made of: processes with the same number have the same
    /// name, executable, cgroup and kind.
    pub facts: u64,
    /// Changes whenever facts or mappings do: addresses mean the same in processes with the same number.
    pub generation: u64,
    pub(super) mappings: Arc<Mappings>,
    /// What it wrote down about the code that it made, as far as that was met.
    pub(super) perf_map: Option<Arc<Module>>,
    /// True from an exec until the first file that it maps is known, which is its executable.
    pub(super) executing: bool,
    /// False if we first heard of it in the middle of its life.
    pub(super) start_known: bool,
    /// When its main thread ended.
    pub(super) ended: Option<MonoNs>,
}

impl Process {
    /// What is mapped.
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// The same process for one who will ask after `addresses` alone (and after the byte before each): of very many mappings it has
    /// those that these lie in. While it is kept, its own table changes without a copy of all of them.
    pub fn narrowed(&self, addresses: impl Iterator<Item = u64>) -> Self {
        if self.mappings.len() <= NARROW_OVER {
            return self.clone();
        }
        Self { mappings: Arc::new(self.mappings.only(addresses)), ..self.clone() }
    }

    /// The file that `address` lies in, and where in it; of code that it made, the file with its names.
    pub fn settle(&self, address: UserAddr) -> Result<(&Arc<Module>, FileOffset), Reason> {
        if !self.start_known && self.mappings.len() == 0 {
            return Err(Reason::UnknownProcess);
        }
        match self.mappings.settle(address) {
            Err(Reason::AnonymousMapping) => {
                let map = self.perf_map.as_ref().ok_or(Reason::AnonymousMapping)?;
                Ok((map, FileOffset(address.0)))
            }
            settled => settled,
        }
    }
}
