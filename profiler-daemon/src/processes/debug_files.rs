//! Finds the file that has the debug information of another.
//!
//! In: what a file says of it: a build id, a name; any bytes. Out: handles of files that may be it; whoever opens and reads them
//! says whether one is. In the root of the process first, which may be of a container, then in ours. Foreign processes choose what we
//! meet: nothing but regular files is taken, and in their roots no file system that someone serves who need not answer is asked, not
//! even what it is. Our own root is the operator's, and asked as it is.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, makedev, open, openat2, statx,
};

use super::files::stat_handle;
use crate::model::{DebugFile, FileIdentity, Module};
use crate::procfs::Procfs;

/// Where distributions put debug information.
const FOLDER: &str = "usr/lib/debug";
/// What opens a file without side effects: a handle that only names it.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Files that may have the debug information of `module`, the likeliest first.
pub fn find_debug_files(module: &Module, sought: &DebugFile) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    let by_id = sought.build_id.map(|id| {
        let id = id.to_string();
        let (first, rest) = id.split_at(2.min(id.len()));
        Path::new(FOLDER).join(format!(".build-id/{first}/{rest}.debug"))
    });
    let path = Path::new(OsStr::from_bytes(module.path.strip_prefix(b"/").unwrap_or(&module.path)));
    let beside = path.parent().zip(sought.name.as_deref().map(OsStr::from_bytes));
    let apart = beside.map(|(folder, name)| Path::new(FOLDER).join(folder).join(name));
    if let Some(root) = &module.root {
        // Below a mount there may be anything.
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let paths = by_id.iter().chain(&apart);
        found.extend(paths.filter_map(|path| find_regular(root, path, within, module.identity)));
        if let Some((folder, name)) = beside {
            found.extend(find_beside(root, folder, name, module.identity));
        }
    }
    if let Ok(ours) = open("/", NAME_ONLY | OFlags::DIRECTORY, Mode::empty()) {
        let paths = by_id.iter().chain(&apart);
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        found.extend(paths.filter_map(|path| find_regular(&ours, path, within, module.identity)));
    }
    found
}

/// The files of this name in the folder of the program and in one below it.
fn find_beside(
    root: &OwnedFd,
    folder: &Path,
    name: &OsStr,
    but: Option<FileIdentity>,
) -> impl Iterator<Item = OwnedFd> {
    // The program was found there: what the kernel does not remember of the way is not worth waiting for.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = openat2(root, folder, NAME_ONLY | OFlags::DIRECTORY, Mode::empty(), resolve).ok();
    let folder = folder.filter(|folder| is_of(root, folder));
    let names = [PathBuf::from(name), Path::new(".debug").join(name)];
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let find = move |folder: OwnedFd| names.map(|name| find_regular(&folder, &name, within, but));
    folder.map(find).into_iter().flatten().flatten()
}

/// True if `folder` lies in the mount of `root`, which nobody serves, or on a block device.
fn is_of(root: &OwnedFd, folder: &OwnedFd) -> bool {
    let mount = |handle| mount_of(handle).map(|is| is.stx_mnt_id);
    match mount_of(folder) {
        Some(is) => is.stx_dev_major != 0 || mount(root) == Some(is.stx_mnt_id),
        None => false,
    }
}

/// A handle of the regular file at `path`, unless it is the file itself.
fn find_regular(
    from: &OwnedFd,
    path: &Path,
    within: ResolveFlags,
    but: Option<FileIdentity>,
) -> Option<OwnedFd> {
    let handle = openat2(from, path, NAME_ONLY, Mode::empty(), within).ok()?;
    let is = stat_handle(&handle)?;
    let device = makedev(is.stx_dev_major, is.stx_dev_minor);
    let same = but.is_some_and(|but| (but.device, but.inode) == (device, is.stx_ino));
    let regular = FileType::from_raw_mode(u32::from(is.stx_mode)) == FileType::RegularFile;
    (regular && !same).then_some(handle)
}

/// What the kernel knows of the mount that `handle` lies in.
fn mount_of(handle: &OwnedFd) -> Option<Statx> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::INO;
    statx(handle, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted).ok()
}

/// Roots of processes that nobody serves, each held once.
#[derive(Debug, Default)]
pub(super) struct Roots(FxHashMap<(u64, u64), Weak<OwnedFd>>);

/// Roots that are known at most: a container has one.
const ROOTS_MAX: usize = 1 << 10;

impl Roots {
    /// The root of a process; none if it is gone, or if someone serves it who need not answer.
    pub(super) fn of(&mut self, procfs: &Procfs, pid: u32) -> Option<Arc<OwnedFd>> {
        let root = open(procfs.path(pid, "root"), NAME_ONLY | OFlags::DIRECTORY, Mode::empty()).ok()?;
        let is = mount_of(&root)?;
        // The number of a mount is not used again while it is held.
        let key = (is.stx_mnt_id, is.stx_ino);
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return Some(known);
        }
        if self.0.len() >= ROOTS_MAX {
            self.0.retain(|_, root| root.strong_count() > 0);
        }
        if self.0.len() >= ROOTS_MAX {
            return None;
        }
        // Who serves it is not asked: the kernel's list of mounts says what kind it is.
        if is.stx_dev_major == 0 && procfs.is_served(pid, is.stx_mnt_id) {
            return None;
        }
        let root = Arc::new(root);
        self.0.insert(key, Arc::downgrade(&root));
        Some(root)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, mknodat};

    use super::*;
    use crate::model::ModuleKind;

    /// What is found for `/opt/app`, in a root that `prepare` filled.
    #[track_caller]
    fn check(prepare: impl FnOnce(&Path), build_id: &[u8], name: &[u8], expected: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("opt/.debug")).unwrap();
        fs::create_dir_all(root.path().join("usr/lib/debug/.build-id/ab")).unwrap();
        fs::create_dir_all(root.path().join("usr/lib/debug/opt")).unwrap();
        prepare(root.path());
        let handle = open(root.path(), NAME_ONLY, Mode::empty()).unwrap();
        let module = Module {
            id: 1,
            kind: ModuleKind::File,
            path: Arc::from(&b"/opt/app"[..]),
            build_id: None,
            identity: None,
            file: None,
            root: Some(Arc::new(handle)),
        };
        let found = find_debug_files(&module, &DebugFile::new(build_id, name))
            .into_iter()
            .map(|file| fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap());
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    const BY_ID: &str = "usr/lib/debug/.build-id/ab/cd.debug";

    fn write(root: &Path, paths: &[&str]) {
        paths.iter().for_each(|path| fs::write(root.join(path), path).unwrap());
    }

    #[test]
    fn by_build_id_first_and_then_by_name() {
        let places = [BY_ID, "usr/lib/debug/opt/app.debug", "opt/app.debug", "opt/.debug/app.debug"];
        check(|root| write(root, &places), &[0xab, 0xcd], b"app.debug", &places);
    }

    #[test]
    fn without_either_there_is_none() {
        check(|root| write(root, &[BY_ID, "opt/app.debug"]), b"", b"", &[]);
    }

    #[test]
    fn a_name_is_no_path() {
        let elsewhere = "opt/secret";
        check(|root| write(root, &[elsewhere]), b"", b"../opt/secret", &[]);
        check(|root| write(root, &[elsewhere]), b"", b"..", &[]);
        check(|root| write(root, &[elsewhere]), b"", b".debug", &[]);
    }

    #[test]
    fn a_link_does_not_leave_the_root() {
        let link = |root: &Path| symlink("/etc/passwd", root.join(BY_ID)).unwrap();
        check(link, &[0xab, 0xcd], b"", &[]);
        let link = |root: &Path| symlink("../../etc/passwd", root.join("opt/app.debug")).unwrap();
        check(link, b"", b"app.debug", &[]);
    }

    #[test]
    fn a_link_within_the_root_is_followed() {
        let link = |root: &Path| {
            write(root, &["opt/other"]);
            symlink("/opt/other", root.join(BY_ID)).unwrap();
        };
        check(link, &[0xab, 0xcd], b"", &["opt/other"]);
    }

    #[test]
    fn a_pipe_is_no_file_and_nobody_waits_for_it() {
        let pipe = |root: &Path| {
            mknodat(CWD, root.join("opt/app.debug"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        };
        check(pipe, b"", b"app.debug", &[]);
    }

    #[test]
    fn our_own_root_is_held_once() {
        let mut roots = Roots::default();
        let procfs = Procfs::new("/proc");
        let root = roots.of(&procfs, std::process::id()).unwrap();
        assert!(Arc::ptr_eq(&root, &roots.of(&procfs, std::process::id()).unwrap()));
    }
}
