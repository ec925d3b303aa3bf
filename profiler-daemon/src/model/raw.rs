//! What the kernel said, decoded and nothing more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use profiler_common::limits::COMM_BYTES;
use profiler_common::unwind::walk::Links;
use profiler_common::unwind::{End, Regs};

use super::{ProcessEvent, Reason};
use crate::time::{MonoNs, Window};

/// A process (thread group) id in the daemon's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

/// A thread id in the daemon's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// A processor's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u16);

/// An address in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelAddr(pub u64);

/// An address in some process: means nothing without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserAddr(pub u64);

/// How much a sample stands for, in units of its [`SampleKind`]'s period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u64);

impl std::ops::AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl std::ops::Add for Weight {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Weight {
    fn sum<I: Iterator<Item = Self>>(weights: I) -> Self {
        weights.fold(Self(0), |sum, weight| sum + weight)
    }
}

/// What the weights of a batch count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SampleKind {
    /// Ticks of a processor's clock, `period_ns` nanoseconds each.
    CpuTime {
        /// Nanoseconds that one unit of weight stands for.
        period_ns: u64,
    },
}

impl SampleKind {
    /// Nanoseconds that one unit of weight stands for.
    pub const fn period_ns(self) -> u64 {
        match self {
            Self::CpuTime { period_ns } => period_ns,
        }
    }
}

/// The name of a task, as the kernel keeps it: up to fifteen bytes, any of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm(pub [u8; COMM_BYTES]);

impl Comm {
    /// The first bytes of `name`, as the kernel would cut it.
    pub fn new(name: &[u8]) -> Self {
        let mut comm = [0; COMM_BYTES];
        let kept = name.len().min(COMM_BYTES - 1);
        comm[..kept].copy_from_slice(&name[..kept]);
        Self(comm)
    }

    /// The bytes before the first zero.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// Printable: bytes that are not UTF-8 are replaced, control characters escaped, so that a hostile name can
/// forge no line of a log or of a folded file.
impl fmt::Display for Comm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in String::from_utf8_lossy(self.as_bytes()).chars() {
            if character.is_control() {
                write!(out, "{}", character.escape_default())?;
            } else {
                write!(out, "{character}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Who was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// The thread's name at that moment.
    pub comm: Comm,
}

/// A user stack as it lay in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawStack {
    /// The registers of the innermost frame.
    pub regs: Regs,
    /// And those in which its return address may be.
    pub links: Links,
    /// Words from the stack pointer, rounded down to a word, upwards.
    pub words: Vec<u64>,
}

/// One sample as the kernel sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// When.
    pub time: MonoNs,
    /// Where.
    pub cpu: Cpu,
    /// Who.
    pub task: Task,
    /// Kernel addresses, leaf first; the first one is exact, the others return addresses.
    pub kernel: Vec<KernelAddr>,
    /// User addresses, leaf first; the first one is exact, the others return addresses, or one more than an address that
    /// nothing called.
    pub user: Vec<UserAddr>,
    /// How the user walk ended.
    pub ended: End,
    /// What to walk again when more is known: the walk did without a table that was not there yet.
    pub stack: Option<Arc<RawStack>>,
    /// Units of the batch's kind.
    pub weight: Weight,
}

/// Weight that was captured or expected and will not be delivered, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost(pub BTreeMap<Reason, Weight>);

impl Lost {
    /// Adds `weight` under `reason`.
    pub fn add(&mut self, reason: Reason, weight: Weight) {
        if weight.0 > 0 {
            *self.0.entry(reason).or_default() += weight;
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&reason, &weight) in &other.0 {
            self.add(reason, weight);
        }
    }
}

/// What the kernel said during one window, or a part of one, in time order each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBatch {
    /// The window the samples belong to.
    pub window: Window,
    /// What the weights count.
    pub kind: SampleKind,
    /// Samples in time order.
    pub samples: Vec<RawSample>,
    /// What happened to processes, in time order, with what was pinned of it.
    pub events: Vec<ProcessEvent>,
    /// What the kernel side lost meanwhile.
    pub lost: Lost,
}
