//! Kernels other than the one that runs here: Debian's, for virtual machines, the newest of each series there is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::host;

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// What to call it.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

/// Debian's kernels whose package's name contains `filter`, downloaded into `folder` unless they are there.
pub(crate) fn debian(folder: &Path, filter: &str) -> Result<Vec<Image>> {
    let mut names = newest(folder, filter)?;
    if names.is_empty() {
        update()?;
        names = newest(folder, filter)?;
    }
    let images: Result<_> = names.into_iter().map(|name| download(name, folder)).collect();
    match images {
        Ok(images) => Ok(images),
        // The archive has no more of a package than its newest; lists that are older name one that is gone.
        Err(error) => {
            host::say(&format!("{error:#}"));
            update()?;
            newest(folder, filter)?.into_iter().map(|name| download(name, folder)).collect()
        }
    }
}

/// The newest package of each series, of those that are known to apt and those that lie in `folder`.
fn newest(folder: &Path, filter: &str) -> Result<Vec<String>> {
    let mut listed = available()?;
    for file in std::fs::read_dir(folder)? {
        let name = file?.file_name();
        // What has another ending is a download that was broken off.
        if let Some(name) = name.to_str().filter(|name| name.ends_with("-cloud-amd64")) {
            listed += "\n";
            listed += name;
        }
    }
    let mut names = newest_of_each_series(&listed);
    names.retain(|name| name.contains(filter));
    Ok(names)
}

fn update() -> Result<()> {
    host::run(Command::new("apt-get").args(["-q", "update"]))
}

/// Names of the packages that hold a signed kernel for virtual machines.
fn available() -> Result<String> {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$"]);
    host::output(&mut search).with_context(|| format!("`{}` failed", host::typed(&search)))
}

/// Of packages as `apt-cache search` lists them, the newest of each series (6.1, 6.12), oldest first. A package that
/// only names another has a series and no more, and is none of them.
fn newest_of_each_series(listed: &str) -> Vec<String> {
    let mut newest: BTreeMap<Vec<u32>, (Vec<u32>, String)> = BTreeMap::new();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let version = name.trim_start_matches("linux-image-").trim_end_matches("-cloud-amd64");
        let numbers: Vec<u32> =
            version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        let Some((series, [_, ..])) = numbers.split_at_checked(2) else { continue };
        let best = newest.entry(series.to_vec()).or_default();
        if best.0 < numbers {
            *best = (numbers, name.to_owned());
        }
    }
    newest.into_values().map(|(_, name)| name).collect()
}

/// The kernel of the package called `package`.
fn download(package: String, folder: &Path) -> Result<Image> {
    let file = folder.join(&package);
    if !file.is_file() {
        let packages = tempfile_in(folder, &package)?;
        host::run(Command::new("apt-get").args(["-q", "download", &package]).current_dir(&packages))?;
        let deb = std::fs::read_dir(&packages)?.next().context("apt-get downloaded nothing")??.path();
        let mut unpack =
            Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(Stdio::piped()).spawn()?;
        let archive = unpack.stdout.take().context("it was piped")?;
        let mut extract = Command::new("tar");
        extract.args(["--extract", "--to-stdout", "--wildcards", "./boot/vmlinuz-*"]).stdin(archive);
        let kernel = extract.stderr(Stdio::inherit()).output().context("cannot start tar")?;
        let unpacked = unpack.wait()?;
        ensure!(kernel.status.success() && unpacked.success(), "there is no kernel in {}", deb.display());
        let whole = packages.join("vmlinuz");
        std::fs::write(&whole, kernel.stdout)?;
        std::fs::rename(whole, &file)?;
        std::fs::remove_dir_all(packages)?;
    }
    Ok(Image { name: package, file })
}

/// An empty folder for what is downloaded.
fn tempfile_in(folder: &Path, package: &str) -> Result<PathBuf> {
    let packages = folder.join(format!("{package}.download"));
    if packages.exists() {
        std::fs::remove_dir_all(&packages)?;
    }
    std::fs::create_dir_all(&packages)?;
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listed: &str, newest: &[&str]) {
        assert_eq!(newest_of_each_series(listed), newest);
    }

    #[test]
    fn the_newest_kernel_of_each_series_is_taken() {
        check(
            "linux-image-6.12.100+deb12-cloud-amd64 - Linux 6.12\n\
             linux-image-6.1.0-9-cloud-amd64 - Linux 6.1\n\
             linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12\n\
             linux-image-6.1.0-10-cloud-amd64 - Linux 6.1\n",
            &["linux-image-6.1.0-10-cloud-amd64", "linux-image-6.12.100+deb12-cloud-amd64"],
        );
    }

    #[test]
    fn a_package_that_only_names_another_is_none() {
        check("linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)\n", &[]);
    }

    #[test]
    fn what_was_downloaded_once_needs_no_list() {
        let folder = tempfile_in(&std::env::temp_dir(), &format!("xtask-image-{}", std::process::id()))
            .expect("a folder");
        for name in ["linux-image-3.2.0-7-cloud-amd64", "linux-image-3.3.0-7-cloud-amd64.download", "root"] {
            std::fs::write(folder.join(name), "").expect("a file");
        }
        assert_eq!(newest(&folder, "-3.").expect("a list"), ["linux-image-3.2.0-7-cloud-amd64"]);
        std::fs::remove_dir_all(folder).expect("it was made above");
    }
}
