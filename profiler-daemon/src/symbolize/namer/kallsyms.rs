//! The kernel's symbols, in little room.
//!
//! In: `/proc/kallsyms`, opened by who may see the addresses (the kernel asks the opener, not the reader). Out:
//! the name that an address belongs to. Not here: blazesym, whose own table of the same file takes an allocation
//! for every name and cannot be given a file that was opened by someone else.
//!
//! Measured, release build, kernel 6.18 with 122 000 symbols of code: 5.2 MB and 42 ms here, of which 29 ms are
//! the kernel printing; 7.6 MB and 47 ms there. So a kernel that can be asked is asked
//! (`capture/kernel_names.rs`), and this is for replays and for one that cannot.

use std::io::{self, Read};

use super::lines::{each_line, hexadecimal};

/// Symbols of code, by address.
#[derive(Debug, Default)]
pub(super) struct Kallsyms {
    symbols: Vec<Symbol>,
    /// Names, each with a newline after it.
    names: Vec<u8>,
    /// Where the kernel's code begins.
    text: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    name: u32,
    rank: u8,
}

/// A kernel of many modules has a few hundred thousand symbols.
const SYMBOLS_MAX: usize = 2_000_000;
const NAMES_BYTES_MAX: usize = 64 << 20;
/// kallsyms knows no sizes. What is further than this behind a symbol lies in no function: the largest
/// measure a tenth of it.
const REACH_MAX: u64 = 256 << 10;

impl Kallsyms {
    /// Reads all of `kallsyms`. Lines that make no sense are passed over; where the kernel hides its addresses
    /// they are all zero, and nothing is known.
    pub(super) fn read(kallsyms: impl Read) -> io::Result<Self> {
        let mut table = Self::default();
        each_line(kallsyms, |_, line| table.line(line))?;
        // Stable: of equal rank the one stays that the kernel names first.
        table.symbols.sort_by_key(|symbol| (symbol.address, symbol.rank));
        table.symbols.dedup_by_key(|symbol| symbol.address);
        table.symbols.shrink_to_fit();
        table.names.shrink_to_fit();
        Ok(table)
    }

    /// True if nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The name of the function at `address`.
    pub(super) fn name(&self, address: u64) -> Option<&str> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(after.checked_sub(1)?)?;
        if address - symbol.address >= REACH_MAX {
            return None;
        }
        let name = self.names.get(usize::try_from(symbol.name).ok()?..)?;
        let name = name.split(|&byte| byte == b'\n').next()?;
        std::str::from_utf8(name).ok()
    }

    /// Bytes from the beginning of the kernel's code: tells places apart without giving away where it lies.
    pub(super) fn distance(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.text?)
    }

    /// `ffffffff81000000 T name [module]`
    fn line(&mut self, line: &[u8]) {
        let Some((address, [b' ', kind, b' ', name @ ..])) =
            memchr::memchr(b' ', line).map(|at| line.split_at(at))
        else {
            return;
        };
        let name = memchr::memchr(b'\t', name).map_or(name, |end| &name[..end]);
        let Some(address) = hexadecimal(address) else { return };
        if address == 0 || name.is_empty() {
            return;
        }
        // Where code has several names, the one that others may use is the better known.
        let rank = match kind {
            b'T' => 0,
            b'W' | b'w' => 1,
            b't' => 2,
            _ => return,
        };
        if name == b"_text" {
            self.text = Some(address);
        }
        let Ok(at) = u32::try_from(self.names.len()) else { return };
        if self.symbols.len() >= SYMBOLS_MAX || self.names.len() + name.len() >= NAMES_BYTES_MAX {
            return;
        }
        self.symbols.push(Symbol { address, name: at, rank });
        self.names.extend_from_slice(name);
        self.names.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const KERNEL: &str = "\
ffffffff81000000 t local_alias
ffffffff81000000 T _text
ffffffff81000040 T entry
ffffffff81000080 d data_is_no_code
ffffffff81000090 t helper
ffffffffc0000000 t ext4_open\t[ext4]
ffffffff81000030 W weak
ffffffffa0000010 t bpf_prog_6deef7357e7b4530_sample\t[bpf]
";

    #[track_caller]
    fn check(address: u64, expected: Option<&str>) {
        assert_eq!(Kallsyms::read(KERNEL.as_bytes()).unwrap().name(address), expected);
    }

    #[test]
    fn an_address_belongs_to_the_symbol_before_it() {
        check(0xffff_ffff_8100_0040, Some("entry"));
        check(0xffff_ffff_8100_0085, Some("entry"));
        check(0xffff_ffff_8100_0031, Some("weak"));
    }

    #[test]
    fn of_several_names_the_global_one_is_shown() {
        check(0xffff_ffff_8100_0001, Some("_text"));
    }

    #[test]
    fn modules_and_programs_are_named() {
        check(0xffff_ffff_c000_0020, Some("ext4_open"));
        check(0xffff_ffff_a000_0020, Some("bpf_prog_6deef7357e7b4530_sample"));
    }

    #[test]
    fn far_behind_a_symbol_is_nowhere() {
        check(0xffff_ffff_8100_0000 - 1, None);
        check(0xffff_ffff_9000_0000, None);
        check(u64::MAX, None);
    }

    #[test]
    fn the_distance_from_the_beginning_is_no_address() {
        let kernel = Kallsyms::read(KERNEL.as_bytes()).unwrap();
        assert_eq!(kernel.distance(0xffff_ffff_9000_0000), Some(0x0f00_0000));
        assert_eq!(kernel.distance(0x10), None);
    }

    #[test]
    fn hidden_addresses_are_no_symbols() {
        assert!(Kallsyms::read(&b"0000000000000000 T _text\n0000000000000000 t a\n"[..]).unwrap().is_empty());
    }

    #[test]
    fn rubbish_is_passed_over() {
        let mut rubbish =
            b"\n\n \n12 T\nxyz T name\nffffffffffffffffff T long\n\xff\xfe\n10 TT two\n20 T \n".to_vec();
        rubbish.extend(vec![b'x'; 200_000]);
        rubbish.extend(b"\n30 T good");
        let kernel = Kallsyms::read(&rubbish[..]).unwrap();
        assert_eq!(kernel.symbols.len(), 1);
        assert_eq!(kernel.name(0x31), Some("good"));
    }
}
