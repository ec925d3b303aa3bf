//! A state directory that cannot be written, from the start or from some moment on. What waits to be pushed then waits in memory;
//! nothing is lost as long as the server takes it.

use std::fs::File;
use std::io::Write;

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::gate;
use profiler_tests::need;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

use crate::scene::{FREQUENCY, Scene, now_ns};

/// A small disk, mounted. It is unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    #[track_caller]
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        mount("small", folder.path(), "tmpfs", MountFlags::empty(), c"size=4m,mode=755").expect("a mount");
        Self(folder)
    }

    fn fill(&self) {
        let mut file = File::create(self.0.path().join("much")).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    #[track_caller]
    fn protect(&self) {
        mount_remount(self.0.path(), MountFlags::RDONLY, c"").expect("a mount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// The agent works and says what it cannot do, if its disk is treated so, before it starts or when it runs.
#[track_caller]
fn check(before: impl FnOnce(&Disk), meanwhile: impl FnOnce(&Disk)) {
    need!(gate::bpf());
    let disk = Disk::mount();
    let folder = disk.0.path().join("state");
    std::fs::create_dir(&folder).expect("there is room yet");
    before(&disk);
    let mut scene = Scene::with(|server| {
        let arguments =
            ["--server", &server.url(), "--interval", "1s", "-F", FREQUENCY, "--spool-free-bytes-min", "0"];
        Agent::start(&[&arguments[..], &["--data-dir", &folder.display().to_string()]].concat())
    });
    meanwhile(&disk);
    let since = now_ns();
    scene.agent.process().wait_until_said("what waits to be pushed is kept in memory");
    scene.server.wait_for("what is sampled after that", since, |_| true);
    assert!(scene.agent.metric("profiler_spool_write_failed_total", "") > 0.0);
    scene.check();
}

#[test]
fn a_state_directory_that_is_full_from_the_start() {
    check(Disk::fill, |_| {});
}

#[test]
fn a_state_directory_that_becomes_full() {
    check(|_| {}, Disk::fill);
}

#[test]
fn a_state_directory_that_is_read_only_from_the_start() {
    check(Disk::protect, |_| {});
}
