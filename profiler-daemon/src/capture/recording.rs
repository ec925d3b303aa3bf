//! A recording: the batches of a capture and what was pinned of `/proc`, one JSON object a line.
//!
//! Out: the same batches again, for `replay` and for tests that need neither root nor this kernel. Text, so that a
//! recording can be read in review, cut by hand and written by hand; gzip if the file's name says so.
//! Bytes that need not be text (names, paths) are strings with one character per byte.

mod lines;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;

use self::lines::{BatchLine, HeaderLine, Modules};
use crate::model::RawBatch;

/// The version this daemon writes and reads. It changes with the lines below.
pub const VERSION: u32 = 2;

/// Bytes of one line at most: a window of a large machine is a few megabytes.
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
        error: std::io::Error,
    },
    /// A line that is not one of a recording.
    #[error("{path}, line {line}: {what}: not a recording of this daemon, or cut off")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from one.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A recording of another version.
    #[error("{path} is a recording of version {found}; this daemon reads version {VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: Out,
}

#[derive(Debug)]
enum Out {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Out {
    fn line(&mut self, line: &str) -> std::io::Result<()> {
        match self {
            Self::Plain(out) => writeln!(out, "{line}"),
            Self::Gzip(out) => writeln!(out, "{line}"),
        }
    }
}

impl Writer {
    /// A new recording at `path`, compressed if that ends in `.gz`.
    pub fn create(path: &Path) -> Result<Self, RecordingError> {
        let file = |error| RecordingError::File { path: path.to_owned(), error };
        let out = BufWriter::new(File::create(path).map_err(file)?);
        let out = if path.extension().is_some_and(|end| end == "gz") {
            Out::Gzip(Box::new(GzEncoder::new(out, flate2::Compression::fast())))
        } else {
            Out::Plain(out)
        };
        let mut writer = Self { path: path.to_owned(), out };
        writer.line(&HeaderLine { profiler_recording: VERSION })?;
        Ok(writer)
    }

    /// Appends a batch.
    pub fn write(&mut self, batch: &RawBatch) -> Result<(), RecordingError> {
        self.line(&BatchLine::from(batch))
    }

    /// Makes sure that all of it is in the file.
    pub fn finish(self) -> Result<(), RecordingError> {
        let Self { path, out } = self;
        let finished = match out {
            Out::Plain(mut out) => out.flush(),
            Out::Gzip(out) => out.finish().and_then(|mut out| out.flush()),
        };
        finished.map_err(|error| RecordingError::File { path, error })
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), RecordingError> {
        let text = serde_json::to_string(line).expect("numbers and texts only");
        self.out.line(&text).map_err(|error| RecordingError::File { path: self.path.clone(), error })
    }
}

/// Reads all batches of the recording at `path`.
pub fn read(path: &Path) -> Result<Vec<RawBatch>, RecordingError> {
    let file = |error| RecordingError::File { path: path.to_owned(), error };
    let mut input = BufReader::new(File::open(path).map_err(file)?);
    let gzip = input.fill_buf().map_err(file)?.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
    parse(path, BufReader::new(input))
}

fn parse(path: &Path, mut input: impl BufRead) -> Result<Vec<RawBatch>, RecordingError> {
    let mut batches = Vec::new();
    let mut modules = Modules::new();
    let mut text = Vec::new();
    for line in 1.. {
        let wrong = |what: String| RecordingError::Line { path: path.to_owned(), line, what };
        text.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
        match read.map_err(|error| wrong(error.to_string()))? {
            0 if line == 1 => return Err(wrong("empty".to_owned())),
            0 => break,
            _ if line == 1 => {
                let header: HeaderLine =
                    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
                if header.profiler_recording != VERSION {
                    return Err(RecordingError::Version {
                        path: path.to_owned(),
                        found: header.profiler_recording,
                    });
                }
            }
            _ => {
                let batch: BatchLine =
                    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
                batches.push(batch.into_batch(&mut modules).map_err(wrong)?);
            }
        }
    }
    Ok(batches)
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
