//! `cargo xtask kernels`: the daemon on other kernels than this one, each in an emulated machine.
//!
//! A kernel's verifier, its records and its calls differ from version to version; a promise of many versions is worth what
//! was seen. CI does it after `cargo xtask test`, of which it is no part: the emulator is slow, since it must run inside
//! virtual machines too. Kernels that cannot be had are said aloud; with `TEST_REQUIRE_KERNELS=1` that is a failure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::emulator::finding::{Finding, table};
use crate::emulator::image::{self, Image};
use crate::emulator::{self, Machine};
use crate::host::{self, Need};

mod findings;
mod initramfs;
mod noted;

/// Options of the verb.
#[derive(clap::Args)]
#[command(
    long_about = "Boot other kernels in an emulator, and see that every program passes their verifiers, that `record` names \
                  a workload's functions, and that `run` delivers to its embedded server.\n\nThe kernels are the newest of \
                  each series that Debian has for virtual machines, and every --image. It takes minutes per kernel, so \
                  `cargo xtask test` does not do it: run it after a change of profiler-ebpf, of capture/ or of children/. \
                  Where they cannot be downloaded it says so and does nothing; TEST_REQUIRE_KERNELS=1 makes that a failure."
)]
pub(crate) struct Options {
    /// Only Debian's kernels whose package's name contains this, such as 6.1.0
    #[arg(default_value = "")]
    filter: String,
    /// A kernel of your own (bzImage) with BTF, a serial console and an initramfs built in; may be given more than once
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Only the kernels given by --image
    #[arg(long, requires = "image")]
    no_debian: bool,
    /// Boot this daemon instead of building one
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
}

/// What is needed to build a machine.
const NEEDS: [Need; 6] = [
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "other kernels run in it" },
    Need { program: "busybox", package: "busybox-static", purpose: "the emulated machine's shell" },
    Need { program: "cpio", package: "cpio", purpose: "the emulated machine's files are packed with it" },
    Need { program: "cc", package: "build-essential", purpose: "programs in C are profiled" },
    Need { program: "dpkg-deb", package: "dpkg", purpose: "Debian's kernels are unpacked with it" },
    Need { program: "timeout", package: "coreutils", purpose: "a machine that hangs is ended by it" },
];

/// Series of kernels of which Debian's archive must have one.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// When a machine is given up. It takes a minute and a half where it has two processors to itself.
const SECONDS_MAX: u32 = 600;
/// How often a machine is started in which something is not well.
const STARTS_MAX: u32 = 2;

/// Boots every kernel; an error if one of them shows something else than it should.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = host::target_dir().join("kernels");
    std::fs::create_dir_all(&folder)?;
    let images = match host::install(&NEEDS).and_then(|()| images(options, &folder)) {
        Ok(images) => images,
        Err(error) if std::env::var("TEST_REQUIRE_KERNELS").is_ok_and(|value| value == "1") => {
            return Err(error.context("TEST_REQUIRE_KERNELS=1, but other kernels cannot be had"));
        }
        Err(error) => {
            host::say(&format!("SKIPPED kernels: {error:#}"));
            return Ok(());
        }
    };
    let daemon = match &options.daemon {
        Some(daemon) => daemon.clone(),
        None => {
            host::run(host::cargo().args(["build", "--release", "--package", "profiler-daemon"]))?;
            host::target_dir().join("release/profiler-daemon")
        }
    };
    let initramfs = initramfs::build(&folder, &daemon)?;

    let mut faults = 0;
    let mut text = String::new();
    for (number, image) in images.iter().enumerate() {
        let log = folder.join(format!("serial-{number}.log"));
        let machine =
            Machine { image: &image.file, initramfs: &initramfs, memory_mib: 1024, seconds_max: SECONDS_MAX };
        let (release, findings) = boot(&machine, &log).with_context(|| image.name.clone())?;
        faults += findings.iter().filter(|finding| !finding.well).count();
        text += &table(&image.name, &release, &findings);
        text += &format!("  all it said: {}\n", log.display());
    }
    print!("{text}");
    match faults {
        0 => Ok(()),
        _ => bail!("{faults} things were not as they should be"),
    }
}

/// The kernels to boot.
fn images(options: &Options, folder: &Path) -> Result<Vec<Image>> {
    let mut images = if options.no_debian { Vec::new() } else { image::debian(folder, &options.filter)? };
    if !options.no_debian && options.filter.is_empty() {
        for series in SERIES {
            let package = format!("linux-image-{series}.");
            ensure!(
                images.iter().any(|image| image.name.starts_with(&package)),
                "apt knows no {package}*-cloud-amd64"
            );
        }
    }
    images.extend(
        options.image.iter().map(|file| Image { name: file.display().to_string(), file: file.clone() }),
    );
    ensure!(!images.is_empty(), "there is no kernel to boot: give one by --image");
    Ok(images)
}

/// Boots `machine`; its release, and what there was to see. An emulator that gets hardly a processor takes few samples, or does not
/// come up at all: where something is not well the machine is started once more, and what is wrong then is wrong.
fn boot(machine: &Machine, log: &Path) -> Result<(String, Vec<Finding>)> {
    let mut starts = 1;
    loop {
        let transcript = emulator::boot(machine, log)?;
        let findings = findings::all(&transcript);
        let faults: Vec<_> = findings.iter().filter(|finding| !finding.well).collect();
        if faults.is_empty() || starts == STARTS_MAX {
            return Ok((transcript.step("release").lines.join(" "), findings));
        }
        for Finding { what, seen, .. } in faults {
            host::say(&format!("{what}: {seen}; once more"));
        }
        starts += 1;
    }
}
