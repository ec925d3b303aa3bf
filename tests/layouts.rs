//! Tier 4: what kernel and daemon share lies in the committed object as it lies in the daemon.
//!
//! Both sides prove their layouts when they build (`wire!`). This proves that the object was built from the same ones: by
//! its types (BTF) where it has them, and by the sizes of its maps' values.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol};
use profiler_common::knobs::{Counters, Settings};
use profiler_common::unwind::processes::Line;
use profiler_common::unwind::recent::Recent;

static OBJECT: &[u8] = include_bytes!("../profiler-daemon/bpf/profiler.bpf.o");

/// Size of a type and offsets of its fields, bytes.
type Layout = (usize, BTreeMap<String, usize>);

fn elf() -> ElfFile64<'static, LittleEndian> {
    ElfFile64::parse(OBJECT).expect("the committed object is an ELF file")
}

fn word(bytes: &[u8], at: usize) -> usize {
    let word: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(word) as usize
}

/// The structures that the object's BTF describes. An id begins at 1 and counts every type, so each kind's length has
/// to be known even where it means nothing here.
fn structures() -> BTreeMap<String, Layout> {
    let elf = elf();
    let section = elf.section_by_name(".BTF").expect("the object has BTF");
    let btf = section.data().expect("its BTF can be read");
    let header_bytes = word(btf, 4);
    let types = &btf[header_bytes + word(btf, 8)..][..word(btf, 12)];
    let texts = &btf[header_bytes + word(btf, 16)..][..word(btf, 20)];
    let text = |at: usize| {
        let bytes = texts[at..].split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < types.len() {
        let (name, info, size) = (word(types, at), word(types, at + 4), word(types, at + 8));
        let (kind, count) = ((info >> 24) & 0x1f, info & 0xffff);
        at += 12;
        if kind == 4 {
            let fields = (0..count).map(|field| at + field * 12);
            // The upper byte of an offset is a bit field's size, if there are any.
            let fields = fields.map(|at| (text(word(types, at)), (word(types, at + 8) & 0xff_ffff) / 8));
            found.insert(text(name), (size, fields.collect()));
        }
        at += match kind {
            1 | 14 | 17 => 4,              // an integer, a variable, a tag
            3 => 12,                       // an array
            4 | 5 | 15 | 19 => count * 12, // a structure, a union, a section, a wide enumeration
            6 | 13 => count * 8,           // an enumeration, a function's type
            _ => 0,
        };
    }
    found
}

/// Size of the values of the map called `name`: the third word of its definition.
fn value_bytes(name: &str) -> usize {
    let elf = elf();
    let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(name)).expect("the object has the map");
    let section =
        elf.section_by_index(symbol.section_index().expect("a map lies in a section")).expect("that one");
    let definitions = section.data().expect("definitions of maps can be read");
    word(definitions, usize::try_from(symbol.address()).expect("an offset") + 8)
}

#[test]
fn the_settings_of_the_object_are_those_the_daemon_fills() {
    let (bytes, fields) = structures().remove("Settings").expect("BTF describes the settings");
    assert_eq!(bytes, size_of::<Settings>());
    let ours = [
        ("magic", offset_of!(Settings, magic)),
        ("period_ns", offset_of!(Settings, period_ns)),
        ("wakeup_bytes", offset_of!(Settings, wakeup_bytes)),
        ("bpf_loop", offset_of!(Settings, bpf_loop)),
        ("tables", offset_of!(Settings, tables)),
    ];
    for (name, offset) in ours {
        assert_eq!(fields.get(name), Some(&offset), "{name} of {fields:?}");
    }
}

#[test]
fn the_counters_of_the_object_are_those_the_daemon_reads() {
    assert_eq!(value_bytes("COUNTERS"), size_of::<Counters>());
}

#[test]
fn the_lines_of_processes_of_the_object_are_those_the_daemon_fills() {
    assert_eq!(structures().get("Line").map(|(bytes, _)| *bytes), Some(size_of::<Line>()));
    assert_eq!(size_of::<Line>(), 64, "a line of the cache");
}

#[test]
fn what_is_remembered_fits_six_pages() {
    assert_eq!(value_bytes("RECENT"), size_of::<Recent>());
    assert_eq!(
        size_of::<Recent>(),
        6 * 4096,
        "two by frame, four in the order of stacks; a processor's value has eight at most"
    );
}
