//! A file that a profile is written to: its format by its ending.
//!
//! In: a path, before anything is sampled. Out: the whole profile, once there is one. A command that fails before
//! that leaves an older profile of that name as it was, and no empty file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Failure;

/// What a file's ending asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    Pprof,
    Folded,
    Svg,
    Speedscope,
    Recording,
}

/// The format that the ending of `path` names.
pub(super) fn format_of(path: &Path) -> Result<FileFormat, Failure> {
    let name = path.to_string_lossy();
    match () {
        () if name.ends_with(".pb.gz") => Ok(FileFormat::Pprof),
        () if name.ends_with(".folded") => Ok(FileFormat::Folded),
        () if name.ends_with(".svg") => Ok(FileFormat::Svg),
        () if name.ends_with(".json") => Ok(FileFormat::Speedscope),
        () if name.ends_with(".jsonl") || name.ends_with(".jsonl.gz") => Ok(FileFormat::Recording),
        () => Err(Failure::Usage(format!(
            "{name}: the ending names the format, and must be .pb.gz (pprof), .svg (a flame graph), .json (speedscope), \
             .folded (text) or .jsonl.gz (a recording for replay)"
        ))),
    }
}

/// An open file that waits for its profile.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    file: File,
    /// It was made by us and holds nothing yet.
    is_empty: bool,
}

impl Output {
    /// Opens `path`, so that a wrong one is known now rather than after an hour of sampling.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = match File::options().write(true).create_new(true).open(path) {
            Ok(file) => Ok((file, true)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                File::options().write(true).open(path).map(|file| (file, false))
            }
            Err(error) => Err(error),
        };
        let (file, is_empty) = opened.map_err(|error| unwritable(path, &error))?;
        Ok(Self { path: path.to_owned(), file, is_empty })
    }

    /// Makes `bytes` all that is in the file.
    pub(super) fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.replace(bytes);
        self.is_empty = false;
        written.map_err(|error| unwritable(&self.path, &error))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?; // a pipe or a terminal has no length
        }
        self.file.write_all(bytes)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_empty {
            // If it cannot be removed, an empty file is no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Other {
        what: format!("{} cannot be written", path.display()),
        error: format!("{error}; choose another file with -o"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_profile_replaces_an_older_and_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.folded");
        Output::open(&path).unwrap().write(b"a long one").unwrap();
        Output::open(&path).unwrap().write(b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn without_a_profile_the_older_one_stays_and_a_new_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old.folded"), folder.path().join("new.folded"));
        std::fs::write(&old, "old").unwrap();
        drop((Output::open(&old).unwrap(), Output::open(&new).unwrap()));
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert!(!new.exists());
    }

    #[test]
    fn where_nothing_can_be_written_that_is_said_at_once() {
        let said = Output::open(Path::new("/nonexistent/x.folded")).unwrap_err().to_string();
        assert!(said.contains("/nonexistent/x.folded cannot be written") && said.contains("-o"), "{said}");
    }

    #[test]
    fn an_ending_that_names_no_format_is_refused() {
        let said = format_of(Path::new("x.png")).unwrap_err().to_string();
        assert!(said.contains(".pb.gz") && said.contains(".folded"), "{said}");
    }
}
