//! The corridor: plain values that walk from room to room.
//!
//! In: nothing. Out: types. Not here: I/O, locks, serde, or knowledge of any room.

mod labels;
mod module;
mod named;
mod payload;
mod process;
mod profile;
mod quality;
mod raw;
mod reason;
mod table;
mod trace;

pub use profiler_common::knobs::Knobs;

pub use labels::Labels;
pub use module::{BuildId, DebugFile, FileIdentity, Module, ModuleKind};
pub use named::{Function, Known, NamedBatch, NamedTrace};
pub use payload::{Format, Payload};
pub use process::{Mapping, ProcessChange, ProcessEvent, ProcessFacts};
pub use profile::{FunctionIndex, Profile, Stack, Tag};
pub use quality::Quality;
pub use raw::{
    Comm, Cpu, KernelAddr, Lost, Pid, RawBatch, RawSample, RawStack, SampleKind, Task, Tid, UserAddr, Weight,
};
pub use reason::Reason;
pub use table::{NoTable, Table};
pub use trace::{FileOffset, Frame, Trace, TraceBatch};
