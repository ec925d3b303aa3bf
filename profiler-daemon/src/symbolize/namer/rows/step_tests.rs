//! Real programs, one instruction after the other: at each the walk must say who called whom. What is true is known without any
//! table, because every call was watched.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use profiler_common::unwind::{End, Regs};

use super::live_tests::{Slabs, Waiting};

/// Begins to be of interest at the first breakpoint, and ends at the instruction that is none.
const PROGRAM: &str = r#"
#include <alloca.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
static volatile int sink;
[[gnu::noinline]] static int thrower(int n) {
    std::string own(20 + n, 'a');
    if (n == 0)
        throw std::runtime_error(own);
    return thrower(n - 1) + int(own.size());
}
[[gnu::noinline]] static void realigned(int n) {
    alignas(64) volatile char room[256];
    room[n] = 1;
    sink = sink + room[n];
}
[[gnu::noinline]] static void varied(int n) {
    volatile char *room = static_cast<volatile char *>(alloca(n * 100 + 1));
    room[n] = 1;
    realigned(n);
    sink = sink + room[n];
}
static int compare(const void *a, const void *b) {
    varied(3);
    return *static_cast<const char *>(a) - *static_cast<const char *>(b);
}
static void handler(int number) { varied(number % 4); }
int main() {
    char text[100];
    char letters[] = "gfedcba";
    signal(SIGUSR1, handler);
    sink = getchar();
    asm volatile("int3");
    qsort(letters, 7, 1, compare);
    sink = snprintf(text, sizeof text, "%s %g %d", letters, 1.5 * sink, sink);
    raise(SIGUSR1);
    try {
        thrower(3);
    } catch (const std::exception &thrown) {
        sink = thrown.what()[0];
    }
    free(malloc(100000));
    asm volatile("ud2");
}
"#;

/// An instruction is looked at so often: loops do the same again and again.
const LOOKS_MAX: u32 = 4;

/// One in so many walks may be cut: by code that has the address of its frame in a register which no walk carries, in the loader.
const CUT_OF: u32 = 50;

/// Places at which a walk may go wrong: the first instructions of what such code calls, where that has not saved the register yet.
const WRONG_MAX: usize = 6;

/// Where the kernel puts the address of what a signal interrupted, from where a handler finds its return address.
const INTERRUPTED: u64 = 8 + 168;

/// A call, or what a signal interrupted.
struct Call {
    /// Where the address lies to which it will return.
    place: u64,
    address: u64,
    /// What a walk has to add: one, where nothing was called.
    more: u64,
}

/// A program that is run by the instruction.
struct Stepped {
    _child: Waiting,
    pid: Pid,
    memory: File,
    slabs: Slabs,
    list: (u32, u32),
    /// Calls that did not return yet.
    calls: Vec<Call>,
    /// The frames below the one where it began.
    base: Vec<u64>,
}

impl Stepped {
    /// The program `path` at its breakpoint.
    fn new(path: &std::path::Path) -> Self {
        let mut command = Command::new(path);
        let mut child =
            Waiting(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it was built"));
        let process = format!("/proc/{}", child.0.id());
        let waits =
            || std::fs::read_to_string(format!("{process}/syscall")).is_ok_and(|call| call.starts_with("0 "));
        while !waits() {
            assert!(child.0.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
        ptrace::attach(pid).unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
        child.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        ptrace::cont(pid, None).unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
        let mut slabs = Slabs::default();
        let list = slabs.list(&std::fs::read_to_string(format!("{process}/maps")).unwrap());
        let memory = File::open(format!("{process}/mem")).unwrap();
        let mut stepped =
            Self { _child: child, pid, memory, slabs, list, calls: Vec::new(), base: Vec::new() };
        let (frames, end) = stepped.walk(stepped.regs());
        assert!(end == End::Root && frames.len() >= 3, "{frames:x?} {end:?}");
        stepped.base = frames[1..].to_vec();
        stepped
    }

    fn regs(&self) -> Regs {
        let regs = ptrace::getregs(self.pid).unwrap();
        Regs { ip: regs.rip, sp: regs.rsp, fp: regs.rbp }
    }

    fn walk(&self, regs: Regs) -> (Vec<u64>, End) {
        self.slabs.walk_from(regs, self.list.0, self.list.1, &self.memory)
    }

    /// Runs one instruction, which was at `before`; false at the end.
    fn step(&mut self, before: Regs) -> bool {
        const CALL_BYTES_MAX: u64 = 8;
        ptrace::step(self.pid, None).unwrap();
        let mut stopped = waitpid(self.pid, None).unwrap();
        let mut signalled = false;
        while let WaitStatus::Stopped(_, signal) = stopped {
            match signal {
                Signal::SIGTRAP => break,
                Signal::SIGILL => return false,
                other => {
                    signalled = true;
                    ptrace::step(self.pid, other).unwrap();
                    stopped = waitpid(self.pid, None).unwrap();
                }
            }
        }
        let now = self.regs();
        self.calls.retain(|call| call.place >= now.sp);
        let mut push = |place, address, more| self.calls.push(Call { place, address, more });
        if signalled {
            let interrupted = now.sp + INTERRUPTED;
            push(interrupted, word(&self.memory, interrupted), 1);
            push(now.sp, word(&self.memory, now.sp), 1);
        } else if now.sp == before.sp - 8 {
            // Nothing else pushes an address right behind itself.
            let pushed = word(&self.memory, now.sp);
            if pushed.wrapping_sub(before.ip).wrapping_sub(1) < CALL_BYTES_MAX {
                push(now.sp, pushed, 0);
            }
        }
        true
    }

    /// What a walk should find at `ip`; none where a return address was written over, as whoever throws an exception does last of all.
    fn truth(&self, ip: u64) -> Option<Vec<u64>> {
        let is_there = |call: &Call| word(&self.memory, call.place) == call.address;
        let calls = self.calls.iter().rev().map(|call| call.address + call.more);
        let frames = std::iter::once(ip).chain(calls).chain(self.base.iter().copied());
        self.calls.iter().all(is_there).then(|| frames.collect())
    }
}

fn word(memory: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

/// Builds the program with `arguments`, and compares at every instruction.
#[track_caller]
fn check(arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (source, path) = (folder.path().join("steps.cpp"), folder.path().join("steps"));
    std::fs::write(&source, PROGRAM).unwrap();
    let built = Command::new("c++").arg("-O2").args(arguments).arg("-o").args([&path, &source]).status();
    if !built.is_ok_and(|built| built.success()) {
        println!("skipped: no C++ compiler that takes {arguments:?}");
        return;
    }
    let mut stepped = Stepped::new(&path);
    let mut looks: HashMap<u64, u32> = HashMap::new();
    let (mut steps, mut walks, mut cut) = (0, 0, 0);
    let mut wrong: BTreeMap<u64, String> = BTreeMap::new();
    let mut before = stepped.regs();
    while stepped.step(before) {
        let regs = stepped.regs();
        steps += 1;
        before = regs;
        let looked = looks.entry(regs.ip).or_default();
        *looked += 1;
        let Some(truth) = stepped.truth(regs.ip).filter(|_| *looked <= LOOKS_MAX) else { continue };
        walks += 1;
        match stepped.walk(regs) {
            (frames, End::Root) if frames == truth => {}
            (frames, end) if end != End::Root && truth.starts_with(&frames) => cut += 1,
            (frames, end) => {
                wrong.entry(regs.ip).or_insert_with(|| format!("{end:?}: {frames:x?} instead of {truth:x?}"));
            }
        }
    }
    let places = looks.len();
    println!("{arguments:?}: {steps} instructions at {places} places, {walks} walks, {cut} of them cut");
    assert!(places > 5_000, "it did nothing");
    assert!(cut * CUT_OF < walks, "{cut} of {walks} walks are cut");
    if wrong.len() > WRONG_MAX {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", stepped.pid)).unwrap();
        panic!("{} wrong:\n{wrong:#?}\n{maps}", wrong.len());
    }
}

#[test]
fn whoever_calls_is_known_at_every_instruction() {
    check(&["-fomit-frame-pointer", "-Wl,-z,lazy"]);
}

#[test]
fn and_where_frame_pointers_are_kept() {
    check(&["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer", "-Wl,-z,now"]);
}
