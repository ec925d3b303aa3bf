//! What one series did in one window.

use std::sync::Arc;

use super::{Function, Labels, SampleKind, Task, Weight};
use crate::time::Window;

/// An index in [`Profile::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionIndex(pub u32);

/// Who a stack belongs to, where stacks are kept apart by it.
pub type Tag = Task;

/// One distinct stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Leaf first.
    pub functions: Vec<FunctionIndex>,
    /// Units of the profile's kind.
    pub weight: Weight,
    /// The task, where profiles are to tell tasks apart (`record`).
    pub tag: Option<Tag>,
}

/// What one series did in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The window.
    pub window: Window,
    /// What the weights count.
    pub kind: SampleKind,
    /// The series.
    pub labels: Arc<Labels>,
    /// Each function once.
    pub functions: Vec<Arc<Function>>,
    /// Each stack once, heaviest first, so that equal profiles have equal bytes.
    pub stacks: Vec<Stack>,
}

impl Profile {
    /// The sum of its stacks.
    pub fn weight(&self) -> Weight {
        self.stacks.iter().map(|stack| stack.weight).sum()
    }
}
