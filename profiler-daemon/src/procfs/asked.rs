//! The executable mappings of a process, asked for one after the other.
//!
//! In: the open `maps` of a process. Out: what its text says of executable mappings, or that this kernel cannot be asked (it is since 6.11).
//! A program that sleeps has some twenty mappings of which four can run, and their text took a quarter of what it takes to look at a process.
//! Not here: the text, which says the same but for `[vsyscall]`: that is the kernel's own and in no list of a process.
#![expect(unsafe_code, reason = "PROCMAP_QUERY, which no crate has")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::{Maps, MapsLine};

/// `PROCMAP_QUERY`: reads and writes [`Question`].
const QUERY: libc::c_ulong = 0xc068_6611;

/// Mappings that may run.
const EXECUTABLE: u64 = 0x04;
/// The mapping at an address, or the first above it.
const AT_OR_NEXT: u64 = 0x10;

/// Bytes of a path at most, with its end, as everywhere.
const PATH_BYTES_MAX: usize = 4096;

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Question {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    protection: u64,
    page_bytes: u64,
    file_offset: u64,
    inode: u64,
    device: [u32; 2],
    /// Bytes of the name, with its end; first, how many there is room for.
    name_bytes: u32,
    build_id_bytes: u32,
    name: u64,
    build_id: u64,
}

const _: () =
    assert!(size_of::<Question>() as libc::c_ulong == QUERY >> 16 & 0x3fff, "the request has the size in it");

/// The first `mappings_max` executable mappings; none where the kernel cannot be asked, or has no answer of this form.
pub(super) fn executable_maps(maps: &File, mappings_max: usize) -> Option<Maps> {
    let mut name = [0_u8; PATH_BYTES_MAX];
    let mut found = Maps::default();
    let mut address = 0;
    loop {
        let mut question = Question {
            size: size_of::<Question>() as u64,
            flags: EXECUTABLE | AT_OR_NEXT,
            address,
            name_bytes: u32::try_from(name.len()).ok()?,
            name: name.as_mut_ptr() as u64,
            ..Question::default()
        };
        match ask(maps, &mut question) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Some(found),
            // A process that is over has no mappings, in text neither.
            Err(Errno::SRCH) => return Some(found),
            Err(_) => return None,
        }
        // Whatever the kernel says, this ends.
        if question.end <= address {
            return None;
        }
        if found.executable.len() == mappings_max {
            found.truncated = true;
            return Some(found);
        }
        address = question.end;
        let named = name.get(..usize::try_from(question.name_bytes).ok()?)?;
        found.executable.push(MapsLine {
            start: question.start,
            end: question.end,
            executable: true,
            file_offset: question.file_offset,
            inode: question.inode,
            path: named.strip_suffix(&[0]).unwrap_or(named).to_vec(),
        });
    }
}

fn ask(maps: &File, question: &mut Question) -> Result<(), Errno> {
    // SAFETY: the kernel writes no more than `size` bytes of the question, and of the name no more than it was told there is room for, in
    // `executable_maps`, whose name is alive and borrowed by nobody else during the call. Other files do not know the request.
    match unsafe { libc::ioctl(maps.as_raw_fd(), QUERY, std::ptr::from_mut(question)) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::BufReader;
    use std::os::fd::{AsFd, BorrowedFd};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::super::parse_maps;
    use super::*;

    fn in_text(mappings_max: usize) -> Maps {
        let mut maps =
            parse_maps(BufReader::new(File::open("/proc/self/maps").unwrap()), mappings_max).unwrap();
        maps.executable.retain(|line| line.path != b"[vsyscall]");
        maps
    }

    /// Asks for this process's own mappings; none, said aloud, on a kernel that cannot be asked.
    fn asked(mappings_max: usize) -> Option<Maps> {
        let asked = executable_maps(&File::open("/proc/self/maps").unwrap(), mappings_max);
        if asked.is_none() {
            println!("skipped: this kernel answers no questions for mappings (Linux 6.11 does)");
        }
        asked
    }

    #[test]
    fn what_is_answered_is_what_the_text_says() {
        // One with a name that text escapes, and one without any.
        let file = memfd_create("line\nfeed", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let map = |file: Option<BorrowedFd<'_>>| {
            let flags = libc::MAP_PRIVATE | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 };
            let (descriptor, offset) = file.map_or((-1, 0), |file| (file.as_raw_fd(), 4096));
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: a fresh mapping at an address of the kernel's choice, that stays.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, descriptor, offset) };
            assert_ne!(at, libc::MAP_FAILED);
        };
        map(Some(file.as_fd()));
        map(None);
        // Other tests may map meanwhile.
        let (asked, text) = loop {
            let before = in_text(usize::MAX);
            let Some(asked) = asked(usize::MAX) else { return };
            if before == in_text(usize::MAX) {
                break (asked, before);
            }
        };
        assert_eq!(asked, text);
        let has = |path: &[u8], offset| {
            asked.executable.iter().any(|line| line.path == path && line.file_offset == offset)
        };
        assert!(has(b"/memfd:line\nfeed (deleted)", 4096) && has(b"", 0), "{asked:?}");
    }

    #[test]
    fn more_than_was_asked_for_is_said() {
        let Some(asked) = asked(1) else { return };
        assert_eq!((asked.executable.len(), asked.truncated), (1, true));
        assert_eq!(asked.executable[0], in_text(usize::MAX).executable[0]);
    }

    #[test]
    fn what_is_no_list_of_mappings_has_no_answer() {
        assert_eq!(executable_maps(&File::open("/proc/self/stat").unwrap(), 9), None);
        assert_eq!(executable_maps(&File::open("/dev/null").unwrap(), 9), None);
    }
}
