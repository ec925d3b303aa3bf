//! The folder that holds the files: plain system calls, one at a time, each with its error.
//!
//! In: names and bytes. Out: what is there. Not here: threads, queues, or what an error means for delivery.
//!
//! A file is written beside its name and then renamed, so that a process that is killed leaves no half of one. It is
//! not synchronised to the disk: what has to be survived is a kill, not a power cut, and a file that a power cut tore
//! is noticed by its check.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::file::{self, HEAD_BYTES, Head, Key, Spooled, Torn};

/// What a parcel's file is called after its key.
const SUFFIX: &str = ".parcel";
/// What it is called while it is written.
const UNFINISHED: &str = ".unfinished";
/// The file that who works here has locked.
const LOCK: &str = "lock";
/// Disks give room in blocks of this size, mostly: the smallest file costs as much.
const BLOCK_BYTES: u64 = 4096;

/// What a file of `length` bytes takes of the disk.
pub(in crate::deliver) const fn room(length: u64) -> u64 {
    length.next_multiple_of(BLOCK_BYTES)
}

/// A folder, whose lock is held.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// A file that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::deliver) struct Found {
    pub(in crate::deliver) head: Head,
    /// Its length.
    pub(in crate::deliver) length: u64,
}

/// What was found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Whole files as far as their heads tell, oldest first.
    pub(super) found: Vec<Found>,
    /// Files that are no parcels of this version. Those that have a parcel's name are gone now.
    pub(super) torn: u64,
}

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Another process works here.
    #[error("another daemon uses it")]
    Taken,
    /// The system says no.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It is there and no parcel.
    #[error(transparent)]
    Torn(#[from] Torn),
    /// It is not there.
    #[error("it is gone")]
    Gone,
    /// The system says no; it may say yes later.
    #[error(transparent)]
    System(io::Error),
}

impl Folder {
    /// Makes the folder if it is missing, for nobody else to look into, and takes its lock.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // It may have been there.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => OpenError::Taken,
            error => OpenError::System(error.into()),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Looks at every file's name and head. Not more than `files_max` are kept in mind; older ones go, as torn ones.
    pub(super) fn contents(&self, files_max: usize) -> io::Result<Contents> {
        let mut contents = Contents::default();
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_str().unwrap_or_default();
            match key(name) {
                Some(key) => keys.push(key),
                None if name == LOCK => {}
                None => {
                    contents.torn += 1;
                    // One of ours that was not finished. Of others nothing is known, so they stay.
                    if name.strip_suffix(UNFINISHED).and_then(key).is_some() {
                        let _ = fs::remove_file(self.path.join(name));
                    }
                }
            }
        }
        keys.sort_unstable();
        let too_many = keys.len().saturating_sub(files_max);
        for (at, key) in keys.into_iter().enumerate() {
            match self.head(key) {
                Ok(found) if found.head.key == key && at >= too_many => contents.found.push(found),
                Ok(_) | Err(ReadError::Torn(_)) => {
                    contents.torn += 1;
                    let _ = self.remove(key);
                }
                Err(ReadError::Gone) => {}
                Err(ReadError::System(error)) => return Err(error),
            }
        }
        Ok(contents)
    }

    fn head(&self, key: Key) -> Result<Found, ReadError> {
        let path = self.path(key);
        // Not opened before that is known: it may be a pipe, which nobody writes to.
        let metadata = fs::symlink_metadata(&path).map_err(read_error)?;
        if !metadata.is_file() {
            return Err(Torn::Foreign.into());
        }
        let file = File::open(path).map_err(read_error)?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        file.take(HEAD_BYTES as u64).read_to_end(&mut bytes).map_err(ReadError::System)?;
        Ok(Found { head: Head::read(&bytes, metadata.len())?, length: metadata.len() })
    }

    /// Reads a parcel.
    pub(super) fn read(&self, key: Key) -> Result<Spooled, ReadError> {
        let file = File::open(self.path(key)).map_err(read_error)?;
        let mut bytes = Vec::new();
        file.take(file::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ReadError::System)?;
        let parcel = file::read(&bytes)?;
        if parcel.key == key { Ok(parcel) } else { Err(Torn::Foreign.into()) }
    }

    /// Writes a parcel's file, all or nothing.
    pub(super) fn write(&self, key: Key, bytes: &[u8]) -> io::Result<()> {
        let name = name(key);
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
            file.write_all(bytes)?;
            fs::rename(&unfinished, self.path.join(name))
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// Removes a parcel's file, if it is there.
    pub(super) fn remove(&self, key: Key) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes that the disk has left for us.
    pub(super) fn free(&self) -> io::Result<u64> {
        let disk = statvfs(&self.path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn path(&self, key: Key) -> PathBuf {
        self.path.join(name(key))
    }
}

fn read_error(error: io::Error) -> ReadError {
    if error.kind() == ErrorKind::NotFound { ReadError::Gone } else { ReadError::System(error) }
}

fn name(Key { order, part }: Key) -> String {
    format!("{order:016x}-{part:08x}{SUFFIX}")
}

fn key(name: &str) -> Option<Key> {
    let (order, part) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if order.len() != 16 || part.len() != 8 || !digits(order) || !digits(part) {
        return None;
    }
    let order = u64::from_str_radix(order, 16).ok()?;
    Some(Key { order, part: u32::from_str_radix(part, 16).ok()? })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::model::Weight;
    use crate::time::WallNs;

    fn parcel(order: u64) -> Spooled {
        Spooled {
            key: Key { order, part: 0 },
            parent: None,
            time: WallNs(1),
            turned_away: 0,
            pieces: vec![(7, Weight(order))],
            body: Bytes::from(format!("body {order}")),
        }
    }

    /// A folder with parcels 1, 2 and 3.
    fn folder() -> (TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("spool")).unwrap();
        for order in [2, 1, 3] {
            let parcel = parcel(order);
            folder.write(parcel.key, &file::write(&parcel).unwrap()).unwrap();
        }
        (place, folder)
    }

    /// Whatever `harm` does to the folder, the parcels `orders` are still there, and `torn` files are counted.
    #[track_caller]
    fn check(harm: impl FnOnce(&Path), orders: &[u64], torn: u64) {
        let (_place, folder) = folder();
        harm(&folder.path);
        let contents = folder.contents(100).unwrap();
        assert_eq!(contents.torn, torn);
        assert_eq!(contents.found.iter().map(|found| found.head.key.order).collect::<Vec<_>>(), orders);
        for found in contents.found {
            assert_eq!(folder.read(found.head.key).unwrap(), parcel(found.head.key.order));
        }
        assert_eq!(folder.contents(100).unwrap().found.len(), orders.len());
    }

    fn path(folder: &Path, order: u64) -> PathBuf {
        folder.join(name(Key { order, part: 0 }))
    }

    #[test]
    fn what_was_written_is_found_oldest_first() {
        check(|_| {}, &[1, 2, 3], 0);
    }

    #[test]
    fn a_torn_file_goes_wherever_it_ends_and_the_rest_stays() {
        let length = file::write(&parcel(2)).unwrap().len() as u64;
        for end in 0..length {
            let tear = |folder: &Path| {
                OpenOptions::new().write(true).open(path(folder, 2)).unwrap().set_len(end).unwrap();
            };
            check(tear, &[1, 3], 1);
        }
    }

    #[test]
    fn what_was_being_written_is_no_parcel() {
        check(
            |folder| fs::write(format!("{}.unfinished", path(folder, 9).display()), "half").unwrap(),
            &[1, 2, 3],
            1,
        );
    }

    #[test]
    fn strangers_are_counted_and_left_alone() {
        let strange = |folder: &Path| {
            fs::write(folder.join("README"), "hello").unwrap();
            fs::create_dir(folder.join("sub")).unwrap();
            fs::write(folder.join("g000000000000001-00000000.parcel"), "no number").unwrap();
        };
        check(strange, &[1, 2, 3], 3);
    }

    #[test]
    fn random_bytes_under_a_good_name_go() {
        check(|folder| fs::write(path(folder, 9), [7; 300]).unwrap(), &[1, 2, 3], 1);
        check(|folder| fs::rename(path(folder, 3), path(folder, 9)).unwrap(), &[1, 2], 1);
    }

    #[test]
    fn a_pipe_under_a_good_name_goes_and_is_not_waited_for() {
        let pipe = |folder: &Path| {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            fs::remove_file(path(folder, 2)).unwrap();
            mknodat(CWD, path(folder, 2), FileType::Fifo, Mode::RUSR, 0).unwrap();
        };
        check(pipe, &[1, 3], 1);
    }

    #[test]
    fn a_file_of_another_version_goes() {
        let age = |folder: &Path| {
            let mut bytes = fs::read(path(folder, 1)).unwrap();
            bytes[8] = 9;
            fs::write(path(folder, 1), bytes).unwrap();
        };
        check(age, &[2, 3], 1);
    }

    #[test]
    fn a_rotten_body_is_known_when_it_is_read() {
        let (_place, folder) = folder();
        let mut bytes = fs::read(path(&folder.path, 2)).unwrap();
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        fs::write(path(&folder.path, 2), bytes).unwrap();
        assert_eq!(folder.contents(100).unwrap().found.len(), 3);
        assert!(matches!(folder.read(Key { order: 2, part: 0 }), Err(ReadError::Torn(Torn::Check))));
        assert!(matches!(folder.read(Key { order: 4, part: 0 }), Err(ReadError::Gone)));
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many() {
        let (_place, folder) = folder();
        let contents = folder.contents(2).unwrap();
        assert_eq!((contents.found.len(), contents.torn), (2, 1));
        assert_eq!(contents.found[0].head.key.order, 2);
    }

    #[test]
    fn one_works_here_at_a_time_and_nobody_else_looks() {
        let (_place, folder) = folder();
        assert!(matches!(Folder::open(&folder.path), Err(OpenError::Taken)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path), mode(&path(&folder.path, 1))), (0o700, 0o600));
        let place = folder.path.clone();
        drop(folder);
        assert!(Folder::open(&place).is_ok());
    }

    #[test]
    fn removing_what_is_gone_is_no_fault() {
        let (_place, folder) = folder();
        folder.remove(Key { order: 1, part: 0 }).unwrap();
        folder.remove(Key { order: 1, part: 0 }).unwrap();
        assert_eq!(folder.contents(100).unwrap().found.len(), 2);
    }
}
