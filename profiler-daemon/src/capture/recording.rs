//! A recording: the batches of a capture and what was pinned of `/proc`, one JSON object a line.
//!
//! Out: the same batches again, for `replay` and for tests that need neither root nor this kernel. Text, so that a
//! recording can be read in review, cut by hand and written by hand; gzip if the file's name says so.
//! Bytes that need not be text (names, paths) are strings with one character per byte.

mod lines;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;

use self::lines::{BatchLine, HeaderLine, Modules};
use crate::model::RawBatch;

/// The version that this daemon writes. It changes with the lines below.
pub const VERSION: u32 = 3;
/// The oldest that is read: what came since has a value where it is missing.
const OLDEST: u32 = 2;

/// Bytes of one line at most: a window of a large machine is a few megabytes, and what `record` keeps for one has a quarter of this.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Why a recording cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file, not what is in it.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line that is not one of a recording.
    #[error("{path}, line {line}: {what}: not a recording of this daemon")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from one.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// It ends in the middle of a line, as one does whose writer was killed.
    #[error("{path} is cut off in line {line} ({what}); what is whole before that is replayed")]
    CutOff {
        /// Which file.
        path: PathBuf,
        /// Which line, from one.
        line: usize,
        /// How that is known.
        what: String,
    },
    /// A recording of another version.
    #[error("{path} is a recording of version {found}; this daemon reads versions {OLDEST} to {VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It was written slower than samples came, and holds those before that.
    #[error(
        "{path} ends early: it was written slower than samples came, and {left_out} of them are missing in it; \
         a faster disk, .jsonl.gz or a lower -F helps"
    )]
    Early {
        /// Which file.
        path: PathBuf,
        /// Weight that came after its end.
        left_out: u64,
    },
    /// It takes nothing any more.
    #[error("{path} is cut off: what it is written to has taken nothing for {waited:?}")]
    Stuck {
        /// Which file.
        path: PathBuf,
        /// For so long.
        waited: std::time::Duration,
    },
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: Out,
    taken: Taken,
}

/// Bytes that a recording's file has taken, for who asks whether it still takes any. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Taken(Arc<AtomicU64>);

impl Taken {
    /// So many by now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A file that counts what it takes.
#[derive(Debug)]
struct Counted {
    file: File,
    taken: Taken,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.taken.0.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[derive(Debug)]
enum Out {
    Plain(BufWriter<Counted>),
    Gzip(Box<BufWriter<GzEncoder<Counted>>>),
}

impl Out {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let out: &mut dyn Write = match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out,
        };
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Gzip(out) => out.into_inner().map_err(io::IntoInnerError::into_error)?.finish().map(drop),
        }
    }
}

impl Writer {
    /// A new recording at `path`, compressed if that ends in `.gz`.
    pub fn create(path: &Path) -> Result<Self, RecordingError> {
        let file = File::create(path);
        let file = file.map_err(|error| RecordingError::File { path: path.to_owned(), error })?;
        let taken = Taken::default();
        let file = Counted { file, taken: taken.clone() };
        let out = if path.extension().is_some_and(|end| end == "gz") {
            Out::Gzip(Box::new(BufWriter::new(GzEncoder::new(file, flate2::Compression::fast()))))
        } else {
            Out::Plain(BufWriter::new(file))
        };
        let mut writer = Self { path: path.to_owned(), out, taken };
        writer.line(&HeaderLine { profiler_recording: VERSION })?;
        Ok(writer)
    }

    /// Where it writes to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has reached the file, also while this writes.
    pub fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// Appends a batch.
    pub fn write(&mut self, batch: &RawBatch) -> Result<(), RecordingError> {
        self.line(&BatchLine::from(batch))
    }

    /// Makes sure that all of it is in the file.
    pub fn finish(self) -> Result<(), RecordingError> {
        let Self { path, out, taken: _ } = self;
        out.finish().map_err(|error| RecordingError::File { path, error })
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), RecordingError> {
        self.out.line(line).map_err(|error| RecordingError::File { path: self.path.clone(), error })
    }
}

/// What a recording holds.
#[derive(Debug)]
pub struct Recorded {
    /// All batches that are whole.
    pub batches: Vec<RawBatch>,
    /// A [`RecordingError::CutOff`] if there should be another one.
    pub cut_off: Option<RecordingError>,
}

/// Reads the recording at `path`, up to where it is cut off if it is.
pub fn read(path: &Path) -> Result<Recorded, RecordingError> {
    let file = |error| RecordingError::File { path: path.to_owned(), error };
    let mut input = BufReader::new(File::open(path).map_err(file)?);
    let gzip = input.fill_buf().map_err(file)?.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
    parse(path, BufReader::new(input))
}

fn parse(path: &Path, mut input: impl BufRead) -> Result<Recorded, RecordingError> {
    let mut batches = Vec::new();
    let mut modules = Modules::new();
    let mut text = Vec::new();
    for line in 1.. {
        let wrong = |what: String| RecordingError::Line { path: path.to_owned(), line, what };
        text.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
        let ended = match &read {
            Ok(0) => None,
            Ok(_) if text.ends_with(b"\n") || text.len() as u64 == LINE_BYTES_MAX => None,
            Ok(_) => Some("it has no end".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(error.to_string()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        match (read.unwrap_or(text.len()), ended) {
            (0, None) if line == 1 => return Err(wrong("empty".to_owned())),
            (0, None) => break,
            (_, ended) if line == 1 => {
                let header: HeaderLine = serde_json::from_slice(&text)
                    .map_err(|error| wrong(ended.unwrap_or_else(|| error.to_string())))?;
                if !(OLDEST..=VERSION).contains(&header.profiler_recording) {
                    return Err(RecordingError::Version {
                        path: path.to_owned(),
                        found: header.profiler_recording,
                    });
                }
            }
            (_, ended) => match (serde_json::from_slice::<BatchLine>(&text), ended) {
                (Ok(batch), _) => batches.push(batch.into_batch(&mut modules).map_err(wrong)?),
                (Err(error), None) => return Err(wrong(error.to_string())),
                (Err(_), Some(what)) => {
                    let cut_off = RecordingError::CutOff { path: path.to_owned(), line, what };
                    return Ok(Recorded { batches, cut_off: Some(cut_off) });
                }
            },
        }
    }
    Ok(Recorded { batches, cut_off: None })
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
