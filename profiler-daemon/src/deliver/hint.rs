//! Remembers on disk what was learned of servers that do not say how long they keep a connection.
//!
//! In and out: a small JSON file, one entry per server. What it says is a hint: one close that agrees confirms it, one
//! connection that lasts longer makes it void. So a file that cannot be read, or lies, costs a few connections and
//! nothing else. Not here: what is learned, and how.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Hint;

/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Servers that are remembered at most: any other than the one that is pushed to is history.
const SERVERS_MAX: usize = 64;

/// The file, and what stands in it for one server.
#[derive(Debug)]
pub(super) struct HintFile {
    path: PathBuf,
    server: String,
    saved: Option<Hint>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Entries {
    servers: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    /// Idle connections were closed at this age, milliseconds.
    closes_after_ms: u64,
}

impl HintFile {
    /// What the file at `path` says of `server`, if it says anything.
    pub(super) fn open(path: PathBuf, server: String) -> (Self, Option<Hint>) {
        let entries = read(&path);
        let entry = entries.servers.get(&server);
        let saved = entry.map(|entry| Hint { timeout: Duration::from_millis(entry.closes_after_ms) });
        (Self { path, server, saved }, saved)
    }

    /// Writes what is known now, if that is not what stands there.
    pub(super) fn keep(&mut self, hint: Option<Hint>) -> io::Result<()> {
        let differs = match (self.saved, hint) {
            (Some(before), Some(now)) => before.timeout.abs_diff(now.timeout) > now.timeout / 50,
            (before, now) => before != now,
        };
        if !differs {
            return Ok(());
        }
        // Said once, not at each push, where it cannot be written.
        self.saved = hint;
        let mut entries = read(&self.path);
        match hint {
            Some(Hint { timeout }) => {
                let closes_after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                entries.servers.insert(self.server.clone(), Entry { closes_after_ms });
            }
            None => {
                entries.servers.remove(&self.server);
            }
        }
        while entries.servers.len() > SERVERS_MAX {
            let other = entries.servers.keys().find(|server| **server != self.server).cloned();
            other.map(|other| entries.servers.remove(&other));
        }
        write(&self.path, &entries)
    }
}

/// What cannot be read or understood is empty.
fn read(path: &Path) -> Entries {
    let read = || -> Option<Entries> {
        let mut text = Vec::new();
        fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().unwrap_or_default()
}

/// All of it or nothing.
fn write(path: &Path, entries: &Entries) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(entries)?;
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, text)?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const HINT: Hint = Hint { timeout: Duration::from_millis(10_000) };

    /// What is read of `server` from a file with this text.
    #[track_caller]
    fn check(text: &[u8], server: &str, hint: Option<Hint>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hints.json");
        fs::write(&path, text).unwrap();
        let (mut file, read) = HintFile::open(path.clone(), server.to_owned());
        assert_eq!(read, hint);
        // Whatever it was, it can be written.
        file.keep(Some(Hint { timeout: Duration::from_secs(77) })).unwrap();
        assert_eq!(HintFile::open(path, server.to_owned()).1.unwrap().timeout, Duration::from_secs(77));
    }

    #[test]
    fn what_was_kept_is_read_for_the_same_server_only() {
        let text = br#"{"servers": {"http://a": {"closes_after_ms": 10000, "later": 1}, "http://b": {"closes_after_ms": 5}}}"#;
        check(text, "http://a", Some(HINT));
        check(text, "http://c", None);
    }

    #[test]
    fn what_makes_no_sense_is_no_hint() {
        for text in
            [&b""[..], b"{", b"[]", b"\xff\xfe", br#"{"servers": {"http://a": {"closes_after_ms": -1}}}"#]
        {
            check(text, "http://a", None);
        }
        check(&[b' '; 100_000], "http://a", None);
    }

    #[test]
    fn what_is_not_known_any_more_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hints.json");
        let (mut file, _) = HintFile::open(path.clone(), "http://a".to_owned());
        file.keep(Some(HINT)).unwrap();
        file.keep(None).unwrap();
        assert_eq!(HintFile::open(path, "http://a".to_owned()).1, None);
    }

    #[test]
    fn a_timeout_that_is_measured_anew_is_not_written_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hints.json");
        let (mut file, _) = HintFile::open(path.clone(), "http://a".to_owned());
        file.keep(Some(HINT)).unwrap();
        fs::remove_file(&path).unwrap();
        file.keep(Some(Hint { timeout: HINT.timeout + Duration::from_millis(3) })).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn old_servers_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hints.json");
        for server in 0..2 * SERVERS_MAX {
            let (mut file, _) = HintFile::open(path.clone(), format!("http://{server}"));
            file.keep(Some(HINT)).unwrap();
        }
        assert_eq!(read(&path).servers.len(), SERVERS_MAX);
        assert_eq!(HintFile::open(path, format!("http://{}", 2 * SERVERS_MAX - 1)).1, Some(HINT));
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_once() {
        let (mut file, _) = HintFile::open(PathBuf::from("/nowhere/hints.json"), "http://a".to_owned());
        assert!(file.keep(Some(HINT)).is_err());
        assert!(file.keep(Some(HINT)).is_ok());
    }
}
