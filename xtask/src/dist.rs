//! `cargo xtask dist`: what can be given to others.
//!
//! In: a release build and the folder `packaging`. Out: in `target/dist`, a Debian package (made by `dpkg-deb`), an archive
//! of the same files, and SHA256SUMS of both. Not here: signing, publishing.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{host, install};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Binary to pack [default: a release build, made now]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

const NAME: &str = "profiler-daemon";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const NEEDS: [host::Need; 2] = [
    host::Need { program: "dpkg-deb", package: "dpkg", purpose: "Debian packages" },
    host::Need { program: "tar", package: "tar", purpose: "archives" },
];

/// Makes all of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    host::install(&NEEDS)?;
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => install::release()?,
    };
    let folder = host::target_dir().join("dist");
    for file in make(&binary, &folder)? {
        println!("{}", file.display());
    }
    Ok(())
}

/// Packs `binary` into `folder`, which is emptied first. What was made.
fn make(binary: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let tree = folder.join("tree");
    install::files(binary, &tree)?;
    let whole = format!("{NAME}-{VERSION}-{}-linux", std::env::consts::ARCH);
    let archive = folder.join(format!("{whole}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--owner=0", "--group=0", "--sort=name"]);
    tar.arg(format!("--transform=s,^\\.,{whole},")).arg("--file").arg(&archive);
    host::run(tar.arg("--directory").arg(&tree).arg("."))?;

    let package = packed(&tree, folder, VERSION)?;
    let sums = folder.join("SHA256SUMS");
    fs::write(&sums, checksums(&[&archive, &package])?)?;
    Ok(vec![archive, package, sums])
}

/// Makes `binary` a Debian package of that version in `folder`. Its path.
pub(crate) fn package(binary: &Path, folder: &Path, version: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    install::files(binary, &tree)?;
    packed(&tree, folder, version)
}

/// Makes the files in `tree` a Debian package in `folder`, and removes them. Its path.
fn packed(tree: &Path, folder: &Path, version: &str) -> Result<PathBuf> {
    control(tree, version)?;
    let package = folder.join(format!("{NAME}_{version}_{}.deb", architecture()));
    host::run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(tree).arg(&package))?;
    fs::remove_dir_all(tree)?;
    Ok(package)
}

/// What a Debian package is beside its files.
fn control(tree: &Path, version: &str) -> Result<()> {
    let folder = tree.join("DEBIAN");
    fs::create_dir(&folder)?;
    let control = format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\n\
         Depends: libc6 (>= 2.34), systemd\nRecommends: ca-certificates\nSection: admin\nPriority: optional\n\
         Description: system-wide CPU profiler that may be left on\n \
         Samples the stacks of every process by eBPF and pushes them to a Pyroscope server, or shows them by itself.\n",
        architecture(),
        maintainer(std::env::var("DEBFULLNAME").ok(), std::env::var("DEBEMAIL").ok())
    );
    fs::write(folder.join("control"), control)?;
    fs::write(folder.join("conffiles"), format!("/{}\n", install::CONFIGURATION))?;
    for script in ["postinst", "prerm", "postrm"] {
        let source = host::root().join("packaging/deb").join(script);
        let copy = folder.join(script);
        fs::copy(&source, &copy).with_context(|| source.display().to_string())?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Who answers for a package: by Debian's own variables whoever makes it, else the authors.
fn maintainer(name: Option<String>, address: Option<String>) -> String {
    match (name, address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        _ => env!("CARGO_PKG_AUTHORS").to_owned(),
    }
}

/// What Debian calls this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Lines that `sha256sum --check` reads.
fn checksums(files: &[&Path]) -> Result<String> {
    let mut lines = String::new();
    for file in files {
        let digest = Sha256::digest(fs::read(file)?);
        for byte in digest {
            write!(lines, "{byte:02x}")?;
        }
        writeln!(lines, "  {}", file.file_name().unwrap_or_default().display())?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(program: &str, arguments: &[&str], folder: &Path) -> String {
        let output = Command::new(program).args(arguments).current_dir(folder).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn a_package_has_what_is_installed_and_checksums_that_are_true() {
        if host::find("dpkg-deb").is_none() {
            eprintln!("SKIPPED: no program called dpkg-deb");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let binary = folder.path().join("program");
        fs::write(&binary, "#!/bin/sh\necho \"$@\"\n").expect("a file");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        let folder = folder.path().join("dist");
        let made = make(&binary, &folder).expect("packed");
        output("sha256sum", &["--check", "SHA256SUMS"], &folder);
        let package = made[1].display().to_string();
        let files = output("dpkg-deb", &["--contents", &package], &folder);
        for place in
            [install::BINARY, install::CONFIGURATION, "usr/lib/systemd/system/profiler-daemon.service"]
        {
            assert!(files.contains("root/root") && files.contains(place), "{place} is not in:\n{files}");
        }
        let parts = output("dpkg-deb", &["--info", &package], &folder);
        assert!(
            ["conffiles", "postinst", "prerm", "postrm"].iter().all(|part| parts.contains(part)),
            "{parts}"
        );
        assert!(parts.contains(&format!("Maintainer: {}", env!("CARGO_PKG_AUTHORS"))), "{parts}");
        let (name, address) = (Some("Ada".to_owned()), Some("ada@example.org".to_owned()));
        assert_eq!(maintainer(name, address), "Ada <ada@example.org>");
        let archive = made[0].display().to_string();
        let files = output("tar", &["--list", "--file", &archive], &folder);
        assert!(files.contains(&format!("{NAME}-{VERSION}")) && files.contains(install::BINARY), "{files}");
    }
}
