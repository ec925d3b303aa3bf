//! A stack that no longer needs its process.

use std::sync::Arc;

use super::{KernelAddr, Labels, Lost, Module, Reason, SampleKind, Task, Weight};
use crate::time::{MonoNs, Window};

/// An offset in a file, bytes: means the same for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// One frame of a trace. Return addresses are adjusted already: the address lies inside the calling instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// In the kernel.
    Kernel(KernelAddr),
    /// In a file.
    User {
        /// The file.
        module: Arc<Module>,
        /// Where in it.
        offset: FileOffset,
    },
    /// Cannot be known, and why. Weighed, drawn and counted like any other.
    Missing(Reason),
}

/// Equal samples of one window: whose stack, where, how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The first of them.
    pub time: MonoNs,
    /// Who was running.
    pub task: Task,
    /// The series it belongs to.
    pub labels: Arc<Labels>,
    /// Leaf first: kernel frames, then user frames.
    pub frames: Vec<Frame>,
    /// Units of the batch's kind.
    pub weight: Weight,
}

/// The traces of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceBatch {
    /// The window.
    pub window: Window,
    /// What the weights count.
    pub kind: SampleKind,
    /// Traces, in no order that matters.
    pub traces: Vec<Trace>,
    /// What was lost meanwhile.
    pub lost: Lost,
}
