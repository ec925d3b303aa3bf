//! Finds the file behind a mapping, and holds on to it.
//!
//! In: a process and what it mapped. Out: what makes the file this file, and then a handle that names it, whatever becomes of
//! its path. Foreign processes choose what we meet here: links to devices, pipes without a writer, files that are exchanged under
//! our hands, file systems whose server has stopped answering. So nothing here opens a file to read it, and nothing asks more
//! of a file system than the kernel remembers: that is left to the namer, which can be done without while it waits.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::fs::{
    AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, memfd_create, open,
    openat2, statx,
};
use rustix::io::{Errno, pread};

use crate::model::FileIdentity;
use crate::procfs::Procfs;

/// What opens a file without side effects: a handle that only names it.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A regular file that was found and is not yet held.
#[derive(Debug)]
pub(super) struct Sighting {
    /// What makes it this file.
    pub(super) identity: FileIdentity,
    at: Place,
}

#[derive(Debug)]
enum Place {
    /// A link of the kernel's that leads to the file itself, not to a path.
    Link(PathBuf),
    /// A handle that names it.
    Handle(OwnedFd),
}

/// The file mapped at exactly these addresses: the mapped file itself, in whatever mount namespace, deleted or
/// not. One system call.
pub(super) fn by_range(procfs: &Procfs, pid: u32, start: u64, end: u64) -> Option<Sighting> {
    let link = procfs.path(pid, &format!("map_files/{start:x}-{end:x}"));
    let identity = identity_of(&stat_path(&link)?)?;
    Some(Sighting { identity, at: Place::Link(link) })
}

/// The file at `path` as the process sees it, which is most probably the one it mapped. A deleted file is not
/// found: what is at its path now is another one. `inode` is what it has to have, if that is known.
pub(super) fn by_path(procfs: &Procfs, pid: u32, path: &[u8], inode: Option<u64>) -> Option<Sighting> {
    let root = open(procfs.path(pid, "root"), NAME_ONLY | OFlags::DIRECTORY, Mode::empty()).ok()?;
    // What is mapped has its path in the kernel's memory. Where that is not enough, a file system would have to be
    // asked, and may not answer: some are network or user-space servers of whoever we look at.
    // And the kernel prints paths without links: where one has appeared, something else has taken the place.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    let walk = || openat2(&root, path, NAME_ONLY, Mode::empty(), resolve);
    // A rename anywhere can disturb a walk once.
    let handle = walk().or_else(|error| if error == Errno::AGAIN { walk() } else { Err(error) }).ok()?;
    let identity = identity_of(&stat_handle(&handle)?)?;
    if inode.is_some_and(|inode| inode != identity.inode) {
        return None;
    }
    Some(Sighting { identity, at: Place::Handle(handle) })
}

impl Sighting {
    /// Holds it by a handle that only names it. What a link leads to may be another file by now, so the identity is that
    /// of what is held.
    pub(super) fn hold(self) -> Option<(FileIdentity, OwnedFd)> {
        let handle = match self.at {
            Place::Link(link) => open(link, NAME_ONLY, Mode::empty()).ok()?,
            Place::Handle(handle) => handle,
        };
        let identity = identity_of(&stat_handle(&handle)?)?;
        Some((identity, handle))
    }
}

/// True if what `handle` names is memory that begins like an ELF file. Only memory can be looked into here: reading it waits for
/// nobody.
pub(super) fn is_elf_in_memory(identity: FileIdentity, handle: &OwnedFd) -> bool {
    const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
    if memory_device() != Some(identity.device) {
        return false;
    }
    let Ok(file) = open(format!("/proc/self/fd/{}", handle.as_raw_fd()), TO_READ, Mode::empty()) else {
        return false;
    };
    let mut magic = [0; 4];
    pread(&file, &mut magic, 0).is_ok_and(|read| read == 4) && magic == *b"\x7fELF"
}

/// The device of files without a path, which is the kernel's own: no process can mount it, or serve another under its number.
fn memory_device() -> Option<u64> {
    static DEVICE: LazyLock<Option<u64>> = LazyLock::new(|| {
        let memory = memfd_create("device", MemfdFlags::CLOEXEC).ok()?;
        Some(device_of(&stat_handle(&memory)?))
    });
    *DEVICE
}

fn stat_path(path: &Path) -> Option<Statx> {
    // What the kernel knows is enough: asking the server of a network file system could take for ever.
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()
}

/// What the kernel knows of what `handle` names, without asking who serves it.
pub(super) fn stat_handle(handle: &OwnedFd) -> Option<Statx> {
    statx(handle, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()
}

/// What makes this file this file, if it is a regular one.
fn identity_of(stat: &Statx) -> Option<FileIdentity> {
    if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile {
        return None;
    }
    Some(FileIdentity {
        device: device_of(stat),
        inode: stat.stx_ino,
        size: stat.stx_size,
        ctime_ns: stat.stx_ctime.tv_sec.saturating_mul(1_000_000_000) + i64::from(stat.stx_ctime.tv_nsec),
    })
}

fn device_of(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// What is in the file that is held.
    fn read(handle: &OwnedFd) -> Vec<u8> {
        fs::read(format!("/proc/self/fd/{}", handle.as_raw_fd())).unwrap()
    }

    /// A folder that looks like `/proc`, with one process that sees `root` as its root.
    fn proc_with(root: &Path) -> (tempfile::TempDir, Procfs) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("7/map_files")).unwrap();
        symlink(root, folder.path().join("7/root")).unwrap();
        let procfs = Procfs::new(folder.path());
        (folder, procfs)
    }

    #[track_caller]
    fn check_by_path(prepare: impl FnOnce(&Path), path: &str, expected: Option<&[u8]>) {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path());
        let (_folder, procfs) = proc_with(root.path());
        let found = by_path(&procfs, 7, path.as_bytes(), None).and_then(Sighting::hold);
        assert_eq!(found.map(|(_, handle)| read(&handle)).as_deref(), expected);
    }

    #[test]
    fn a_path_is_that_of_the_process() {
        check_by_path(|root| fs::write(root.join("a"), "here").unwrap(), "/a", Some(b"here"));
    }

    #[test]
    fn a_path_does_not_leave_the_root() {
        check_by_path(|root| fs::write(root.join("passwd"), "here").unwrap(), "/../../passwd", Some(b"here"));
    }

    #[test]
    fn a_link_has_taken_the_place_of_what_was_mapped() {
        check_by_path(
            |root| {
                fs::write(root.join("b"), "elsewhere").unwrap();
                symlink("/b", root.join("a")).unwrap();
            },
            "/a",
            None,
        );
    }

    #[test]
    fn a_pipe_is_no_file_and_nobody_waits_for_it() {
        check_by_path(
            |root| {
                rustix::fs::mknodat(CWD, root.join("a"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            },
            "/a",
            None,
        );
    }

    #[test]
    fn a_folder_is_no_file() {
        check_by_path(|root| fs::create_dir(root.join("a")).unwrap(), "/a", None);
    }

    #[test]
    fn a_loop_of_links_is_no_file() {
        check_by_path(
            |root| {
                symlink("/b", root.join("a")).unwrap();
                symlink("/a", root.join("b")).unwrap();
            },
            "/a",
            None,
        );
    }

    #[test]
    fn what_took_the_place_of_a_deleted_file_is_not_that_file() {
        check_by_path(|root| fs::write(root.join("a"), "new").unwrap(), "/a (deleted)", None);
    }

    #[test]
    fn another_inode_is_not_that_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "x").unwrap();
        let inode = fs::metadata(root.path().join("a")).unwrap().ino();
        let (_folder, procfs) = proc_with(root.path());
        assert!(by_path(&procfs, 7, b"/a", Some(inode)).is_some());
        assert!(by_path(&procfs, 7, b"/a", Some(inode + 1)).is_none());
    }

    #[test]
    fn a_range_is_named_without_leading_zeros() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "\x7fELF and more").unwrap();
        let (folder, procfs) = proc_with(root.path());
        symlink(root.path().join("a"), folder.path().join("7/map_files/400000-7f0000001000")).unwrap();
        let sighting = by_range(&procfs, 7, 0x40_0000, 0x7f00_0000_1000).unwrap();
        let seen = sighting.identity;
        let (held, file) = sighting.hold().unwrap();
        assert_eq!(held, seen);
        assert_eq!(read(&file), b"\x7fELF and more");
        assert!(by_range(&procfs, 7, 0x40_0000, 0x7f00_0000_2000).is_none());
    }

    #[test]
    fn only_memory_is_looked_into() {
        let memory = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        fs::File::from(memory.try_clone().unwrap()).write_all(b"\x7fELF and more").unwrap();
        let identity = identity_of(&stat_handle(&memory).unwrap()).unwrap();
        assert!(is_elf_in_memory(identity, &memory));
        assert!(!is_elf_in_memory(FileIdentity { device: identity.device + 1, ..identity }, &memory));
    }

    #[test]
    fn a_file_that_is_rewritten_is_another_one() {
        let root = tempfile::tempdir().unwrap();
        let (_folder, procfs) = proc_with(root.path());
        fs::write(root.path().join("a"), "one").unwrap();
        let first = by_path(&procfs, 7, b"/a", None).unwrap().identity;
        fs::write(root.path().join("a"), "longer").unwrap();
        assert_ne!(by_path(&procfs, 7, b"/a", None).unwrap().identity, first);
    }
}
