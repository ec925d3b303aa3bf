//! The daemon's children as a program of this package, so that cargo builds it before the tests that start it.
//!
//! `namer` is the product's. The `try-…` ones confine themselves like a child of ours, then try what they must not
//! be able to do, and say how that went, one line each. `filtered` becomes what a service manager would start.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use profiler_daemon::children::{Confinement, Handed, Writes, confine, enter};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if std::env::args().nth(1).as_deref() == Some("filtered") {
        return filtered(&std::env::args().skip(2).collect::<Vec<_>>());
    }
    match (args.next().as_deref(), args.next()) {
        (Some("namer"), _) => profiler_daemon::cli::main(),
        (Some("try-namer"), Some(folder)) => try_namer(Path::new(&folder)),
        (Some("try-server"), Some(folder)) => try_server(Path::new(&folder)),
        (Some("serve"), None) => serve(),
        _ => ExitCode::from(2),
    }
}

/// Becomes another program, to which only some system calls are allowed: their numbers, the program, its arguments.
fn filtered(words: &[String]) -> ExitCode {
    let [calls, program, arguments @ ..] = words else { return ExitCode::from(2) };
    let calls = calls.split(',').map(|call| (call.parse().expect("a number"), Vec::new())).collect();
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("it is small"));
    let arch = std::env::consts::ARCH.try_into().expect("an architecture of ours");
    let filter = SeccompFilter::new(calls, refused, SeccompAction::Allow, arch).expect("a filter");
    let filter: BpfProgram = filter.try_into().expect("a filter");
    seccompiler::apply_filter(&filter).expect("the privilege not to gain any was given up");
    panic!("{program}: {}", Command::new(program).args(arguments).exec())
}

fn say(what: &str, outcome: Result<impl Sized, impl Display>) {
    match outcome {
        Ok(_) => println!("{what}: done"),
        Err(error) => println!("{what}: {error}"),
    }
}

fn about_itself() {
    print!("{}", std::fs::read_to_string("/proc/self/status").expect("ours"));
    print!("OomScoreAdj:\t{}", std::fs::read_to_string("/proc/self/oom_score_adj").expect("ours"));
}

fn try_namer(folder: &Path) -> ExitCode {
    let private = File::open(folder.join("private")).expect("opened before");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound before");
    let address = listener.local_addr().expect("it has one");
    let report = confine(&Confinement::namer()).expect("confined");
    println!("report: {report}");
    let again = format!("/proc/self/fd/{}", private.as_raw_fd());
    say("read what was handed", File::open(again).and_then(|mut file| file.read_to_end(&mut Vec::new())));
    say("write", File::create(folder.join("written")));
    say("append", File::options().append(true).open(folder.join("private")));
    say("unlink", std::fs::remove_file(folder.join("private")));
    say("connect", TcpStream::connect(address));
    say("unix socket", std::os::unix::net::UnixDatagram::unbound());
    say("exec", Command::new("/bin/true").status());
    say("thread", std::thread::Builder::new().spawn(|| ()));
    let mut hoard: Vec<u8> = Vec::new();
    say("half a gigabyte", hoard.try_reserve_exact(512 << 20));
    about_itself();
    ExitCode::SUCCESS
}

fn try_server(folder: &Path) -> ExitCode {
    let beneath = Writes::Beneath(vec![folder.join("data")]);
    let report = confine(&Confinement::server(beneath)).expect("confined");
    println!("report: {report}");
    say("write in its folder", File::create(folder.join("data/written")));
    say("write beside it", File::create(folder.join("written")));
    say("exec", Command::new("/bin/true").status());
    say("thread", std::thread::Builder::new().spawn(|| ()));
    about_itself();
    ExitCode::SUCCESS
}

/// Answers every connection with the number of open descriptors, until the parent is gone.
fn serve() -> ExitCode {
    let (Handed { work, lifeline }, _) =
        enter(&Confinement::server(Writes::Nowhere)).expect("handed and confined");
    Handed::when_parent_is_gone(lifeline, || std::process::exit(7)).expect("a thread");
    let listener = TcpListener::from(work);
    loop {
        let (mut connection, _) = listener.accept().expect("a connection");
        let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0);
        let _: io::Result<()> = write!(connection, "{open}");
    }
}
