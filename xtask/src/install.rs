//! `cargo xtask install` and `uninstall`: the daemon as a service of this machine, or below a folder, for packagers.
//!
//! In: the folder, `/` unless it is given. Out: files, and a list of them. Not here: starting anything; who installs is told
//! how. Nothing of the operator's is overwritten: a configuration that is there stays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Folder to install below
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Binary to install [default: a release build, made now]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Removal {
    /// Folder that it was installed below
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Remove the configuration, what waits to be pushed and the user too
    #[arg(long)]
    purge: bool,
}

/// What is installed, where, and with which mode.
pub(crate) const BINARY: &str = "usr/bin/profiler-daemon";
pub(crate) const CONFIGURATION: &str = "etc/profiler-daemon/profiler.toml";
/// What a service has beside the defaults: a machine of other people's is not to be kept busy by who watches it.
const SERVICE_CONFIGURATION: &str = "\n# Set for the service. The unit's MemoryHigh and MemoryMax are above memory_max: change them together.\n\
     cpu_max = \"1%\"\nmemory_max = \"640MiB\"\n";
/// Files of the folder `packaging`.
const PACKAGED: [(&str, &str); 3] = [
    ("profiler-daemon.service", "usr/lib/systemd/system/profiler-daemon.service"),
    ("profiler-daemon.sysusers", "usr/lib/sysusers.d/profiler-daemon.conf"),
    ("profiler-daemon.sysctl", "usr/lib/sysctl.d/10-profiler-daemon.conf"),
];
/// Files that the binary prints, and the words that ask for them.
const PRINTED: [(&[&str], &str); 4] = [
    (&["man"], "usr/share/man/man1/profiler-daemon.1"),
    (&["completions", "bash"], "usr/share/bash-completion/completions/profiler-daemon"),
    (&["completions", "zsh"], "usr/share/zsh/vendor-completions/_profiler-daemon"),
    (&["completions", "fish"], "usr/share/fish/vendor_completions.d/profiler-daemon.fish"),
];
/// Folders that are ours alone.
const STATE: [&str; 2] = ["etc/profiler-daemon", "var/lib/profiler-daemon"];
const USER: &str = "profiler-daemon";

/// Installs.
pub(crate) fn install(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => release()?,
    };
    for path in files(&binary, &options.root)? {
        println!("{}", path.display());
    }
    if options.root == Path::new("/") {
        // The user that the unit names; systemd makes the folders.
        host::run(Command::new("systemd-sysusers").arg(format!("/{}", PACKAGED[1].1)))?;
        if perf_is_for_administrators() {
            host::run(Command::new("/lib/systemd/systemd-sysctl").arg(format!("/{}", PACKAGED[2].1)))?;
        }
        println!("\nstart it with: systemctl daemon-reload && systemctl enable --now profiler-daemon");
    }
    Ok(())
}

/// Whether this kernel asks for more than CAP_PERFMON, as Debian's and Ubuntu's do unless they are told otherwise.
fn perf_is_for_administrators() -> bool {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    level.trim().parse::<i32>().is_ok_and(|level| level > 2)
}

/// Puts every file in its place below `root`. Those that were written.
pub(crate) fn files(binary: &Path, root: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut write = |place: &str, content: &[u8], mode: u32| -> Result<()> {
        let path = root.join(place);
        let folder = path.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // Beside it first: a program that runs is not written to, and nobody reads half a file.
        let fresh = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().display()));
        fs::write(&fresh, content).with_context(|| fresh.display().to_string())?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
        fs::rename(&fresh, &path).with_context(|| path.display().to_string())?;
        written.push(path);
        Ok(())
    };
    write(BINARY, &fs::read(binary).with_context(|| binary.display().to_string())?, 0o755)?;
    for (name, place) in PACKAGED {
        let file = host::root().join("packaging").join(name);
        write(place, &fs::read(&file).with_context(|| file.display().to_string())?, 0o644)?;
    }
    for (words, place) in PRINTED {
        write(place, &printed(binary, words)?, 0o644)?;
    }
    if !root.join(CONFIGURATION).exists() {
        let mut file = printed(binary, &["config", "default"])?;
        file.extend_from_slice(SERVICE_CONFIGURATION.as_bytes());
        write(CONFIGURATION, &file, 0o644)?;
    }
    Ok(written)
}

fn printed(binary: &Path, words: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(binary).args(words).output().with_context(|| binary.display().to_string())?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("{} {} failed ({})", binary.display(), words.join(" "), output.status);
    }
    Ok(output.stdout)
}

/// A release build's binary.
pub(crate) fn release() -> Result<PathBuf> {
    host::run(host::cargo().args(["build", "--locked", "--release", "--package", "profiler-daemon"]))?;
    Ok(host::target_dir().join("release/profiler-daemon"))
}

/// Removes.
pub(crate) fn uninstall(removal: &Removal) -> Result<()> {
    let Removal { root, purge } = removal;
    let this_machine = root == Path::new("/");
    if this_machine {
        // A service that was never enabled, or a machine without systemd, is no reason to stop.
        let _ = Command::new("systemctl").args(["disable", "--now", "profiler-daemon"]).status();
    }
    for path in remove(root, *purge)? {
        println!("removed {}", path.display());
    }
    if this_machine && *purge {
        let _ = Command::new("userdel").arg(USER).status();
    }
    Ok(())
}

/// Removes every file below `root` that [`files`] puts there, and with `purge` what came to be later. Those that were.
fn remove(root: &Path, purge: bool) -> Result<Vec<PathBuf>> {
    let places = PACKAGED.iter().map(|(_, place)| *place).chain(PRINTED.iter().map(|(_, place)| *place));
    let mut removed = Vec::new();
    for path in places.chain([BINARY]).map(|place| root.join(place)).filter(|path| path.exists()) {
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        removed.push(path);
    }
    for path in STATE.map(|place| root.join(place)).into_iter().filter(|path| purge && path.exists()) {
        fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        removed.push(path);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that prints something, whatever it is asked for.
    fn program(folder: &Path) -> PathBuf {
        let path = folder.join("program");
        fs::write(&path, "#!/bin/sh\necho \"$@\"\n").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        path
    }

    /// Every file below `folder`.
    fn found(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
        entries.flat_map(|path| if path.is_dir() { found(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn what_is_installed_is_removed_but_for_the_operators() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        let binary = program(folder.path());
        let written = files(&binary, &root).expect("installed");
        assert_eq!(written.len(), found(&root).len());
        assert_eq!(fs::read_to_string(root.join(PRINTED[1].1)).expect("text"), "completions bash\n");

        fs::write(root.join(CONFIGURATION), "the operator's").expect("a file");
        files(&binary, &root).expect("upgraded");
        remove(&root, false).expect("removed");
        assert_eq!(found(&root), [root.join(CONFIGURATION)]);
        assert_eq!(fs::read_to_string(root.join(CONFIGURATION)).expect("text"), "the operator's");
    }

    /// The number between `before` and `unit` in a line of its own.
    #[track_caller]
    fn number(text: &str, before: &str, unit: &str) -> u64 {
        let found = text.lines().find_map(|line| line.strip_prefix(before)?.strip_suffix(unit)?.parse().ok());
        found.unwrap_or_else(|| panic!("no line {before}…{unit}"))
    }

    #[test]
    fn the_unit_leaves_room_for_what_the_configuration_allows_and_for_pages_of_files() {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/profiler-daemon.service");
        let unit = fs::read_to_string(unit).expect("the unit");
        let ours = number(SERVICE_CONFIGURATION, "memory_max = \"", "MiB\"");
        let (high, most) = (number(&unit, "MemoryHigh=", "M"), number(&unit, "MemoryMax=", "M"));
        assert!(ours + 64 <= high && high + 64 <= most, "{ours}, {high} and {most} MiB");
    }

    #[test]
    fn a_purge_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        files(&program(folder.path()), &root).expect("installed");
        fs::create_dir_all(root.join("var/lib/profiler-daemon/spool")).expect("a folder");
        fs::write(root.join("var/lib/profiler-daemon/spool/1"), "waits").expect("a file");
        remove(&root, true).expect("removed");
        assert_eq!(found(&root), Vec::<PathBuf>::new());
        assert!(STATE.iter().all(|place| !root.join(place).exists()));
    }

    #[test]
    fn a_binary_that_cannot_say_what_is_asked_is_not_installed_in_silence() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = files(Path::new("/bin/false"), folder.path()).expect_err("it prints nothing");
        assert!(error.to_string().contains("failed"), "{error}");
    }
}
