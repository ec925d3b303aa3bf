//! A stack whose frames have names.

use std::sync::Arc;

use super::{Labels, Lost, Reason, SampleKind, Task, Weight};
use crate::time::Window;

/// How much is known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// The function.
    Name,
    /// Where it is, but no name was found for it.
    Place,
    /// Nothing, and why.
    Nothing(Reason),
}

/// A named frame. Frames of the same function share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// Its name, demangled; `libfoo.so+0x1234` where there is none; `[reason]` for a missing frame. Without
    /// control characters.
    pub name: Arc<str>,
    /// Source file; empty if unknown.
    pub file: Arc<str>,
    /// Line in it; zero if unknown.
    pub line: u32,
    /// The file it is in, or `[kernel]`, `[vdso]`, or empty.
    pub module: Arc<str>,
    /// True for code of the kernel.
    pub kernel: bool,
    /// How much of this is known.
    pub known: Known,
}

/// A trace whose frames have names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTrace {
    /// Who was running.
    pub task: Task,
    /// The series it belongs to.
    pub labels: Arc<Labels>,
    /// Leaf first, inlined functions before the one they are inlined into.
    pub functions: Vec<Arc<Function>>,
    /// Units of the batch's kind.
    pub weight: Weight,
}

/// The named traces of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedBatch {
    /// The window.
    pub window: Window,
    /// What the weights count.
    pub kind: SampleKind,
    /// Traces.
    pub traces: Vec<NamedTrace>,
    /// What was lost meanwhile.
    pub lost: Lost,
}
