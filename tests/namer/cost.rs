//! What naming costs. A measurement, not a test: `cargo test --release -p profiler-tests --test namer -- --ignored
//! --nocapture cost`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use profiler_daemon::model::{Frame, KernelAddr, Module};
use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, at, batch, module, run};

/// Samples in a window of ten seconds at 99 Hz with two busy processors, and frames in a stack.
const SAMPLES: usize = 1980;
const FRAMES: usize = 40;
const WINDOWS: usize = 30;

/// Places drawn like a real profile's: few are hot, and every window meets a few that are new.
struct Places {
    known: Vec<Frame>,
    seed: u64,
}

impl Places {
    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed >> 11).unwrap() % below
    }

    fn frame(&mut self) -> Frame {
        // The square of the square of a uniform number: half of all frames fall on a sixteenth of the places.
        let most = self.known.len();
        let mut index = self.random(most);
        for _ in 0..3 {
            index = self.random(index + 1);
        }
        self.known[index].clone()
    }
}

/// Offsets of code in a module, spread over it.
fn code(module: &Arc<Module>, path: &Path, count: u64) -> Vec<Frame> {
    let headers = run(Command::new("readelf").arg("-lW").arg(path));
    let code = headers.lines().find(|line| line.contains("LOAD") && line.contains(" R E ")).unwrap();
    let fields: Vec<_> = code.split_ascii_whitespace().collect();
    let hex = |field: &str| u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap();
    let (offset, bytes) = (hex(fields[1]), hex(fields[4]));
    (0..count).map(|index| at(module, offset + bytes / count * index)).collect()
}

fn kernel(count: usize) -> Vec<Frame> {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let symbols: Vec<_> = kallsyms.lines().filter(|line| line[17..].starts_with(['t', 'T'])).collect();
    let spread = symbols.iter().step_by(symbols.len() / count);
    spread.map(|line| Frame::Kernel(KernelAddr(u64::from_str_radix(&line[..16], 16).unwrap() + 4))).collect()
}

fn cpu_ms(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
}

fn memory_kb(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// The largest files around: a compiler and its back end, the C library, this very program.
fn files() -> Vec<PathBuf> {
    let sysroot = run(Command::new("rustc").args(["--print", "sysroot"]));
    let library = Path::new(sysroot.trim()).join("lib");
    let large = std::fs::read_dir(library).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        large.filter(|path| path.metadata().is_ok_and(|file| file.len() > 1 << 20)).collect();
    files.push("/lib/x86_64-linux-gnu/libc.so.6".into());
    files.push(std::env::current_exe().unwrap());
    files
}

#[test]
#[ignore = "a measurement"]
fn cost() {
    let mut rig = Rig::new(Config::default());
    let mut all = kernel(1000);
    for path in files() {
        let module = module(&path);
        all.extend(code(&module, &path, 3000));
    }
    let mut places = Places { known: Vec::new(), seed: 0x2545_f491_4f6c_dd1d };
    // In no order, so that hot places are everywhere.
    for _ in 0..all.len() {
        let next = places.random(all.len());
        places.known.push(all.swap_remove(next));
    }
    let all = std::mem::take(&mut places.known);
    for window in 0..WINDOWS {
        // A thousand places at first, then ever fewer new ones.
        let seen = (all.len()).min(1000 + window * 100);
        places.known = all[..seen].to_vec();
        let frames: Vec<_> = (0..SAMPLES * FRAMES).map(|_| places.frame()).collect();
        let namer = || if rig.started() == 0 { String::new() } else { rig.pid().to_string() };
        let batch = batch(&frames, FRAMES);
        let (ours, theirs) = (cpu_ms("thread-self"), cpu_ms(&namer()));
        let anonymous = memory_kb("self");
        let named = rig.symbolizer.name(batch);
        let namer = rig.pid().to_string();
        eprintln!(
            "window {window}: agent {:.1} ms, namer {:.1} ms; namer {} kB, {} started; agent +{} kB; {} stacks",
            cpu_ms("thread-self") - ours,
            cpu_ms(&namer) - theirs,
            memory_kb(&namer),
            rig.started(),
            memory_kb("self").saturating_sub(anonymous),
            named.traces.len(),
        );
    }
    for line in rig.meters.render().lines().filter(|line| !line.starts_with('#')) {
        eprintln!("{line}");
    }
}

/// What ten thousand places of a Go program cost, from the first question on: `cargo test --release -p profiler-tests --test namer --
/// --ignored --nocapture cost_of_go`.
#[test]
#[ignore = "a measurement"]
fn cost_of_go() {
    let root = run(Command::new("go").args(["env", "GOROOT"]));
    let path = Path::new(root.trim()).join("bin/go");
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("go");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(&path));
    for path in [path, stripped] {
        let mut rig = Rig::new(Config::default());
        let module = module(&path);
        let frames = code(&module, &path, 10_000);
        let names = rig.functions(&frames);
        let functions: usize = names.iter().map(Vec::len).sum();
        let named = names.iter().flatten().filter(|function| function.line > 0).count();
        let namer = rig.pid().to_string();
        eprintln!(
            "{}: namer {:.1} ms, {} kB, {} started; {functions} functions, {named} of them with lines",
            path.display(),
            cpu_ms(&namer),
            memory_kb(&namer),
            rig.started(),
        );
    }
}
