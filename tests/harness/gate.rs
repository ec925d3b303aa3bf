//! What a test needs of the machine. A test that cannot run says so aloud; where `TEST_REQUIRE_…=1` is set, as in CI, it
//! fails instead.

use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, capabilities};

/// Something a test needs and this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The variable that turns the skip into a failure.
    pub required_by: &'static str,
    /// What is missing.
    pub what: String,
}

/// eBPF programs can be loaded and attached.
pub fn bpf() -> Result<(), Missing> {
    let missing = |what: &str| Err(Missing { required_by: "TEST_REQUIRE_BPF", what: what.to_owned() });
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if !held.contains(CapabilitySet::SYS_ADMIN) {
        return missing("no privilege to load eBPF programs and to make mount namespaces (root is needed)");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return missing("this kernel has no BTF");
    }
    Ok(())
}

/// A Go compiler.
pub fn go() -> Result<(), Missing> {
    program("go", "TEST_REQUIRE_GO").map(drop)
}

/// A compiler for musl's C library.
pub fn musl() -> Result<(), Missing> {
    program("musl-gcc", "TEST_REQUIRE_MUSL").map(drop)
}

/// Rust's own libraries for it.
pub fn musl_rust() -> Result<(), Missing> {
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot =
        sysroot.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
    let what = "rustup has no target x86_64-unknown-linux-musl".to_owned();
    let is_there = Path::new(&sysroot).join("lib/rustlib/x86_64-unknown-linux-musl").is_dir();
    if is_there { Ok(()) } else { Err(Missing { required_by: "TEST_REQUIRE_MUSL_RUST", what }) }
}

/// A browser without a window.
pub fn browser() -> Result<(), Missing> {
    program("chromium", "TEST_REQUIRE_BROWSER").map(drop)
}

/// The address of a real Pyroscope, from `PYROSCOPE_URL`.
pub fn pyroscope() -> Result<String, Missing> {
    std::env::var("PYROSCOPE_URL").map_err(|_| Missing {
        required_by: "TEST_REQUIRE_PYROSCOPE",
        what: "PYROSCOPE_URL names no Pyroscope to push to".to_owned(),
    })
}

/// Where a program is.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root looks, and Go's own installer puts it beside.
    let beside = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/go/bin")];
    std::env::split_paths(&path).chain(beside).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Where the program of a server is.
pub fn server(name: &str) -> Result<PathBuf, Missing> {
    program(name, "TEST_REQUIRE_SERVERS")
}

/// Where a program on the path is.
pub fn program(name: &str, required_by: &'static str) -> Result<PathBuf, Missing> {
    find(name).ok_or_else(|| Missing { required_by, what: format!("no program called {name}") })
}

/// Says aloud that `test` skips because of what is `missing`, or fails where that is required.
///
/// # Panics
///
/// Where the variable that requires it is set.
#[track_caller]
pub fn skip(test: &str, missing: &Missing) {
    let Missing { required_by, what } = missing;
    assert!(
        std::env::var(required_by).is_ok_and(|value| value == "1").eq(&false),
        "{required_by}=1, but {what}"
    );
    // Not `eprintln!`, which the test runner would keep to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what}");
    if let Some(path) = std::env::var_os("TEST_SKIPS_FILE") {
        let mut file =
            std::fs::File::options().append(true).create(true).open(path).expect("the list of skips");
        writeln!(file, "{test}: {what}").expect("the list of skips can be written");
    }
}

/// Leaves the test aloud, or fails it, unless what it needs is there: `need!(gate::bpf())`.
#[macro_export]
macro_rules! need {
    ($need:expr) => {
        if let Err(missing) = $need {
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            return $crate::harness::gate::skip(&name, &missing);
        }
    };
}
