//! A folder as what a kernel starts from: an archive that it unpacks into memory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Everything in `root` as an archive that the kernel unpacks, written to `archive`.
pub(crate) fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    list(root, root, &mut names)?;
    let output = fs::File::create(archive)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "--create", "--format=newc", "--owner=0:0", "--null"]).current_dir(root);
    let mut packer = cpio.stdin(Stdio::piped()).stdout(output).spawn().context("cannot start cpio")?;
    packer.stdin.take().context("it was piped")?.write_all(&names)?;
    ensure!(packer.wait()?.success(), "cpio failed");
    Ok(archive.to_owned())
}

/// Appends the names below `folder`, relative to `root`, each with a zero behind it.
fn list(root: &Path, folder: &Path, names: &mut Vec<u8>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        names.extend(entry.path().strip_prefix(root)?.as_os_str().as_encoded_bytes());
        names.push(0);
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), names)?;
        }
    }
    Ok(())
}
