//! Where a jump through a table may lead.
//!
//! In: the jump, the instructions right before it, and the file. Out: its targets, if it is one of the two forms that compilers write: a word of
//! the table, added to where the table lies (`lea`, `movslq`, `add`, `jmp *%rax`), or an address in it (`jmp *table(,%rax,8)`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use rustc_hash::FxHashMap;

use super::super::super::elf::Segment;

/// Entries of all tables of a file at most, which are kept. The C library has a few thousand. A table for which there is no room is not read.
const ENTRIES_MAX: u64 = 1 << 17;
/// Instructions that are remembered: a compiler has less than ten between what an index is compared with and its jump.
const TRAIL_MAX: usize = 16;

/// The last instructions of a way.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    last: Vec<Instruction>,
}

impl Trail {
    pub(super) fn note(&mut self, instruction: &Instruction) {
        if self.last.len() == TRAIL_MAX {
            self.last.remove(0);
        }
        self.last.push(*instruction);
    }
}

/// Reads tables, and knows where a function took their addresses.
pub(super) struct Switch {
    file: Option<File>,
    segments: Vec<Segment>,
    /// What a function has put in which register; none where that differs.
    bases: FxHashMap<Register, Option<u64>>,
    known: FxHashMap<Table, Option<Rc<[u64]>>>,
    entries_left: u64,
    left_out: u64,
}

/// A table of jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Table {
    /// Where it lies.
    address: u64,
    /// What is added to its entries.
    base: u64,
    /// Bytes of each.
    bytes: u64,
    entries: u64,
}

impl Switch {
    pub(super) fn new(file: &File, segments: &[Segment]) -> Self {
        let segments = segments.iter().filter(|segment| segment.kind == Segment::LOADED).copied().collect();
        Self {
            file: file.try_clone().ok(),
            segments,
            bases: FxHashMap::default(),
            known: FxHashMap::default(),
            entries_left: ENTRIES_MAX,
            left_out: 0,
        }
    }

    /// Tables for which there was no room.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether code lies at an address.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| segment.is_code() && segment.offset_of(address).is_some())
    }

    /// Another function begins.
    pub(super) fn begin(&mut self) {
        self.bases.clear();
    }

    pub(super) fn note(&mut self, instruction: &Instruction) {
        if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
            let address = instruction.ip_rel_memory_address();
            let base = self.bases.entry(instruction.op0_register()).or_insert(Some(address));
            if *base != Some(address) {
                *base = None;
            }
        }
    }

    /// Where `jump` may lead, if that is known; all of it is where `inside` says that it may be.
    pub(super) fn targets(
        &mut self,
        jump: &Instruction,
        trail: &Trail,
        inside: impl Fn(u64) -> bool,
    ) -> Option<Rc<[u64]>> {
        let before = trail.last.split_last()?.1;
        let table = self.table(jump, before)?;
        let targets = match self.known.get(&table) {
            Some(known) => known.clone(),
            None => {
                let left = self.entries_left.checked_sub(table.entries);
                self.left_out += u64::from(left.is_none());
                let targets = left.and_then(|left| {
                    self.entries_left = left;
                    self.read(table).map(Rc::from)
                });
                self.known.insert(table, targets.clone());
                targets
            }
        };
        targets.filter(|targets| targets.iter().all(|&target| inside(target)))
    }

    /// The table that `jump` goes by.
    fn table(&self, jump: &Instruction, before: &[Instruction]) -> Option<Table> {
        let absolute = |of: &Instruction, before: &[Instruction]| {
            if of.memory_base() != Register::None || of.memory_index_scale() != 8 {
                return None;
            }
            let entries = entries(before, of.memory_index())?;
            Some(Table { address: of.memory_displacement64(), base: 0, bytes: 8, entries })
        };
        if jump.op0_kind() == OpKind::Memory {
            return absolute(jump, before);
        }
        let target = jump.op0_register();
        let mut sought = vec![target];
        for (at, instruction) in before.iter().enumerate().rev() {
            if instruction.op0_kind() != OpKind::Register || !sought.contains(&instruction.op0_register()) {
                continue;
            }
            match instruction.mnemonic() {
                Mnemonic::Add if instruction.op1_kind() == OpKind::Register => {
                    sought.push(instruction.op1_register())
                }
                Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => {
                    return absolute(instruction, &before[..at]);
                }
                Mnemonic::Movsxd
                    if instruction.op1_kind() == OpKind::Memory
                        && instruction.memory_displacement64() == 0
                        && instruction.memory_index_scale() == 4
                        && instruction.memory_index() != Register::None =>
                {
                    let register = instruction.memory_base();
                    let near = before[..at].iter().rev().find(|instruction| {
                        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == register
                    });
                    let base = match near {
                        Some(near) if near.mnemonic() == Mnemonic::Lea && near.is_ip_rel_memory_operand() => {
                            Some(near.ip_rel_memory_address())
                        }
                        Some(_) => None,
                        None => *self.bases.get(&register)?,
                    };
                    let (address, entries) = (base?, entries(&before[..at], instruction.memory_index())?);
                    return Some(Table { address, base: address, bytes: 4, entries });
                }
                Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {}
                _ => return None,
            }
        }
        None
    }

    /// Where the entries of a table lead, each place once.
    fn read(&self, table: Table) -> Option<Vec<u64>> {
        let Table { address, base, bytes, entries } = table;
        let offset = self.segments.iter().find_map(|segment| segment.offset_of(address))?;
        let mut words = vec![0; usize::try_from(entries * bytes).ok()?];
        self.file.as_ref()?.read_exact_at(&mut words, offset).ok()?;
        let mut targets: Vec<u64> = words
            .chunks_exact(usize::try_from(bytes).ok()?)
            .map(|entry| match *entry {
                [a, b, c, d] => base.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d]))),
                _ => entry.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        Some(targets)
    }
}

/// What is in a register, as far as it takes to see that two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// What that register had first.
    First(Register),
    /// What the instruction with that number made.
    Made(usize),
    /// What lies in memory: base, index and distance.
    Memory(Register, Register, u64),
}

/// How many entries a table has, by what was done before to its `index`: it was compared, with a jump if it is above, or all but a few bits
/// of it were cleared. The last of that counts, and nothing that was done to others.
fn entries(before: &[Instruction], index: Register) -> Option<u64> {
    let mut values: Vec<(Register, Value)> = Vec::new();
    let value = |values: &[(Register, Value)], register: Register| {
        let register = register.full_register();
        let known = values.iter().rev().find(|(of, _)| *of == register);
        known.map_or(Value::First(register), |(_, value)| *value)
    };
    let operand = |values: &[(Register, Value)], of: &Instruction, number: u32| match of.op_kind(number) {
        OpKind::Register => Some(value(values, of.op_register(number))),
        OpKind::Memory => {
            Some(Value::Memory(of.memory_base(), of.memory_index(), of.memory_displacement64()))
        }
        _ => None,
    };
    let mut found: Vec<(Value, Option<u64>)> = Vec::new();
    for (at, instruction) in before.iter().enumerate() {
        if instruction.mnemonic() == Mnemonic::Cmp {
            let jump = before[at + 1..].iter().find(|after| after.is_jcc_short_or_near());
            let entries = match (jump.map(Instruction::mnemonic), constant(instruction)) {
                (Some(Mnemonic::Ja), Some(last)) => Some(last + 1),
                (Some(Mnemonic::Jae), Some(entries)) => Some(entries),
                _ => None,
            };
            found.extend(operand(&values, instruction, 0).map(|compared| (compared, entries)));
            continue;
        }
        if instruction.op0_kind() != OpKind::Register {
            continue;
        }
        let made = match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => {
                operand(&values, instruction, 1)
            }
            _ => None,
        };
        let made = made.unwrap_or(Value::Made(at));
        values.push((instruction.op0_register().full_register(), made));
        if instruction.mnemonic() == Mnemonic::And {
            let entries =
                constant(instruction).map(|mask| mask + 1).filter(|entries| entries.is_power_of_two());
            found.push((made, entries));
        }
    }
    let index = value(&values, index);
    let (_, entries) = found.iter().rev().find(|(compared, _)| *compared == index)?;
    entries.filter(|&entries| entries > 0)
}

/// The number that something is compared with, or that says which bits are kept.
fn constant(instruction: &Instruction) -> Option<u64> {
    match instruction.op1_kind() {
        OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate8to64 | OpKind::Immediate8to16 => {
            Some(instruction.immediate(1) & 0xff)
        }
        OpKind::Immediate32 | OpKind::Immediate16 => Some(instruction.immediate(1)),
        OpKind::Immediate32to64 => Some(instruction.immediate(1) & 0xffff_ffff),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;

    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    const CMP_5_EDI: &[u8] = &[0x83, 0xff, 5];
    const CMP_5_ESI: &[u8] = &[0x83, 0xfe, 5];
    const JA: &[u8] = &[0x77, 0];
    const MOV_EDI_EAX: &[u8] = &[0x89, 0xf8];
    const ADD_1_EDI: &[u8] = &[0x83, 0xc7, 1];
    const AND_7_EAX: &[u8] = &[0x83, 0xe0, 7];
    const CMP_5_MEMORY: &[u8] = &[0x83, 0x7c, 0x24, 8, 5];
    const MOV_MEMORY_EAX: &[u8] = &[0x8b, 0x44, 0x24, 8];
    const CMP_5_AL: &[u8] = &[0x3c, 5];
    const MOVZX_AL_EAX: &[u8] = &[0x0f, 0xb6, 0xc0];

    /// How many entries a table has whose index is in `index` behind `code`.
    #[track_caller]
    fn check(code: &[&[u8]], index: Register, expected: Option<u64>) {
        let code = code.concat();
        let before: Vec<_> = Decoder::new(64, &code, DecoderOptions::NONE).iter().collect();
        assert_eq!(entries(&before, index), expected);
    }

    #[test]
    fn a_table_has_as_many_entries_as_its_index_is_let_through() {
        check(&[CMP_5_EDI, JA], Register::RDI, Some(6));
        check(&[CMP_5_EDI, JA, MOV_EDI_EAX], Register::RAX, Some(6));
        check(&[MOV_EDI_EAX, CMP_5_EDI, JA], Register::RAX, Some(6));
        check(&[CMP_5_MEMORY, JA, MOV_MEMORY_EAX], Register::RAX, Some(6));
        check(&[CMP_5_AL, JA, MOVZX_AL_EAX], Register::RAX, Some(6));
        check(&[AND_7_EAX], Register::RAX, Some(8));
    }

    #[test]
    fn what_is_compared_besides_says_nothing_of_a_table() {
        check(&[CMP_5_ESI, JA], Register::RDI, None);
        check(&[CMP_5_EDI, JA, CMP_5_ESI], Register::RDI, Some(6));
        check(&[CMP_5_EDI, JA, AND_7_EAX], Register::RDI, Some(6));
        check(&[AND_7_EAX], Register::RDI, None);
        check(&[CMP_5_EDI], Register::RDI, None);
    }

    /// Where `jmp *table(,%rdi,8)` leads if `%edi` is `last` at most; each word of the table is its address.
    fn led(switch: &mut Switch, last: u32) -> Option<Vec<u64>> {
        let cmp = [&[0x81, 0xff][..], &last.to_le_bytes()].concat();
        let code = [&cmp[..], JA, &[0xff, 0x24, 0xfd, 0, 0x10, 0x40, 0]].concat();
        let mut trail = Trail::default();
        let mut jump = Instruction::default();
        for instruction in &mut Decoder::new(64, &code, DecoderOptions::NONE) {
            trail.note(&instruction);
            jump = instruction;
        }
        switch.targets(&jump, &trail, |_| true).map(|targets| targets.to_vec())
    }

    #[test]
    fn of_one_table_each_jump_has_its_part_and_what_has_no_room_is_none() {
        let mut file = tempfile::tempfile().unwrap();
        for word in 0..64u64 {
            file.write_all(&(0x40_1000 + word * 8).to_le_bytes()).unwrap();
        }
        let data = Segment { kind: Segment::LOADED, flags: 4, offset: 0, bytes: 512, address: 0x40_1000 };
        let mut switch = Switch::new(&file, &[data]);
        assert_eq!(led(&mut switch, 1), Some(vec![0x40_1000, 0x40_1008]));
        assert_eq!(led(&mut switch, 2).map(|targets| targets.len()), Some(3));
        assert_eq!(led(&mut switch, 1).map(|targets| targets.len()), Some(2));
        assert_eq!(switch.left_out(), 0);
        let too_many = u32::try_from(ENTRIES_MAX).unwrap();
        assert_eq!(led(&mut switch, too_many), None);
        assert_eq!(led(&mut switch, too_many), None);
        assert_eq!(switch.left_out(), 1, "a table is counted once");
        assert_eq!(led(&mut switch, 3).map(|targets| targets.len()), Some(4));
    }

    #[test]
    fn an_index_that_was_changed_since_may_be_anything() {
        check(&[CMP_5_EDI, JA, ADD_1_EDI], Register::RDI, None);
    }
}
