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
        let (address, base, bytes) = self.table(jump, before)?;
        // Two jumps by one table may use different parts of it.
        let table = Table { address, base, bytes, entries: entries(before)? };
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

    /// Where the table lies, what is added to its entries, and how many bytes each has.
    fn table(&self, jump: &Instruction, before: &[Instruction]) -> Option<(u64, u64, u64)> {
        let absolute = |of: &Instruction| {
            let is = of.memory_base() == Register::None && of.memory_index_scale() == 8;
            (is && of.memory_index() != Register::None).then(|| (of.memory_displacement64(), 0, 8))
        };
        if jump.op0_kind() == OpKind::Memory {
            return absolute(jump);
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
                Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => return absolute(instruction),
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
                    return base.map(|base| (base, base, 4));
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

/// How many entries a table has, by what its index was compared with.
fn entries(before: &[Instruction]) -> Option<u64> {
    for (at, instruction) in before.iter().enumerate().rev() {
        let immediate = || match instruction.op1_kind() {
            OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate8to64 | OpKind::Immediate8to16 => {
                Some(instruction.immediate(1) & 0xff)
            }
            OpKind::Immediate32 | OpKind::Immediate16 => Some(instruction.immediate(1)),
            OpKind::Immediate32to64 => Some(instruction.immediate(1) & 0xffff_ffff),
            _ => None,
        };
        if instruction.mnemonic() == Mnemonic::Cmp {
            let jump = before[at + 1..].iter().find(|after| after.is_jcc_short_or_near())?;
            let last = immediate()?;
            let entries = match jump.mnemonic() {
                Mnemonic::Ja => last + 1,
                Mnemonic::Jae => last,
                _ => return None,
            };
            return (entries > 0).then_some(entries);
        }
        if instruction.mnemonic() == Mnemonic::And && instruction.op0_kind() == OpKind::Register {
            let mask = immediate()?;
            return (mask + 1).is_power_of_two().then_some(mask + 1);
        }
    }
    None
}
