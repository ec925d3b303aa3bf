//! Rules made of code alone against what its compiler wrote down, of files that have both.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindSection, UnwindTableRow,
};
use profiler_common::unwind::table::{Cfa, Rule, Saved};

use super::*;

const RBP: Register = Register(6);
const RSP: Register = Register(7);

/// What came of comparing, in bytes of code.
#[derive(Debug, Default)]
struct Compared {
    /// Described by the compiler.
    described: u64,
    /// Of these, such as have a rule of ours that leads on or ends.
    claimed: u64,
    /// That say the same.
    same: u64,
    /// Ours counts from rbp and theirs from rsp, or the other way: nothing to compare but the rest.
    unpaired: u64,
    /// The frame is elsewhere.
    frame: u64,
    /// The caller's rbp is elsewhere.
    rbp: u64,
    /// Ends here, and does not.
    root: u64,
}

/// What a row and a rule that should say the same make of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Same,
    Unpaired,
    Frame,
    Rbp,
    Root,
}

fn judge(row: &UnwindTableRow<usize>, rule: Rule) -> Judged {
    let is_end = row.register(Register(16)) == Some(RegisterRule::Undefined);
    let Rule::Frame { cfa, rbp } = rule else {
        return if rule == Rule::Signal || is_end { Judged::Same } else { Judged::Root };
    };
    if is_end {
        return Judged::Root;
    }
    let (theirs, offset) = match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => (register, offset),
        CfaRule::Expression(_) => return Judged::Unpaired,
    };
    let (ours, above) = match cfa {
        Cfa::Rsp(above) => (RSP, above),
        Cfa::Rbp(above) => (RBP, above),
        Cfa::AtRsp(..) | Cfa::AtRbp(..) => return Judged::Frame,
    };
    if ours == theirs && i64::from(above) != offset {
        return Judged::Frame;
    }
    let saved = match row.register(RBP) {
        Some(RegisterRule::Offset(at)) => Some(at),
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => None,
        Some(_) => return Judged::Unpaired,
    };
    let same = match (rbp, saved) {
        (Saved::Cfa(at), Some(theirs)) => i64::from(at) == theirs,
        (Saved::Not, None) => true,
        // It was restored, and lies below rsp.
        (Saved::Not, Some(theirs)) => ours == RSP && -theirs > i64::from(above),
        _ => false,
    };
    match (same, ours == theirs) {
        (false, _) => Judged::Rbp,
        (true, true) => Judged::Same,
        (true, false) => Judged::Unpaired,
    }
}

/// What is made of the code of `file` without its tables, by the address from which it holds.
fn by_code(file: &File) -> (Code, BTreeMap<u64, (u64, Rule)>) {
    let reader = Reader::new(file).unwrap();
    let segments = reader.segments().unwrap();
    let mut sections = Vec::new();
    reader
        .sections(|name, section| {
            if section.is_code() && !name.starts_with(b".plt") {
                sections.push(*section);
            }
            Ok(())
        })
        .unwrap();
    let known = Known {
        segments: &segments,
        sections: &sections,
        functions: &[],
        nameless: &[],
        entry: reader.entry().ok().filter(|&entry| entry != 0),
        is_fixed: reader.is_fixed().unwrap(),
        // Most have more without their tables than a file should have that has none.
        bytes_max: 8 << 20,
    };
    let code = Code::read(file, &reader, known);
    let mut rules = BTreeMap::new();
    code.functions(|address, _, bytes, number| {
        let mut own = Vec::new();
        code.rules(number, &mut own);
        let ends: Vec<u64> = own.iter().skip(1).map(|(at, _)| *at).chain([address + bytes]).collect();
        for ((at, rule), end) in own.into_iter().zip(ends) {
            rules.insert(at, (end, rule));
        }
    });
    (code, rules)
}

/// Compares all that `file` has.
fn compare(path: &Path) -> Option<(Compared, Reached)> {
    let file = File::open(path).ok()?;
    let reader = Reader::new(&file).ok()?;
    let mut table = None;
    reader
        .sections(|name, section| {
            if name == b".eh_frame" {
                table = Some((reader.read(section.offset(), section.bytes(), 64 << 20)?, section.address()));
            }
            Ok(())
        })
        .ok()?;
    let (bytes, address) = table?;
    let (code, rules) = by_code(&file);
    let bases = BaseAddresses::default().set_eh_frame(address);
    let section = EhFrame::new(&bytes, LittleEndian);
    let mut entries = section.entries(&bases);
    let mut context = UnwindContext::new();
    let mut all = Compared::default();
    let mut shown = 0;
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(function) = partial.parse(EhFrame::cie_from_offset) else { continue };
        let Ok(mut rows) = function.rows(&section, &bases, &mut context) else { continue };
        while let Ok(Some(row)) = rows.next_row() {
            let (from, to) = (row.start_address(), row.end_address());
            all.described += to.saturating_sub(from);
            let first = rules.range(..=from).next_back().map_or(from, |(at, _)| *at);
            for (&at, &(end, rule)) in rules.range(first..to) {
                let (begin, end) = (at.max(from), end.min(to));
                if begin >= end || rule == Rule::Pointer {
                    continue;
                }
                let bytes = end - begin;
                all.claimed += bytes;
                let judged = judge(row, rule);
                match judged {
                    Judged::Same => all.same += bytes,
                    Judged::Unpaired => all.unpaired += bytes,
                    Judged::Frame => all.frame += bytes,
                    Judged::Rbp => all.rbp += bytes,
                    Judged::Root => all.root += bytes,
                }
                if !matches!(judged, Judged::Same | Judged::Unpaired)
                    && shown < 20
                    && std::env::var("TEST_SHOW").is_ok()
                {
                    shown += 1;
                    println!(
                        "{judged:?} {begin:#x}..{end:#x} of {:#x}: {rule:?}, not {:?} {:?}",
                        function.initial_address(),
                        row.cfa(),
                        row.register(RBP)
                    );
                }
            }
        }
    }
    Some((all, code.bounds))
}

/// Of what is claimed one byte in so many may say something else than the compiler: assembly with rules of its own, and parts of functions
/// that were moved away in files that have no names for them.
const WRONG: u64 = 200;
/// Of what is described so much is claimed, percent.
const CLAIMED_PERCENT_MIN: u64 = 60;

/// Nobody calls the loader where it begins, whose own table says nothing of that.
#[test]
fn where_the_loader_begins_a_stack_ends() {
    let Ok(file) = File::open("/lib64/ld-linux-x86-64.so.2") else {
        println!("skipped: this system has no loader of the GNU C library");
        return;
    };
    let entry = Reader::new(&file).unwrap().entry().unwrap();
    let (_, rules) = by_code(&file);
    let (_, (end, rule)) = rules.range(..=entry).next_back().unwrap();
    assert!(*rule == Rule::Stop && *end > entry, "{rule:?}");
}

#[test]
fn rules_of_code_are_what_its_compiler_wrote() {
    let mut paths = vec![
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib64/ld-linux-x86-64.so.2",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/bin/bash",
        "/usr/bin/openssl",
    ];
    if std::env::var_os("TEST_LONG").is_some() {
        let long = ["lib/x86_64-linux-gnu/libcrypto.so.3", "bin/python3", "bin/git", "bin/perl"];
        paths.extend(long.map(|path| &*format!("/usr/{path}").leak()));
    }
    let mut files = 0;
    for path in paths {
        let began = Instant::now();
        let Some((all, bounds)) = compare(Path::new(path)) else { continue };
        let wrong = all.frame + all.rbp + all.root;
        println!(
            "{path}: {:.2} % claimed, {:.4} % wrong in {:?}: {all:?}, {bounds:?}",
            all.claimed as f64 * 100.0 / all.described as f64,
            wrong as f64 * 100.0 / all.claimed.max(1) as f64,
            began.elapsed()
        );
        assert!(wrong * WRONG < all.claimed, "{path}: {all:?}");
        assert!(all.claimed * 100 > all.described * CLAIMED_PERCENT_MIN, "{path}: {all:?}");
        // Nothing to compare with is no proof.
        assert!(all.unpaired * 50 < all.claimed, "{path}: {all:?}");
        files += 1;
    }
    assert!(files >= 3, "too few files to mean anything");
}
