//! A folder of pprof files, for `go tool pprof` and for people.
//!
//! In: parcels as they are sent to a Pyroscope. Out: `<folder>/<day>/<service>-<time>-<labels>.pb.gz`, each whole or not
//! there: it is written beside its name, synchronized and then given its name. A profile that is written again has
//! the same name, so nothing is ever there twice. Not here: what becomes of them. The folder is the operator's own, and
//! nothing in it is ever removed by us; only what has to stay free on its disk is not taken.
//!
//! A thread of its own does it, for disks can take their time, and some never answer.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::statvfs;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{Pushed, pyroscope};
use crate::deliver::answer::{Answer, Failure, FailureKind};
use crate::deliver::client::Exchange;
use crate::pprof::{self, Message};

/// Largest parcel, bytes before compression: many times a payload.
const RAW_BYTES_MAX: usize = 64 << 20;
/// Longest name of a service in the name of a file, characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// The name of what has none.
const NO_SERVICE: &str = "unknown_service";

/// Writes to a folder.
#[derive(Debug)]
pub(in crate::deliver) struct Folder {
    place: Place,
    /// How long the disk is waited for.
    patience: Duration,
    thread: Option<SyncSender<Job>>,
    /// The end of a job that was waited for in vain.
    late: Option<oneshot::Receiver<io::Result<bool>>>,
}

#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    /// Bytes that stay free on its disk.
    free_bytes_min: u64,
}

struct Job {
    body: Bytes,
    /// Whether it was a parcel.
    done: oneshot::Sender<io::Result<bool>>,
}

impl Folder {
    /// Nothing is written, nor the folder made, before there is something to write.
    pub(super) fn new(folder: PathBuf, free_bytes_min: u64, patience: Duration) -> Self {
        Self { place: Place { folder, free_bytes_min }, patience, thread: None, late: None }
    }

    /// Writes the profiles in the body of a parcel; the answer is that of a server.
    pub(in crate::deliver) async fn write(&mut self, body: Bytes) -> Exchange {
        let sent = Instant::now();
        let result = match self.written(body).await {
            Ok(true) => Ok(Answer { status: 200, ..Answer::default() }),
            Ok(false) => {
                Ok(Answer { status: 422, words: "it is no profile".to_owned(), ..Answer::default() })
            }
            // It is not there, or will be written once more with the same name.
            Err(error) => {
                Err(Failure { kind: FailureKind::Canceled, cause: error.to_string(), evidence: None })
            }
        };
        // There is no connection that could be used again.
        let result = result.map(|mut answer| {
            answer.said.closes = true;
            answer
        });
        Exchange { sent, first_byte: Some(Instant::now()), result, replaced: false }
    }

    async fn written(&mut self, body: Bytes) -> io::Result<bool> {
        if let Some(late) = self.late.take() {
            self.wait(late).await?;
        }
        let (done, end) = oneshot::channel();
        let job = Job { body, done };
        match &self.thread {
            Some(thread) => thread.try_send(job).map_err(|_| io::Error::other("its thread has ended"))?,
            None => {
                let (sender, jobs) = sync_channel::<Job>(1);
                let place = self.place.clone();
                std::thread::Builder::new().name("directory".to_owned()).spawn(move || {
                    for Job { body, done } in jobs {
                        // Nobody may be left who wants to know.
                        let _ = done.send(place.keep(&body));
                    }
                })?;
                sender.try_send(job).map_err(|_| io::Error::other("its thread has ended"))?;
                self.thread = Some(sender);
            }
        }
        self.wait(end).await
    }

    async fn wait(&mut self, mut end: oneshot::Receiver<io::Result<bool>>) -> io::Result<bool> {
        match timeout(self.patience, &mut end).await {
            Ok(ended) => ended.unwrap_or_else(|_| Err(io::Error::other("its thread has ended"))),
            Err(_) => {
                self.late = Some(end);
                Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer"))
            }
        }
    }
}

impl Place {
    /// Writes all profiles of a parcel; false if there are none.
    fn keep(&self, body: &[u8]) -> io::Result<bool> {
        let Ok(raw) = pprof::gunzip(body, RAW_BYTES_MAX) else { return Ok(false) };
        let profiles = pyroscope::decode(&raw);
        let mut days = Vec::new();
        for profile in &profiles {
            let (day, name) = name(profile);
            let day = self.folder.join(day);
            if !days.contains(&day) {
                DirBuilder::new().recursive(true).mode(0o750).create(&day)?;
                self.has_room()?;
                days.push(day.clone());
            }
            write(&day, &name, &pprof::gzip(&with_labels(profile)))?;
        }
        for day in days {
            // The names are to last too.
            File::open(day)?.sync_all()?;
        }
        Ok(!profiles.is_empty())
    }

    fn has_room(&self) -> io::Result<()> {
        let disk = statvfs(&self.folder)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.free_bytes_min {
            return Err(io::Error::other(format!(
                "fewer than {} bytes are free on its disk",
                self.free_bytes_min
            )));
        }
        Ok(())
    }
}

fn write(day: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = day.join(format!(".{name}.part"));
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(beside, day.join(name))
}

/// The day of a profile and the name of its file. What is in its labels and not in the name of the service is told
/// apart by a sum of them; profiles of one series differ in their time.
fn name(Pushed { labels, pprof }: &Pushed) -> (String, String) {
    /// When a profile was taken: the rest of a pprof is passed over.
    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    struct Start {
        #[prost(int64, tag = "9")]
        time_nanos: i64,
    }
    let Start { time_nanos } = Start::decode(pprof.clone()).unwrap_or_default();
    let start = Duration::from_nanos(time_nanos.max(0).cast_unsigned());
    let start = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + start).to_string();
    let (day, time) = start.split_once('T').unwrap_or((&start, ""));
    let time: String = time.chars().filter(|&c| c.is_ascii_digit() || c == '.').collect();
    let service = labels.iter().find(|(name, _)| name == "service_name").map_or("", |(_, value)| value);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._@-".contains(c) { c } else { '_' };
    let service: String = service.chars().map(plain).take(NAME_CHARACTERS_MAX).collect();
    let service = if service.is_empty() { NO_SERVICE } else { &service };
    let mut sum = crc32fast::Hasher::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        sum.update(text.as_bytes());
        sum.update(&[0]);
    }
    (day.to_owned(), format!("{service}-{time}-{:08x}.pb.gz", sum.finalize()))
}

/// The profile with its labels as comments, which is where `go tool pprof -comments` shows them.
fn with_labels(Pushed { labels, pprof }: &Pushed) -> Vec<u8> {
    let Ok(mut profile) = pprof::Profile::decode(pprof.clone()) else { return pprof.to_vec() };
    for (name, value) in labels.iter().filter(|(name, _)| !name.starts_with("__")) {
        let Ok(index) = i64::try_from(profile.string_table.len()) else { break };
        profile.string_table.push(format!("{name}={value}"));
        profile.comment.push(index);
    }
    profile.encode_to_vec()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::pprof::Profile;

    fn pushed(labels: &[(&str, &str)], time_nanos: i64) -> Pushed {
        let profile = Profile { time_nanos, string_table: vec![String::new()], ..Profile::default() };
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Pushed { labels, pprof: profile.encode_to_vec().into() }
    }

    #[track_caller]
    fn check(service: &str, time_nanos: i64, day: &str, starts: &str) {
        let (named_day, name) = name(&pushed(&[("service_name", service)], time_nanos));
        assert_eq!(named_day, day);
        assert!(name.starts_with(starts) && name.ends_with(".pb.gz"), "{name}");
        assert!(!name.contains('/') && !name.starts_with('.') || service.starts_with('.'), "{name}");
    }

    #[test]
    fn a_file_is_called_by_service_and_time_in_a_folder_of_its_day() {
        check("web", 1_700_000_000_123_456_789, "2023-11-14", "web-221320.123-");
        check("user@1000.service", 0, "1970-01-01", "user@1000.service-000000.000-");
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        check("../../etc/passwd", 0, "1970-01-01", ".._.._etc_passwd-");
        check("a\0b\nc", -5, "1970-01-01", "a_b_c-");
        check("", i64::MAX, "2262-04-11", "unknown_service-");
        check(&"é".repeat(1_000), 0, "1970-01-01", &"_".repeat(64));
    }

    #[test]
    fn series_of_one_service_have_files_of_their_own() {
        let of = |host: &str| name(&pushed(&[("hostname", host), ("service_name", "web")], 0)).1;
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
    }

    #[test]
    fn labels_are_comments() {
        let labels = [("__name__", "process_cpu"), ("hostname", "h"), ("service_name", "web")];
        let profile = Profile::decode(&*with_labels(&pushed(&labels, 5))).unwrap();
        let comments: Vec<_> =
            profile.comment.iter().map(|&at| profile.text(at).unwrap().to_owned()).collect();
        assert_eq!((comments, profile.time_nanos), (vec!["hostname=h".into(), "service_name=web".into()], 5));
    }
}
