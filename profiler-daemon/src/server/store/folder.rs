//! The files of a store: their names say all that is needed to find the ones a question is about.
//!
//! In: a folder. Out: the journals and partitions in it, without opening any: a start costs the same whatever the
//! history. What cannot be read is set aside under another name, for whoever wants to look, and the oldest of those go.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::time::WallNs;

/// The folder of a store.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// A file of closed history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct PartitionFile {
    pub(super) seq: u64,
    pub(super) path: PathBuf,
    /// What it takes on the disk.
    pub(super) bytes: u64,
    /// First start and last end of its windows, to the second below and above.
    pub(super) span: (WallNs, WallNs),
}

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What grows, or was not yet closed.
    Journal { seq: u64, path: PathBuf },
    /// What was closed.
    Partition(PartitionFile),
}

const JOURNAL: &str = "journal";
const PARTITION: &str = "partition";
const WRITING: &str = "writing";
const SET_ASIDE: &str = "set-aside";
/// Files that are kept although they cannot be read.
const SET_ASIDE_MAX: usize = 4;
const SECOND_NS: i64 = 1_000_000_000;

impl Folder {
    /// The folder at `path`, made if it is not there.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn journal(&self, seq: u64) -> PathBuf {
        self.0.join(format!("{seq:010}.{JOURNAL}"))
    }

    /// Where a partition is written before it has its name.
    pub(super) fn writing(&self, seq: u64) -> PathBuf {
        self.0.join(format!("{seq:010}.{WRITING}"))
    }

    /// Gives the file written at `writing` its name; from then on it is the partition.
    pub(super) fn place(&self, seq: u64, span: (WallNs, WallNs)) -> io::Result<PartitionFile> {
        let (from, until) = (span.0.0.div_euclid(SECOND_NS), span.1.0.div_euclid(SECOND_NS) + 1);
        let path = self.0.join(format!("{seq:010}_{from}_{until}.{PARTITION}"));
        fs::rename(self.writing(seq), &path)?;
        self.sync()?;
        PartitionFile::read(path)?
            .ok_or_else(|| io::Error::other("the name of a partition cannot be read back"))
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    /// All files of the store, oldest first. Left-overs of a partition that was being written are removed.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.0)? {
            let path = file?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(PARTITION) => entries.extend(PartitionFile::read(path)?.map(Entry::Partition)),
                Some(JOURNAL) => {
                    let seq = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                    entries.extend(seq.map(|seq| Entry::Journal { seq, path }));
                }
                Some(WRITING) => fs::remove_file(path)?,
                _ => {}
            }
        }
        entries.sort_by_key(|entry| match entry {
            Entry::Journal { seq, .. } => (*seq, 1),
            Entry::Partition(file) => (file.seq, 0),
        });
        Ok(entries)
    }

    /// Takes a file that cannot be read out of the way.
    pub(super) fn set_aside(&self, path: &Path) {
        let mut name = path.to_owned().into_os_string();
        name.push(".");
        name.push(SET_ASIDE);
        // Who cannot rename it cannot remove it either; it is met again at the next start.
        let _ = fs::rename(path, name);
        let mut kept: Vec<PathBuf> = (fs::read_dir(&self.0).into_iter().flatten().flatten())
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == SET_ASIDE))
            .collect();
        kept.sort();
        for oldest in kept.iter().rev().skip(SET_ASIDE_MAX) {
            let _ = fs::remove_file(oldest);
        }
    }

    /// What is free on its file system for us, and how large that is; bytes.
    pub(super) fn free_bytes(&self) -> Option<(u64, u64)> {
        let found = rustix::fs::statvfs(&self.0).ok()?;
        Some((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
    }
}

impl PartitionFile {
    /// `None` if that is no name of a partition.
    fn read(path: PathBuf) -> io::Result<Option<Self>> {
        let parsed = || {
            let mut parts = path.file_stem()?.to_str()?.splitn(3, '_');
            let seq = parts.next()?.parse().ok()?;
            let mut second = || Some(WallNs(parts.next()?.parse::<i64>().ok()?.checked_mul(SECOND_NS)?));
            Some((seq, (second()?, second()?)))
        };
        let Some((seq, span)) = parsed() else { return Ok(None) };
        let bytes = fs::metadata(&path)?.len();
        Ok(Some(Self { seq, path, bytes, span }))
    }
}
