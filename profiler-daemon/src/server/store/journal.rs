//! What makes pushes durable: a thread that writes, so that nobody else waits for a disk.
//!
//! In: batches of a growing segment, and segments that have ended. Out: the news that they are on the disk. The journal
//! of a segment is a redb file with one transaction per batch, read whole when the process starts again; when the
//! segment ends it is written as a partition and its journal goes.
//! Not here: what is in a batch (`batch`), what becomes of pushes when the disk fails (the store decides).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use super::batch;
use super::blob::{Place, sealed, unsealed};
use super::folder::{Folder, PartitionFile};
use super::partition::{self, ABOUT, CACHE_BYTES, FileError, VERSION, VERSION_NOW};
use super::rows::Damaged;
use super::segment::Segment;
use crate::time::WallNs;

const BATCHES: TableDefinition<'static, u32, &'static [u8]> = TableDefinition::new("batches");
fn place(number: u32) -> Place<'static> {
    ("batches", i64::from(number), 0)
}

/// The key in `ABOUT` of when the segment began, nanoseconds since the epoch.
const BEGAN: &str = "began";

/// Something to write.
#[derive(Debug)]
pub(in crate::server) enum Work {
    /// A batch of the segment of that number. One of the same `number` that was written before counts as not written.
    Append { seq: u64, number: u32, began: WallNs, bytes: Vec<u8> },
    /// A segment whose batches are all written: from now on it is a partition.
    Close { seq: u64, segment: Arc<Segment> },
}

/// What became of it.
#[derive(Debug)]
pub(in crate::server) enum Done {
    /// It is on the disk.
    Appended,
    /// It is on the disk; nothing, if the segment held nothing.
    Closed { seq: u64, file: Option<PartitionFile> },
    /// It may be on the disk or not.
    Failed { error: String, full: bool },
}

type ToThread = Sender<(Work, oneshot::Sender<Done>)>;

/// The thread that writes. Dropped, it waits for what is being written.
#[derive(Debug)]
pub(in crate::server) struct Journal {
    /// The way to it and itself, until this is dropped.
    thread: Option<(ToThread, JoinHandle<()>)>,
}

impl Journal {
    /// Starts it.
    pub(super) fn start(folder: Folder) -> std::io::Result<Self> {
        let (to_thread, work) = channel();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || write(&folder, &work))?;
        Ok(Self { thread: Some((to_thread, thread)) })
    }

    /// Writes, and tells when that is done.
    pub(in crate::server) async fn run(&self, work: Work) -> Done {
        let (answer, done) = oneshot::channel();
        let sent = self.thread.as_ref().is_some_and(|(to_thread, _)| to_thread.send((work, answer)).is_ok());
        let gone = || Done::Failed { error: "the journal's thread has ended".to_owned(), full: false };
        if sent { done.await.unwrap_or_else(|_| gone()) } else { gone() }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some((to_thread, thread)) = self.thread.take() {
            drop(to_thread);
            // If it ended with a bug, its message was seen.
            let _ = thread.join();
        }
    }
}

fn write(folder: &Folder, work: &Receiver<(Work, oneshot::Sender<Done>)>) {
    let mut open = None;
    while let Ok((work, answer)) = work.recv() {
        let result = match work {
            Work::Append { seq, number, began, bytes } => {
                append(folder, &mut open, seq, number, began, bytes).map(|()| Done::Appended)
            }
            Work::Close { seq, segment } => {
                open = None;
                close(folder, seq, &segment).map(|file| Done::Closed { seq, file })
            }
        };
        let done = result.unwrap_or_else(|error| {
            // After an error a database takes nothing more: the next batch opens it anew.
            open = None;
            Done::Failed { full: error.is_full(), error: error.to_string() }
        });
        // Nobody waits any more when the server stops.
        let _ = answer.send(done);
    }
}

fn append(
    folder: &Folder,
    open: &mut Option<(u64, Database)>,
    seq: u64,
    number: u32,
    began: WallNs,
    bytes: Vec<u8>,
) -> Result<(), FileError> {
    if open.as_ref().is_none_or(|(known, _)| *known != seq) {
        *open = None;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(folder.journal(seq))?;
        folder.sync()?;
        *open = Some((seq, database));
    }
    let (_, database) = open.as_ref().expect("it was opened just now");
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        if about.get(VERSION)?.is_none() {
            about.insert(VERSION, VERSION_NOW)?;
            about.insert(BEGAN, began.0.cast_unsigned())?;
        }
        transaction.open_table(BATCHES)?.insert(number, &*sealed(place(number), bytes))?;
    }
    Ok(transaction.commit()?)
}

fn close(folder: &Folder, seq: u64, segment: &Segment) -> Result<Option<PartitionFile>, FileError> {
    let file = match segment.span() {
        None => None,
        Some(span) => {
            let writing = folder.writing(seq);
            let written = partition::write(segment, &writing);
            if written.is_err() {
                // A half may not be left lying on a disk that is full.
                let _ = fs::remove_file(&writing);
            }
            written?;
            Some(folder.place(seq, span)?)
        }
    };
    match fs::remove_file(folder.journal(seq)) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(file),
        Err(error) => Err(error.into()),
    }
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segment: Segment,
    pub(super) began: WallNs,
    /// The number of the next batch.
    pub(super) next: u32,
}

/// Reads the journal at `path`, after a clean end or not.
pub(super) fn recover(path: &Path) -> Result<Recovered, FileError> {
    // A batch at its end that a damaged page hides would not be missed otherwise.
    let mut builder = Database::builder();
    let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path)?;
    let transaction = database.begin_read()?;
    let mut recovered = Recovered { segment: Segment::default(), began: WallNs(0), next: 0 };
    let about = match transaction.open_table(ABOUT) {
        Ok(about) => about,
        // Ended before its first batch was written.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(recovered),
        Err(error) => return Err(error.into()),
    };
    let version = about.get(VERSION)?.map_or(0, |version| version.value());
    if version != VERSION_NOW {
        return Err(FileError::Version(version));
    }
    recovered.began = WallNs(about.get(BEGAN)?.ok_or(Damaged)?.value().cast_signed());
    for entry in transaction.open_table(BATCHES)?.iter()? {
        let (number, bytes) = entry?;
        let number = number.value();
        if number != recovered.next {
            return Err(Damaged.into());
        }
        batch::read(unsealed(place(number), bytes.value())?, &mut recovered.segment)?;
        recovered.next = number.checked_add(1).ok_or(Damaged)?;
    }
    Ok(recovered)
}
