//! Names of the stubs through which a file calls libraries.
//!
//! In: an ELF file and the address of one of its stubs. Out: the function that it leads to, as `strlen@plt`. No table of symbols has them: a
//! stub jumps through a word that the loader fills in, and the loader's own list says with what. Read when a stub was sampled, and not before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustc_hash::FxHashMap;

use super::super::protocol::NAME_BYTES_MAX;
use super::elf::{Reader, Section, malformed, number};

/// Bytes of one of the loader's lists at most, and of the symbols and texts that it refers to. Of the largest libraries known it is a tenth of that.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// Bytes that the names of a file's stubs take at most, with their places in the map: large libraries have ten thousand of them. Those behind
/// have none.
const NAMES_BYTES_MAX: usize = 8 << 20;
/// Sections of stubs at most: as many as there are names for them.
pub(super) const SECTIONS_MAX: usize = 5;
/// All stubs lie in pieces of that many bytes, one or two of them in each.
const PIECE_BYTES: usize = 16;

/// The stubs of a file.
#[derive(Debug, Default)]
pub(super) struct Stubs(Option<Known>);

/// What the file says of them.
#[derive(Debug, Default)]
struct Known {
    sections: Vec<Section>,
    /// What the loader writes, by where.
    names: FxHashMap<u64, String>,
    /// What was not read because there is too much of it: lists, and names.
    left_out: u64,
}

/// Whether a section with the name `name` has such stubs, and nothing else.
pub(super) fn is_stubs(name: &[u8]) -> bool {
    matches!(name, b".plt" | b".plt.sec" | b".plt.got" | b".plt.bnd" | b".iplt")
}

impl Stubs {
    /// What the stub at `address` of `file`, which is the same each time, leads to.
    pub(super) fn name(&mut self, file: &File, address: u64) -> Option<String> {
        let known = self.0.get_or_insert_with(|| {
            let mut known = Known::default();
            // What is read until something makes no sense is right.
            let _ = known.read(file);
            known
        });
        let inside = |section: &&Section| {
            address.checked_sub(section.address()).is_some_and(|inside| inside < section.bytes())
        };
        let section = known.sections.iter().find(inside)?;
        let begins = address & !(PIECE_BYTES as u64 - 1);
        let offset = begins.checked_sub(section.address())?.checked_add(section.offset())?;
        let mut piece = [0; PIECE_BYTES];
        file.read_exact_at(&mut piece, offset).ok()?;
        let words = words(&piece, begins).into_iter().rev();
        // The second of two begins in the middle.
        let mut reached = words
            .filter(|(at, _)| *at < PIECE_BYTES as u64 / 2 || address - begins >= PIECE_BYTES as u64 / 2);
        let name = reached.find_map(|(_, word)| known.names.get(&word))?;
        Some(format!("{}@plt", demangled(name)))
    }

    /// Lists that were too large to be read, and names for which there was no room, since this was asked last.
    pub(super) fn take_left_out(&mut self) -> u64 {
        self.0.as_mut().map_or(0, |known| std::mem::take(&mut known.left_out))
    }
}

/// Where a piece of code that lies at `address` may jump through a word: where in it, and which.
fn words(piece: &[u8; PIECE_BYTES], address: u64) -> Vec<(u64, u64)> {
    const JUMP_BYTES: u64 = 6;
    let jumps = (0..).zip(piece.windows(6)).filter_map(|(at, window)| match *window {
        [0xff, 0x25, a, b, c, d] => {
            let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
            Some((at, address.wrapping_add(at + JUMP_BYTES).wrapping_add_signed(distance)))
        }
        _ => None,
    });
    jumps.collect()
}

/// As the names in tables of symbols are shown.
fn demangled(name: &str) -> String {
    let demangled = cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle().ok());
    demangled.unwrap_or_else(|| name.to_owned())
}

impl Known {
    fn read(&mut self, file: &File) -> io::Result<()> {
        const ENTRY_BYTES: usize = 24;
        const FILLED_IN: [u64; 2] = [6, 7]; // with the address of a symbol: at the start, when it is called first
        let reader = Reader::new(file)?;
        if !reader.is_wide() {
            return Err(malformed());
        }
        let (mut lists, mut symbols, mut texts) = ([None; 2], None, None);
        reader.sections(|name, section| {
            match name {
                b".rela.plt" => lists[0] = Some(*section),
                b".rela.dyn" => lists[1] = Some(*section),
                b".dynsym" => symbols = Some(*section),
                b".dynstr" => texts = Some(*section),
                name if is_stubs(name) && section.is_code() => {
                    if self.sections.len() < SECTIONS_MAX {
                        self.sections.push(*section);
                    } else {
                        self.left_out += 1;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        let left_out = &mut self.left_out;
        let mut read = |section: Option<Section>| {
            let section = section.filter(|section| !section.is_elsewhere()).ok_or_else(malformed)?;
            *left_out += u64::from(section.bytes() > LIST_BYTES_MAX);
            reader.read(section.offset(), section.bytes(), LIST_BYTES_MAX)
        };
        let (symbols, texts) = (read(symbols)?, read(texts)?);
        let lists = lists.map(|list| list.map(|list| read(Some(list))));
        let mut room = NAMES_BYTES_MAX;
        for list in lists.into_iter().flatten() {
            for entry in list?.chunks_exact(ENTRY_BYTES) {
                let info = number(entry, 8, 8)?;
                if !FILLED_IN.contains(&(info & 0xffff_ffff)) {
                    continue;
                }
                let name =
                    usize::try_from(info >> 32).ok().and_then(|index| name_of(&symbols, &texts, index));
                let Some(name) = name else { continue };
                let Some(left) = room.checked_sub(name.len() + size_of::<(u64, String)>()) else {
                    self.left_out += 1;
                    continue;
                };
                room = left;
                self.names.insert(number(entry, 0, 8)?, name);
            }
        }
        Ok(())
    }
}

/// The name of the symbol with that index, as far as it is shown.
fn name_of(symbols: &[u8], texts: &[u8], index: usize) -> Option<String> {
    const SYMBOL_BYTES: usize = 24;
    let begins = usize::try_from(number(symbols, index.checked_mul(SYMBOL_BYTES)?, 4).ok()?).ok()?;
    let text = texts.get(begins..)?;
    let text = text[..text.len().min(NAME_BYTES_MAX)].split(|&byte| byte == 0).next()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(piece: [u8; 16], expected: &[(u64, u64)]) {
        assert_eq!(words(&piece, 0x1000), expected);
    }

    #[test]
    fn a_stub_is_known_by_the_word_that_it_jumps_through() {
        let lazy = [0xff, 0x25, 0x10, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff];
        check(lazy, &[(0, 0x1016)]);
        let marked = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 1, 0, 0, 0x66, 0x0f, 0x1f, 0x44, 0, 0];
        check(marked, &[(4, 0x110a)]);
        let two = [0xff, 0x25, 0xfa, 0xff, 0xff, 0xff, 0x66, 0x90, 0xff, 0x25, 2, 0, 0, 0, 0x66, 0x90];
        check(two, &[(0, 0x1000), (8, 0x1010)]);
        check([0x90; 16], &[]);
    }
}
