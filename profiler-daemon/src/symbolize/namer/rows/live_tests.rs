//! Whole stacks of real processes that wait in the kernel: `/proc` has their registers, their mappings and their stacks.
//! It has no frame pointer, so that these walks begin without one: programs that have to know theirs in the first frames, as
//! those in Rust do, cannot be walked like this.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::{KEEPS_FRAMES, MAPPING_WORDS, Mapping, MappingList, SLAB_WORDS, Slab};
use profiler_common::unwind::walk::{CONTINUE, Walk, Window};
use profiler_common::unwind::{End, Regs};

use super::*;

/// Tables in slabs, each made once.
#[derive(Default)]
pub(super) struct Slabs {
    slabs: Vec<Box<Slab>>,
    used: usize,
    known: BTreeMap<String, Option<(u32, u32, u32, u32)>>,
}

impl Slabs {
    /// Lays `words` out, and says where.
    fn put(&mut self, words: &[u32]) -> u32 {
        if self.slabs.is_empty() || self.used + words.len() > SLAB_WORDS {
            self.slabs.push(vec![0; SLAB_WORDS].into_boxed_slice().try_into().unwrap());
            self.used = usize::from(self.slabs.len() == 1); // the first word of all is nobody's
        }
        let number = self.slabs.len() - 1;
        let at = self.used;
        self.slabs[number][at..at + words.len()].copy_from_slice(words);
        self.used += words.len();
        u32::try_from(number << 16 | at).unwrap()
    }

    /// Directory, first page, pages and flags of the table of the file at `path`.
    fn table(&mut self, path: &str) -> Option<(u32, u32, u32, u32)> {
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        let made = self.make(path);
        self.known.insert(path.to_owned(), made);
        made
    }

    fn make(&mut self, path: &str) -> Option<(u32, u32, u32, u32)> {
        let file =
            if path == "[vdso]" { crate::symbolize::vdso::image().ok()?.0 } else { File::open(path).ok()? };
        let mut builder = Builder::new(&file).ok()?;
        let (mut directory, mut first, mut functions, mut frameless) = (Vec::new(), None, 0, 0);
        while builder.next_page().is_some() {
            let part = builder.part(&file);
            functions += part.functions;
            frameless += part.frameless;
            for (page, words) in part.blocks {
                let first = *first.get_or_insert(page);
                directory.resize((page - first) as usize, 0);
                directory.push(self.put(&words));
            }
        }
        let pages = u32::try_from(directory.len()).unwrap();
        let flags = if keeps_frames(functions, frameless) { KEEPS_FRAMES } else { 0 };
        Some((self.put(&directory), first?, pages, flags))
    }

    /// The list of the executable mappings in a `maps` file, and how many they are.
    pub(super) fn list(&mut self, maps: &str) -> (u32, u32) {
        let mut words = Vec::new();
        for line in maps.lines() {
            let mut parts = line.split_ascii_whitespace();
            let (range, rights, offset) =
                (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let path = parts.nth(2).unwrap_or_default().to_owned();
            if !rights.contains('x') {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
            let (start, end, offset) = (number(start), number(end), number(offset));
            let mapping = match self.table(&path) {
                Some((directory, first, pages, flags)) => {
                    Mapping::of(start, end - start, offset, directory, first, pages | flags)
                }
                None => Mapping::bare(start, end - start),
            };
            words.extend(mapping.words());
        }
        (self.put(&words), u32::try_from(words.len() / MAPPING_WORDS).unwrap())
    }

    /// Walks the stack of a thread that waits in the kernel; none if it does not.
    fn walk(&mut self, pid: u32, tid: u32) -> Option<(Vec<u64>, End)> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let syscall =
            std::fs::read_to_string(process.join("task").join(tid.to_string()).join("syscall")).ok()?;
        let mut last = syscall.split_ascii_whitespace().rev();
        let mut number = || u64::from_str_radix(last.next()?.strip_prefix("0x")?, 16).ok();
        let (ip, sp) = (number()?, number()?);
        let (list, mappings) = self.list(&std::fs::read_to_string(process.join("maps")).ok()?);
        let memory = File::open(process.join("mem")).ok()?;
        // Not zero, which would be a root: odd, and so nowhere.
        let regs = Regs { ip, sp, fp: 1 };
        Some(self.walk_from(regs, list, mappings, &memory))
    }

    /// Walks from `regs` over `memory`, where the process has `mappings` in the list at `list`.
    pub(super) fn walk_from(&self, regs: Regs, list: u32, mappings: u32, memory: &File) -> (Vec<u64>, End) {
        let mut read = |window: &mut Window, at: u64, bytes: u64| {
            let mut raw = vec![0; usize::try_from(bytes).unwrap()];
            let whole = memory.read_exact_at(&mut raw, at).is_ok();
            for (word, raw) in window.iter_mut().zip(raw.as_chunks().0) {
                *word = u64::from_le_bytes(*raw);
            }
            whole
        };
        let mut walk = Walk::new(regs);
        walk.restart(regs, MappingList { address: list, mappings, version: 1 });
        let mut recent = Recent::new();
        let slab = |number: u32| self.slabs.get(number as usize).map(|slab| &**slab);
        let mut frames = Vec::new();
        for _ in 0..1000 {
            let went = walk.step(&mut read, &slab, &mut recent);
            frames.push(walk.left());
            if went != CONTINUE {
                return (frames, End::from_wire(u16::try_from(went).unwrap()).unwrap());
            }
        }
        (frames, End::Truncated)
    }
}

pub(super) struct Waiting(pub(super) Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command`, waits until it waits, and walks all of its threads: each must be whole, one of them this deep.
#[track_caller]
fn check(command: &mut Command, depth: usize) {
    let Ok(child) = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        println!("skipped: no {}", command.get_program().display());
        return;
    };
    let child = Waiting(child);
    let pid = child.0.id();
    let began = Instant::now();
    let mut slabs = Slabs::default();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let walks: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .filter_map(|tid| slabs.walk(pid, tid))
            .collect();
        let deepest = walks.iter().map(|(frames, _)| frames.len()).max().unwrap_or(0);
        let whole = walks.iter().all(|(_, end)| *end == End::Root);
        if whole && deepest >= depth {
            println!("{}: {} threads, {deepest} frames", command.get_program().display(), walks.len());
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{walks:x?}");
    }
}

#[test]
fn a_program_of_the_system_is_whole() {
    check(Command::new("sleep").arg("60"), 4);
    check(Command::new("sh").args(["-c", "sleep 60; true"]), 6);
}

#[test]
fn an_interpreter_is_whole() {
    check(
        Command::new("python3")
            .args(["-c", "import time\ndef f(n): f(n-1) if n else list(map(time.sleep, [60]))\nf(9)"]),
        10,
    );
    check(Command::new("node").args(["-e", "setTimeout(() => 0, 60000)"]), 8);
}

/// A Go program, built with `arguments`: goroutines that wait, and C code called from two of them.
#[track_caller]
fn check_go(text: &str, arguments: &[&str], depth: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("main.go"), folder.path().join("main"));
    std::fs::write(&source, text).unwrap();
    let mut build = Command::new("go");
    build.arg("build").args(arguments).arg("-o").args([&program, &source]).env("CGO_ENABLED", "1");
    if !build.status().is_ok_and(|built| built.success()) {
        println!("skipped: there is no Go, or no C compiler for it");
        return;
    }
    check(&mut Command::new(program), depth);
}

const CALLS_C: &str = r#"package main

// #include <unistd.h>
// static void rest(int n) { if (n) { rest(n - 1); pause(); } else sleep(60); }
import "C"
import "time"

//go:noinline
func outer(n C.int) { inner(n) }

//go:noinline
func inner(n C.int) { C.rest(n) }

func main() {
	for n := 1; n < 3; n++ {
		go outer(C.int(n))
	}
	for n := 0; n < 3; n++ {
		go func() { time.Sleep(time.Minute) }()
	}
	outer(3)
}
"#;

#[test]
fn a_program_in_go_is_whole() {
    check_go(CALLS_C, &[], 10);
}

#[test]
fn a_stripped_program_in_go_is_whole() {
    check_go(CALLS_C, &["-ldflags=-s -w"], 10);
}

#[test]
fn a_position_independent_program_in_go_is_whole() {
    check_go(CALLS_C, &["-buildmode=pie", "-ldflags=-s -w"], 10);
}

/// Go that calls C that calls Go, which waits.
const CALLED_BY_C: &str = r#"package main

// typedef void (*back)(int);
// extern void rest(int);
// static void call(int n, back to) { if (n) { call(n - 1, to); __asm__(""); } else to(n); }
// static void through(int n) { call(n, rest); __asm__(""); }
import "C"
import "syscall"

//export rest
func rest(n C.int) { wait() }

//go:noinline
func wait() {
	for {
		time := syscall.Timespec{Sec: 60}
		syscall.Nanosleep(&time, nil)
	}
}

//go:noinline
func outer(n C.int) { C.through(n) }

func main() { outer(5) }
"#;

#[test]
fn go_that_c_called_is_whole() {
    check_go(CALLED_BY_C, &[], 15);
}

/// A stack that moves: through the C library and back, realigned, of variable size, and in a signal handler on a stack of
/// its own.
const MOVES: &str = r#"
#define _GNU_SOURCE
#include <alloca.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char other[1 << 16];
static volatile int sink;
// What waits must not need the frame pointer that nobody knows; the signal brings one.
__attribute__((optimize("O2", "omit-frame-pointer")))
static void handler(int signal) { sink += signal; pause(); sink++; }
__attribute__((noinline)) static void align(int n) {
    _Alignas(64) volatile char room[256]; room[n] = 1; raise(SIGUSR1); sink += room[n];
}
__attribute__((noinline)) static void vary(int n) {
    volatile char *room = alloca(n * 100 + 1); room[n] = 1; align(n); sink += room[n];
}
static int compare(const void *a, const void *b) { vary(3); return *(const char *)a - *(const char *)b; }
__attribute__((noinline)) static void deep(int n) {
    if (n) deep(n - 1); else { char s[] = "cba"; qsort(s, 3, 1, compare); sink += s[0]; }
    sink++;
}
int main(void) {
    stack_t stack = { .ss_sp = other, .ss_size = sizeof other };
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
    sigaltstack(&stack, 0);
    sigaction(SIGUSR1, &action, 0);
    deep(40);
}
"#;

#[test]
fn a_stack_that_moves_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("moves.c"), folder.path().join("moves"));
    std::fs::write(&source, MOVES).unwrap();
    for arguments in [
        &["-O2", "-fomit-frame-pointer"][..],
        &["-O2", "-fomit-frame-pointer", "-static-pie"],
        &["-O0"],
        &["-O2", "-fno-omit-frame-pointer", "-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"],
    ] {
        let built = Command::new("cc").args(arguments).arg("-o").args([&program, &source]).status();
        if !built.is_ok_and(|built| built.success()) {
            println!("skipped: no C compiler that takes {arguments:?}");
            continue;
        }
        check(&mut Command::new(&program), 50);
    }
}
