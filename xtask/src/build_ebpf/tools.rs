//! The tools that build the kernel side: a nightly with the sources of `core`, and a linker that reads its bitcode.
//!
//! Each is looked for first, installed if that can be done here, and otherwise the exact commands are printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::note::Versions;
use super::sources;
use crate::host;

/// Target of the kernel side.
const TARGET: &str = "bpfel-unknown-none";
/// Package of the kernel side.
const PACKAGE: &str = "profiler-ebpf";

/// Everything a build needs.
#[derive(Debug)]
pub(super) struct Tools {
    /// The toolchain's name for rustup.
    channel: String,
    /// `rustc --version`.
    rustc: String,
    /// LLVM version of rustc.
    llvm: String,
    /// The machine that rustc runs on.
    host: String,
    /// Where rustc's own files are.
    sysroot: String,
    /// `bpf-linker --version`.
    bpf_linker: String,
}

impl Tools {
    /// Finds each tool, or installs it, or says how to.
    pub(super) fn find_or_install() -> Result<Self> {
        let channel = nightly()?;
        let verbose = output_of(&channel, "rustc", &["-vV"])
            .with_context(|| format!("`rustup run {channel} rustc -vV` does not work"))?;
        let llvm = field(&verbose, "LLVM version: ")?;
        let host = field(&verbose, "host: ")?;
        let sysroot =
            output_of(&channel, "rustc", &["--print", "sysroot"]).context("rustc has no sysroot")?;
        if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() {
            host::run(Command::new("rustup").args([
                "component",
                "add",
                "rust-src",
                "--toolchain",
                &channel,
            ]))?;
        }
        let bpf_linker = bpf_linker(&llvm)?;
        let rustc = verbose.lines().next().unwrap_or_default().to_owned();
        Ok(Self { channel, rustc, llvm, host, sysroot, bpf_linker })
    }

    /// Builds the object and says where it is.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
        flags.extend(self.remaps().into_iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
        let mut build = rustup_run(&self.channel, "cargo");
        build.args(["build", "-Z", "build-std=core", "--target", TARGET, "--release", "--package", PACKAGE]);
        build.args(["--locked", "--target-dir"]).arg(host::target_dir());
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        host::run(build.current_dir(host::root())).with_context(|| {
            format!(
                "rustc's LLVM is {}; {} must have been built with one no older",
                self.llvm, self.bpf_linker
            )
        })?;
        let built = host::target_dir().join(TARGET).join("release").join(PACKAGE);
        self.strip(&built)
    }

    /// Leaves out what only a debugger reads, three quarters of an object: types and lines are in its BTF.
    fn strip(&self, built: &Path) -> Result<PathBuf> {
        let stripped = built.with_extension("bpf.o");
        // Beside the compiler in every toolchain. Started through rustup, because it is linked to the compiler's LLVM.
        let bin = format!("{}/lib/rustlib/{}/bin/rust-objcopy", self.sysroot, self.host);
        let mut strip = rustup_run(&self.channel, &bin);
        host::run(strip.arg("--strip-debug").args([built, &stripped]))?;
        Ok(stripped)
    }

    /// Places of this machine that have no business in the object.
    pub(super) fn machine_paths(&self) -> Vec<String> {
        self.remaps().into_iter().map(|(from, _)| from).collect()
    }

    /// What the note says about the tools.
    pub(super) fn versions(&self, root: &Path) -> Result<Versions> {
        let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
        Ok(Versions {
            rustc: self.rustc.clone(),
            llvm: self.llvm.clone(),
            bpf_linker: self.bpf_linker.clone(),
            aya_ebpf: sources::locked_version(&lock, "aya-ebpf")?,
        })
    }

    /// Places of this machine, and what the object calls them.
    fn remaps(&self) -> Vec<(String, &'static str)> {
        let mut places = vec![(host::root().display().to_string(), "."), (self.sysroot.clone(), "rust")];
        places.extend(cargo_home().map(|home| (home.display().to_string(), "cargo")));
        places
    }
}

/// The name of the toolchain that the kernel side asks for, which is installed if it is not there.
pub(crate) fn nightly() -> Result<String> {
    let channel = channel()?;
    if host::find("rustup").is_none() {
        bail!("this needs Rust {channel} through rustup: install it from https://rustup.rs");
    }
    if output_of(&channel, "rustc", &["-vV"]).is_none() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", &channel, "--profile", "minimal"]);
        host::run(install.args(["--component", "rust-src"]))?;
    }
    Ok(channel)
}

fn channel() -> Result<String> {
    #[derive(serde::Deserialize)]
    struct File {
        toolchain: Toolchain,
    }
    #[derive(serde::Deserialize)]
    struct Toolchain {
        channel: String,
    }
    let path = host::root().join(PACKAGE).join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let File { toolchain } = toml::from_str(&text)?;
    Ok(toolchain.channel)
}

/// `program` of another toolchain than the one we run under.
pub(crate) fn rustup_run(channel: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", channel, program]);
    for variable in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
    {
        command.env_remove(variable);
    }
    command
}

fn output_of(channel: &str, program: &str, arguments: &[&str]) -> Option<String> {
    host::output(rustup_run(channel, program).args(arguments))
}

/// A bpf-linker that works, and its version. Its LLVM must be no older than rustc's.
fn bpf_linker(llvm: &str) -> Result<String> {
    let version = || host::output(Command::new("bpf-linker").arg("--version"));
    if let Some(version) = version() {
        return Ok(version);
    }
    let major = major(llvm)?;
    let packages = [format!("llvm-{major}-dev"), "libzstd-dev".to_owned(), "zlib1g-dev".to_owned()];
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let prefix = format!("/usr/lib/llvm-{major}");
    let feature = format!("llvm-{major}");
    let by_hand = format!(
        "bpf-linker, which links the kernel side, needs an LLVM no older than rustc's {llvm}; by hand: \
         apt-get install {} && LLVM_PREFIX={prefix} PATH={prefix}/bin:$PATH \
         cargo install bpf-linker --no-default-features --features {feature} --locked",
        packages.join(" ")
    );
    if !Path::new(&prefix).join("bin/llvm-config").is_file() {
        host::apt_install(&packages).with_context(|| by_hand.clone())?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut install = host::cargo();
    install.args(["install", "bpf-linker", "--no-default-features", "--features", &feature, "--locked"]);
    install.env("LLVM_PREFIX", &prefix).env("PATH", format!("{prefix}/bin:{path}"));
    host::run(install.current_dir("/")).with_context(|| by_hand.clone())?;
    version().with_context(|| format!("bpf-linker was installed but is not on PATH; {by_hand}"))
}

fn major(version: &str) -> Result<u32> {
    let major = version.split('.').next().unwrap_or_default();
    major.parse().with_context(|| format!("`{version}` is no version"))
}

fn field(text: &str, name: &str) -> Result<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    ensure!(value.is_some(), "`rustc -vV` does not say its {name}");
    Ok(value.unwrap_or_default().to_owned())
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_major_version_of_llvm_chooses_the_packages() {
        assert_eq!(major("22.1.4").unwrap(), 22);
        assert!(major("rust-1").is_err());
    }

    #[test]
    fn a_field_of_rustc_is_found() {
        assert_eq!(field("host: x\nLLVM version: 22.1.4\n", "LLVM version: ").unwrap(), "22.1.4");
        assert!(field("host: x\n", "LLVM version: ").is_err());
    }
}
