//! Where the code is that a table of functions is about.
//!
//! In: the table, and what is said of it. Out: the place, proven by the code itself. Go 1.26 does not say in the table, and before it
//! said so by a relocation where code may lie anywhere: so the instruction that makes a function's frame must stand where the table
//! says that it is made.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::super::elf::{Segment, malformed};
use super::{ASSEMBLY, Code, MOVES_STACK, Pclntab, TOP_FRAME};

/// Functions whose frames are looked for.
const FRAMES: usize = 64;
/// Bytes of code that these may take: assembly without frames comes first in some programs.
const FRAMES_BYTES_MAX: usize = 4 << 20;
/// How far into a segment C code may come first.
const BEFORE_BYTES_MAX: usize = 16 << 20;
/// What linkers align Go's code to.
const ALIGNMENT: usize = 16;

/// Finds the code of `table` in one of the segments `code`; `said` are addresses where it may begin.
pub(super) fn find(table: &mut Pclntab, file: &File, code: &[Segment], said: &[u64]) -> io::Result<Code> {
    let frames = frames(table, file);
    let last = frames.last().ok_or_else(malformed)?.place as usize;
    let whole = table.begins().last().map_or(0, u64::from);
    let code_at = |segment: &Segment, begins: u64| Code {
        offset: segment.offset + begins,
        address: segment.address.wrapping_add(begins),
        bytes: segment.bytes - begins,
    };
    let fits = |bytes: &[u8], begins: usize| frames.iter().all(|frame| frame.is_made(bytes, begins));
    for segment in code {
        let Some(room) = segment.bytes.checked_sub(whole) else { continue };
        for &address in said {
            let Some(begins) = address.checked_sub(segment.address).filter(|&begins| begins <= room) else {
                continue;
            };
            let mut bytes = vec![0; last];
            let read = file.read_exact_at(&mut bytes, segment.offset.saturating_add(begins));
            if read.is_ok() && fits(&bytes, 0) {
                return Ok(code_at(segment, begins));
            }
        }
    }
    for segment in code {
        let Some(room) = segment.bytes.checked_sub(whole) else { continue };
        let wanted = usize::try_from(segment.bytes).unwrap_or(usize::MAX).min(BEFORE_BYTES_MAX + last);
        let mut bytes = vec![0; wanted];
        file.read_exact_at(&mut bytes, segment.offset)?;
        let mut places = (0..bytes.len()).step_by(ALIGNMENT).take_while(|&begins| begins as u64 <= room);
        if let Some(begins) = places.find(|&begins| fits(&bytes, begins)) {
            return Ok(code_at(segment, begins as u64));
        }
    }
    Err(malformed())
}

/// Where some of the first functions make their frames, in order.
fn frames(table: &mut Pclntab, file: &File) -> Vec<FrameMade> {
    let mut frames: Vec<FrameMade> = Vec::new();
    let functions = table.functions.len().saturating_sub(1);
    for index in 0..functions {
        let begins = table.functions[index].0;
        if begins as usize > FRAMES_BYTES_MAX || frames.len() == FRAMES {
            break;
        }
        let Ok(described) = table.describe(file, index) else { continue };
        if described.flags & (ASSEMBLY | MOVES_STACK | TOP_FRAME) != 0 || described.stack == 0 {
            continue;
        }
        let mut made = None;
        let read = table.each_value(file, described.stack, |range, moved| {
            if moved > 0 {
                made = Some((range.start, moved));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let (Ok(()), Some((from, moved))) = (read, made) {
            let place = begins.checked_add(from).filter(|&place| place as usize <= FRAMES_BYTES_MAX);
            frames.extend(place.map(|place| FrameMade { place, moved }));
        }
    }
    frames.sort_unstable_by_key(|frame| frame.place);
    frames
}

/// A place before which a function's frame is made.
#[derive(Clone, Copy, Debug)]
struct FrameMade {
    place: u32,
    moved: i32,
}

impl FrameMade {
    /// True if the instruction before the place makes the frame, where the code begins at `begins` of `bytes`.
    fn is_made(&self, bytes: &[u8], begins: usize) -> bool {
        let Some(before) = bytes.get(..begins + self.place as usize) else { return false };
        let moved = self.moved.to_le_bytes();
        (self.moved == 8 && before.ends_with(&[0x55]))
            || before.ends_with(&[0x48, 0x83, 0xec, moved[0]])
            || before.ends_with(&[0x48, 0x83, 0xc4, moved[0].wrapping_neg()])
            || before.ends_with(&[0x48, 0x81, 0xec, moved[0], moved[1], moved[2], moved[3]])
    }
}
