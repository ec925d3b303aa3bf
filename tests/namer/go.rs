//! Names in Go programs, against what Go itself calls the same places.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use profiler_daemon::model::Function;
use profiler_daemon::symbolize::Config;

use crate::rig::{Rig, at, module, offset, run};

/// A place, and what Go says of it.
struct Said {
    offset: u64,
    is_frame: bool,
    shown: String,
}

/// The workload built with `arguments`; none where there is no Go, or no C compiler for it.
fn build(folder: &Path, cgo: bool, arguments: &[&str]) -> Option<PathBuf> {
    let path = folder.join("names");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let built = Command::new("go")
        .arg("build")
        .args(arguments)
        .arg("-o")
        .arg(&path)
        .args(["names.go", if cgo { "names_c.go" } else { "names_go.go" }].map(|name| sources.join(name)))
        .env("CGO_ENABLED", if cgo { "1" } else { "0" })
        .env("GO111MODULE", "off")
        .output();
    let Ok(built) = built else {
        println!("skipped: there is no Go");
        return None;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(path)
}

fn said(path: &Path) -> Vec<Said> {
    let mut program = Command::new(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = crate::lines(program.stdout.take().unwrap());
    let said = lines.iter().map(|line| {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (address, shown) = rest.split_once(' ').unwrap();
        Said {
            offset: offset(program.id(), u64::from_str_radix(address, 16).unwrap()),
            is_frame: kind == "frame",
            shown: shown.to_owned(),
        }
    });
    let said = said.collect();
    drop(program.stdin.take());
    program.wait().unwrap();
    said
}

fn shown(function: &Function) -> String {
    let file = if function.file.is_empty() { "?" } else { &*function.file };
    format!("{} {file}:{}", function.name, function.line)
}

/// Everything that a program built with `arguments` says of itself is what its names are, though it is `stripped`.
#[track_caller]
fn check(cgo: bool, arguments: &[&str], strip: bool) {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = build(folder.path(), cgo, arguments) else { return };
    if strip {
        run(Command::new("strip").arg(&path));
    }
    let said = said(&path);
    let module = module(&path);
    // Compilers run beside: this is about names, not about time.
    let patience = Duration::from_secs(30);
    let mut rig =
        Rig::new(Config { request_timeout: patience, batch_timeout: patience, ..Config::default() });
    let frames: Vec<_> = said.iter().map(|said| at(&module, said.offset)).collect();
    let named = rig.functions(&frames);

    // Each frame of the hardware stands for as many of Go's as were inlined into it.
    let stack: Vec<_> = said.iter().zip(&named).filter(|(said, _)| said.is_frame).collect();
    let (mut next, mut inlined) = (0, 0);
    while next < stack.len() {
        for (function, (said, _)) in stack[next].1.iter().zip(&stack[next..]) {
            assert_eq!(shown(function), said.shown);
        }
        inlined += stack[next].1.len() - 1;
        next += stack[next].1.len();
    }
    assert!(stack.len() > 10 && inlined >= 3, "{} frames, {inlined} of them inlined", stack.len());

    let places: Vec<_> = said.iter().zip(&named).filter(|(said, _)| !said.is_frame).collect();
    let wrong: Vec<_> = places
        .iter()
        .filter(|(said, named)| shown(&named[0]) != said.shown)
        .map(|(said, named)| format!("{:#x} is {} and not {}", said.offset, said.shown, shown(&named[0])))
        .collect();
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), places.len(), &wrong[..wrong.len().min(10)]);
    assert!(places.len() > 5000, "{}", places.len());
    assert_eq!(rig.started(), 1);
}

#[test]
fn a_go_program_is_named_as_it_names_itself() {
    check(false, &[], false);
}

#[test]
fn a_stripped_go_program_is_named_as_it_names_itself() {
    check(false, &["-ldflags=-s -w"], true);
}

#[test]
fn a_go_program_without_paths_is_named_as_it_names_itself() {
    check(false, &["-trimpath", "-ldflags=-s -w"], false);
}

#[test]
fn a_go_program_for_any_address_is_named_as_it_names_itself() {
    check(false, &["-buildmode=pie", "-ldflags=-s -w"], true);
}

#[test]
fn a_go_program_with_c_code_is_named_as_it_names_itself() {
    check(true, &[], false);
    check(true, &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"], true);
}

#[test]
fn names_only_means_names_only() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = build(folder.path(), false, &["-ldflags=-s -w"]) else { return };
    let said = said(&path);
    let mut rig = Rig::new(Config { inlines: false, ..Config::default() });
    let module = module(&path);
    let functions = rig.functions(&said.iter().map(|said| at(&module, said.offset)).collect::<Vec<_>>());
    assert!(functions.iter().all(|functions| functions.len() == 1 && functions[0].line == 0));
}
