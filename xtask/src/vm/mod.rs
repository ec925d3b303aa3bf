//! `cargo xtask vm`: the package's life on a Debian of its own, which boots with systemd in an emulator.
//!
//! In: the release build, Debian's packages. Out: a line per step of an operator's (install, enable, reload, upgrade, purge …),
//! and everything that was said in a file. Not part of `cargo xtask test`: it takes minutes, and Debian from its mirror.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::emulator::finding::{Finding, table};
use crate::emulator::{self, Machine, Transcript, archive, image};
use crate::host::{self, Need};
use crate::{dist, install};

#[derive(clap::Args)]
#[command(
    long_about = "Boot a Debian made by debootstrap with systemd in an emulator, and there install the package, enable the \
                  service, profile, set the clock, reload a broken configuration, upgrade, kill it, stop it \
                  from making progress, and purge it.\n\nIt takes five minutes and more, so `cargo xtask test` does not do it: run it after a change \
                  of packaging/ or of children/. Needs root, for debootstrap. What it showed last is in \
                  docs/service-vm.txt."
)]
pub(crate) struct Options {
    /// Pack this daemon instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// What an operator does there.
const SCRIPT: &str = include_str!("test.sh");
/// Starts it when everything else has started.
const UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=multi-user.target\n[Service]\nExecStart=/usr/local/bin/try\n\
                    StandardOutput=tty\nTTYPath=/dev/ttyS0\n";
/// Debian's release.
const SUITE: &str = "bookworm";
/// What the machine has beside the smallest Debian.
const PACKAGES: &str = "systemd,systemd-sysv,procps";
/// What nobody reads there.
const UNREAD: [&str; 6] =
    ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "boot"];
/// Its files lie in memory, once packed and once not, while it boots.
const MEMORY_MIB: u32 = 2048;
/// Five minutes, where the machine has time.
const SECONDS_MAX: u32 = 3600;
/// Steps of the script.
const STEPS: [&str; 12] = [
    "booted",
    "installed",
    "enabled",
    "confined",
    "profiled",
    "jumped",
    "reloaded",
    "upgraded",
    "killed",
    "hung",
    "stopped",
    "purged",
];

const NEEDS: [Need; 6] = [
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "the machine runs in it" },
    Need { program: "debootstrap", package: "debootstrap", purpose: "makes the machine's Debian" },
    Need { program: "cpio", package: "cpio", purpose: "the machine's files are packed with it" },
    Need { program: "cc", package: "build-essential", purpose: "a program in C is profiled" },
    Need { program: "dpkg-deb", package: "dpkg", purpose: "Debian packages" },
    Need { program: "timeout", package: "coreutils", purpose: "a machine that hangs is ended by it" },
];

/// Boots it; an error if a step shows something else than it should.
pub(crate) fn run(options: &Options) -> Result<()> {
    host::install(&NEEDS)?;
    ensure!(host::is_root(), "debootstrap makes device files and other users' files: run this as root");
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => install::release()?,
    };
    let folder = host::target_dir().join("vm");
    fs::create_dir_all(&folder)?;
    let images = image::debian(&folder, "6.1.0")?;
    let image = images.first().context("there is no kernel of Debian's to boot")?;
    let initramfs = archive::pack(&tree(&folder, &binary)?, &folder.join("initramfs.cpio"))?;
    let machine = Machine {
        image: &image.file,
        initramfs: &initramfs,
        memory_mib: MEMORY_MIB,
        seconds_max: SECONDS_MAX,
    };
    let log = folder.join("serial.log");
    let transcript = emulator::boot(&machine, &log)?;
    let findings = findings(&transcript);
    print!("{}", table(&image.name, SUITE, &findings));
    println!("  all it said: {}", log.display());
    match findings.iter().filter(|finding| !finding.well).count() {
        0 => Ok(()),
        faults => bail!("{faults} steps were not as they should be"),
    }
}

/// A step is well if it ended so; what it said last is what it saw.
fn findings(transcript: &Transcript) -> Vec<Finding> {
    let finding = |name: &&str| {
        let step = transcript.step(name);
        let seen = step.lines.last().cloned().unwrap_or_else(|| "nothing was said".to_owned());
        Finding { what: (*name).to_owned(), seen, well: step.code == Some(0) }
    };
    STEPS.iter().map(finding).chain([transcript.end()]).collect()
}

/// The machine's files: Debian, made once, and what is tried there.
fn tree(folder: &Path, binary: &Path) -> Result<PathBuf> {
    let debian = folder.join("debian");
    if !debian.join("usr/bin/systemctl").exists() {
        // Half of one is none.
        let fresh = folder.join("debian.new");
        remove(&fresh)?;
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]).arg(&fresh);
        host::run(debootstrap.args(mirror()))?;
        fs::rename(&fresh, &debian)?;
    }
    let root = folder.join("root");
    remove(&root)?;
    host::run(Command::new("cp").arg("--archive").arg(&debian).arg(&root))?;
    for place in UNREAD {
        remove(&root.join(place))?;
    }
    symlink("/sbin/init", root.join("init"))?;
    let packages = root.join("packages");
    fs::create_dir(&packages)?;
    for (name, version) in [("first.deb", dist::VERSION), ("second.deb", "99.0.0")] {
        fs::rename(dist::package(binary, &folder.join("dist"), version)?, packages.join(name))?;
    }
    let mut compile = Command::new("cc");
    compile.args([
        "-static",
        "-O2",
        "-fno-omit-frame-pointer",
        "-fno-optimize-sibling-calls",
        "-pthread",
        "-o",
    ]);
    compile.arg(root.join("usr/local/bin/shop")).args(["shop.c", "one.c"]);
    host::run(compile.current_dir(host::root().join("tests/workloads")))?;
    fs::write(root.join("usr/local/bin/try"), SCRIPT)?;
    fs::set_permissions(root.join("usr/local/bin/try"), fs::Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("try.service"), UNIT)?;
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("/etc/systemd/system/try.service", wants.join("try.service"))?;
    // The serial line is the script's.
    symlink("/dev/null", units.join("serial-getty@ttyS0.service"))?;
    Ok(root)
}

/// Where this machine's packages come from, if that is known.
fn mirror() -> Option<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(SITE) $(RELEASE)"]);
    let listed = host::output(&mut targets)?;
    let line = listed.lines().find(|line| line.ends_with(&format!(" {SUITE}")))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_that_are_looked_for_are_those_of_the_script() {
        let steps = SCRIPT.lines().find_map(|line| line.strip_prefix("for name in ")?.strip_suffix("; do"));
        assert_eq!(steps.expect("the loop").split_whitespace().collect::<Vec<_>>(), STEPS);
        let defined = |step: &str| SCRIPT.contains(&format!("\n{step}() {{"));
        assert!(STEPS.iter().all(|step| defined(step)));
    }

    #[test]
    fn a_step_that_never_began_is_a_fault() {
        let findings = findings(&Transcript::default());
        assert!(findings.len() > STEPS.len() && findings[..STEPS.len()].iter().all(|finding| !finding.well));
    }
}
