//! A thousand who ask at once, some of whom never read what they are told: those who push hardly notice, and memory has
//! an end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::serving::{Serving, push_of};

/// Stacks of what is asked for: all answers together have far more bytes than the server has room for.
const STACKS: usize = 5_000;
const ASKERS: usize = 1000;
/// What the server may take in all, kB: its store, and what its answers have room for.
const MEMORY_KB_MAX: u64 = 400_000;

/// The status of the answer to a question about everything, or nothing if the connection was closed.
fn ask(address: &str, reads: bool) -> Option<u16> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    let message = format!(
        r#"{{"profileTypeID":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","labelSelector":"{{}}","start":{},"end":{},"maxNodes":"1000000"}}"#,
        now_ms() - 3_600_000,
        now_ms()
    );
    let head = "POST /querier.v1.QuerierService/SelectMergeStacktraces HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nConnection: close\r\n";
    write!(socket, "{head}Content-Length: {}\r\n\r\n{message}", message.len()).ok()?;
    let mut status = [0; 12];
    socket.read_exact(&mut status).ok()?;
    if reads {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).ok()?;
    } else {
        std::thread::sleep(Duration::from_secs(3));
        let _ = socket.shutdown(Shutdown::Both);
    }
    std::str::from_utf8(&status[9..]).ok()?.parse().ok()
}

fn now_ms() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis()
}

/// The most memory that a process has had, kB.
fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_thousand_who_ask_at_once_are_answered_or_told_and_pushes_go_on() {
    let folder = TempDir::new().expect("a folder");
    let server = Serving::start(folder.path());
    assert_eq!(server.push(push_of("crowded", 1, STACKS)).expect("an answer").0, 200);
    let address = server.url().trim_start_matches("http://").to_owned();
    let (answered, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        for number in 0..ASKERS {
            let (address, answered, told) = (&address, &answered, &told);
            let asker = std::thread::Builder::new().stack_size(128 << 10);
            let asked = move || match ask(address, number % 4 != 0) {
                Some(200) => answered.fetch_add(1, Ordering::Relaxed),
                // No room for another connection: said, if the words arrived before the end did.
                Some(503) | None => told.fetch_add(1, Ordering::Relaxed),
                Some(other) => panic!("status {other}"),
            };
            asker.spawn_scoped(scope, asked).expect("a thread");
        }
        while answered.load(Ordering::Relaxed) + told.load(Ordering::Relaxed) < ASKERS * 9 / 10 {
            let began = Instant::now();
            // None if there was no room for one more connection.
            if let Some((status, words, _)) = server.push(push_of("calm", 1, 1)) {
                assert!(matches!(status, 200 | 503), "{status}: {words}");
                slowest = slowest.max(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (answered, told) = (answered.into_inner(), told.into_inner());
    let peak = peak_kb(server.pid());
    println!("{answered} answered, {told} turned away, slowest push {slowest:?}, peak {peak} kB");
    assert_eq!(answered + told, ASKERS);
    assert!(answered >= 200, "{answered} answered");
    assert!(peak < MEMORY_KB_MAX, "{peak} kB");
    assert!(slowest < Duration::from_secs(5), "a push took {slowest:?}");
    assert_eq!(server.push(push_of("after", 1, 1)).expect("an answer").0, 200);
    server.stop();
}
