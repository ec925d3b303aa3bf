//! Whether bytes are an eBPF object that the daemon could load, and what is in it.
//!
//! In: bytes from anywhere. Out: names of programs and maps, or what is wrong, each fault in its own words.

use anyhow::{Context, Result, bail, ensure};
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind};

/// The licence a kernel wants to read before it lends its GPL-only helpers.
const LICENSE: &[u8] = b"Dual MIT/GPL\0";
/// What opens BTF, in little-endian order.
const BTF_MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();
/// How many bytes an ELF header has.
const HEADER_BYTES: usize = size_of::<FileHeader64<LittleEndian>>();

/// What is in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// Names of its programs, sorted.
    pub programs: Vec<String>,
    /// Names of its maps, sorted.
    pub maps: Vec<String>,
}

impl Contents {
    /// In one line.
    pub(super) fn summary(&self) -> String {
        format!("programs {}; maps {}", self.programs.join(", "), self.maps.join(", "))
    }
}

/// What is in `object`, if it is whole and ours.
pub(super) fn read(object: &[u8]) -> Result<Contents> {
    ensure!(!object.is_empty(), "the object is empty");
    ensure!(object.starts_with(&elf::ELFMAG), "the object is foreign: not an ELF file");
    ensure!(
        object.len() >= HEADER_BYTES,
        "the object is truncated: {} bytes are no ELF header",
        object.len()
    );
    ensure!(object[4] == elf::ELFCLASS64, "the object is foreign: not 64 bits wide");
    ensure!(object[5] == elf::ELFDATA2LSB, "the object is foreign: not little-endian");
    let header = FileHeader64::<LittleEndian>::parse(object).context("the object's header makes no sense")?;
    let machine = header.e_machine(LittleEndian);
    ensure!(machine == elf::EM_BPF, "the object is foreign: built for machine {machine}, and not for BPF");
    whole(header, object)?;

    let file = ElfFile64::<LittleEndian>::parse(object).context("the object makes no sense")?;
    let license = section(&file, "license")?;
    ensure!(license == LICENSE, "the object's licence is not \"Dual MIT/GPL\"");
    let btf = section(&file, ".BTF")?;
    ensure!(btf.starts_with(&BTF_MAGIC), "the object's section .BTF is not BTF");

    let debug = file.sections().find_map(|section| section.name().ok().filter(|name| name.contains("debug")));
    ensure!(
        debug.is_none(),
        "the object holds {}, which nothing that loads it reads",
        debug.unwrap_or_default()
    );

    every_function_ends(&file)?;

    let mut contents = Contents { programs: Vec::new(), maps: Vec::new() };
    for symbol in file.symbols().filter(ObjectSymbol::is_global) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index).context("a symbol lies in no section")?;
        let name = symbol.name().context("a symbol has no name")?.to_owned();
        let SectionFlags::Elf { sh_flags } = section.flags() else { bail!("a section without ELF flags") };
        let code = sh_flags & u64::from(elf::SHF_EXECINSTR) != 0;
        if code && section.name() != Ok(".text") && symbol.kind() == SymbolKind::Text {
            contents.programs.push(name);
        } else if matches!(section.name(), Ok("maps" | ".maps")) {
            contents.maps.push(name);
        }
    }
    ensure!(!contents.programs.is_empty(), "the object has no programs");
    ensure!(!contents.maps.is_empty(), "the object has no maps");
    contents.programs.sort();
    contents.maps.sort();
    Ok(contents)
}

/// Whether every section, and the table of them, lies inside `object`.
fn whole(header: &FileHeader64<LittleEndian>, object: &[u8]) -> Result<()> {
    let sections = header
        .section_headers(LittleEndian, object)
        .context("the object is truncated: its table of sections lies beyond its end")?;
    ensure!(!sections.is_empty(), "the object has no sections");
    for section in sections {
        if section.sh_type(LittleEndian) == elf::SHT_NOBITS {
            continue;
        }
        let end = section.sh_offset(LittleEndian).checked_add(section.sh_size(LittleEndian));
        let inside = end.is_some_and(|end| end <= object.len() as u64);
        ensure!(inside, "the object is truncated: a section lies beyond its end");
    }
    Ok(())
}

/// Whether every function's last instruction leaves it. A call that never returns does not: it is how a panic looks, and
/// verifiers older than the one it was built beside refuse it ("last insn is not an exit or jmp").
fn every_function_ends(file: &ElfFile64<'_, LittleEndian>) -> Result<()> {
    const JUMP: u8 = 0x05;
    const LONG_JUMP: u8 = 0x06;
    const EXIT: u8 = 0x95;
    for function in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let name = function.name().context("a symbol has no name")?;
        let index = function.section_index().with_context(|| format!("{name} lies in no section"))?;
        let section = file.section_by_index(index).context("a symbol lies in no section")?;
        let code = section.data_range(function.address(), function.size()).ok().flatten();
        let code = code.with_context(|| format!("{name} does not lie in its section"))?;
        let last = code.rchunks_exact(8).next().with_context(|| format!("{name} is no code"))?;
        ensure!(
            matches!(last[0], JUMP | LONG_JUMP | EXIT),
            "{name} does not end with an exit or a jump, which old verifiers refuse: the code can panic"
        );
    }
    Ok(())
}

fn section<'a>(file: &ElfFile64<'a, LittleEndian>, name: &str) -> Result<&'a [u8]> {
    let section = file.section_by_name(name).with_context(|| format!("the object has no section {name}"))?;
    let data = section.data().with_context(|| format!("section {name} cannot be read"))?;
    ensure!(!data.is_empty(), "the object's section {name} is empty");
    Ok(data)
}

/// The text around the first `part` in `object`, for who has to find out how it came there.
pub(super) fn text_around(object: &[u8], part: &[u8]) -> Option<String> {
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let at = object.windows(part.len()).position(|window| window == part)?;
    let start = object[..at].iter().rposition(|byte| !printable(byte)).map_or(0, |before| before + 1);
    let text: Vec<u8> = object[start..].iter().copied().take_while(printable).take(200).collect();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn committed() -> Vec<u8> {
        std::fs::read(crate::host::root().join(super::super::OBJECT)).unwrap()
    }

    /// Does `damage` to the committed object and expects a refusal with `words`.
    #[track_caller]
    fn check_refused(damage: impl FnOnce(&mut Vec<u8>), words: &str) {
        let mut object = committed();
        damage(&mut object);
        let error = format!("{:#}", read(&object).unwrap_err());
        assert!(error.contains(words), "{error}");
    }

    /// Spoils every `part` of `object`.
    fn spoil(object: &mut [u8], part: &[u8]) {
        while let Some(at) = object.windows(part.len()).position(|window| window == part) {
            object[at] = b'?';
        }
    }

    #[test]
    fn the_committed_object_holds_the_sampler_and_its_ring() {
        let contents = read(&committed()).unwrap();
        assert!(contents.programs.contains(&"cpu".to_owned()), "{contents:?}");
        assert!(contents.maps.contains(&"SAMPLES".to_owned()), "{contents:?}");
    }

    #[test]
    fn no_bytes_are_an_empty_object() {
        check_refused(Vec::clear, "is empty");
    }

    #[test]
    fn a_few_bytes_are_a_truncated_object() {
        check_refused(|object| object.truncate(40), "truncated");
    }

    #[test]
    fn every_shorter_object_is_truncated() {
        let object = committed();
        for bytes in (64..object.len()).step_by(997).chain([object.len() - 1]) {
            let error = format!("{:#}", read(&object[..bytes]).unwrap_err());
            assert!(error.contains("truncated"), "{bytes} bytes: {error}");
        }
    }

    #[test]
    fn an_object_with_debug_information_is_refused() {
        let renamed = |object: &mut Vec<u8>| {
            let at = object.windows(8).rposition(|window| window == b".rodata\0").unwrap();
            object[at..at + 7].copy_from_slice(b".debug_");
        };
        check_refused(renamed, "the object holds .debug_");
    }

    #[test]
    fn text_is_foreign() {
        check_refused(|object| *object = b"not an object at all".to_vec(), "not an ELF file");
    }

    #[test]
    fn an_object_of_thirty_two_bits_is_foreign() {
        check_refused(|object| object[4] = elf::ELFCLASS32, "64 bits");
    }

    #[test]
    fn a_big_endian_object_is_foreign() {
        check_refused(|object| object[5] = elf::ELFDATA2MSB, "little-endian");
    }

    #[test]
    fn our_own_binary_is_foreign() {
        check_refused(|object| *object = std::fs::read("/proc/self/exe").unwrap(), "not for BPF");
    }

    #[test]
    fn an_object_without_a_licence_is_refused() {
        check_refused(|object| spoil(object, b"license\0"), "no section license");
    }

    #[test]
    fn an_object_of_another_licence_is_refused() {
        check_refused(|object| spoil(object, LICENSE), "licence is not");
    }

    #[test]
    fn an_object_without_types_is_refused() {
        check_refused(|object| spoil(object, b".BTF\0"), "no section .BTF");
    }

    #[test]
    fn an_object_without_maps_is_refused() {
        check_refused(|object| spoil(object, b"maps\0"), "no maps");
    }

    #[test]
    fn an_object_whose_function_ends_with_a_call_is_refused() {
        let empty = |object: &[u8]| {
            let file = ElfFile64::<LittleEndian>::parse(object).unwrap();
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok("bench_empty")).unwrap();
            let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
            let end = section.file_range().unwrap().0 + symbol.address() + symbol.size();
            usize::try_from(end).unwrap() - 8
        };
        check_refused(
            |object| {
                let exit = empty(object);
                assert_eq!(object[exit], 0x95);
                object[exit] = 0x85; // a call
            },
            "bench_empty does not end",
        );
    }

    #[test]
    fn a_path_in_an_object_is_found_with_the_text_around_it() {
        assert_eq!(text_around(b"\0\x01at /secret/x.rs\0", b"/secret").as_deref(), Some("at /secret/x.rs"));
        assert_eq!(text_around(b"nothing", b"/secret"), None);
    }
}
