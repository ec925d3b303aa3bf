//! Modules made of real files, programs built by the C compiler, and a symbolizer with real namers.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use profiler_daemon::children::{NAMER_BYTES_MAX, spawn_namer};
use profiler_daemon::meters::Meters;
use profiler_daemon::model::{
    Comm, FileIdentity, FileOffset, Frame, Function, Labels, Lost, Module, ModuleKind, Pid, SampleKind, Task,
    Tid, Trace, TraceBatch, Weight,
};
use profiler_daemon::symbolize::{Config, NamerProcess, Symbolizer};
use profiler_daemon::time::{MonoNs, WallNs, Window};

/// The program with the daemon's children.
pub(crate) const CHILD: &str = env!("CARGO_BIN_EXE_profiler-test-child");

/// A symbolizer, what it counted, and which namers it started.
pub(crate) struct Rig {
    pub(crate) symbolizer: Symbolizer,
    pub(crate) meters: Meters,
    pids: Arc<Mutex<Vec<u32>>>,
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let pids = Arc::new(Mutex::new(Vec::new()));
        let seen = pids.clone();
        let spawn = Box::new(move || {
            let (socket, child) = spawn_namer(Path::new(CHILD), NAMER_BYTES_MAX)?;
            seen.lock().unwrap().push(child.id());
            Ok(NamerProcess { socket, child: Some(child) })
        });
        let meters = Meters::default();
        Self { symbolizer: Symbolizer::new(config, spawn, &meters), meters, pids }
    }

    /// Functions of each frame asked for, innermost first, all in one batch.
    pub(crate) fn functions(&mut self, frames: &[Frame]) -> Vec<Vec<Arc<Function>>> {
        let named = self.symbolizer.name(batch(frames, 1));
        named.traces.into_iter().map(|trace| trace.functions).collect()
    }

    /// Their names, innermost first, with `<` between.
    pub(crate) fn names(&mut self, frames: &[Frame]) -> Vec<String> {
        let names = |functions: Vec<Arc<Function>>| {
            functions.iter().map(|function| function.name.to_string()).collect::<Vec<_>>().join("<")
        };
        self.functions(frames).into_iter().map(names).collect()
    }

    pub(crate) fn name(&mut self, frame: Frame) -> String {
        self.names(&[frame]).remove(0)
    }

    /// The namer that was started last.
    pub(crate) fn pid(&self) -> u32 {
        *self.pids.lock().unwrap().last().unwrap()
    }

    pub(crate) fn started(&self) -> usize {
        self.pids.lock().unwrap().len()
    }

    /// The sum of a counter over its labels.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        let page = self.meters.render();
        let lines = page.lines().filter(|line| line.starts_with(counter));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

/// Stacks of `depth` frames each.
pub(crate) fn batch(frames: &[Frame], depth: usize) -> TraceBatch {
    let traces = frames.chunks(depth).map(|frames| Trace {
        time: MonoNs(0),
        task: Task { pid: Pid(1), tid: Tid(1), comm: Comm::new(b"test") },
        labels: Arc::new(Labels::default()),
        frames: frames.to_vec(),
        weight: Weight(1),
    });
    TraceBatch {
        window: Window { start: WallNs(0), duration_ns: 1 },
        kind: SampleKind::CpuTime { period_ns: 1 },
        traces: traces.collect(),
        lost: Lost::default(),
    }
}

/// `path` as a module.
pub(crate) fn module(path: &Path) -> Arc<Module> {
    module_of(File::open(path).unwrap(), path)
}

pub(crate) fn module_of(file: File, path: &Path) -> Arc<Module> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let is = file.metadata().unwrap();
    Arc::new(Module {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        kind: ModuleKind::File,
        path: Arc::from(path.as_os_str().as_bytes()),
        build_id: None,
        identity: Some(FileIdentity {
            device: is.dev(),
            inode: is.ino(),
            size: is.size(),
            ctime_ns: is.ctime() * 1_000_000_000 + is.ctime_nsec(),
        }),
        file: Some(file.into()),
        root: Some(Arc::new(File::open("/").unwrap().into())),
    })
}

pub(crate) fn at(module: &Arc<Module>, offset: u64) -> Frame {
    Frame::User { module: module.clone(), offset: FileOffset(offset) }
}

/// Where in its file an address of a process lies.
pub(crate) fn offset(pid: u32, address: u64) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let hex = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
    maps.lines()
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let offset = fields.nth(1)?;
            (hex(start)..hex(end)).contains(&address).then(|| address - hex(start) + hex(offset))
        })
        .unwrap()
}

/// A C program that tells places of its own and then waits.
pub(crate) const PLACES: &str = "\
#include <stdio.h>
volatile int sink;
__attribute__((noinline)) void *here(void) { return (char *)__builtin_return_address(0) - 1; }
static inline __attribute__((always_inline)) void *inner(void) { void *at = here(); sink++; return at; }
__attribute__((noinline)) void *outer(void) { void *at = inner(); sink++; return at; }
__attribute__((noinline)) void *mangled(int x) __asm__(\"_ZN5space3fooEi\");
void *mangled(int x) { void *at = here(); sink += x; return at; }
int main(void) {
    printf(\"%p\\n%p\\n%p\\n\\n\", (void *)here, outer(), mangled(1));
    fflush(stdout);
    return getchar();
}
";

/// `PLACES` built and run: the program, and the file offsets of `here`, of `inner` in `outer`, and of `foo`.
pub(crate) struct Places {
    pub(crate) path: PathBuf,
    pub(crate) offsets: Vec<u64>,
}

pub(crate) fn places(folder: &Path, name: &str, flags: &[&str]) -> Places {
    let (source, path) = (folder.join("places.c"), folder.join(name));
    std::fs::write(&source, PLACES).unwrap();
    run(Command::new("cc")
        .args(["-O2", "-fno-omit-frame-pointer"])
        .args(flags)
        .arg("-o")
        .arg(&path)
        .arg(&source));
    let mut program = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let offsets = offsets(&mut program);
    drop(program.stdin.take());
    program.wait().unwrap();
    Places { path, offsets }
}

fn offsets(program: &mut Child) -> Vec<u64> {
    let lines = crate::lines(program.stdout.take().unwrap());
    let address = |line: &String| u64::from_str_radix(line.trim_start_matches("0x"), 16).unwrap();
    lines.iter().map(|line| offset(program.id(), address(line))).collect()
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
