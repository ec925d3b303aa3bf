//! Rules from the tables that compilers write for unwinding, `.eh_frame` and `.debug_frame`.
//!
//! In: a section's bytes, strangers' as any. Out: the functions it describes, and for each its rules. Not here: which function
//! wins where two overlap.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, LittleEndian,
    Operation, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow,
    Vendor,
};
use profiler_common::unwind::table::{Cfa, Holder, Rule, Saved};
use rustc_hash::FxHashMap;

use super::machine::Machine;
use super::{Function, aarch64};

/// Bytes of one table at most: a browser with all of its own has thirty million.
pub(super) const TABLE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of what functions share at most, some thirty in honest files: they are gone through once for each function.
const SHARED_BYTES_MAX: usize = 4096;

/// How many of these are kept to be used again; beyond that all are forgotten. Honest files have a few hundred.
const SHARED_MAX: usize = 4096;

/// Rules of one function at most; what follows is invalid. No compiler writes a tenth of it.
const RULES_MAX: usize = 1 << 16;

/// Steps of an expression that may mean something to us.
const OPERATIONS_MAX: usize = 16;

const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RDI: Register = Register(5);
const RETURN: Register = Register(16);
/// Those that calls leave as they were, but for rbp: rbx and r12 to r15.
const KEPT: [Register; 5] = [Register(3), Register(12), Register(13), Register(14), Register(15)];

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Shared<'a> = FxHashMap<usize, CommonInformationEntry<Bytes<'a>>>;

/// A table, and where its parts lie in memory.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    bases: BaseAddresses,
    kind: Kind,
    machine: Machine,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    EhFrame,
    DebugFrame,
}

/// Reads the rules of one function after another, and keeps what they share.
pub(super) struct Reading<'a> {
    table: &'a Table,
    shared: Shared<'a>,
    context: UnwindContext<usize>,
}

impl Table {
    /// An `.eh_frame` that lies at `address`.
    pub(super) fn eh_frame(bytes: Vec<u8>, address: u64, machine: Machine) -> Self {
        let bases = BaseAddresses::default().set_eh_frame(address);
        Self { bytes, bases, kind: Kind::EhFrame, machine }
    }

    /// A `.debug_frame`.
    pub(super) fn debug_frame(bytes: Vec<u8>, machine: Machine) -> Self {
        Self { bytes, bases: BaseAddresses::default(), kind: Kind::DebugFrame, machine }
    }

    fn section(&self) -> (EhFrame<Bytes<'_>>, DebugFrame<Bytes<'_>>) {
        let mut debug = DebugFrame::new(&self.bytes, LittleEndian);
        debug.set_address_size(8);
        let mut eh = EhFrame::new(&self.bytes, LittleEndian);
        eh.set_address_size(8);
        if self.machine == Machine::Aarch64 {
            debug.set_vendor(Vendor::AArch64);
            eh.set_vendor(Vendor::AArch64);
        }
        (eh, debug)
    }

    /// Hands `(first address, bytes, number)` of each function to `found`. The number finds it again.
    pub(super) fn functions(&self, found: impl FnMut(u64, u64, usize)) {
        let (eh, debug) = self.section();
        match self.kind {
            Kind::EhFrame => functions(&eh, &self.bases, found),
            Kind::DebugFrame => functions(&debug, &self.bases, found),
        }
    }

    /// Ready to read rules.
    pub(super) fn reading(&self) -> Reading<'_> {
        Reading { table: self, shared: Shared::default(), context: UnwindContext::new() }
    }
}

/// A stretch of code whose frame has its address in a register that every call leaves as it was, and that no walk carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchored {
    /// The first address.
    pub(super) from: u64,
    /// The first address behind it.
    pub(super) to: u64,
    /// Which register.
    pub(super) register: Register,
    /// So many bytes above what is in the register lies the frame.
    pub(super) above: i16,
    /// Where the caller's rbp is.
    pub(super) rbp: Saved,
}

impl Reading<'_> {
    /// The anchored stretches of a function.
    pub(super) fn anchored(&mut self, number: usize) -> Vec<Anchored> {
        let mut anchored = Vec::new();
        // What cannot be read has no rules either.
        let _ = self.each_row(number, |row| {
            let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return };
            let rbp = match row.register(RBP) {
                None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(Saved::Not),
                Some(RegisterRule::Offset(above)) => i32::try_from(above).ok().map(Saved::Cfa),
                Some(_) => None,
            };
            if let (true, Ok(above), Some(rbp)) = (KEPT.contains(&register), i16::try_from(offset), rbp) {
                let (from, to) = (row.start_address(), row.end_address());
                anchored.push(Anchored { from, to, register, above, rbp });
            }
        });
        anchored
    }

    /// How far from its frame a function saves `register`: the same wherever it has done so, if it does.
    pub(super) fn saved(&mut self, number: usize, register: Register) -> Option<i16> {
        let mut saved = Vec::new();
        let read = self.each_row(number, |row| {
            if let Some(RegisterRule::Offset(above)) = row.register(register) {
                saved.push(above);
            }
        });
        let first = *saved.first()?;
        (read.is_ok() && saved.iter().all(|above| *above == first)).then_some(i16::try_from(first).ok()?)
    }

    fn each_row(
        &mut self,
        number: usize,
        mut each: impl FnMut(&UnwindTableRow<usize>),
    ) -> Result<(), Option<u64>> {
        let (eh, debug) = self.table.section();
        let (bases, shared, context) = (&self.table.bases, &mut self.shared, &mut self.context);
        match self.table.kind {
            Kind::EhFrame => rows(&eh, bases, number, shared, context, |_, row| each(row)),
            Kind::DebugFrame => rows(&debug, bases, number, shared, context, |_, row| each(row)),
        }
    }

    /// Appends to `rules` those of the function with `number`, each with the address from which it holds. A function that
    /// makes no sense, or none any more from some place on, is invalid from there.
    pub(super) fn rules(&mut self, number: usize, function: &Function, rules: &mut Vec<(u64, Rule)>) {
        let (eh, debug) = self.table.section();
        let Table { bases, machine, .. } = self.table;
        let machine = *machine;
        let ended = match self.table.kind {
            Kind::EhFrame => read(&eh, bases, machine, number, &mut self.shared, &mut self.context, rules),
            Kind::DebugFrame => {
                read(&debug, bases, machine, number, &mut self.shared, &mut self.context, rules)
            }
        };
        if let Err(from) = ended {
            rules.push((from.unwrap_or(function.address), Rule::Invalid));
        }
    }
}

fn functions<'a, S>(section: &S, bases: &BaseAddresses, mut found: impl FnMut(u64, u64, usize))
where
    S: UnwindSection<Bytes<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut shared = Shared::default();
    let mut entries = section.entries(bases);
    // What cannot be read has no end either: the rest is left.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else { continue };
        let number = entry.offset();
        let Ok(function) = entry.parse(|section, bases, at| share(section, bases, at, &mut shared)) else {
            continue;
        };
        found(function.initial_address(), function.len(), number);
    }
}

/// What functions share, read once.
fn share<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    at: S::Offset,
    shared: &mut Shared<'a>,
) -> gimli::Result<CommonInformationEntry<Bytes<'a>>>
where
    S: UnwindSection<Bytes<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let key = gimli::UnwindOffset::into(at);
    if let Some(known) = shared.get(&key) {
        return Ok(known.clone());
    }
    let read = section.cie_from_offset(bases, at)?;
    if read.entry_len() > SHARED_BYTES_MAX {
        return Err(gimli::Error::UnsupportedOffset);
    }
    if shared.len() >= SHARED_MAX {
        shared.clear();
    }
    shared.insert(key, read.clone());
    Ok(read)
}

/// Appends the rules of a function; an error as of [`rows`].
fn read<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    machine: Machine,
    number: usize,
    shared: &mut Shared<'a>,
    context: &mut UnwindContext<usize>,
    rules: &mut Vec<(u64, Rule)>,
) -> Result<(), Option<u64>>
where
    S: UnwindSection<Bytes<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut before = None;
    rows(section, bases, number, shared, context, |of, row| {
        let rule = match (of, machine) {
            (Of::Trampoline, _) => Rule::Signal,
            (Of::Function(encoding), Machine::X86_64) => rule(section, encoding, row, before),
            (Of::Function(_), Machine::Aarch64) => aarch64::rule(row),
        };
        before = lasting(row, rule);
        rules.push((row.start_address(), rule));
    })
}

/// What a row belongs to.
#[derive(Clone, Copy)]
enum Of {
    Function(gimli::Encoding),
    /// What a signal handler returns to.
    Trampoline,
}

/// Hands each row of a function to `each`; an error if they end before the function does: where, if there are any.
fn rows<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    number: usize,
    shared: &mut Shared<'a>,
    context: &mut UnwindContext<usize>,
    mut each: impl FnMut(Of, &UnwindTableRow<usize>),
) -> Result<(), Option<u64>>
where
    S: UnwindSection<Bytes<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let function =
        section.fde_from_offset(bases, number.into(), |section, bases, at| share(section, bases, at, shared));
    let function = function.map_err(|_| None)?;
    let is_trampoline = function.is_signal_trampoline();
    let of = if is_trampoline { Of::Trampoline } else { Of::Function(function.cie().encoding()) };
    let mut rows = function.rows(section, bases, context).map_err(|_| None)?;
    let mut end = None;
    for _ in 0..RULES_MAX {
        match rows.next_row() {
            Ok(Some(row)) => {
                each(of, row);
                end = Some(row.end_address());
            }
            Ok(None) => return Ok(()),
            Err(_) => break,
        }
    }
    Err(end)
}

/// What a row of a table for x86_64 says, in our words. `before` is where the row before has the frame, if it is there still.
fn rule<'a, S>(
    section: &S,
    encoding: gimli::Encoding,
    row: &UnwindTableRow<usize>,
    before: Option<Cfa>,
) -> Rule
where
    S: UnwindSection<Bytes<'a>>,
{
    match row.register(RETURN) {
        Some(RegisterRule::Undefined) => return Rule::Stop,
        Some(RegisterRule::Register(RDI)) => return held(row),
        Some(RegisterRule::Offset(-8)) => {}
        Some(_) | None => return Rule::Invalid,
    }
    let steps = |expression: &UnwindExpression<usize>| operations(section, encoding, expression);
    let rbp = match row.register(RBP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(Saved::Not),
        Some(RegisterRule::Offset(above)) => i32::try_from(above).ok().map(Saved::Cfa),
        Some(RegisterRule::Expression(expression)) => match steps(&expression).as_deref() {
            Some([Operation::RegisterOffset { register, offset, .. }]) => {
                i32::try_from(*offset).ok().and_then(|offset| match *register {
                    RSP => Some(Saved::Rsp(offset)),
                    RBP => Some(Saved::Rbp(offset)),
                    _ => None,
                })
            }
            Some(_) | None => None,
        },
        Some(_) => None,
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            i32::try_from(*offset).ok().and_then(|offset| match *register {
                RSP => Some(Cfa::Rsp(offset)),
                RBP => Some(Cfa::Rbp(offset)),
                _ => by_another(row, offset, before),
            })
        }
        CfaRule::Expression(expression) => {
            let steps = steps(expression).unwrap_or_default();
            match (stub(&steps), rbp) {
                (Some(from), Some(Saved::Not)) => return Rule::Plt(from),
                _ => pointed(&steps),
            }
        }
    };
    match (cfa, rbp) {
        (Some(cfa), Some(rbp)) => Rule::Frame { cfa, rbp },
        _ => Rule::Invalid,
    }
}

/// The rule of a row whose return address is in rdi.
fn held(row: &UnwindTableRow<usize>) -> Rule {
    let keeps = matches!(row.register(RBP), None | Some(RegisterRule::Undefined | RegisterRule::SameValue));
    match row.cfa() {
        CfaRule::RegisterAndOffset { register: RSP, offset } if keeps => {
            i16::try_from(*offset).map_or(Rule::Invalid, |above| Rule::Held { above, by: Holder::Rdi })
        }
        CfaRule::RegisterAndOffset { .. } | CfaRule::Expression(_) => Rule::Invalid,
    }
}

/// Where the frame is of which another register than rsp and rbp, that no walk carries, has the address, less `offset` bytes.
///
/// Assembly that moves rsp as it likes says so, row by row, of a register that points to the return address. It begins with a copy of
/// rsp and pushes registers: a row of one push has rsp where the last of them lies. And it ends by taking the frame's address from where
/// it was into a register, from which it restores the others: where it was it is still, for rsp moves last of all. What
/// compilers write to align a frame looks alike, but for a register that points above the return address.
fn by_another(row: &UnwindTableRow<usize>, offset: i32, before: Option<Cfa>) -> Option<Cfa> {
    if offset != 8 {
        return None;
    }
    if is_one_push(row) {
        let saved = row.registers().map(|(_, rule)| match rule {
            RegisterRule::Offset(above) => Some(*above),
            _ => None,
        });
        let lowest = saved.min()??; // none is less than some
        return Some(Cfa::Rsp(i32::try_from(-lowest).ok()?));
    }
    match before? {
        Cfa::AtRsp(inner, outer) => Some(Cfa::AtRsp(inner, outer)),
        // Far below: the register is no copy of rsp, which is to leave it.
        Cfa::Rsp(above) if above > 8 => Some(Cfa::Rsp(above)),
        // What it was below may be gone by now.
        Cfa::Rsp(_) | Cfa::Rbp(_) | Cfa::AtRbp(..) => None,
    }
}

/// Where `row` has the frame, if that stays true when a register takes it from there: not after a push, which another may follow.
fn lasting(row: &UnwindTableRow<usize>, rule: Rule) -> Option<Cfa> {
    let Rule::Frame { cfa, .. } = rule else { return None };
    let by_another =
        matches!(row.cfa(), CfaRule::RegisterAndOffset { register, .. } if !matches!(*register, RSP | RBP));
    (!(by_another && is_one_push(row))).then_some(cfa)
}

/// Whether `row` is no longer than a push.
fn is_one_push(row: &UnwindTableRow<usize>) -> bool {
    row.end_address().saturating_sub(row.start_address()) <= 2
}

fn operations<'a, S>(
    section: &S,
    encoding: gimli::Encoding,
    expression: &UnwindExpression<usize>,
) -> Option<Vec<Operation<Bytes<'a>>>>
where
    S: UnwindSection<Bytes<'a>>,
{
    let mut steps = expression.get(section).ok()?.operations(encoding);
    let mut known = Vec::new();
    while let Some(step) = steps.next().ok()? {
        if known.len() == OPERATIONS_MAX {
            return None;
        }
        known.push(step);
    }
    Some(known)
}

/// `rsp + 8 + ((rip & 15) >= n) * 8`, which linkers write for their stubs: n.
fn stub(steps: &[Operation<Bytes<'_>>]) -> Option<u8> {
    const RIP: Register = Register(16);
    let [
        Operation::RegisterOffset { register: RSP, offset: 8, .. },
        Operation::RegisterOffset { register: RIP, offset: 0, .. },
        Operation::UnsignedConstant { value: 15 },
        Operation::And,
        Operation::UnsignedConstant { value: from @ 0..16 },
        Operation::Ge,
        Operation::UnsignedConstant { value: 3 },
        Operation::Shl,
        Operation::Plus,
    ] = steps
    else {
        return None;
    };
    u8::try_from(*from).ok()
}

/// `*(register + n) + m`.
fn pointed(steps: &[Operation<Bytes<'_>>]) -> Option<Cfa> {
    let (register, inner, outer) = match steps {
        [
            Operation::RegisterOffset { register, offset, .. },
            Operation::Deref { size: 8, space: false, .. },
        ] => (*register, *offset, 0),
        [
            Operation::RegisterOffset { register, offset, .. },
            Operation::Deref { size: 8, space: false, .. },
            Operation::PlusConstant { value },
        ] => (*register, *offset, *value),
        _ => return None,
    };
    let (inner, outer) = (i16::try_from(inner).ok()?, i16::try_from(outer).ok()?);
    match register {
        RSP => Some(Cfa::AtRsp(inner, outer)),
        RBP => Some(Cfa::AtRbp(inner, outer)),
        _ => None,
    }
}
