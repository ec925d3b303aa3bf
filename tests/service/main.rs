//! Tier 6: the unit that we ship works. What it starts is run here as its user, with its capabilities and its system calls
//! and no more, and told of a service manager; what it takes away beside that is weighed by systemd's own measure.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::{Agent, Spoken};
use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::gate::{self, Missing};
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::Running;
use profiler_tests::need;
use rustix::process::Signal;
use tempfile::TempDir;
use unit::{USER, Unit};

mod reload;
mod rights;
mod unit;

/// What `systemd-analyze security` may find at most, of 10.
const EXPOSURE_MAX: f64 = 2.5;
/// Effective capabilities of the namer: CAP_DAC_READ_SEARCH.
const NAMER_CAPABILITIES: u64 = 1 << 2;

fn unit_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/profiler-daemon.service")
}

fn unit() -> Unit {
    Unit::read(&fs::read_to_string(unit_file()).expect("the unit is there"))
}

fn systemd() -> Result<(), Missing> {
    gate::program("systemd-analyze", "TEST_REQUIRE_SYSTEMD").map(drop)
}

#[test]
fn the_unit_is_exposed_no_more_than_it_has_to_be() {
    need!(systemd());
    let mut analyze = Command::new("systemd-analyze");
    let output =
        analyze.args(["security", "--offline=true", "--no-pager"]).arg(unit_file()).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("Overall exposure level for "));
    let level = line.and_then(|(_, rest)| rest.split_once(": ")?.1.split(' ').next()?.parse::<f64>().ok());
    assert!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{level:?}:\n{text}");
}

#[test]
fn the_unit_says_nothing_that_systemd_does_not_understand() {
    need!(systemd());
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(unit_file()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // The program is not installed where this test runs.
    let faults =
        said.lines().filter(|line| line.contains("profiler-daemon") && !line.contains("is not executable"));
    assert_eq!(faults.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// What a service manager hears. It listens all the time: who speaks does not wait for it.
struct Manager(mpsc::Receiver<String>);

impl Manager {
    /// Listens on `socket`, until the process ends.
    fn listen(socket: UnixDatagram) -> Self {
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut message = [0; 1024];
            while let Ok(length) = socket.recv(&mut message) {
                if said.send(String::from_utf8_lossy(&message[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self(heard)
    }

    /// Waits for a message that begins with `words`; what came before it is forgotten.
    #[track_caller]
    fn wait_for(&self, words: &str) -> String {
        let begun = Instant::now();
        let mut others = Vec::new();
        while begun.elapsed() < Duration::from_secs(40) {
            match self.0.recv_timeout(Duration::from_millis(500)) {
                Ok(message) if message.starts_with(words) => return message,
                Ok(message) => others.push(message),
                Err(_) => {}
            }
        }
        panic!("no {words} among {others:?}");
    }
}

fn capabilities(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it has some");
    u64::from_str_radix(line.trim(), 16).expect("a mask")
}

/// A folder for a service that pushes to `server`: its configuration, its state, a socket to tell its manager.
struct Place {
    folder: TempDir,
}

impl Place {
    #[track_caller]
    fn new(server: &Pyroscope) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let settings = format!(
            "sinks = \"pyroscope={}\"\ninterval = \"1s\"\nfrequency = 99\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\noff_file = {:?}\n",
            server.url(),
            place.path("off"),
        );
        fs::write(place.path("profiler.toml"), settings).expect("a file");
        fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o711))
            .expect("a folder of ours");
        fs::create_dir(place.path("state")).expect("a folder");
        fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o700))
            .expect("a folder of ours");
        chown(place.path("state"), Some(USER), Some(USER)).expect("a folder of ours");
        place
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What the unit starts here, with these capabilities.
    #[track_caller]
    fn command(&self, capabilities: &[&str]) -> Command {
        let daemon = binary().display().to_string();
        let own_config = self.path("profiler.toml");
        let (program, config) = ("/usr/bin/profiler-daemon", "/etc/profiler-daemon/profiler.toml");
        let filter = Path::new(env!("CARGO_BIN_EXE_profiler-test-child"));
        let paths = [(program, daemon.as_str()), (config, own_config.as_str())];
        let mut command = unit().command(capabilities, filter, &paths);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("STATE_DIRECTORY", self.path("state"));
        command
    }
}

#[test]
fn what_the_unit_starts_works_with_what_the_unit_leaves_it() {
    need!(gate::bpf());
    need!(systemd());
    let server = Pyroscope::start(Mood::Takes);
    let place = Place::new(&server);
    let socket = UnixDatagram::bind(place.path("notify")).expect("a socket");
    fs::set_permissions(place.path("notify"), fs::Permissions::from_mode(0o666)).expect("a socket of ours");
    let manager = Manager::listen(socket);

    // Busy in the kernel, for names of it.
    let _work =
        Running::start(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=1M", "status=none"]));
    let mut command = place.command(&unit().capabilities());
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "2000000");
    let agent = Agent::of(Spoken::start(&mut command));

    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    assert!(manager.wait_for("STATUS=").contains("samples captured"));
    server.wait_for("a kernel function's name", 0, |pushed| {
        let mut frames = pushed.profile.stacks.iter().flat_map(|stack| &stack.frames);
        frames.any(|frame| frame.kernel && frame.name == "vfs_read")
    });
    assert_eq!(capabilities(agent.wait_for_child("namer", None)), NAMER_CAPABILITIES);
    assert_eq!(capabilities(agent.wait_for_child("serve", None)), 0);
    let begun = Instant::now();
    while agent.metric("profiler_delivered_weight_total", "") == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing was delivered to the embedded server");
        std::thread::sleep(Duration::from_millis(100));
    }

    agent.signal(Signal::HUP);
    assert!(manager.wait_for("RELOADING=1").contains("\nMONOTONIC_USEC="));
    manager.wait_for("READY=1");
    let ended = agent.stop();
    manager.wait_for("STOPPING=1");
    assert_eq!(ended.books().lost_by_us, 0, "{}", ended.said);
    assert!(!ended.said.contains("is missing"), "{}", ended.said);
}

#[test]
fn who_is_switched_off_ends_and_does_not_begin_again() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let off = folder.path().join("off");
    let off = off.to_str().expect("plain letters");
    let agent = Agent::start(&["--off-file", off, "--interval", "1s"]);
    fs::write(off, "").expect("a file");
    let ended = agent.end(Duration::from_secs(30));
    assert!(ended.status.success() && ended.said.contains("so nothing is profiled"), "{}", ended.said);
    ended.books();
    let ended =
        Spoken::start(Command::new(binary()).args(["run", "--off-file", off])).end(Duration::from_secs(5));
    assert!(ended.status.success() && ended.said.contains("so nothing is profiled"), "{}", ended.said);
}
