//! Keeps on disk what waits to be sent, so that it survives the process.
//!
//! In: parcels to be written, read and removed. Out: whether that was done. Not here: what waits and in which order
//! (`waiting`), and how a file looks ([`file`]).
//!
//! One thread does it all, in the order in which it was asked. Disks can take their time, and some never answer:
//! the workshop waits [`ANSWER_MAX`] for a parcel to be written, and begins none so long after the first of a window; the uploader waits as
//! long for one to be read; then they go on from memory until the disk has caught up. A disk that is full or read-only or gone is tried again with each
//! parcel, and said in the log when it fails and when it is well again.

pub mod file;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

pub use self::file::{Head, Key, Spooled, Torn, read};
pub(super) use self::folder::{Found, room};

use self::folder::{Contents, Folder, OpenError, ReadError};
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::meters::{Meters, label};
use crate::model::Weight;
use crate::time::MonoNs;

/// How long an answer of the disk is waited for. A healthy one takes a millisecond; the workshop, which waits for it, has
/// a window's time.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Where to keep what waits, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder, with one in it for each sink. It is made if it is missing.
    pub folder: PathBuf,
    /// Most bytes on disk, in whole blocks. The oldest goes when it is full, and is counted as a loss (`spool full`).
    pub bytes_max: u64,
    /// Bytes that are left free for others on that disk. When fewer are, what waits takes no more room than it has: the
    /// oldest goes for the newest.
    pub free_bytes_min: u64,
}

/// The spool's other end. When it is dropped, the thread ends.
#[derive(Debug)]
pub(super) struct Spool {
    config: Config,
    jobs: Sender<Job>,
    sent: AtomicU64,
    done: Arc<AtomicU64>,
    /// The job that was waited for in vain last.
    late: AtomicU64,
    was_late: AtomicBool,
    meters: SpoolMeters,
}

/// How a parcel was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there. What was found beside it, if the folder was opened for it.
    Done {
        /// Bytes of disk that it takes.
        room: u64,
        /// Parcels of an earlier life.
        found: Vec<Found>,
    },
    /// The disk has not enough room left.
    NoRoom,
    /// It is not there, and may be later.
    Not,
}

/// How a parcel was read.
#[derive(Debug)]
pub(super) enum WasRead {
    /// This is it.
    Parcel(Spooled),
    /// It will never be read.
    Lost,
    /// Not now.
    NotNow,
}

enum Job {
    /// What was found; nothing if another daemon has the folder.
    Open(Sender<Option<Vec<Found>>>),
    Write {
        parcel: Spooled,
        anyway: bool,
        written: Sender<Written>,
    },
    Read {
        key: Key,
        read: oneshot::Sender<WasRead>,
    },
    Remove(Key, Option<oneshot::Sender<()>>),
    End(Sender<()>),
}

/// What is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct SpoolMeters {
    torn: Counter,
    write_failed: Counter,
    recovered: Counter,
    bytes: Gauge<f64, AtomicU64>,
}

impl SpoolMeters {
    /// Registers what is counted for all of `sinks`, each under its name.
    pub(super) fn new(meters: &Meters, sinks: &[String]) -> Vec<Self> {
        let torn = meters.counters("profiler_spool_torn", "Files in the spool that were no whole parcels.");
        let write_failed = meters.counters(
            "profiler_spool_write_failed",
            "Parcels that could not be written to the spool when they should have been; they wait in memory.",
        );
        let recovered = meters.counters(
            "profiler_spool_recovered_weight",
            "Samples that an earlier run had left in the spool.",
        );
        let bytes = meters.gauges("profiler_spool_bytes", "Disk used by what waits to be pushed.");
        let of = |sink: &String| {
            let sink = label("sink", sink);
            Self {
                torn: torn.get_or_create(&sink).clone(),
                write_failed: write_failed.get_or_create(&sink).clone(),
                recovered: recovered.get_or_create(&sink).clone(),
                bytes: bytes.get_or_create(&sink).clone(),
            }
        };
        sinks.iter().map(of).collect()
    }

    /// So much of an earlier run was found.
    pub(super) fn recovered(&self, weight: Weight) {
        self.recovered.inc_by(weight.0);
    }

    /// So much disk is used.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; the bytes of a disk are exact in it")]
    pub(super) fn bytes(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }
}

impl Spool {
    /// Opens the spool, and says what an earlier run has left in it. `None` if another daemon uses it: then there is
    /// only memory. What cannot be said in time is said with a parcel that is written later.
    pub(super) fn open(config: Config, meters: SpoolMeters) -> std::io::Result<Option<(Self, Vec<Found>)>> {
        let done = Arc::new(AtomicU64::new(0));
        let (jobs, jobs_seen) = channel();
        let keeper = Keeper {
            config: config.clone(),
            folder: None,
            found: Vec::new(),
            failing: false,
            done: Arc::clone(&done),
            meters: meters.clone(),
        };
        std::thread::Builder::new().name("spool".to_owned()).spawn(move || keeper.work(&jobs_seen))?;
        let spool = Self {
            config,
            jobs,
            sent: AtomicU64::new(0),
            done,
            late: AtomicU64::new(0),
            was_late: AtomicBool::new(false),
            meters,
        };
        let (opened, answer) = channel();
        let number = spool.send(Job::Open(opened));
        match answer.recv_timeout(ANSWER_MAX) {
            Ok(Some(found)) => Ok(Some((spool, found))),
            Ok(None) => Ok(None),
            Err(_) => {
                spool.is_late_from(number.unwrap_or_default());
                Ok(Some((spool, Vec::new())))
            }
        }
    }

    /// The most disk that may be used, bytes.
    pub(super) const fn bytes_max(&self) -> u64 {
        self.config.bytes_max
    }

    /// The meters.
    pub(super) const fn meters(&self) -> &SpoolMeters {
        &self.meters
    }

    /// Whether the disk has not answered in time, and still has not.
    pub(super) fn is_late(&self) -> bool {
        self.done.load(Ordering::Acquire) < self.late.load(Ordering::Acquire)
    }

    /// Writes a parcel, unless `until` is over; `anyway` is for one that takes the place of another. Waits for it, within reason.
    pub(super) fn write(&self, parcel: Spooled, anyway: bool, until: MonoNs) -> Written {
        let (written, answer) = channel();
        if self.is_late() || MonoNs::now() >= until {
            self.meters.write_failed.inc();
            return Written::Not;
        }
        let Some(number) = self.send(Job::Write { parcel, anyway, written }) else { return Written::Not };
        match answer.recv_timeout(ANSWER_MAX) {
            Ok(written) => {
                if self.was_late.swap(false, Ordering::Relaxed) {
                    info!("{}: the disk answers again", self.config.folder.display());
                }
                written
            }
            Err(RecvTimeoutError::Timeout) => {
                self.meters.write_failed.inc();
                self.is_late_from(number);
                Written::Not
            }
            Err(RecvTimeoutError::Disconnected) => Written::Not,
        }
    }

    /// Reads a parcel back.
    pub(super) async fn read(&self, key: Key) -> WasRead {
        let (read, answer) = oneshot::channel();
        let Some(number) = self.send(Job::Read { key, read }) else { return WasRead::NotNow };
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => WasRead::NotNow,
            Err(_) => {
                self.is_late_from(number);
                WasRead::NotNow
            }
        }
    }

    /// Removes a parcel's file, some time soon.
    pub(super) fn remove(&self, key: Key) {
        self.send(Job::Remove(key, None));
    }

    /// Removes a parcel's file now, and waits for that, within reason.
    pub(super) async fn remove_now(&self, key: Key) {
        let (removed, answer) = oneshot::channel();
        if let Some(number) = self.send(Job::Remove(key, Some(removed)))
            && tokio::time::timeout(ANSWER_MAX, answer).await.is_err()
        {
            self.is_late_from(number);
        }
    }

    /// Waits, within reason, until everything is done that was asked for, and ends. What is there stays.
    pub(super) fn end(&self) {
        let (done, answer) = channel();
        if self.send(Job::End(done)).is_some() && !self.is_late() {
            let _ = answer.recv_timeout(ANSWER_MAX);
        }
    }

    fn send(&self, job: Job) -> Option<u64> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.jobs.send(job).ok().map(|()| number)
    }

    fn is_late_from(&self, number: u64) {
        self.late.fetch_max(number, Ordering::Release);
        if !self.was_late.swap(true, Ordering::Relaxed) {
            let folder = self.config.folder.display();
            warn!(
                "{folder}: the disk has not answered for {ANSWER_MAX:?}; what waits to be pushed is kept in memory"
            );
        }
    }
}

/// Files to look at when a spool is opened: it never holds more, as each takes a block.
fn files_max(config: &Config) -> usize {
    usize::try_from(config.bytes_max / room(1)).unwrap_or(usize::MAX)
}

/// The thread's side.
struct Keeper {
    config: Config,
    folder: Option<Folder>,
    /// What was found there and has not been told yet.
    found: Vec<Found>,
    failing: bool,
    done: Arc<AtomicU64>,
    meters: SpoolMeters,
}

impl Keeper {
    fn work(mut self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Open(opened) => {
                    let found = self.opened();
                    if let Err(SendError(Some(found))) = opened.send(found) {
                        self.found = found;
                    }
                }
                Job::Write { parcel, anyway, written } => {
                    let outcome = self.write(&parcel, anyway);
                    // Who waited may have gone on; then it stays, and goes when the parcel does.
                    let _ = written.send(outcome);
                }
                Job::Read { key, read } => {
                    let _ = read.send(self.read(key));
                }
                Job::Remove(key, removed) => {
                    self.remove(key);
                    let _ = removed.map(|removed| removed.send(()));
                }
                Job::End(done) => {
                    // With it goes the lock.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn opened(&mut self) -> Option<Vec<Found>> {
        match self.open() {
            Ok(_) => {}
            Err(OpenError::System(error)) => self.failed(&error),
            Err(taken @ OpenError::Taken) => {
                let folder = self.config.folder.display();
                warn!("{folder}: {taken}; what waits to be pushed is kept in memory only");
                return None;
            }
        }
        Some(std::mem::take(&mut self.found))
    }

    fn open(&mut self) -> Result<&Folder, OpenError> {
        let folder = Folder::open(&self.config.folder)?;
        let Contents { found, torn } = folder.contents(files_max(&self.config))?;
        self.found.extend(found);
        self.meters.torn.inc_by(torn);
        if torn > 0 {
            warn!("{}: {torn} files are no whole parcels", self.config.folder.display());
        }
        Ok(self.folder.insert(folder))
    }

    fn write(&mut self, parcel: &Spooled, anyway: bool) -> Written {
        let Some(bytes) = file::write(parcel) else {
            self.meters.write_failed.inc();
            return Written::Not;
        };
        let mut result = self.try_write(parcel.key, &bytes, anyway);
        if self.folder.is_some()
            && matches!(&result, Err(error) if error.kind() == std::io::ErrorKind::NotFound)
        {
            // Someone has removed the folder, and with it our lock.
            self.folder = None;
            result = self.try_write(parcel.key, &bytes, anyway);
        }
        match result {
            Ok(true) => {
                if std::mem::take(&mut self.failing) {
                    info!("{}: parcels can be written again", self.config.folder.display());
                }
                Written::Done { room: room(bytes.len() as u64), found: std::mem::take(&mut self.found) }
            }
            Ok(false) => Written::NoRoom,
            Err(error) => {
                self.failed(&error);
                self.meters.write_failed.inc();
                Written::Not
            }
        }
    }

    /// Whether there was room for it.
    fn try_write(&mut self, key: Key, bytes: &[u8], anyway: bool) -> std::io::Result<bool> {
        let free_bytes_min = self.config.free_bytes_min;
        let folder = match &self.folder {
            Some(folder) => folder,
            None => self.open().map_err(std::io::Error::other)?,
        };
        if !anyway && folder.free()? < free_bytes_min {
            return Ok(false);
        }
        folder.write(key, bytes).map(|()| true)
    }

    fn read(&mut self, key: Key) -> WasRead {
        let Some(folder) = &self.folder else { return WasRead::NotNow };
        match folder.read(key) {
            Ok(parcel) => WasRead::Parcel(parcel),
            Err(error @ (ReadError::Torn(_) | ReadError::Gone)) => {
                warn!("{}: a parcel is lost: {error}", self.config.folder.display());
                self.meters.torn.inc();
                self.remove(key);
                WasRead::Lost
            }
            Err(ReadError::System(error)) => {
                self.failed(&error);
                WasRead::NotNow
            }
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(folder) = &self.folder
            && let Err(error) = folder.remove(key)
        {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let folder: &Path = &self.config.folder;
            warn!(
                "{}: {error}: what waits to be pushed is kept in memory, and would not survive a restart",
                folder.display()
            );
        }
    }
}
