//! Where code may go from where it begins, and what is known of the stack on the way.
//!
//! In: code, and addresses at which functions begin. Out: a [`State`] for each instruction that is reached. A function is taken
//! as a whole: where two ways through it do not agree on the stack pointer, something was misunderstood, and it is gone
//! through again with less faith, or nothing is said of it. Not here: who knows where functions begin.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::super::super::super::bounds::{Bound, Reached};
use super::space::Space;
use super::state::{Rbp, State, Step};
use super::switch::{Switch, Trail};

/// Calls of one function that turn out not to return, at most: each makes it begin anew. Beyond that it is gone through with less faith. A dozen is
/// many.
const FINAL_CALLS_MAX: usize = 32;
/// Instructions that are looked at for each byte of code, at most, however often functions begin anew: once is a quarter. What was not understood by
/// then is not.
const LOOKS_PER_BYTE_MAX: u64 = 8;
/// Bytes to whose multiples functions are aligned.
pub(super) const ALIGNED_BYTES: u64 = 16;
/// Different states at most, which are numbered; the C library has a thousand. Beyond that nothing is known where there would be another one.
const STATES_MAX: usize = u16::MAX as usize;

/// How much is believed of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Faith {
    /// Calls return, and tables of jumps are what they look like.
    Full,
    /// A call with padding behind it does not return.
    Less,
    /// No table of jumps is followed either.
    Least,
}

/// What came of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Explored {
    /// Something is known of it.
    pub(super) is_known: bool,
    /// It returns, or jumps to whom nobody knows.
    pub(super) returns: bool,
    /// It was seen to return, or to go on as another function, with the stack as that has to be.
    pub(super) is_proven: bool,
    /// It jumps to whom nobody knows, with the stack as who is called has it.
    pub(super) hands_on: bool,
}

/// How an instruction is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the one before, or by a jump.
    Sure,
    /// By the return of the call at that address.
    Return(u64),
}

/// A way ends here because something was misunderstood.
enum Wrong {
    /// The call at that address does not return.
    Call(u64),
    /// Anything.
    Something,
}

/// Everything that is known of the code of a file.
pub(super) struct Flow<'a> {
    space: &'a Space,
    /// Of each byte of code the number of its state, 0 for not reached.
    reached: Vec<u16>,
    /// Of each that is reached how long its instruction is.
    lengths: Vec<u8>,
    states: Vec<State>,
    numbers: FxHashMap<State, u16>,
    /// Where the file begins.
    entry: Option<u64>,
    /// Where functions begin for sure.
    pub(super) starts: FxHashSet<u64>,
    /// Functions that do not return.
    pub(super) endless: FxHashSet<u64>,
    /// Calls that do not return.
    pub(super) final_calls: FxHashSet<u64>,
    /// Whom the function that was gone through last calls, and what it takes the address of.
    pub(super) called: Vec<u64>,
    pub(super) taken: Vec<u64>,
    /// Instructions that may still be looked at.
    looks: u64,
    bounds: Reached,
    factory: InstructionInfoFactory,
    /// What was there before the function that is being gone through.
    journal: Vec<(usize, u16)>,
    /// Of each byte of code whether that one reached it.
    own: Vec<bool>,
    /// Instructions to which only the return of a call leads, and which.
    returned_to: FxHashMap<u64, u64>,
    switches: Switch,
    /// Ways that are to be gone on: for sure, and by the return of a call, which is done last.
    pending: Vec<(u64, State)>,
    pending_returns: Vec<(u64, State, u64)>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(space: &'a Space, entry: Option<u64>, switches: Switch) -> Self {
        let bytes = space.bytes();
        Self {
            space,
            reached: vec![0; bytes],
            lengths: vec![0; bytes],
            states: vec![State::UNKNOWN],
            numbers: FxHashMap::default(),
            entry,
            starts: FxHashSet::default(),
            endless: FxHashSet::default(),
            final_calls: FxHashSet::default(),
            called: Vec::new(),
            taken: Vec::new(),
            looks: bytes as u64 * LOOKS_PER_BYTE_MAX,
            bounds: Reached::default(),
            factory: InstructionInfoFactory::new(),
            journal: Vec::new(),
            own: vec![false; bytes],
            returned_to: FxHashMap::default(),
            switches,
            pending: Vec::new(),
            pending_returns: Vec::new(),
        }
    }

    /// Forgets what was reached, and keeps which functions there are and what they do.
    pub(super) fn forget(&mut self) {
        self.reached.fill(0);
        self.returned_to.clear();
    }

    /// Whether no more may be looked at.
    pub(super) fn is_spent(&self) -> bool {
        self.looks == 0
    }

    /// Instructions that may still be looked at.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }

    /// Which bounds were reached so far.
    pub(super) fn bounds(&self) -> Reached {
        let mut bounds = self.bounds.clone();
        bounds.add(Bound::Instructions, u64::from(self.is_spent()));
        bounds.add(Bound::JumpTables, self.switches.left_out());
        bounds
    }

    /// What is known at the byte with that index, if an instruction begins there.
    pub(super) fn at(&self, index: usize) -> Option<State> {
        let number = *self.reached.get(index)?;
        (number != 0).then(|| self.states.get(usize::from(number)).copied()).flatten()
    }

    /// How long the instruction is that begins there.
    pub(super) fn length(&self, index: usize) -> usize {
        self.lengths.get(index).map_or(1, |&length| usize::from(length.max(1)))
    }

    /// Goes through the function that begins at `start`; all of it that is reached, or nothing.
    pub(super) fn explore(&mut self, start: u64) -> Explored {
        for faith in [Faith::Full, Faith::Less, Faith::Least] {
            for restarts in 1..=FINAL_CALLS_MAX {
                match self.attempt(start, faith) {
                    Ok(explored) => return explored,
                    Err(wrong) => {
                        self.take_back();
                        match wrong {
                            Wrong::Call(at) if self.final_calls.insert(at) => {
                                self.bounds.add(Bound::FinalCalls, u64::from(restarts == FINAL_CALLS_MAX));
                            }
                            Wrong::Call(_) | Wrong::Something => break,
                        }
                    }
                }
            }
        }
        self.disbelieve();
        Explored { returns: true, ..Explored::default() }
    }

    /// Takes back what the function that was gone through last made known: it is none. Which calls do not return it may be right about, and
    /// where that was forgotten more was understood, more of it wrongly.
    pub(super) fn disbelieve(&mut self) {
        self.take_back();
        self.called.clear();
        self.taken.clear();
    }

    /// Takes back what that one reached.
    fn take_back(&mut self) {
        while let Some((index, before)) = self.journal.pop() {
            self.reached[index] = before;
            self.own[index] = false;
        }
    }

    fn attempt(&mut self, start: u64, faith: Faith) -> Result<Explored, Wrong> {
        for (index, _) in self.journal.drain(..) {
            self.own[index] = false;
        }
        self.called.clear();
        self.taken.clear();
        self.pending.clear();
        self.pending_returns.clear();
        self.switches.begin();
        let mut explored = Explored { is_known: true, ..Explored::default() };
        // The loader of programs is called by nobody where it begins, and says so by no other sign. (That a library should begin somewhere is
        // what some linkers made up.)
        let is_root = self.entry == Some(start) && takes_stack(self.space.from(start).unwrap_or_default());
        let begins = if is_root { State::ROOT } else { State::ENTRY };
        if self.visit(start, start, begins, Way::Sure, &mut explored)? {
            self.pending.push((start, begins));
        }
        loop {
            if let Some((at, state)) = self.pending.pop() {
                self.run(start, at, state, faith, &mut explored)?;
            } else if let Some((at, state, call)) = self.pending_returns.pop() {
                if self.visit(start, at, state, Way::Return(call), &mut explored)? {
                    self.run(start, at, state, faith, &mut explored)?;
                }
            } else {
                return Ok(explored);
            }
        }
    }

    /// Notes that `at` is reached with `state`; whether it has to be gone on from there.
    fn visit(
        &mut self,
        start: u64,
        at: u64,
        state: State,
        way: Way,
        explored: &mut Explored,
    ) -> Result<bool, Wrong> {
        let is_entry = state.depth == State::ENTRY.depth && state.rbp == Rbp::Callers;
        let Some(index) = self.space.index(at) else {
            return match (self.switches.is_code(at), way) {
                // Whoever has a table goes on.
                (true, _) => {
                    explored.returns = true;
                    explored.is_proven |= is_entry;
                    Ok(false)
                }
                (false, Way::Return(call)) => {
                    self.final_calls.insert(call);
                    Ok(false)
                }
                (false, Way::Sure) => Err(Wrong::Something),
            };
        };
        if at != start && self.starts.contains(&at) {
            explored.is_proven |= is_entry;
            explored.returns |= !self.endless.contains(&at);
            return match (is_entry || state.root || state.depth.is_none(), way) {
                (true, _) => Ok(false),
                (false, Way::Return(call)) => {
                    self.final_calls.insert(call);
                    Ok(false)
                }
                (false, Way::Sure) => Err(Wrong::Something),
            };
        }
        let known = self.at(index);
        let next = match known {
            None => {
                match way {
                    Way::Return(call) => self.returned_to.insert(at, call),
                    Way::Sure => self.returned_to.remove(&at),
                };
                state
            }
            Some(known) if known == state => {
                if !self.own[index] {
                    // Another function goes on here, and it is consistent.
                    explored.returns = true;
                }
                if way == Way::Sure {
                    self.returned_to.remove(&at);
                }
                return Ok(false);
            }
            Some(known) if known.contradicts(state) => {
                return match (way, self.returned_to.get(&at)) {
                    (Way::Return(call), _) => {
                        self.final_calls.insert(call);
                        Ok(false)
                    }
                    (Way::Sure, Some(&call)) => Err(Wrong::Call(call)),
                    (Way::Sure, None) => Err(Wrong::Something),
                };
            }
            Some(known) => {
                let both = known.meet(state);
                if both == known {
                    return Ok(false);
                }
                both
            }
        };
        let number = self.number(next);
        self.own[index] = true;
        self.journal.push((index, self.reached[index]));
        self.reached[index] = number;
        Ok(true)
    }

    fn number(&mut self, state: State) -> u16 {
        if let Some(&number) = self.numbers.get(&state) {
            return number;
        }
        let is_over = self.states.len() >= STATES_MAX;
        self.bounds.add(Bound::States, u64::from(is_over));
        let state = if is_over { State::UNKNOWN } else { state };
        let next = u16::try_from(self.states.len()).unwrap_or(0);
        let number = *self.numbers.entry(state).or_insert(next);
        if number == next {
            self.states.push(state);
        }
        number
    }

    /// Goes on from `at`, which was visited, to the end of what follows it.
    fn run(
        &mut self,
        start: u64,
        mut at: u64,
        state: State,
        faith: Faith,
        explored: &mut Explored,
    ) -> Result<(), Wrong> {
        let space = self.space;
        let Some(code) = space.from(at) else { return Ok(()) };
        // Two ways may have met since.
        let mut state = space.index(at).and_then(|index| self.at(index)).unwrap_or(state);
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        let mut trail = Trail::default();
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            if self.looks == 0 {
                return Err(Wrong::Something);
            }
            self.looks -= 1;
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return Err(Wrong::Something);
            }
            let next = instruction.next_ip();
            if let Some(length) = space.index(at).and_then(|index| self.lengths.get_mut(index)) {
                *length = u8::try_from(instruction.len()).unwrap_or(u8::MAX);
            }
            trail.note(&instruction);
            self.switches.note(&instruction);
            self.note_taken(&instruction);
            match instruction.flow_control() {
                FlowControl::Next => {
                    if instruction.mnemonic() == Mnemonic::Hlt {
                        return Ok(());
                    }
                    if state.step(&instruction, &mut self.factory) == Step::Absurd {
                        return Err(Wrong::Something);
                    }
                    if clears_rbp(&instruction) && state == State::CLEARED {
                        state.root = at == start || calls_soon(space.from(next).unwrap_or_default());
                    }
                }
                FlowControl::UnconditionalBranch => {
                    let target = instruction.near_branch_target();
                    self.jump(start, target, state, explored)?;
                    return Ok(());
                }
                FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                    if instruction.op0_kind() == OpKind::NearBranch64 {
                        self.jump(start, instruction.near_branch_target(), state, explored)?;
                    }
                }
                FlowControl::IndirectBranch => {
                    let targets = (faith < Faith::Least)
                        .then(|| {
                            let inside = |target: u64| {
                                space.index(target).is_some()
                                    && (target == start || !self.starts.contains(&target))
                            };
                            self.switches.targets(&instruction, &trail, inside)
                        })
                        .flatten();
                    match targets {
                        Some(targets) => {
                            // Each is looked at, if it leads anywhere or not.
                            self.looks = self.looks.saturating_sub(targets.len() as u64);
                            for &target in &*targets {
                                self.jump(start, target, state, explored)?;
                            }
                        }
                        None => {
                            explored.returns = true;
                            explored.hands_on |=
                                state.depth == State::ENTRY.depth && state.rbp == Rbp::Callers;
                        }
                    }
                    return Ok(());
                }
                FlowControl::Return => {
                    explored.returns = true;
                    if state.root || state.depth.is_none() {
                        return Ok(());
                    }
                    if state.depth != State::ENTRY.depth || state.rbp != Rbp::Callers {
                        return Err(Wrong::Something);
                    }
                    explored.is_proven = true;
                    return Ok(());
                }
                FlowControl::Call if matches!(instruction.code(), Code::Syscall | Code::Sysenter) => {}
                FlowControl::Call | FlowControl::IndirectCall => {
                    let mut returns = !self.final_calls.contains(&at);
                    if instruction.op0_kind() == OpKind::NearBranch64 {
                        let target = instruction.near_branch_target();
                        if target == next {
                            return Err(Wrong::Something);
                        }
                        self.called.push(target);
                        returns &= !self.endless.contains(&target);
                    }
                    if faith >= Faith::Less && is_padding(space.from(next).unwrap_or_default()) {
                        returns = false;
                    }
                    if next.is_multiple_of(ALIGNED_BYTES) && is_prologue(space.from(next).unwrap_or_default())
                    {
                        returns = false;
                    }
                    if returns {
                        self.pending_returns.push((next, state, at));
                    }
                    return Ok(());
                }
                FlowControl::Interrupt | FlowControl::Exception => return Ok(()),
            }
            if !self.visit(start, next, state, Way::Sure, explored)? {
                return Ok(());
            }
            at = next;
            state = space.index(at).and_then(|index| self.at(index)).unwrap_or(state);
        }
        Ok(())
    }

    fn jump(&mut self, start: u64, target: u64, state: State, explored: &mut Explored) -> Result<(), Wrong> {
        if self.visit(start, target, state, Way::Sure, explored)? {
            self.pending.push((target, state));
        }
        Ok(())
    }

    /// Notes what an instruction takes the address of, if it is code.
    fn note_taken(&mut self, instruction: &Instruction) {
        let address = match instruction.mnemonic() {
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => instruction.ip_rel_memory_address(),
            Mnemonic::Mov | Mnemonic::Push => {
                let last = instruction.op_count() - 1;
                match instruction.op_kind(last) {
                    OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => {
                        instruction.immediate(last)
                    }
                    _ => return,
                }
            }
            _ => return,
        };
        if self.space.index(address).is_some() {
            self.taken.push(address);
        }
    }
}

/// Whether code begins with what nobody runs, or runs to no end.
pub(super) fn is_padding(code: &[u8]) -> bool {
    matches!(
        code,
        [] | [0x90 | 0xcc | 0xf4, ..]
            | [0x66, 0x90, ..]
            | [0x66, 0x66, ..]
            | [0x66, 0x0f, 0x1f, ..]
            | [0x66, 0x2e, 0x0f, 0x1f, ..]
            | [0x0f, 0x1f | 0x0b, ..]
    )
}

/// Whether code begins by handing on the stack pointer as it is (`mov %rsp,%rdi`), which is what the kernel gives to who begins.
fn takes_stack(code: &[u8]) -> bool {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    code.starts_with(&[0x48, 0x89, 0xe7])
}

/// Whether code begins as functions do, and hardly anything else does.
fn is_prologue(code: &[u8]) -> bool {
    matches!(
        code,
        [0xf3, 0x0f, 0x1e, 0xfa, ..]                              // endbr64
            | [0x53 | 0x55, ..]                                   // push %rbx, %rbp
            | [0x41, 0x54..=0x57, ..]                             // push %r12 to %r15
            | [0x48, 0x83, 0xec, ..]                              // sub $number, %rsp
            | [0x48, 0x81, 0xec, ..]
    )
}

fn clears_rbp(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Xor
        && instruction.op0_register().full_register() == Register::RBP
        && instruction.op1_register() == instruction.op0_register()
}

/// Whether one of the next few instructions calls whom a register names, as that of a thread does.
fn calls_soon(code: &[u8]) -> bool {
    const SOON: usize = 4;
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    decoder.iter().take(SOON).any(|instruction| instruction.flow_control() == FlowControl::IndirectCall)
}
