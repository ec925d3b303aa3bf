//! The programs, how each is run, and what a whole stack of it looks like.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use profiler_tests::harness::gate;
use profiler_tests::harness::profile::Stack;
use profiler_tests::harness::workloads;

/// Whole stacks of native code, percent.
const NATIVE: f64 = 99.5;
/// Of Go.
const GO: f64 = 99.0;

/// Where a thread may begin: in the program, in the loader that starts it, and in the C library.
const ROOTS: [&str; 2] = ["ld-linux-x86-64.so.2", "libc.so.6"];

/// A program to profile.
pub(crate) struct Program {
    /// The name of its process.
    pub(crate) name: &'static str,
    /// The file it is, or that brings its code: a part of the last name of its path.
    pub(crate) file: String,
    pub(crate) command: Command,
    /// Makes its files known, as a process that is not looked at.
    pub(crate) before: Command,
    /// It prints what it spent where.
    pub(crate) tells: bool,
    /// Whole stacks at least.
    pub(crate) whole_percent_min: f64,
    /// Why its stacks are cut, if they have to be: then those are right that say one of these.
    pub(crate) cut: &'static [&'static str],
    /// A part of the name of a function that it makes, and the share of its stacks that have it, percent, at least.
    pub(crate) named: Option<(&'static str, f64)>,
}

/// Whether a stack is whole, or why not.
pub(crate) enum Whole {
    Yes,
    No(String),
}

impl Program {
    pub(crate) fn new(name: &'static str, program: &Path, arguments: &[&str], before: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        let mut known = Command::new(program);
        known.args(before).stdin(Stdio::null());
        let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            name,
            file,
            command,
            before: known,
            tells: false,
            whole_percent_min: NATIVE,
            cut: &[],
            named: None,
        }
    }

    /// One of ours, which takes its CPU time as its first argument and tells what it spent.
    fn own(name: &'static str, program: &Path) -> Self {
        Self { tells: true, ..Self::new(name, program, &["3"], &["0.6"]) }
    }

    /// One of ours that has a test of its own elsewhere, and is here to be seen beside others.
    fn short(name: &'static str, program: &Path) -> Self {
        Self { tells: true, ..Self::new(name, program, &["1.5"], &["0.2"]) }
    }

    pub(crate) fn start(&mut self) -> Child {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name))
    }

    /// Whether it is a stack of its.
    pub(crate) fn is_own(&self, stack: &Stack) -> bool {
        // What comes behind a comma tells how it is run.
        stack.comm == self.name.split(',').next().unwrap_or_default()
            || stack.frames.iter().any(|frame| last(&frame.module).starts_with(&self.file))
    }

    /// A stack is whole if it says so and begins where threads begin.
    pub(crate) fn whole(&self, stack: &Stack) -> Whole {
        match stack.cut() {
            Some(why) if self.cut.contains(&why) => return Whole::Yes,
            Some(why) => return Whole::No(why.to_owned()),
            None if !self.cut.is_empty() => return Whole::No("not cut".to_owned()),
            None => {}
        }
        let Some(root) = stack.user().next() else { return Whole::No("empty".to_owned()) };
        let module = last(&root.module);
        if module.starts_with(&self.file) || ROOTS.contains(&module) {
            Whole::Yes
        } else {
            Whole::No(format!("begins at {} in {module}", root.name))
        }
    }
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Every program that this machine has.
pub(crate) fn all() -> Vec<Program> {
    let mut programs = own();
    programs.extend(debian());
    programs.extend(super::made::all());
    programs
}

fn own() -> Vec<Program> {
    let (library, open) = workloads::frameless_library();
    let library = library.display().to_string();
    let mut programs = vec![
        Program::short("wl-bare-c", &workloads::frameless_c()),
        Program::short("wl-bare-cpp", &workloads::frameless_cpp()),
        Program::short("wl-bare-rust", &workloads::frameless_rust()),
        // Nobody knows its functions, so they cannot be those that it tells of.
        Program { tells: false, ..Program::short("wl-stripped", &workloads::frameless_stripped()) },
        Program::own("wl-odd", &workloads::frameless_odd()),
        Program::own("wl-static-pie", &workloads::frameless_static_pie()),
        Program { tells: true, ..Program::new("wl-open", &open, &["3", &library], &["0.6", &library]) },
        Program::own("wl-signals", &workloads::frameless_signals()),
        Program::short("wl-fibers", &workloads::frameless_fibers()),
        Program::own("wl-spawn", &workloads::frameless_spawn()),
        Program::own("wl-leaf", &workloads::bare_leaf()),
    ];
    programs.extend(recursions());
    match gate::go() {
        Ok(()) => {
            let go = |program| Program { whole_percent_min: GO, ..program };
            for (name, program) in [
                ("wl-go-stripped", workloads::shop_go_stripped()),
                ("wl-go-crowd", workloads::crowd_go()),
                ("wl-go-c", workloads::cgo()),
            ] {
                programs.push(go(Program { tells: false, ..Program::own(name, &program) }));
            }
        }
        Err(missing) => gate::skip("the programs in Go", &missing),
    }
    programs
}

/// The same program at depths that are whole, and at one that is deeper than a walk goes.
fn recursions() -> Vec<Program> {
    let program = workloads::frameless_deep();
    let at = |name, depth| Program::new(name, &program, &[depth, "1.5"], &["10", "0.2"]);
    vec![
        at("wl-bare-deep, 12", "12"),
        at("wl-bare-deep, 60", "60"),
        at("wl-bare-deep, 300", "300"),
        Program { cut: &["stack too deep"], ..at("wl-bare-deep, 2000", "2000") },
    ]
}

fn debian() -> Vec<Program> {
    const PYTHON: &str = "import re,json,time\n\
        t=time.process_time()\n\
        def f(n): return n if n<2 else f(n-1)+f(n-2)\n\
        while time.process_time()-t<SECONDS: f(15); sorted(map(str,range(3000))); json.loads(json.dumps(list(range(500)))); re.findall('[a-z]+1','abc1'*200)";
    const NODE: &str = "const t=process.cpuUsage();\n\
        function f(n){return n<2?n:f(n-1)+f(n-2)}\n\
        while(process.cpuUsage(t).user<SECONDSe6){f(18);JSON.parse(JSON.stringify([...Array(500).keys()]));'abc1'.repeat(99).replace(/[a-z]+/g,x=>x+1)}";
    let timed = |text: &str, seconds: &str| text.replace("SECONDS", seconds);
    let mut programs = Vec::new();
    if let Some(python) = installed("/usr/bin/python3") {
        let (long, short) = (timed(PYTHON, "3"), timed(PYTHON, "0.6"));
        programs.push(Program::new("python3", &python, &["-c", &long], &["-c", &short]));
    }
    if let Some(node) = installed("/usr/bin/node") {
        let (long, short) = (timed(NODE, "3"), timed(NODE, "0.6"));
        programs.push(Program::new("node", &node, &["-e", &long], &["-e", &short]));
    }
    if let Some(openssl) = installed("/usr/bin/openssl") {
        let speed = ["speed", "-seconds", "1", "sha256"];
        // Long, because of each 2,000 samples five to eleven are where its assembly has the frame in rax, which no walk carries.
        let long = ["speed", "-seconds", "3", "rsa2048", "ecdsap256"];
        programs.push(Program::new("openssl", &openssl, &long, &speed));
    }
    if let Some(xz) = installed("/usr/bin/xz") {
        let file = "/usr/lib/x86_64-linux-gnu/libc.so.6";
        programs.push(Program::new("xz", &xz, &["-9e", "-k", "-c", "-T1", file], &["-1", "-k", "-c", file]));
    }
    programs
}

pub(crate) fn installed(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    if path.is_file() {
        Some(path)
    } else {
        println!("not on this machine: {}", path.display());
        None
    }
}
