//! What can be found out about this machine and its surroundings before, or instead of, running the agent.
//!
//! In: a question. Out: what was found, a verdict and one sentence of advice. One check per file or folder, one line
//! here. Not here: the command line; that anything is changed. Nothing here needs a privilege.

pub mod connection;
pub mod machine;
pub mod why;

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Fits,
    /// Something is to be changed.
    DoesNotFit,
    /// It could not be found out.
    Unknown,
}

impl Health {
    /// The exit code of the command.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Fits => 0,
            Self::DoesNotFit => 1,
            Self::Unknown => 2,
        }
    }
}
