//! Processors whose unwind tables are read.
//!
//! In: what an ELF file says of itself. Out: which processor it is for, and what of its code must be known to make rows.

use profiler_common::unwind::table::{Cfa, Rule, Saved};

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Machine {
    /// The one that this runs on: no other one's programs do.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Its number in ELF files.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    /// Whether a function with these rules has a frame, and does without a frame pointer.
    ///
    /// On aarch64 all that have one do without, as far as walks go: a step by pointer loses the stack pointer there, by which what a
    /// signal interrupted is found, so that rules are used wherever there are some.
    pub(super) fn frame(self, rules: &[(u64, Rule)]) -> (bool, bool) {
        let frames = || {
            rules.iter().filter_map(|(_, rule)| match rule {
                Rule::Frame { cfa, rbp } => Some((cfa, rbp)),
                Rule::Stop
                | Rule::Plt(_)
                | Rule::Link { .. }
                | Rule::Signal
                | Rule::Elsewhere
                | Rule::Held { .. }
                | Rule::Pointer
                | Rule::Invalid => None,
            })
        };
        match self {
            Self::X86_64 => {
                let deep = frames().any(|(cfa, _)| !matches!(cfa, Cfa::Rsp(8)));
                let pointed = frames().any(|(cfa, _)| matches!(cfa, Cfa::Rbp(_) | Cfa::AtRbp(..)));
                (deep, deep && !pointed)
            }
            Self::Aarch64 => {
                let saves = frames().any(|(_, saved)| *saved != Saved::Not);
                let deep = saves || rules.iter().any(|(_, rule)| matches!(rule, Rule::Link { .. }));
                (deep, deep)
            }
        }
    }

    /// Whether `code`, which lies at `address`, may call functions: whoever calls none is only ever the innermost of a stack. Finds every
    /// call, and takes for one what only looks like it. `is_code` says whether code lies at an address.
    pub(super) fn may_call(self, code: &[u8], address: u64, is_code: impl Fn(u64) -> bool) -> bool {
        match self {
            Self::X86_64 => {
                const CALL: u8 = 0xe8;
                const INDIRECT: u8 = 0xff;
                memchr::memchr2_iter(CALL, INDIRECT, code).any(|at| match (code[at], &code[at + 1..]) {
                    (CALL, &[a, b, c, d, ..]) => {
                        let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
                        let next = address.wrapping_add(at as u64 + 5);
                        is_code(next.wrapping_add_signed(distance))
                    }
                    (INDIRECT, &[operand, ..]) => operand >> 3 & 7 == 2,
                    _ => false,
                })
            }
            // Who has a frame by the measure of `frame` saves x30, and who calls nobody has no need to.
            Self::Aarch64 => true,
        }
    }
}
