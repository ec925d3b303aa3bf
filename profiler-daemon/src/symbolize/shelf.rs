//! Unwind tables on disk, so that what was known before a restart is known again at once.
//!
//! In: files, and the tables that were made of them. Out: the table of a file with the same bytes. Not here: how a table is made.
//!
//! A file is known here by its content and nothing else. A build id can be forged, and so can device, inode and times by whoever serves a
//! file system; and a file can change between being looked at and being read. So the namer copies the file to memory of ours, which then
//! nobody can change; the copy is what the name is made of, here, and the copy is what the table is made of: a forged file can have its
//! own table wrong, and nobody else's. What is on disk is believed only with the right version and checksum.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use profiler_common::unwind::table::{SLAB_WORDS, STARTS_WORDS, TABLE_PAGES_MAX};
use ring::digest::{Context, SHA256};
use rustix::fs::{
    MemfdFlags, SealFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fcntl_add_seals, ftruncate, futimens,
    memfd_create,
};

use super::namer::TABLES_VERSION;
use crate::meters::{Counters, Meters, label};
use crate::model::Table;

/// Bytes of tables at most; what was used longest ago goes first. A machine full of compilers has some twenty million.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of one table's file at most: what the largest table that is made takes, and more.
const TABLE_BYTES_MAX: u64 = 24 << 20;

/// The folder of tables.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    bytes: u64,
    bytes_max: u64,
    copied_bytes_max: u64,
    results: Counters,
}

/// A table on disk; what was used longest ago is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    /// Seconds and nanoseconds.
    used: (i64, i64),
    bytes: u64,
    path: PathBuf,
}

/// A file that cannot change any more.
#[derive(Debug)]
pub(super) struct Copied {
    /// A copy, in memory.
    pub(super) file: File,
    /// What its content is called.
    name: String,
}

impl Shelf {
    /// The tables in `folder`, which is made if there is none, of files of `copied_bytes_max` at most.
    pub(super) fn open(folder: &Path, copied_bytes_max: u64, meters: &Meters) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let results = meters.counters(
            "profiler_unwind_tables_on_disk",
            "Unwind tables looked for on disk and put there, by what became of it",
        );
        let mut shelf = Self {
            folder: folder.to_owned(),
            bytes: 0,
            bytes_max: KEPT_BYTES_MAX,
            copied_bytes_max,
            results,
        };
        let tables = shelf.tables()?;
        shelf.bytes = tables.iter().map(|kept| kept.bytes).sum();
        Ok(shelf)
    }

    /// A copy of a file that has `size` bytes, with which `fill` fills memory, if it can; none if there cannot be one.
    pub(super) fn copy(&self, size: u64, fill: impl FnOnce(BorrowedFd<'_>) -> bool) -> Option<Copied> {
        if size > self.copied_bytes_max {
            self.count("too large");
            return None;
        }
        let copied = copy(size, fill).ok().flatten();
        if copied.is_none() {
            self.count("not copied");
        }
        copied
    }

    /// The table that was made of the same bytes.
    pub(super) fn find(&self, copied: &Copied) -> Option<Table> {
        let path = self.folder.join(&copied.name);
        let Ok(file) = File::open(&path) else {
            self.count("absent");
            return None;
        };
        let mut bytes = Vec::new();
        let read = (&file).take(TABLE_BYTES_MAX + 1).read_to_end(&mut bytes);
        let Some(table) = read.ok().and_then(|_| decode(&bytes)) else {
            self.count("damaged");
            let _ = std::fs::remove_file(path); // and is written again
            return None;
        };
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // If it cannot be, it goes earlier than it had to.
        let _ = futimens(&file, &Timestamps { last_access: omitted, last_modification: now });
        self.count("found");
        Some(table)
    }

    /// Keeps the table that was made of a copy.
    pub(super) fn keep(&mut self, copied: &Copied, table: &Table) {
        let bytes = encode(table);
        if bytes.len() as u64 > TABLE_BYTES_MAX {
            self.count("too large");
            return;
        }
        let written = self.make_room(bytes.len() as u64).and_then(|()| self.write(&copied.name, &bytes));
        match written {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                self.count("kept");
            }
            Err(error) => {
                tracing::debug!("an unwind table cannot be kept in {}: {error}", self.folder.display());
                self.count("not written");
            }
        }
    }

    /// A file is there whole or not at all; should a crash leave it torn all the same, its checksum says so.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let begun = self.folder.join(BEGUN);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&begun)?;
        file.write_all(bytes)?;
        std::fs::rename(begun, self.folder.join(name))
    }

    /// Removes what was used longest ago until `more` bytes fit, and some.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        if self.bytes.saturating_add(more) <= self.bytes_max {
            return Ok(());
        }
        let mut tables = self.tables()?;
        tables.sort_unstable();
        self.bytes = tables.iter().map(|kept| kept.bytes).sum();
        let aim = (self.bytes_max / 8 * 7).saturating_sub(more);
        for Kept { used: _, bytes, path } in tables {
            if self.bytes <= aim {
                break;
            }
            std::fs::remove_file(path)?;
            self.bytes -= bytes;
            self.count("removed");
        }
        Ok(())
    }

    /// Every file of the folder.
    fn tables(&self) -> io::Result<Vec<Kept>> {
        let entries = std::fs::read_dir(&self.folder)?;
        let files = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let is = entry.metadata().ok().filter(|is| is.is_file())?;
            Some(Kept { used: (is.mtime(), is.mtime_nsec()), bytes: is.len(), path: entry.path() })
        });
        Ok(files.collect())
    }

    fn count(&self, result: &str) {
        self.results.get_or_create(&label("result", result)).inc();
    }
}

/// The file that is being written.
const BEGUN: &str = "begun";

/// Memory of `size` bytes that was filled and will not change; none if it was not filled.
fn copy(size: u64, fill: impl FnOnce(BorrowedFd<'_>) -> bool) -> io::Result<Option<Copied>> {
    let file = File::from(memfd_create("copy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    ftruncate(&file, size)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    if !fill(file.as_fd()) {
        return Ok(None);
    }
    // What somebody could write to yet is refused here.
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SEAL)?;
    let mut content = Context::new(&SHA256);
    let mut piece = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        at += read as u64;
        content.update(&piece[..read]);
    }
    let name = content.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Copied { file, name }))
}

/// What a table on disk begins with: another daemon may make other tables of the same file.
fn head() -> String {
    format!("unwind table {TABLES_VERSION} of profiler-daemon {}\n", env!("CARGO_PKG_VERSION"))
}

fn encode(table: &Table) -> Vec<u8> {
    let Table { first_page, blocks, keeps_frames } = table;
    let mut bytes = head().into_bytes();
    let mut put = |word: u32| bytes.extend(word.to_le_bytes());
    put(*first_page);
    put(u32::from(*keeps_frames));
    for words in blocks {
        put(u32::try_from(words.len()).unwrap_or(u32::MAX));
        words.iter().copied().for_each(&mut put);
    }
    let sum = crc32fast::hash(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// None for anything but what `encode` made.
fn decode(bytes: &[u8]) -> Option<Table> {
    let (rest, sum) = bytes.split_last_chunk()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (words, []) = rest.strip_prefix(head().as_bytes())?.as_chunks() else { return None };
    let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
    let first_page = words.next()?;
    let keeps_frames = words.next()? != 0;
    let mut blocks = Vec::new();
    while let Some(length) = words.next() {
        let length = usize::try_from(length).ok()?;
        let fits = (length == 0 || (STARTS_WORDS..=SLAB_WORDS).contains(&length)) && length <= words.len();
        if !fits || blocks.len() == TABLE_PAGES_MAX {
            return None;
        }
        blocks.push(words.by_ref().take(length).collect());
    }
    let pages = u64::from(first_page) + blocks.len() as u64;
    (!blocks.is_empty() && pages <= TABLE_PAGES_MAX as u64).then_some(Table {
        first_page,
        blocks,
        keeps_frames,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use super::*;

    fn table(word: u32) -> Table {
        Table { first_page: 3, blocks: vec![vec![word; 200], vec![], vec![word; 300]], keeps_frames: true }
    }

    /// A shelf, and copies of files with the content that each word gives them.
    fn shelf(folder: &Path) -> (Shelf, Meters) {
        let meters = Meters::default();
        (Shelf::open(folder, 64 << 10, &meters).unwrap(), meters)
    }

    /// What fills memory with `content`.
    fn fill(content: &str) -> impl FnOnce(BorrowedFd<'_>) -> bool {
        |memory| File::from(memory.try_clone_to_owned().unwrap()).write_all_at(content.as_bytes(), 0).is_ok()
    }

    fn copied(shelf: &mut Shelf, content: &str) -> Copied {
        shelf.copy(content.len() as u64, fill(content)).unwrap()
    }

    #[track_caller]
    fn check(meters: &Meters, result: &str, count: u64) {
        let line = format!("profiler_unwind_tables_on_disk_total{{result=\"{result}\"}} {count}");
        let page = meters.render();
        assert!(page.contains(&line), "{line}\nis not in\n{page}");
    }

    /// Damages what is kept, and says what comes of it.
    #[track_caller]
    fn damaged(damage: impl FnOnce(&mut Vec<u8>)) {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, meters) = shelf(folder.path());
        let copied = copied(&mut shelf, "a");
        shelf.keep(&copied, &table(1));
        let path = folder.path().join(&copied.name);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(shelf.find(&copied), None);
        check(&meters, "damaged", 1);
        assert!(!path.exists(), "it is not read again");
    }

    #[test]
    fn a_table_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (mut before, _) = shelf(folder.path());
        let copy = copied(&mut before, "a");
        assert_eq!(before.find(&copy), None);
        before.keep(&copy, &table(1));
        let (mut after, meters) = shelf(folder.path());
        let copy = copied(&mut after, "a");
        assert_eq!(after.find(&copy), Some(table(1)));
        check(&meters, "found", 1);
    }

    #[test]
    fn another_file_has_another_table() {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, meters) = shelf(folder.path());
        let (a, b) = (copied(&mut shelf, "a"), copied(&mut shelf, "b"));
        shelf.keep(&a, &table(1));
        assert_eq!(shelf.find(&b), None);
        check(&meters, "absent", 1);
    }

    #[test]
    fn what_is_damaged_is_dropped() {
        damaged(|bytes| bytes.clear());
        damaged(|bytes| bytes.truncate(100));
        damaged(|bytes| bytes[200] ^= 1);
        damaged(|bytes| bytes.push(0));
        damaged(|bytes| bytes.extend(vec![0; 32 << 20]));
    }

    #[test]
    fn what_another_version_made_is_dropped() {
        damaged(|bytes| {
            let digit = bytes.iter().position(u8::is_ascii_digit).unwrap();
            bytes[digit] = b'?';
            let end = bytes.len() - 4;
            let sum = crc32fast::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
        });
    }

    #[test]
    fn the_copy_is_what_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, meters) = shelf(folder.path());
        let copied = copied(&mut shelf, "a");
        assert!(copied.file.write_at(b"b", 0).is_err(), "nobody can change it");
        assert!(shelf.copy(3, fill("longer")).is_none(), "it has no more room than it was asked for");
        assert!(shelf.copy(3, |_| false).is_none(), "it was not filled");
        check(&meters, "not copied", 2);
        assert!(shelf.copy((64 << 10) + 1, |_| true).is_none());
        check(&meters, "too large", 1);
    }

    #[test]
    fn the_folder_stays_within_its_bound_and_keeps_what_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, _) = shelf(folder.path());
        shelf.bytes_max = 20_000;
        let used = copied(&mut shelf, "used");
        shelf.keep(&used, &table(0));
        for number in 1..40 {
            std::thread::sleep(Duration::from_millis(5)); // so that times differ
            assert_eq!(shelf.find(&used), Some(table(0)), "after {number}");
            let copied = copied(&mut shelf, &number.to_string());
            shelf.keep(&copied, &table(number));
            let bytes: u64 = shelf.tables().unwrap().iter().map(|kept| kept.bytes).sum();
            assert!(bytes <= 20_000 && bytes == shelf.bytes, "{bytes} on disk, {} known", shelf.bytes);
        }
    }
}
