//! Names in Go programs, from Go's own table of functions.
//!
//! In: a file and places in its code. Out: functions with files and lines, inlined ones first, as Go prints them itself: a stripped
//! program has them like any other, and no debug information is read. Not here: code in C, which the table does not know.

use std::fs::File;
use std::io;

use super::super::protocol::{Found, INLINED_MAX, Place};
use super::elf::Reader;
use super::pclntab::Pclntab;
use super::writer::Writer;

/// A Go program.
pub(super) struct GoNames(Pclntab);

impl GoNames {
    /// The Go program in `file`; none if it is not one, or not one that can be read.
    pub(super) fn open(file: &File) -> Option<Self> {
        let reader = Reader::new(file).ok()?;
        let mut table = None;
        let is_table = |name: &[u8]| reader.is_wide() && Pclntab::is_section(name);
        let sections = reader.sections(|name, section| {
            if is_table(name) {
                table = Some(*section);
            }
            Ok(())
        });
        let table = table.filter(|_| sections.is_ok())?;
        Pclntab::read(file, &reader, &table).ok().map(Self)
    }

    /// Adds what is at `offset` of `file` to an answer; `inlines`: with inlined functions, files and lines. Nothing if no Go is there.
    pub(super) fn name(
        &mut self,
        file: &File,
        offset: u64,
        inlines: bool,
        writer: &mut Writer,
    ) -> io::Result<Option<Found>> {
        let Self(table) = self;
        let place = offset.checked_sub(table.code().offset).and_then(|place| table.function_at(place));
        let Some((index, mut place)) = place else { return Ok(None) };
        let described = table.describe(file, index)?;
        let mut places = Vec::new();
        while inlines && places.len() < INLINED_MAX {
            let Some(inlined) = table.inlined(file, &described, place)? else { break };
            let name = shown(table.inlined_name(file, inlined)?);
            if name.is_empty() {
                break;
            }
            let line = table.line(file, &described, place)?.unwrap_or(0);
            let path = table.file(file, &described, place)?.unwrap_or_default();
            places.push(writer.place(&name, &String::from_utf8_lossy(path), line));
            place = inlined.parent;
        }
        let name = shown(table.name(file, &described)?);
        if name.is_empty() {
            return Ok(None);
        }
        // What has no file and no line has no Go code: it marks where C code begins.
        let (mut line, mut path) = (0, String::new());
        if inlines {
            line = table.line(file, &described, place)?.unwrap_or(0);
            path = String::from_utf8_lossy(table.file(file, &described, place)?.unwrap_or_default())
                .into_owned();
        }
        places.push(writer.place(&name, &path, line));
        Ok(Some(Found::Named(places)))
    }
}

/// What Go's own table says is at each of `offsets` of `file`, innermost first, as `function file:line`; nothing if it has no such table.
/// Read in this process and not in the namer, which is where strangers' files are read: for files that are trusted.
pub fn go_names_of(file: &File, offsets: &[u64]) -> Option<Vec<Vec<String>>> {
    let mut go = GoNames::open(file)?;
    let named = offsets.iter().map(|&offset| {
        let mut writer = Writer::default();
        let Ok(Some(Found::Named(places))) = go.name(file, offset, true, &mut writer) else {
            return Vec::new();
        };
        let text = |index: u32| writer.names.strings.get(index as usize).map_or("", String::as_str);
        let shown = |place: &Place| format!("{} {}:{}", text(place.name), text(place.file), place.line);
        places.iter().map(shown).collect()
    });
    Some(named.collect())
}

/// A name as Go prints it: of a generic function's types it says only that there are some.
fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => format!("{}[...]{}", &name[..open], &name[close + 1..]),
        _ => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::FileExt;

    use super::super::rows::go_program;
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(shown(name.as_bytes()), expected);
    }

    #[test]
    fn a_generic_function_does_not_say_of_which_types() {
        check("main.(*shelf[go.shape.string]).each", "main.(*shelf[...]).each");
        check("main.f[go.shape.struct { a []int }]", "main.f[...]");
        check("main.main", "main.main");
        check("odd]name[", "odd]name[");
    }

    /// What is at places of the small program that fuzzing starts from: a function with an inlined call, and another one.
    #[test]
    fn a_small_program_is_named() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/go_names/program");
        let names = go_names_of(&File::open(path).unwrap(), &[0x1000, 0x1009, 0x1028, 0x1040]).unwrap();
        let shown: Vec<_> = names.iter().map(|names| names.join("<")).collect();
        assert_eq!(shown, ["main.a /a.go:10", "main.in /a.go:11<main.a /a.go:10", "main.b /b.go:20", ""]);
    }

    /// Names every so many bytes of the code, and says how many places have one.
    fn named(file: &File) -> Option<usize> {
        let mut go = GoNames::open(file)?;
        let code = go.0.code();
        let mut writer = Writer::default();
        let places = (code.offset..code.offset + 40_000).step_by(401);
        let found = places.filter_map(|offset| go.name(file, offset, true, &mut writer).ok().flatten());
        Some(found.count())
    }

    #[test]
    fn whatever_is_wrong_in_a_program_naming_ends() {
        let Some(file) = go_program() else { return };
        assert!(named(&file).unwrap() > 50);
        let reader = Reader::new(&file).unwrap();
        let mut sections = Vec::new();
        reader
            .sections(|name, section| {
                if matches!(name, b".gopclntab" | b".go.module" | b".noptrdata") {
                    sections.push(*section);
                }
                Ok(())
            })
            .unwrap();
        for section in sections {
            let bytes = section.bytes();
            let spread = usize::try_from(bytes / 20).unwrap();
            for at in (0..160).step_by(4).chain((160..bytes).step_by(spread)) {
                let mut word = [0; 4];
                if file.read_exact_at(&mut word, section.offset() + at).is_err() {
                    continue;
                }
                for wrong in [u32::MAX, 1] {
                    file.write_all_at(&wrong.to_le_bytes(), section.offset() + at).unwrap();
                    assert!(named(&file).is_none_or(|named| named <= 100));
                }
                file.write_all_at(&word, section.offset() + at).unwrap();
            }
        }
        assert!(named(&file).unwrap() > 50, "it is as it was");
    }
}
