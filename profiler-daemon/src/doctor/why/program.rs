//! What its executable has that stacks are walked by, and functions named by.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, open, statx};

use super::Subject;
use super::elf::{self, Elf};
use crate::doctor::machine::Finding;
use crate::procfs::Procfs;

const NAME: &str = "program";

pub(super) fn check(subject: &Subject) -> Finding {
    let path = std::fs::read_link(subject.path("exe")).unwrap_or_default();
    let path = path.display();
    let file = match open_executable(subject) {
        Ok(file) => file,
        Err(why) => return Finding::unknown(NAME, format!("{path} {why}")),
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

/// The executable, unless that could be waited for in vain: the agent looks at strangers' processes by this too, and a thread of its
/// own that waits for who serves a file system could not be ended.
fn open_executable(subject: &Subject) -> Result<File, String> {
    const TO_READ: OFlags =
        OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
    let refused = |error: rustix::io::Errno| format!("cannot be opened: {error}");
    let handle = open(subject.path("exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(refused)?;
    let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
    let is = statx(&handle, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted).map_err(refused)?;
    if FileType::from_raw_mode(u32::from(is.stx_mode)) != FileType::RegularFile {
        return Err("is no regular file any more".to_owned());
    }
    if is.stx_dev_major == 0 && Procfs::new(&subject.proc).is_served(subject.pid, is.stx_mnt_id) {
        return Err("is not opened: somebody may serve its file system who does not answer".to_owned());
    }
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    open(again, TO_READ, Mode::empty()).map(File::from).map_err(refused)
}

fn shown(names: &[&str], nothing: &str) -> String {
    if names.is_empty() { nothing.to_owned() } else { names.join(", ") }
}
