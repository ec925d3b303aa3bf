//! Names of code that was made at run time, by what its maker wrote down: a perf map.
//!
//! In: a part of an open file, and addresses. Out: the function at each. A line is `START SIZE NAME`, both numbers hexadecimal;
//! whoever makes code adds lines for as long as it runs, and code that is moved or replaced is written down again: of
//! several lines for an address the last one holds. Nothing is kept: the file is read through for every question, with no more
//! memory than the answer takes, at half a gigabyte a second and more. It is read, not mapped, so it may grow, shrink and change
//! meanwhile. Not here: which file, and how much of it may be read.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::protocol::{Found, NAME_BYTES_MAX, Names, Refusal};
use super::lines::{each_line, hexadecimal};
use super::writer::Writer;

/// No line says anything of this address.
const NOWHERE: u64 = u64::MAX;
/// Bytes of a line that are of interest: two numbers with their spaces, and a name of which every byte becomes a character.
const LINE_BYTES: usize = 40 + NAME_BYTES_MAX;

/// What the bytes `part` of `file` call the code at `addresses`, which ascend.
pub(super) fn names(file: &File, part: Range<u64>, addresses: &[u64]) -> Result<Names, Refusal> {
    if !file.metadata().is_ok_and(|is| is.is_file()) {
        return Err(Refusal::NotRegular);
    }
    if part.start > part.end || !addresses.is_sorted() {
        return Err(Refusal::Nonsense);
    }
    // Where the last line begins that covers an address.
    let mut places = vec![NOWHERE; addresses.len()];
    // What comes before the first line feed of a part began before it.
    let mut is_whole = part.start == 0;
    let begin = part.start;
    each_line(Part { file, part }, |at, line| {
        if !std::mem::replace(&mut is_whole, true) {
            return;
        }
        let Some(entry) = Entry::read(line) else { return };
        let covered = entry.of(addresses);
        places[covered].fill(begin + at);
    })
    .map_err(|_| Refusal::Unopenable)?;

    let mut writer = Writer::default();
    let mut line = [0; LINE_BYTES];
    let mut last = NOWHERE;
    let mut filled = 0;
    for (&address, &place) in addresses.iter().zip(&places) {
        if place != NOWHERE && place != last {
            // Neighbours are mostly of one function.
            (last, filled) = (place, file.read_at(&mut line, place).unwrap_or(0));
        }
        let found = if place == NOWHERE { None } else { name_in(&line[..filled], address) };
        let found = found.filter(|_| writer.has_room()).map_or(Found::Nothing, |name| {
            Found::Named(vec![writer.place(&String::from_utf8_lossy(name), "", 0)])
        });
        writer.names.found.push(found);
    }
    Ok(writer.names)
}

/// The name in the line that `bytes` begin with, if it still covers `address`: the file may have been written anew.
fn name_in(bytes: &[u8], address: u64) -> Option<&[u8]> {
    let line = bytes.split(|&byte| byte == b'\n').next()?;
    let entry = Entry::read(line)?;
    (!entry.of(&[address]).is_empty()).then_some(entry.name)
}

/// A line.
struct Entry<'a> {
    start: u64,
    /// The last address.
    last: u64,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    /// What `line` says; `None` if it makes no sense, says nothing of any address, or has no name.
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.trim_ascii().splitn(3, |&byte| byte == b' ');
        let mut number = || {
            let digits = fields.next()?;
            hexadecimal(digits.strip_prefix(b"0x").unwrap_or(digits))
        };
        let (start, bytes) = (number()?, number()?);
        let name = fields.next()?.trim_ascii_start();
        let last = start.checked_add(bytes.checked_sub(1)?)?;
        (!name.is_empty()).then_some(Self { start, last, name })
    }

    /// Which of `addresses` it covers.
    fn of(&self, addresses: &[u64]) -> Range<usize> {
        let from = addresses.partition_point(|&address| address < self.start);
        let count = addresses[from..].partition_point(|&address| address <= self.last);
        from..from + count
    }
}

/// A part of a file, from its beginning to its end.
struct Part<'a> {
    file: &'a File,
    part: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.part.end - self.part.start).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.part.start)?;
        self.part.start += read as u64;
        Ok(read)
    }
}

/// Names at `addresses`, in ascending order, by the perf map `file`; `None` where it has none. In this process and not in the
/// namer, which is where strangers' files are read: for tests.
pub fn perf_map_names_of(file: &File, part: Range<u64>, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    let Names { strings, found, .. } = names(file, part, addresses).ok()?;
    let name = |found| match found {
        Found::Named(places) => strings.get(usize::try_from(places.first()?.name).ok()?).cloned(),
        Found::Bare(_) | Found::Nothing => None,
    };
    Some(found.into_iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn file(text: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(text, 0).unwrap();
        file
    }

    /// The names at `addresses`, with `-` where there is none.
    #[track_caller]
    fn check_part(text: &[u8], part: Range<u64>, addresses: &[u64], expected: &str) {
        let names = perf_map_names_of(&file(text), part, addresses).unwrap();
        let names: Vec<String> = names.into_iter().map(|name| name.unwrap_or_else(|| "-".into())).collect();
        assert_eq!(names.join(" "), expected);
    }

    #[track_caller]
    fn check(text: &[u8], addresses: &[u64], expected: &str) {
        check_part(text, 0..text.len() as u64, addresses, expected);
    }

    #[test]
    fn an_address_belongs_to_the_line_that_covers_it() {
        check(b"1000 20 a\n0x1020 0x10 b\n", &[0xfff, 0x1000, 0x101f, 0x1020, 0x102f, 0x1030], "- a a b b -");
    }

    #[test]
    fn a_name_may_have_spaces_and_any_bytes() {
        check(b"10 10 void A::f(int, char)\r\n", &[0x10], "void A::f(int, char)");
        check(b"10 10 a\xff\x1b[31m\n", &[0x10], "a\u{fffd}?[31m");
    }

    #[test]
    fn of_several_lines_the_last_one_holds() {
        check(b"10 10 old\n10 10 new\n", &[0x10, 0x1f], "new new");
        check(b"10 30 old\n20 10 new\n", &[0x18, 0x28, 0x38], "old new old");
        check(b"20 10 old\n10 30 new\n", &[0x18, 0x28, 0x38], "new new new");
    }

    #[test]
    fn the_last_line_may_lack_its_end() {
        check(b"10 10 a\n20 10 b", &[0x10, 0x20], "a b");
    }

    #[test]
    fn rubbish_is_passed_over() {
        check(
            b"\n\n \n10\n10 10\n10 10 \nxx 10 a\n10 yy a\n10 0 a\n-1 5 a\n \xff\n30 1 good",
            &[0x10, 0x30],
            "- good",
        );
        check(b"ffffffffffffffff 2 beyond\nfffffffffffffff0 10 top\n", &[u64::MAX], "top");
        check(b"0 ffffffffffffffff all\n", &[0, u64::MAX - 2, u64::MAX], "all all -");
        check(&[0; 200_000], &[0x10], "-");
    }

    #[test]
    fn a_name_without_an_end_is_cut() {
        let mut text = b"10 10 ".to_vec();
        text.resize(50_000, b'n');
        let names = perf_map_names_of(&file(&text), 0..50_000, &[0x10]).unwrap();
        assert!(names[0].as_ref().unwrap().len() <= NAME_BYTES_MAX);
    }

    #[test]
    fn a_part_begins_with_its_first_whole_line() {
        let text = b"10 10 a\n20 10 b\n";
        check_part(text, 1..16, &[0x10, 0x20], "- b");
        check_part(text, 0..8, &[0x10, 0x20], "a -");
        // Where it begins may be the middle of a number.
        check_part(b"aa10 10 a\n20 10 b\n", 2..18, &[0x10, 0x20], "- b");
    }

    #[test]
    fn a_file_may_be_shorter_than_it_was() {
        check_part(b"10 10 a\n", 0..1 << 40, &[0x10], "a");
        check_part(b"10 10 a\n", 1 << 30..1 << 40, &[0x10], "-");
    }

    #[test]
    fn a_pipe_and_addresses_out_of_order_are_refused() {
        let (pipe, _other) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert_eq!(names(&pipe, 0..10, &[1]).unwrap_err(), Refusal::NotRegular);
        assert_eq!(names(&file(b""), 0..10, &[2, 1]).unwrap_err(), Refusal::Nonsense);
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let backwards = 10..1;
        assert_eq!(names(&file(b""), backwards, &[1]).unwrap_err(), Refusal::Nonsense);
    }
}
