//! One hash for all that the object is made from.
//!
//! In: files and the version of aya-ebpf. Out: a hash that is the same on every machine: it depends neither on the
//! order in which a folder is listed nor on how lines end. Not here: the tools, whose versions the note tells.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Packages that the object is made from.
const PACKAGES: [&str; 2] = ["profiler-ebpf", "profiler-common"];

/// The hash of the sources under `root`.
pub(super) fn hash(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let manifest = Path::new(package).join("Cargo.toml");
        files.push((name(&manifest), read(&root.join(&manifest))?));
        walk(root, &Path::new(package).join("src"), &mut files)?;
    }
    let lock = String::from_utf8(read(&root.join("Cargo.lock"))?).context("Cargo.lock is not text")?;
    files.push(("aya-ebpf".to_owned(), locked_version(&lock, "aya-ebpf")?.into_bytes()));
    Ok(hash_files(files))
}

/// The version of `package` in a lock file.
pub(super) fn locked_version(lock: &str, package: &str) -> Result<String> {
    let name = format!("name = \"{package}\"");
    lock.lines()
        .skip_while(|line| *line != name)
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("Cargo.lock does not name {package}"))
}

/// The hash of named contents, whatever their order.
fn hash_files(mut files: Vec<(String, Vec<u8>)>) -> String {
    files.sort();
    let mut hash = Sha256::new();
    for (name, contents) in files {
        // Lengths first, so that nothing can move from one file to the next unnoticed.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        let lines: Vec<u8> = unix_lines(&contents);
        hash.update((lines.len() as u64).to_le_bytes());
        hash.update(lines);
    }
    hex(&hash.finalize())
}

/// The SHA-256 of `bytes`, hexadecimal.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `text` without the carriage returns that some checkouts put before a line's end.
fn unix_lines(text: &[u8]) -> Vec<u8> {
    let next = text.iter().skip(1).map(Some).chain([None]);
    text.iter()
        .zip(next)
        .filter(|(byte, next)| !(**byte == b'\r' && *next == Some(&b'\n')))
        .map(|(b, _)| *b)
        .collect()
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let path = root.join(folder);
    for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?;
        let inside = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(root, &inside, files)?;
        } else {
            files.push((name(&inside), read(&entry.path())?));
        }
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn name(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn of(files: &[(&str, &str)]) -> String {
        hash_files(files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
    }

    #[test]
    fn the_way_lines_end_does_not_matter() {
        assert_eq!(of(&[("a", "1\r\n2\r\n")]), of(&[("a", "1\n2\n")]));
    }

    #[test]
    fn a_carriage_return_inside_a_line_matters() {
        assert_ne!(of(&[("a", "1\r2")]), of(&[("a", "12")]));
    }

    #[test]
    fn a_name_matters() {
        assert_ne!(of(&[("a", "1")]), of(&[("b", "1")]));
    }

    #[test]
    fn text_cannot_move_to_the_next_file() {
        assert_ne!(of(&[("a", "12"), ("b", "3")]), of(&[("a", "1"), ("b", "23")]));
    }

    #[test]
    fn the_hash_is_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex_sha256(b""), empty);
        assert_eq!(of(&[]), empty);
    }

    #[test]
    fn a_locked_version_is_that_of_the_package_and_not_of_its_neighbour() {
        let lock = "[[package]]\nname = \"aya-ebpf-macros\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\n";
        assert_eq!(locked_version(lock, "aya-ebpf").unwrap(), "0.2.1");
        assert!(locked_version(lock, "aya").is_err());
    }
}
