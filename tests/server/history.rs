//! What was answered with success is there: after kill -9 at any moment, and beside a disk that is full.
//!
//! `TEST_SERVER_KILLS` says how often it is killed (15 unless it does).

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::serving::{Serving, push_of};

#[test]
fn kill_9_loses_nothing_that_was_answered_and_counts_nothing_twice() {
    let kills = std::env::var("TEST_SERVER_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(15_u64);
    let folder = TempDir::new().expect("a folder");
    let mut answered = 0_u64;
    // The pushes that got no answer: each may be there or not until it is sent again.
    let mut unanswered: Vec<Vec<u8>> = Vec::new();
    for kill in 0..kills {
        let server = Serving::start(folder.path());
        assert_eq!(server.total(), answered, "before kill {kill}");
        let killer = server.kill_after(Duration::from_millis(20 + kill * 37 % 211));
        for number in 0.. {
            let body = push_of("killed", 1, 1 + number % 3 * 40);
            let weight = if number % 3 == 0 { 1 } else { 1 + (number % 3 * 40) as u64 };
            match server.push(body.clone()) {
                Some((200, ..)) => answered += weight,
                Some(other) => panic!("{other:?}"),
                None => {
                    unanswered.push(body);
                    answered += weight;
                    break;
                }
            }
        }
        killer.join().expect("it kills");
        server.ended();
        // Sent again it counts once, whether it was there or not.
        let server = Serving::start(folder.path());
        for body in unanswered.drain(..) {
            assert_eq!(server.push(body.clone()).expect("an answer").0, 200);
            assert_eq!(server.push(body).expect("an answer").0, 200);
        }
        assert_eq!(server.total(), answered, "after kill {kill}");
        server.stop();
    }
    assert!(answered > kills, "something was pushed");
}

/// A file system of a few megabytes, as long as this lives.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=755", "none"]).arg(folder.path());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_answered_that_is_not_there() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a small file system cannot be mounted here");
        return;
    };
    let server = Serving::start(disk.0.path());
    let mut answered = 0;
    let mut refused = 0;
    for _ in 0..200 {
        let (status, words, later) = server.push(push_of("full", 1, 1000)).expect("an answer");
        match status {
            200 => answered += 1000,
            503 => {
                assert!(words.contains("\"unavailable\"") && words.contains("nothing was stored"), "{words}");
                assert!(later.is_some(), "it says when to come again");
                refused += 1;
            }
            other => panic!("{other}: {words}"),
        }
        if refused == 3 {
            break;
        }
    }
    assert!(refused > 0 && answered > 0, "{answered} answered, {refused} refused");
    assert_eq!(server.total(), answered);
    server.stop();
    let server = Serving::start(disk.0.path());
    assert_eq!(server.total(), answered, "after a restart");
    server.stop();
}
