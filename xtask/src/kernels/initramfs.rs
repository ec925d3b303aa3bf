//! The little system that is booted: a shell, the daemon with its libraries, and programs to profile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::emulator::archive;
use crate::host;

/// What the first process of the machine does.
const INIT: &str = include_str!("init.sh");
/// As the end-to-end tests compile them, but without a library.
const COMPILER_OPTIONS: [&str; 6] = [
    "-static",
    "-O2",
    "-fno-omit-frame-pointer",
    "-mno-omit-leaf-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-pthread",
];

/// Builds the archive in `folder` around the binary `daemon`.
pub(super) fn build(folder: &Path, daemon: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let busybox = host::find("busybox").context("busybox is missing")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::copy(daemon, root.join("bin/profiler-daemon"))
        .with_context(|| format!("cannot copy {}", daemon.display()))?;
    for library in libraries(daemon)? {
        let inside = root.join(library.strip_prefix("/").context("ldd prints absolute paths")?);
        fs::create_dir_all(inside.parent().context("a library lies in a folder")?)?;
        fs::copy(&library, inside).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    for (name, sources) in [("shop", ["shop.c", "one.c"]), ("till", ["shop.c", "threads.c"])] {
        let mut compile = Command::new("cc");
        compile.args(COMPILER_OPTIONS).arg("-o").arg(root.join("bin").join(name)).args(sources);
        host::run(compile.current_dir(host::root().join("tests/workloads")))?;
    }
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"]);
    compile.arg("-o").arg(root.join("bin/bare")).arg("deep.c");
    host::run(compile.current_dir(host::root().join("tests/workloads")))?;
    archive::pack(&root, &folder.join("initramfs.cpio"))
}

/// What `program` loads when it starts.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let needed = host::output(Command::new("ldd").arg(program)).context("ldd failed")?;
    Ok(library_paths(&needed))
}

/// The files in what `ldd` prints: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`.
fn library_paths(ldd: &str) -> Vec<PathBuf> {
    ldd.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_what_ldd_gives_a_path_for() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f00)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f01)\n\t/lib64/ld.so (0x02)\n";
        assert_eq!(library_paths(ldd), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so")]);
        assert_eq!(library_paths("\tstatically linked\n"), [""; 0].map(PathBuf::from));
    }
}
