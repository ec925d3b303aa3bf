//! Tells the service manager how far we are, if it asked to be told (`Type=notify`).
//!
//! In: what happened. Out: one datagram to the socket that it named. Not here: what it does with that.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::time::MonoNs;

/// We sample.
pub(super) fn ready() {
    tell("READY=1");
}

/// We read the configuration again; [`ready`] follows.
pub(super) fn reloading() {
    // The manager tells an answer to this reload from one to the last by the moment.
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", MonoNs::now().0 / 1_000));
}

/// We make progress: the manager waits on.
pub(super) fn alive() {
    tell("WATCHDOG=1");
}

/// How it goes, in a line.
pub(super) fn status(line: &str) {
    tell(&format!("STATUS={}", line.replace('\n', " ")));
}

/// How long the manager waits for a sign of life, if it does.
pub(super) fn patience() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    // Where it names a process, another one than we is meant to give it.
    let ours = std::env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// We end, and it may take so long from now.
pub(super) fn stopping(grace: Duration) {
    tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", grace.as_micros()));
}

/// Nobody has to listen: what cannot be told is not worth an error.
fn tell(words: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let _ = send(&socket, words);
    }
}

fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(words.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check(socket: &OsStr, address: &SocketAddr) {
        let listener = UnixDatagram::bind_addr(address).unwrap();
        send(socket, "READY=1").unwrap();
        let mut heard = [0; 100];
        let length = listener.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
    }

    #[test]
    fn a_socket_with_a_path_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        check(path.as_os_str(), &SocketAddr::from_pathname(&path).unwrap());
    }

    #[test]
    fn a_socket_without_one_is_told() {
        let name = format!("profiler-notify-{}", std::process::id());
        check(OsStr::new(&format!("@{name}")), &SocketAddr::from_abstract_name(name).unwrap());
    }

    #[test]
    fn nobody_who_listens_is_no_fault() {
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
        ready();
    }
}
