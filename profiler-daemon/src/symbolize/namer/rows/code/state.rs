//! What one instruction does to the stack pointer and to rbp.
//!
//! In: where both are before it. Out: where they are behind it. What is not understood makes unknown what it touches. Not here: which
//! instruction comes next.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use profiler_common::unwind::table::{Cfa, Rule, Saved};

/// Bytes of a word of the stack.
const WORD: i32 = 8;
/// Bytes from rbp up to the frame in a function that keeps a frame pointer.
const FRAME_POINTER: i32 = 16;
/// Farther from its frame than this no stack pointer is followed.
const DEPTH_MAX: i32 = 1 << 30;

/// What is in rbp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rbp {
    /// What the caller had there.
    Callers,
    /// An address so many bytes below the CFA.
    Below(i32),
    /// Anything.
    Other,
}

/// What is known in front of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// So many bytes below the CFA is what rsp points to.
    pub(super) depth: Option<i32>,
    pub(super) rbp: Rbp,
    /// So many bytes below the CFA is the caller's rbp, if it was saved.
    pub(super) saved: Option<i32>,
    /// Nobody called this, by what it did to rbp.
    pub(super) root: bool,
}

/// What an instruction shows of the code before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// As code of compilers goes.
    Fine,
    /// No function does that: where the stack was thought to be it is not.
    Absurd,
}

impl State {
    /// Where a function begins.
    pub(super) const ENTRY: Self = Self { depth: Some(WORD), rbp: Rbp::Callers, saved: None, root: false };

    /// Where rbp was lost right at the beginning: so threads begin, by the rules for this processor, for who has a caller saves his rbp first.
    pub(super) const CLEARED: Self = Self { rbp: Rbp::Other, ..Self::ENTRY };

    /// Where nobody called.
    pub(super) const ROOT: Self = Self { root: true, ..Self::CLEARED };

    /// Nothing is known.
    pub(super) const UNKNOWN: Self = Self { depth: None, rbp: Rbp::Other, saved: None, root: false };

    /// What holds whichever of two ways led here.
    pub(super) fn meet(self, other: Self) -> Self {
        Self {
            depth: self.depth.filter(|_| self.depth == other.depth),
            rbp: if self.rbp == other.rbp { self.rbp } else { Rbp::Other },
            saved: self.saved.filter(|_| self.saved == other.saved),
            root: self.root && other.root,
        }
    }

    /// Whether two ways that should meet do not have the stack pointer at the same place.
    pub(super) fn contradicts(self, other: Self) -> bool {
        self.root != other.root || matches!((self.depth, other.depth), (Some(a), Some(b)) if a != b)
    }

    /// The rule that says it; a step by frame pointer where it is not enough.
    pub(super) fn rule(self) -> Rule {
        if self.root {
            return Rule::Stop;
        }
        let rbp = match (self.rbp, self.saved) {
            (_, Some(below)) => Saved::Cfa(-below),
            (Rbp::Callers, None) => Saved::Not,
            (Rbp::Below(_) | Rbp::Other, None) => return Rule::Pointer,
        };
        let cfa = match (self.depth, self.rbp) {
            // As a compiler would say it, so that it is seen to keep a frame pointer.
            (_, Rbp::Below(FRAME_POINTER)) if self.saved == Some(FRAME_POINTER) => Cfa::Rbp(FRAME_POINTER),
            (Some(depth), _) => Cfa::Rsp(depth),
            (None, Rbp::Below(below)) => Cfa::Rbp(below),
            (None, Rbp::Callers | Rbp::Other) => return Rule::Pointer,
        };
        Rule::Frame { cfa, rbp }
    }

    /// What is known behind `instruction`, which does not end the function.
    pub(super) fn step(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Step {
        if self.root {
            return Step::Fine;
        }
        let destination = if instruction.op0_kind() == OpKind::Register {
            instruction.op0_register().full_register()
        } else {
            Register::None
        };
        let is_whole = destination != Register::None && instruction.op0_register() == destination;
        match instruction.mnemonic() {
            Mnemonic::Push => self.push(instruction, destination == Register::RBP && is_whole),
            Mnemonic::Pop => return self.pop(destination, is_whole),
            Mnemonic::Sub | Mnemonic::Add if destination == Register::RSP => {
                let by = constant(instruction).filter(|_| is_whole);
                let down = if instruction.mnemonic() == Mnemonic::Sub { 1 } else { -1 };
                return self.go_to(
                    self.depth.zip(by).and_then(|(depth, by)| depth.checked_add(by.checked_mul(down)?)),
                );
            }
            Mnemonic::Lea if destination == Register::RSP => return self.go_to(self.address(instruction)),
            Mnemonic::Lea if destination == Register::RBP && is_whole => {
                let below = self.address(instruction);
                self.set_rbp(below.map_or(Rbp::Other, Rbp::Below));
            }
            Mnemonic::Mov if destination == Register::RSP && is_whole => {
                let to = match (instruction.op1_kind(), instruction.op1_register(), self.rbp) {
                    (OpKind::Register, Register::RBP, Rbp::Below(below)) => Some(below),
                    _ => None,
                };
                return self.go_to(to);
            }
            Mnemonic::Mov if destination == Register::RBP && is_whole => {
                let to = match (instruction.op1_kind(), instruction.op1_register(), self.depth) {
                    (OpKind::Register, Register::RSP, Some(depth)) => Rbp::Below(depth),
                    (OpKind::Memory, _, _)
                        if self.saved.is_some() && self.address(instruction) == self.saved =>
                    {
                        Rbp::Callers
                    }
                    _ => Rbp::Other,
                };
                self.set_rbp(to);
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory => self.store(instruction),
            Mnemonic::Leave => {
                let at = match self.rbp {
                    Rbp::Below(below) => Some(below),
                    Rbp::Callers | Rbp::Other => None,
                };
                self.depth = at;
                return self.pop(Register::RBP, true);
            }
            _ => self.other(instruction, factory),
        }
        Step::Fine
    }

    fn push(&mut self, instruction: &Instruction, is_rbp: bool) {
        let bytes = -instruction.stack_pointer_increment();
        self.depth = self.depth.and_then(|depth| depth.checked_add(bytes)).filter(|depth| *depth < DEPTH_MAX);
        if is_rbp && self.rbp == Rbp::Callers && self.saved.is_none() {
            self.saved = self.depth;
        }
    }

    fn pop(&mut self, destination: Register, is_whole: bool) -> Step {
        let from = self.depth;
        if destination == Register::RBP {
            let restores = is_whole && from.is_some() && from == self.saved;
            self.rbp = if restores { Rbp::Callers } else { Rbp::Other };
        }
        if destination == Register::RSP || !is_whole && destination != Register::None {
            return self.go_to(None);
        }
        self.go_to(from.map(|from| from - WORD))
    }

    /// rsp is now `to`.
    fn go_to(&mut self, to: Option<i32>) -> Step {
        if to.is_some_and(|to| !(WORD..DEPTH_MAX).contains(&to)) {
            // What takes its return address away may do so, but nothing is known then.
            *self = Self { depth: None, ..*self };
            return Step::Absurd;
        }
        self.depth = to;
        // Below rsp nothing lasts.
        if let (Some(depth), Some(saved)) = (self.depth, self.saved)
            && saved > depth
        {
            self.saved = None;
        }
        Step::Fine
    }

    fn set_rbp(&mut self, rbp: Rbp) {
        self.rbp = rbp;
    }

    /// How far below the CFA the memory operand is, if it is in the frame for sure.
    fn address(&self, instruction: &Instruction) -> Option<i32> {
        if instruction.memory_index() != Register::None || instruction.segment_prefix() != Register::None {
            return None;
        }
        let distance = i32::try_from(instruction.memory_displacement64().cast_signed()).ok()?;
        match (instruction.memory_base(), self.depth, self.rbp) {
            (Register::RSP, Some(depth), _) => depth.checked_sub(distance),
            (Register::RBP, _, Rbp::Below(below)) => below.checked_sub(distance),
            _ => None,
        }
    }

    fn store(&mut self, instruction: &Instruction) {
        let Some(at) = self.address(instruction) else { return };
        let is_rbp =
            instruction.op1_kind() == OpKind::Register && instruction.op1_register() == Register::RBP;
        if is_rbp && self.rbp == Rbp::Callers {
            if self.saved.is_none() && self.depth.is_some_and(|depth| at <= depth) {
                self.saved = Some(at);
            }
        } else if self.saved == Some(at) {
            self.saved = None;
        }
    }

    /// An instruction that nothing special is known of.
    fn other(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        if instruction.is_stack_instruction() {
            let bytes = instruction.stack_pointer_increment();
            let is_simple = matches!(instruction.mnemonic(), Mnemonic::Pushfq | Mnemonic::Popfq);
            let to = self.depth.filter(|_| is_simple).map(|depth| depth - bytes);
            self.go_to(to);
            if !is_simple {
                self.rbp = Rbp::Other;
            }
            return;
        }
        let names = (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && matches!(instruction.op_register(operand).full_register(), Register::RSP | Register::RBP)
        });
        if !names {
            return;
        }
        for used in factory.info(instruction).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            match used.register().full_register() {
                Register::RSP if writes => self.depth = None,
                Register::RBP if writes => self.rbp = Rbp::Other,
                _ => {}
            }
        }
    }
}

/// The number that is added or taken.
fn constant(instruction: &Instruction) -> Option<i32> {
    let is = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8 | OpKind::Immediate32 | OpKind::Immediate8to64 | OpKind::Immediate32to64
    );
    is.then(|| i32::try_from(instruction.immediate(1).cast_signed()).ok()).flatten()
}
