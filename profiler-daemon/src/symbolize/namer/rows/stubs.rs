//! Rules of the stubs through which a file calls libraries, where its linker wrote none: lld and mold do not.
//!
//! In: the code of a section with nothing but stubs. Out: how far the stack pointer has moved, place by place. They are a jump through a word, or
//! a push and a jump, in sixteen bytes each, with a longer one at the front that pushes once more. Not here: their names.

use std::fs::File;
use std::os::unix::fs::FileExt;

use profiler_common::unwind::table::{Cfa, Rule, Saved};

use super::super::elf::Section;

/// Bytes of one section of stubs at most: sixty thousand of them. The largest libraries have ten thousand.
pub(super) const STUBS_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a stub.
const STUB_BYTES: usize = 16;
/// Bytes of a word that is pushed.
const PUSHED_BYTES: i32 = 8;

/// Appends to `rules` those of the stubs in `section` of `file`, each with the address from which it holds.
pub(super) fn rules(file: &File, section: &Section, rules: &mut Vec<(u64, Rule)>) {
    let Ok(bytes) = usize::try_from(section.bytes().min(STUBS_BYTES_MAX)) else { return };
    let mut code = vec![0; bytes];
    if !section.address().is_multiple_of(STUB_BYTES as u64)
        || file.read_exact_at(&mut code, section.offset()).is_err()
    {
        return;
    }
    let mut put = |address: u64, rule: Rule| {
        if rules.last().is_none_or(|(_, last)| *last != rule) {
            rules.push((address, rule));
        }
    };
    for (begins, stub) in (section.address()..).step_by(STUB_BYTES).zip(code.chunks(STUB_BYTES)) {
        // A stub has pushed which function is wanted before it comes to the first one, which pushes where from; that one is known by that.
        let is_first = begins == section.address() && stub.starts_with(&[0xff, 0x35]);
        let mut above = PUSHED_BYTES * if is_first { 2 } else { 1 };
        let pushes = pushes(stub);
        match (is_first, &*pushes) {
            (false, [from]) if *from > 0 => put(begins, Rule::Plt(*from)),
            (_, pushes) => {
                put(begins, frame(above));
                for from in pushes {
                    above += PUSHED_BYTES;
                    put(begins + u64::from(*from), frame(above));
                }
            }
        }
    }
}

fn frame(above: i32) -> Rule {
    Rule::Frame { cfa: Cfa::Rsp(above), rbp: Saved::Not }
}

/// Where in a stub something has just been pushed. What is no instruction of a stub ends it.
fn pushes(stub: &[u8]) -> Vec<u8> {
    let mut pushes = Vec::new();
    let (mut at, mut rest) = (0, stub);
    loop {
        let (bytes, is_push) = match rest {
            [0xf3, 0x0f, 0x1e, 0xfa, ..] => (4, false), // endbr64
            [0xf2, ..] => (1, false),                   // before a jump
            [0xff, 0x25, ..] => (6, false),             // jmp *word
            [0x41, 0xbb, ..] => (6, false),             // mov $number, %r11d
            [0xff, 0x35, ..] => (6, true),              // push word
            [0x68, ..] => (5, true),                    // push $number
            [0x41, 0x53, ..] => (2, true),              // push %r11
            _ => return pushes,
        };
        at += bytes;
        rest = stub.get(usize::from(at)..).unwrap_or_default();
        if is_push {
            pushes.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stub: &[u8], expected: &[u8]) {
        assert_eq!(pushes(stub), expected);
    }

    #[test]
    fn a_lazy_stub_pushes_when_its_word_leads_back_to_it() {
        check(&[0xff, 0x25, 1, 2, 3, 4, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0], &[11]);
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x68, 0, 0, 0, 0, 0xf2, 0xe9, 0, 0, 0, 0, 0x90], &[9]);
    }

    #[test]
    fn others_push_nothing() {
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 1, 2, 3, 4, 0x66, 0x0f, 0x1f, 0x44, 0, 0], &[]);
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0xbb, 0, 0, 0, 0, 0xff, 0x25, 1, 2, 3, 4], &[]);
        check(&[0xcc; 16], &[]);
        check(&[], &[]);
    }

    #[test]
    fn the_first_one_pushes_more() {
        check(&[0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25, 1, 2, 3, 4, 0x0f, 0x1f, 0x40, 0], &[6]);
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x53, 0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25, 1, 2], &[6, 12]);
    }
}
