//! Rules from Go's table of functions, which every Go program has, stripped or not.
//!
//! In: the table. Out: functions, and for each how far the stack pointer has moved, place by place. Go keeps frame pointers too, but not
//! in functions that need no frame, whose caller would be lost. Not here: how the table is read.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use profiler_common::unwind::table::{Cfa, Holder, Rule, Saved};

use super::super::elf::{Reader, Section};
use super::super::pclntab::{ASSEMBLY, MOVES_STACK, Pclntab, TOP_FRAME};

/// The function that a signal handler returns to, by its names.
const TRAMPOLINES: [&[u8]; 2] = [b"runtime.sigreturn__sigaction", b"runtime.sigreturn"];

/// The function that takes its return address from the stack, and has it in r12 until its child is gone from there.
const VFORK: &[u8] = b"syscall.rawVforkSyscall";

/// A Go program.
#[derive(Debug)]
pub(super) struct Go(Pclntab);

impl Go {
    /// Reads the table in `section` of `file`.
    pub(super) fn read(file: &File, reader: &Reader<'_>, section: &Section) -> io::Result<Self> {
        Pclntab::read(file, reader, section).map(Self)
    }

    /// Hands `(address, offset in the file, bytes, number)` of each function to `found`.
    pub(super) fn functions(&self, mut found: impl FnMut(u64, u64, u64, u32)) {
        let code = self.0.code();
        let functions = self.0.begins().zip(self.0.begins().skip(1));
        for (number, (begins, ends)) in (0..).zip(functions) {
            let (begins, ends) = (u64::from(begins), u64::from(ends).min(code.bytes));
            if begins < ends {
                found(code.address.wrapping_add(begins), code.offset + begins, ends - begins, number);
            }
        }
    }

    /// Appends to `rules` those of the function with `number`, each with the address from which it holds.
    pub(super) fn rules(&mut self, file: &File, number: u32, rules: &mut Vec<(u64, Rule)>) {
        let Some(begins) = self.0.begin(number as usize) else { return };
        let address = self.0.code().address.wrapping_add(u64::from(begins));
        if self.read_rules(file, number as usize, begins, address, rules).is_err() {
            rules.push((address, Rule::Invalid));
        }
    }

    fn read_rules(
        &mut self,
        file: &File,
        index: usize,
        begins: u32,
        address: u64,
        rules: &mut Vec<(u64, Rule)>,
    ) -> io::Result<()> {
        let described = self.0.describe(file, index)?;
        if described.flags & TOP_FRAME != 0 {
            rules.push((address, Rule::Stop));
            return Ok(());
        }
        if described.flags & MOVES_STACK != 0 {
            // Its frame pointer still is that of the stack it came from.
            rules.push((address, Rule::Elsewhere));
            return Ok(());
        }
        if described.flags & ASSEMBLY != 0 && TRAMPOLINES.contains(&self.0.name(file, &described)?) {
            rules.push((address, Rule::Signal));
            return Ok(());
        }
        if described.stack == 0 {
            rules.push((address, Rule::Pointer)); // data among the code, or a mark
            return Ok(());
        }
        let mut steps = Vec::new();
        self.0.each_value(file, described.stack, |range, moved| {
            steps.push((range.start, moved));
            ControlFlow::Continue(())
        })?;
        let shares = described.flags & ASSEMBLY != 0 && self.0.name(file, &described)? == VFORK;
        let keeps = described.flags & ASSEMBLY == 0 || self.pushes(file, begins, &steps);
        for (from, moved) in steps {
            let rbp = if keeps && moved >= 8 { Saved::Cfa(-16) } else { Saved::Not };
            let rule = match moved.checked_add(8) {
                Some(above) if moved >= 0 => Rule::Frame { cfa: Cfa::Rsp(above), rbp },
                Some(0) if shares => Rule::Held { above: 0, by: Holder::R12 },
                Some(_) | None => Rule::Invalid,
            };
            rules.push((address + u64::from(from), rule));
        }
        Ok(())
    }

    /// True if a function in assembly makes its frame by pushing the frame pointer, as the assembler does for it.
    fn pushes(&self, file: &File, begins: u32, steps: &[(u32, i32)]) -> bool {
        const PUSH_RBP: u8 = 0x55;
        let Some(&(from, 8)) = steps.iter().find(|(_, moved)| *moved > 0) else { return false };
        let code = self.0.code();
        let place = (u64::from(begins) + u64::from(from)).checked_sub(1);
        let Some(place) = place.filter(|&place| place < code.bytes) else { return false };
        let mut byte = [0];
        file.read_exact_at(&mut byte, code.offset + place).is_ok() && byte[0] == PUSH_RBP
    }
}
