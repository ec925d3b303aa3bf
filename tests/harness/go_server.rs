//! A server of Go's that closes idle connections after a time of our choosing; `go_server/main.go` says what else it can.
//!
//! In: nothing. Out: the program, built, and certificates. Not here: how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::gate;
use super::workloads::{succeed, target_dir};

/// The program, built once.
///
/// # Panics
///
/// When there is no Go, or it does not build.
pub fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = target_dir().join("go-server");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/go_server");
        let mut build = Command::new(gate::find("go").expect("whoever wants this has looked for Go"));
        build.args(["build", "-o"]).args([&program, Path::new(".")]).current_dir(source);
        succeed(build.env("GOTOOLCHAIN", "local"));
        program
    })
}

/// Makes a certificate for 127.0.0.1 that vouches for itself in `folder`: `certificate.pem`, `key.pem`, and `both.pem`.
///
/// # Panics
///
/// When that is not possible.
pub fn make_certificates(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    succeed(Command::new(program()).arg("-make-certificates").arg(folder));
}
