//! The machine we are on: where things are, who we are, what is installed, and how to run and install more.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The top of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs us, at the top of the workspace, without what it told us about our own package: dependencies that
/// look at that would be built again each time.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            cargo.env_remove(&*name);
        }
    }
    cargo.current_dir(root());
    cargo
}

/// One line about what we do.
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// How `command` would be typed.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

/// Runs `command` aloud; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", typed(command)));
    let status = command.status().with_context(|| format!("cannot start `{}`", typed(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", typed(command));
    Ok(())
}

/// What `command` prints, trimmed; `None` if it cannot be run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where `program` is: as a shell would find it, or among the servers, where only root's shell looks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// A program that is needed, and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Name of the program.
    pub program: &'static str,
    /// The package that has it.
    pub package: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
}

/// Installs what is missing of `needs` if we may, else says what is missing and how to install it.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let mut missing: Vec<_> = needs.iter().filter(|need| find(need.program).is_none()).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        say(&format!("{} is missing ({})", need.program, need.purpose));
    }
    let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    apt_install(&packages)?;
    for need in &missing {
        ensure!(
            find(need.program).is_some(),
            "{} is still missing after installing {}",
            need.program,
            need.package
        );
    }
    Ok(())
}

/// Installs Debian packages if we may, else says how to.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "));
    if find("apt-get").is_none() {
        bail!("please install what Debian calls {}", packages.join(", "));
    }
    if !is_root() {
        bail!("please run, as root: {by_hand}");
    }
    run(Command::new("apt-get").args(["-q", "update"]))?;
    let mut install = Command::new("apt-get");
    install.args(["-q", "-y", "install", "--no-install-recommends"]).args(packages);
    let _quiet = NoServices::begin();
    run(install.env("DEBIAN_FRONTEND", "noninteractive")).context(by_hand)
}

/// While it lives, a server that is installed is not started too: a test starts its own.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let mut open = std::fs::File::options();
        // Where there is one, somebody has decided already.
        let file = open.write(true).create_new(true).mode(0o755).open(Self::POLICY);
        let written = file.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"));
        Self { ours: written.is_ok() }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(Self::POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_as_one_would_type_it() {
        let mut command = Command::new("/usr/bin/apt-get");
        command.args(["install", "a b", ""]);
        assert_eq!(typed(&command), "apt-get install 'a b' ''");
    }

    #[test]
    fn what_is_there_is_not_installed_again() {
        let shell = Need { program: "sh", package: "no-such-package", purpose: "this test" };
        install(&[shell]).expect("a shell is there");
    }
}
