//! Keeps what the server refused for good, so that someone can look at it.
//!
//! In: a parcel and the answer to it. Out: per profile a pprof file that `go tool pprof` opens, and a text beside it with
//! the server's words, the labels and the window. Not here: which answers mean that.
//!
//! It is a convenience: what cannot be kept is counted and no more. A thread of its own does it, started by the first
//! refusal, as a disk that hangs must not hold up the next push.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::answer::Answer;
use super::parcel::Parcel;
use super::sinks::{Pushed, Sink};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::model::Weight;
use crate::pprof::{self, Message};
use crate::time::WallNs;

/// Most bytes that are kept: some hundred profiles, enough to see what they have in common. The oldest go.
const BYTES_MAX: u64 = 16 << 20;
/// Refusals that wait to be written; more are not kept.
const WAITING_MAX: usize = 16;
/// Longest name of a service in the name of a file, bytes.
const NAME_BYTES_MAX: usize = 64;

/// Keeps refusals in a folder.
#[derive(Debug)]
pub(super) struct Quarantine {
    folder: PathBuf,
    sink: Sink,
    thread: Option<SyncSender<Refused>>,
    meters: QuarantineMeters,
}

/// What is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct QuarantineMeters {
    kept: Counter,
    dropped: Counter,
}

#[derive(Debug)]
struct Refused {
    at: WallNs,
    parcel: Parcel,
    answer: Answer,
}

impl QuarantineMeters {
    /// Registers them.
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            kept: meters.counter(
                "profiler_quarantine_kept",
                "Profiles that the server refused for good and that are kept for inspection.",
            ),
            dropped: meters.counter(
                "profiler_quarantine_dropped",
                "Profiles that the server refused for good and that are not kept, or no longer: no room, or the disk fails.",
            ),
        }
    }
}

impl Quarantine {
    /// In `folder`, which is made when there is something to keep.
    pub(super) fn new(folder: PathBuf, sink: Sink, meters: QuarantineMeters) -> Self {
        Self { folder, sink, thread: None, meters }
    }

    /// Keeps what is in `parcel`, some time soon.
    pub(super) fn keep(&mut self, parcel: &Parcel, answer: &Answer) {
        let refused = Refused { at: WallNs::now(), parcel: parcel.clone(), answer: answer.clone() };
        let count = parcel.len() as u64;
        let thread = match &self.thread {
            Some(thread) => thread,
            None => {
                let (sender, receiver) = sync_channel(WAITING_MAX);
                let mut keeper = Keeper {
                    folder: self.folder.clone(),
                    sink: self.sink,
                    bytes_max: BYTES_MAX,
                    meters: self.meters.clone(),
                    number: 0,
                    said: false,
                    failing: false,
                };
                let thread = std::thread::Builder::new().name("quarantine".to_owned());
                if thread.spawn(move || keeper.work(&receiver)).is_err() {
                    self.meters.dropped.inc_by(count);
                    return;
                }
                self.thread.insert(sender)
            }
        };
        if thread.try_send(refused).is_err() {
            self.meters.dropped.inc_by(count);
        }
    }
}

/// The thread's side.
struct Keeper {
    folder: PathBuf,
    sink: Sink,
    bytes_max: u64,
    meters: QuarantineMeters,
    /// Of the last profile, to tell apart those of one moment.
    number: u32,
    said: bool,
    failing: bool,
}

impl Keeper {
    fn work(&mut self, refusals: &Receiver<Refused>) {
        for Refused { at, parcel, answer } in refusals {
            let profiles = parcel.unpack().map_or(Vec::new(), |bytes| self.sink.decode(&bytes));
            for profile in profiles {
                match self.keep(at, &profile, parcel.weight(), &answer) {
                    Ok(()) => {
                        self.meters.kept.inc();
                        self.failing = false;
                        if !std::mem::replace(&mut self.said, true) {
                            info!(
                                "what the server refuses is kept for inspection in {}",
                                self.folder.display()
                            );
                        }
                    }
                    Err(error) => {
                        self.meters.dropped.inc();
                        if !std::mem::replace(&mut self.failing, true) {
                            warn!("{}: {error}: what the server refuses is not kept", self.folder.display());
                        }
                    }
                }
            }
        }
    }

    fn keep(&mut self, at: WallNs, profile: &Pushed, weight: Weight, answer: &Answer) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let Pushed { labels, pprof } = profile;
        let packed = if pprof::is_gzip(pprof) { pprof.to_vec() } else { pprof::gzip(pprof) };
        let words = words(labels, pprof, weight, answer);
        self.make_room((packed.len() + words.len()) as u64)?;
        self.number = (self.number + 1) % 1_000;
        let service = labels.iter().find(|(name, _)| name == "service_name");
        let service = service.map_or(String::new(), |(_, value)| file_name(value));
        let time = humantime::format_rfc3339_millis(moment(at)).to_string().replace(':', "-");
        let path = self.folder.join(format!("{time}-{:03}-{service}", self.number));
        // The text last: who finds it finds the profile.
        write(&path, "pb.gz", &packed)?;
        write(&path, "txt", words.as_bytes())
    }

    /// Removes the oldest files until there is room for `bytes`.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((entry.path(), metadata.len()));
            }
        }
        let mut sum: u64 = files.iter().map(|(_, length)| length).sum();
        files.sort_unstable();
        for (path, length) in files {
            if sum + bytes <= self.bytes_max {
                break;
            }
            fs::remove_file(&path)?;
            sum -= length;
            self.meters.dropped.inc_by(u64::from(path.extension().is_some_and(|end| end == "gz")));
        }
        if bytes <= self.bytes_max {
            Ok(())
        } else {
            Err(io::Error::other("a profile is larger than all room"))
        }
    }
}

fn words(labels: &[(String, String)], pprof: &[u8], weight: Weight, answer: &Answer) -> String {
    let mut words = format!("status {}\n", answer.status);
    // Writing to a string cannot fail.
    let _ = writeln!(words, "the server said: {}", answer.words);
    for (name, value) in labels {
        let _ = writeln!(words, "label {name}={value:?}");
    }
    if let Ok(profile) = pprof::Profile::decode(pprof) {
        let start = humantime::format_rfc3339_millis(moment(WallNs(profile.time_nanos)));
        let length = Duration::from_nanos(profile.duration_nanos.max(0).cast_unsigned());
        let _ = writeln!(words, "window {start}, {length:?}\nstacks {}", profile.sample.len());
    }
    let _ = writeln!(words, "samples {} in its request\nbytes {} before compression", weight.0, pprof.len());
    words
}

/// A moment as humantime takes it; it knows no year after 9999, and we none before 1970.
fn moment(at: WallNs) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(at.0.max(0).cast_unsigned())
}

/// A part of a file's name, whatever is in `text`.
fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    text.chars().map(plain).take(NAME_BYTES_MAX).collect()
}

fn write(path: &Path, suffix: &str, bytes: &[u8]) -> io::Result<()> {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use super::*;
    use crate::model::{Format, Labels, Payload};
    use crate::time::Window;

    fn parcel(service: &str, bytes: usize) -> Parcel {
        let noise = (0..bytes).map(|at| (at * at % 251).to_le_bytes()[0]);
        let mut profile =
            pprof::Profile { time_nanos: 1_700_000_000_000_000_000, duration_nanos: 7, ..Default::default() };
        profile.string_table = vec![String::new(), noise.map(char::from).collect()];
        let payload = Payload {
            window: Window { start: WallNs(profile.time_nanos), duration_ns: 7 },
            labels: Arc::new(Labels::new([(Arc::from("service_name"), Arc::from(service))])),
            format: Format::Pprof,
            body: profile.encode_to_vec(),
            weight: Weight(5),
        };
        Sink::Pyroscope.pack(vec![payload]).0.remove(0)
    }

    fn answer() -> Answer {
        Answer { status: 400, words: "no such tenant".to_owned(), ..Answer::default() }
    }

    fn quarantine(folder: &Path, meters: &Meters) -> Quarantine {
        Quarantine::new(folder.to_owned(), Sink::Pyroscope, QuarantineMeters::new(meters))
    }

    /// The files that are there when `counted` profiles were.
    fn files(folder: &Path, meters: &Meters, counted: u64) -> Vec<PathBuf> {
        while {
            let page = meters.render();
            let value = |name: &str| -> u64 {
                page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
            };
            value("profiler_quarantine_kept_total") + value("profiler_quarantine_dropped_total") < counted
        } {
            std::thread::sleep(Duration::from_millis(1));
        }
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn a_refused_profile_is_kept_with_the_reason() {
        let (place, meters) = (tempfile::tempdir().unwrap(), Meters::default());
        let folder = place.path().join("quarantine");
        let mut quarantine = quarantine(&folder, &meters);
        quarantine.keep(&parcel("../web ♥", 10), &answer());
        let files = files(&folder, &meters, 1);
        let [profile, text] = files.as_slice() else { panic!("{files:?}") };
        assert!(profile.to_str().unwrap().ends_with("-001-.._web__.pb.gz"), "{profile:?}");
        let bytes = pprof::gunzip(&fs::read(profile).unwrap(), 1 << 20).unwrap();
        assert_eq!(pprof::Profile::decode(&*bytes).unwrap().duration_nanos, 7);
        assert_eq!(
            fs::read_to_string(text).unwrap(),
            format!(
                "status 400\nthe server said: no such tenant\nlabel __name__=\"process_cpu\"\nlabel \
                 service_name=\"../web ♥\"\nwindow 2023-11-14T22:13:20.000Z, 7ns\nstacks 0\nsamples 5 in its \
                 request\nbytes {} before compression\n",
                bytes.len()
            )
        );
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let (place, meters) = (tempfile::tempdir().unwrap(), Meters::default());
        let meters = QuarantineMeters::new(&meters);
        let folder = place.path().to_owned();
        let mut keeper = Keeper {
            folder,
            sink: Sink::Pyroscope,
            bytes_max: 4_000,
            meters,
            number: 0,
            said: false,
            failing: false,
        };
        for service in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let profile = Sink::Pyroscope.decode(&parcel(service, 1_000).unpack().unwrap()).remove(0);
            keeper.keep(WallNs(i64::from(keeper.number)), &profile, Weight(1), &answer()).unwrap();
        }
        let files: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(files.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>() <= 4_000);
        let has = |end: &str| files.iter().any(|file| file.file_name().to_str().unwrap().ends_with(end));
        assert!(has("h.pb.gz") && has("h.txt") && !has("a.pb.gz"));
        assert!(keeper.meters.dropped.get() > 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_costs_what_was_refused() {
        let (place, meters) = (tempfile::tempdir().unwrap(), Meters::default());
        let folder = place.path().join("quarantine");
        fs::write(&folder, "a file in its place").unwrap();
        quarantine(&folder, &meters).keep(&parcel("web", 10), &answer());
        assert!(files(&folder, &meters, 1).is_empty());
        assert!(meters.render().contains("profiler_quarantine_dropped_total 1"));
    }
}
