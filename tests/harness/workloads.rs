//! Programs whose stacks and shares are known, built from `tests/workloads/` into `target/workloads/`.
//!
//! Each burns what it is told to by its own clock and prints where it went. It keeps a frame pointer in every function, unless its
//! name says that it has none.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What C and C++ are compiled with: a frame in every function, and no calls turned into jumps.
const NATIVE: [&str; 7] = [
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-fno-omit-frame-pointer",
    "-mno-omit-leaf-frame-pointer",
    "-fno-optimize-sibling-calls",
];

/// What C and C++ are compiled with where no function keeps a frame pointer, as distributions do.
const FRAMELESS: [&str; 6] =
    ["-O2", "-g", "-Wall", "-Wextra", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"];

/// What C is compiled with where not even tables say where frames are.
const TABLELESS: [&str; 7] = [
    "-O2",
    "-Wall",
    "-Wextra",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
];

/// The folder that holds `debug/` and `release/`.
pub fn target_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a binary");
    own.ancestors().nth(3).expect("a test lies in target/debug/deps").to_owned()
}

/// The cargo that runs us, without what it tells a test about its package: dependencies built with that would be built
/// again without it.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|own| name.to_string_lossy().starts_with(own))
        {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}

/// Runs `command`; its output.
///
/// # Panics
///
/// When it fails, with what it said.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed ({}):\n{out}{err}", output.status);
    out.into_owned()
}

/// Builds `name` by `compiler` from `sources` unless that was done already, and says where it is. The name becomes the
/// name of its processes, fifteen bytes at most.
fn build(name: &str, compiler: &str, options: &[&str], sources: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let built = target_dir().join("workloads");
    fs::create_dir_all(&built).expect("the target folder can be written");
    let output = built.join(name);

    let mut key = DefaultHasher::new();
    (compiler, options, sources).hash(&mut key);
    for source in sources.iter().filter(|source| source.contains('.')).chain(&["shop.h", "short.h"]) {
        fs::read(folder.join(source)).unwrap_or_default().hash(&mut key);
    }
    let key = format!("{:x}", key.finish());
    let key_file = built.join(format!("{name}.key"));
    if output.is_file() && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return output;
    }
    let mut compile = Command::new(compiler);
    compile.args(options).arg("-o").arg(&output).args(sources).current_dir(folder);
    succeed(&mut compile);
    fs::write(key_file, key).expect("the target folder can be written");
    output
}

fn native(name: &str, compiler: &str, more: &[&str], sources: &[&str]) -> PathBuf {
    build(name, compiler, &[&NATIVE[..], more].concat(), sources)
}

/// The folder with the classes of the Java program `name`.
pub fn classes(name: &str) -> PathBuf {
    let classes = target_dir().join("workloads/classes");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(format!("{name}.java"));
    succeed(Command::new("javac").arg("-d").arg(&classes).arg(source));
    classes
}

/// The shop in C, under the name of `name`.
pub fn shop_c(name: &str) -> PathBuf {
    native(name, "cc", &[], &["shop.c", "one.c"])
}

/// The shop in C without frame pointers.
pub fn frameless_c() -> PathBuf {
    build("wl-bare-c", "cc", &FRAMELESS, &["shop.c", "one.c"])
}

/// The shop in C without frame pointers, and without any name.
pub fn frameless_stripped() -> PathBuf {
    build("wl-stripped", "cc", &[&FRAMELESS[..], &["-s"]].concat(), &["shop.c", "one.c"])
}

/// The shop in C++ without frame pointers.
pub fn frameless_cpp() -> PathBuf {
    build("wl-bare-cpp", "c++", &FRAMELESS, &["shop.cpp"])
}

/// The shop in Rust as cargo builds it for release.
pub fn frameless_rust() -> PathBuf {
    build("wl-bare-rust", "rustc", &["--edition=2024", "-O"], &["shop.rs"])
}

/// A program that is mostly in the C library, built without tables; the library has them.
pub fn tableless() -> PathBuf {
    build("wl-tableless", "cc", &[&TABLELESS[..], &["-pthread"]].concat(), &["library.c"])
}

/// The same with musl's C library, which has none either, all in one file.
pub fn musl_static() -> PathBuf {
    build("wl-one-musl", "musl-gcc", &[&TABLELESS[..], &["-static"]].concat(), &["library.c"])
}

/// The same file without any name.
pub fn musl_stripped() -> PathBuf {
    build("wl-mu-stripped", "musl-gcc", &[&TABLELESS[..], &["-static", "-s"]].concat(), &["library.c"])
}

/// Signal handlers at work, some on a stack of their own, in a program all of which is without tables.
pub fn musl_signals() -> PathBuf {
    build("wl-mu-signals", "musl-gcc", &[&TABLELESS[..], &["-static"]].concat(), &["signals.c"])
}

/// Handlers of a fault in such a program.
pub fn musl_fault() -> PathBuf {
    build("wl-mu-fault", "musl-gcc", &[&TABLELESS[..], &["-static"]].concat(), &["fault.c"])
}

/// The same with the library in a file of its own.
pub fn musl_shared() -> PathBuf {
    build("wl-so-musl", "musl-gcc", &TABLELESS, &["library.c"])
}

/// A program in Rust that calls musl's C library.
pub fn musl_rust() -> PathBuf {
    let target = ["--edition=2024", "-O", "--target=x86_64-unknown-linux-musl"];
    build("wl-rs-musl", "rustc", &target, &["library.rs"])
}

/// A program at the bottom of a stack as deep as its first argument says, without frame pointers.
pub fn frameless_deep() -> PathBuf {
    build("wl-bare-deep", "cc", &FRAMELESS, &["deep.c"])
}

/// The same, all in one file that may lie anywhere in memory.
pub fn frameless_static_pie() -> PathBuf {
    build("wl-static-pie", "cc", &[&FRAMELESS[..], &["-static-pie"]].concat(), &["shop.c", "one.c"])
}

/// Exceptions, calls back from a library, and threads. Named by its symbols alone, as what a distribution ships is.
pub fn frameless_odd() -> PathBuf {
    build("wl-odd", "c++", &[&FRAMELESS[..], &["-g0", "-pthread"]].concat(), &["odd.cpp"])
}

/// A library, and a program that opens it while it runs.
pub fn frameless_library() -> (PathBuf, PathBuf) {
    let library =
        build("libwl-open.so", "cc", &[&FRAMELESS[..], &["-shared", "-fPIC"]].concat(), &["shop.c"]);
    (library, build("wl-open", "cc", &FRAMELESS, &["open.c"]))
}

/// Signal handlers at work, some on a stack of their own.
pub fn frameless_signals() -> PathBuf {
    build("wl-signals", "cc", &FRAMELESS, &["signals.c"])
}

/// Signal handlers at work in a program that is all in one file, the C library's names included.
pub fn frameless_fault() -> PathBuf {
    build("wl-fault", "cc", &[&FRAMELESS[..], &["-static"]].concat(), &["fault.c"])
}

/// Stacks of its own making, and stubs without unwind rules, as the linker that rustc brings makes them.
pub fn frameless_fibers() -> PathBuf {
    let sysroot = succeed(Command::new("rustc").args(["--print", "sysroot"]));
    let linkers = format!("-B{}/lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld", sysroot.trim());
    let options = [&FRAMELESS[..], &["-fno-builtin", "-fuse-ld=lld", &linkers]].concat();
    build("wl-fibers", "cc", &options, &["fibers.c"])
}

/// Children by `vfork` and `posix_spawn`.
pub fn frameless_spawn() -> PathBuf {
    build("wl-spawn", "cc", &FRAMELESS, &["spawn.c"])
}

/// Children by `vfork` that end at once.
pub fn frameless_vfork() -> PathBuf {
    build("wl-vfork", "cc", &FRAMELESS, &["vfork.c"])
}

/// A leaf without a frame below functions that keep them.
pub fn bare_leaf() -> PathBuf {
    native("wl-leaf", "cc", &[], &["leaf.c"])
}

/// The shop in Go, stripped.
pub fn shop_go_stripped() -> PathBuf {
    build("wl-go-stripped", "go", &["build", "-trimpath", "-ldflags=-s -w"], &["shop.go"])
}

/// Two thousand goroutines.
pub fn crowd_go() -> PathBuf {
    build("wl-go-crowd", "go", &["build", "-trimpath"], &["crowd.go"])
}

/// Go that calls C and is called by it.
pub fn cgo() -> PathBuf {
    build("wl-go-c", "go", &["build", "-trimpath"], &["cgo.go"])
}

/// The shop in C++.
pub fn shop_cpp() -> PathBuf {
    native("wl-cpp", "c++", &[], &["shop.cpp"])
}

/// The shop in Rust.
pub fn shop_rust() -> PathBuf {
    build("wl-rust", "rustc", &["--edition=2024", "-O", "-Cforce-frame-pointers=yes"], &["shop.rs"])
}

/// The shop in Go.
pub fn shop_go() -> PathBuf {
    build("wl-go", "go", &["build", "-trimpath"], &["shop.go"])
}

/// Two threads that serve.
pub fn shop_threads() -> PathBuf {
    native("wl-threads", "cc", &["-pthread"], &["shop.c", "threads.c"])
}

/// The shop as a shared library, and a program that uses it where it is.
pub fn shop_library() -> (PathBuf, PathBuf) {
    let library = native("libshop.so", "cc", &["-shared", "-fPIC"], &["shop.c"]);
    let folder = library.parent().expect("it lies in a folder").display().to_string();
    // Not $ORIGIN, which the loader reads from /proc: a chroot has none.
    let rpath = format!("-Wl,-rpath,{folder}");
    let program = native("wl-chroot", "cc", &[&rpath, "-L", &folder], &["one.c", "-lshop"]);
    (library, program)
}

/// A process that lives for some milliseconds, without frame pointers. Static, so that hardly anything but burn() runs in it.
pub fn short() -> PathBuf {
    build("wl-short", "cc", &[&FRAMELESS[..], &["-static"]].concat(), &["short.c"])
}

/// The same, and small, so that a copy costs little.
pub fn short_shared() -> PathBuf {
    build("wl-short-so", "cc", &FRAMELESS, &["short.c"])
}

/// What starts such processes.
pub fn storm() -> PathBuf {
    native("wl-storm", "cc", &[], &["storm.c"])
}

/// A process that means no good; its first argument says how.
pub fn hostile() -> PathBuf {
    native("wl-hostile", "cc", &[], &["hostile.c"])
}

/// The same under a name of its own.
pub fn served() -> PathBuf {
    native("wl-served", "cc", &[], &["hostile.c"])
}

/// `program seconds` in a mount namespace of its own, where alone its path exists.
pub fn in_mount_namespace(program: &Path, empty_folder: &Path, seconds: f64) -> Command {
    let script = r#"mount -t tmpfs none "$1" && cp "$2" "$1/" && exec "$1/${2##*/}" "$3""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(empty_folder).arg(program);
    command.arg(seconds.to_string());
    command
}

/// `program seconds` in a chroot at `folder`, which gets what the program needs to run.
pub fn in_chroot(program: &Path, folder: &Path, seconds: f64) -> Command {
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
    let needed = succeed(Command::new("ldd").arg(program));
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([program.to_owned()]) {
        let inside = folder.join(file.strip_prefix("/").expect("ldd prints absolute paths"));
        fs::create_dir_all(inside.parent().expect("it lies in a folder")).expect("the chroot can be written");
        fs::copy(&file, inside).expect("the chroot can be written");
    }
    let mut command = Command::new("chroot");
    command.arg(folder).arg(program).arg(seconds.to_string());
    command
}

/// A workload that runs.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Option<Child>,
    /// What had been stolen when it was started, nanoseconds.
    stolen_before_ns: u64,
}

/// What a workload says it spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// CPU time of its process, nanoseconds.
    pub cpu_ns: u64,
    /// Time that a hypervisor took from this machine meanwhile, all processors together, nanoseconds. A clock ticks on in it, and nobody's
    /// CPU time has it.
    pub stolen_ns: u64,
    /// CPU time of each of its stacks, root first, joined by `;`.
    pub stacks: BTreeMap<String, u64>,
    /// Processes it started and waited for.
    pub processes: u64,
}

impl Running {
    /// Starts `command`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let stolen_before_ns = stolen_ns();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        Self { command: format!("{command:?}"), child: Some(child), stolen_before_ns }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits for its end; what it spent.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn finish(mut self) -> Spent {
        let child = self.child.take().expect("it is finished once");
        let output = child.wait_with_output().expect("a child can be waited for");
        assert!(output.status.success(), "{} failed ({})", self.command, output.status);
        let stolen_ns = stolen_ns() - self.stolen_before_ns;
        Spent { stolen_ns, ..spent(&String::from_utf8_lossy(&output.stdout), &self.command) }
    }
}

/// Time that a hypervisor has taken from this machine so far, all processors together, nanoseconds: the eighth number of `/proc/stat` (proc(5)).
///
/// # Panics
///
/// Without that file.
pub fn stolen_ns() -> u64 {
    /// A hundredth of a second, `USER_HZ`.
    const TICK_NS: u64 = 10_000_000;
    let stat = fs::read_to_string("/proc/stat").expect("/proc is there");
    let ticks = stat.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse::<u64>().ok());
    ticks.unwrap_or(0) * TICK_NS
}

/// What a workload `said` that it spent.
///
/// # Panics
///
/// When `command` said something else.
pub fn spent(said: &str, command: &str) -> Spent {
    let said: serde_json::Value = serde_json::from_str(said)
        .unwrap_or_else(|error| panic!("{command} did not say what it spent: {error}"));
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let stacks = said["stacks"].as_object().into_iter().flatten();
    Spent {
        cpu_ns: number(&said["cpu_ns"]),
        stolen_ns: 0,
        stacks: stacks.map(|(stack, ns)| (stack.clone(), number(ns))).collect(),
        processes: number(&said["processes"]),
    }
}

/// A test that fails leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
