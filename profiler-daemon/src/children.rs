//! Starts, confines and watches the children: the namer and the embedded server.
//!
//! In: what to start, and what to hand over. Out: a process of this very binary, or the news that there is none.
//! A child is handed what it works on as its standard input (the one descriptor that needs no argument and no
//! unsafe code to pass) and a lifeline as its standard output, has no other descriptor but standard error, and
//! is in a process group of its own: a Ctrl-C on the terminal reaches the agent alone, which decides who stops
//! when. Its liveness is seen by end-of-file. Not here: what a child does.

#![expect(
    unsafe_code,
    reason = "closing every inherited descriptor is a promise that only the caller can keep"
)]

mod confine;
mod keeper;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::sockopt::socket_type;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub use self::confine::{
    ConfineError, Confinement, NAMER_BYTES_MAX, Report, SERVER_BYTES_MAX, Writes, confine, hand_over,
};
pub use self::keeper::{Keeper, Spawned};

/// This very binary, even if the file at its path was replaced meanwhile.
pub const SELF: &str = "/proc/self/exe";

/// Starts a namer of `data_bytes_max` private memory: `PROGRAM namer`. Returns our end of its socket.
pub fn spawn_namer(program: &Path, data_bytes_max: u64) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) = pair()?;
    let most = data_bytes_max.to_string();
    let mut command = command(program, ["namer", "--data-bytes-max", &most]);
    // It needs nothing of our environment, which may hold secrets.
    let kept = ["PROFILER_LOG"].map(|name| (name, std::env::var_os(name)));
    command.env_clear();
    command.envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let child = command.stdin(theirs).stdout(Stdio::null()).spawn()?;
    Ok((ours, child))
}

/// Starts an embedded server: `PROGRAM ARGS…`, handing over `listener`.
pub fn spawn_server<A: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = A>,
    listener: &TcpListener,
) -> io::Result<Spawned> {
    let (ours, theirs) = pair()?;
    let listener = listener.as_fd().try_clone_to_owned()?;
    let child = command(program, args).stdin(listener).stdout(theirs).spawn()?;
    Ok(Spawned { child, lifeline: ours })
}

/// What a child was handed.
#[derive(Debug)]
pub struct Handed {
    /// What it works on: the namer's socket, the server's listener.
    pub work: OwnedFd,
    /// Readable, at its end, when the parent is gone or wants us gone.
    pub lifeline: OwnedFd,
}

impl Handed {
    /// Runs `then` when the parent is gone. Costs a sleeping thread.
    pub fn when_parent_is_gone(lifeline: OwnedFd, then: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let watch = move || {
            // Whatever comes but end-of-file, or an error: nobody is there who keeps to the rules.
            let _ = io::copy(&mut File::from(lifeline), &mut io::sink());
            then();
        };
        std::thread::Builder::new().name("lifeline".into()).spawn(watch)?;
        Ok(())
    }
}

/// Takes what was handed to this child, closes every other descriptor but standard error, and confines it: to
/// be called before anything else in a child's main thread, and above all before it reads a foreign byte.
pub fn enter(confinement: &Confinement) -> Result<(Handed, Report), ConfineError> {
    // SAFETY: closing a descriptor is sound as long as nobody owns it. This runs first in a child whose standard
    // library opened nothing, so whatever is open beyond the third was inherited and has no owner here.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let handed = take().map_err(ConfineError::NotHanded)?;
    let report = confine(confinement)?;
    Ok((handed, report))
}

/// Moves the handed descriptors out of the way of whoever uses standard input or output.
fn take() -> io::Result<Handed> {
    let work = io::stdin().as_fd().try_clone_to_owned()?;
    socket_type(&work)?; // an error for who was started by hand
    let lifeline = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(Handed { work, lifeline })
}

fn command<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.arg0("profiler-daemon").args(args).process_group(0);
    command
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}
