//! What its executable has that stacks are walked by, and functions named by.

use std::fs::File;

use super::Subject;
use super::elf::{self, Elf};
use crate::doctor::machine::Finding;

const NAME: &str = "program";

pub(super) fn check(subject: &Subject) -> Finding {
    let path = std::fs::read_link(subject.path("exe")).unwrap_or_default();
    let path = path.display();
    let file = match File::open(subject.path("exe")) {
        Ok(file) => file,
        Err(error) => return Finding::unknown(NAME, format!("{path} cannot be opened: {error}")),
    };
    let sections = match elf::read(&file) {
        Elf::Narrow => {
            return Finding::does_not_fit(
                NAME,
                format!("{path} is a 32-bit program"),
                "Run a 64-bit build of it: of a 32-bit one no stack is walked, and only the function that ran is known.",
            );
        }
        Elf::Other => return Finding::unknown(NAME, format!("{path} is no ELF file any more")),
        Elf::Wide(sections) => sections,
    };
    let has = |name: &str| sections.iter().any(|section| section == name);
    let walked = [".eh_frame", ".debug_frame", ".gopclntab"].into_iter().filter(|name| has(name));
    let named = [".gopclntab", ".debug_info", ".symtab", ".dynsym"].into_iter().filter(|name| has(name));
    let (walked, named): (Vec<_>, Vec<_>) = (walked.collect(), named.collect());
    let found = format!(
        "{path}: stacks by {}, names by {}",
        shown(&walked, "frame pointers alone"),
        shown(&named, "nothing")
    );
    match (walked.as_slice(), named.as_slice()) {
        ([], _) => Finding::does_not_fit(
            NAME,
            found,
            "Build it with -fasynchronous-unwind-tables or -fno-omit-frame-pointer, and keep .eh_frame: where functions keep no frame \
             pointer, stacks end at the first.",
        ),
        (_, [] | [".dynsym"]) => Finding::does_not_fit(
            NAME,
            found,
            "Do not strip it, or install its debug symbols (found by build id or debug link): only what it exports has a name now.",
        ),
        _ => Finding::fits(NAME, found),
    }
}

fn shown(names: &[&str], nothing: &str) -> String {
    if names.is_empty() { nothing.to_owned() } else { names.join(", ") }
}
