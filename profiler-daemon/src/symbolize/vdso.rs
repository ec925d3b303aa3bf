//! The vDSO as a file.
//!
//! The kernel maps the same image into every process of a kind, ours included: a copy of ours in an anonymous
//! file is named like any other file. Not here: the images of 32-bit processes, which differ.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::model::FileIdentity;

/// The image is two pages or so; a size beyond this is a mistake.
const IMAGE_BYTES_MAX: u64 = 1 << 20;

/// A copy of our own vDSO.
pub(super) fn image() -> io::Result<(File, FileIdentity)> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let (start, end) = range(&maps).ok_or_else(|| io::Error::other("this process has no vDSO"))?;
    let size = end.checked_sub(start).filter(|&size| size <= IMAGE_BYTES_MAX);
    let size = size.and_then(|size| usize::try_from(size).ok());
    let mut image = vec![0; size.ok_or_else(|| io::Error::other("the vDSO is implausibly large"))?];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
    let mut file = File::from(memfd_create("vdso", MemfdFlags::CLOEXEC)?);
    file.write_all(&image)?;
    let identity = identity(&file)?;
    Ok((file, identity))
}

/// What makes an open file this file.
fn identity(file: &File) -> io::Result<FileIdentity> {
    let is = file.metadata()?;
    let ctime_ns = is.ctime().saturating_mul(1_000_000_000).saturating_add(is.ctime_nsec());
    Ok(FileIdentity { device: is.dev(), inode: is.ino(), size: is.size(), ctime_ns })
}

/// Where a `maps` file says that the vDSO is.
fn range(maps: &str) -> Option<(u64, u64)> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn our_own_is_an_elf_file() {
        let (file, identity) = image().unwrap();
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0).unwrap();
        assert_eq!(&magic, b"\x7fELF");
        assert_eq!(identity.size, file.metadata().unwrap().len());
    }

    #[test]
    fn it_is_found_by_its_name() {
        let maps = "7f0000-7f1000 r-xp 0 0:0 0   /x\n7ffe10000-7ffe12000 r-xp 00000000 00:00 0    [vdso]\n";
        assert_eq!(range(maps), Some((0x7ffe10000, 0x7ffe12000)));
        assert_eq!(range(""), None);
    }
}
