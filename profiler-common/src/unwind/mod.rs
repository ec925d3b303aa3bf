//! The walk of a user stack as pure functions over a bulk read of user memory.
//!
//! In: registers, tables, and something that reads. Out: return addresses, leaf first, and how the walk ended.
//! Not here: what the addresses mean. The kernel side and the tests run the same code.

pub mod aarch64;
#[cfg(test)]
mod aarch64_tests;
pub mod arch;
mod cfi;
#[cfg(test)]
mod cfi_tests;
mod frame_pointer;
pub mod processes;
pub mod recent;
mod sign;
pub mod table;
pub mod walk;
pub mod x86_64;

/// User registers a walk starts from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer (`rbp`, `x29`).
    pub fp: u64,
}

/// How a walk ended. A number on the wire; a walk that ended early still carries its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum End {
    /// The chain ended where a program starts: a zero frame pointer or return address.
    Root = 0,
    /// A task without user memory: a kernel thread, or a process that exits or executes another program, whose own is gone.
    NoUser = 1,
    /// The frame pointer does not point into the stack above the last frame: code that keeps none called us.
    NoFrame = 2,
    /// The stack could not be read there.
    Fault = 3,
    /// [`crate::limits::USER_FRAMES_MAX`] frames, and more to come.
    Truncated = 4,
    /// The caller lies in no executable mapping: what was taken for a return address is none.
    NoMapping = 5,
    /// The code says how to go on, but in a way that takes more registers than a walk carries.
    Invalid = 6,
}

impl End {
    /// The end that number `raw` stands for; an unknown one is `None`.
    pub const fn from_wire(raw: u16) -> Option<Self> {
        match raw {
            0 => Some(Self::Root),
            1 => Some(Self::NoUser),
            2 => Some(Self::NoFrame),
            3 => Some(Self::Fault),
            4 => Some(Self::Truncated),
            5 => Some(Self::NoMapping),
            6 => Some(Self::Invalid),
            _ => None,
        }
    }
}
