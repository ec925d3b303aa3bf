//! A configuration that is read again while everything runs: what is said to apply does, for who asks, who is pushed to and what it may
//! cost; and what is wrong changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::{Agent, Spoken, get, get_with};
use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::Running;
use profiler_tests::need;
use rustix::process::Signal;

const FIRST: &str = "the-first-token-of-this-test";
const SECOND: &str = "the-second-token-of-this-test";

/// How long a test waits for what should come within seconds.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn write_token(path: &Path, token: &str) {
    fs::write(path, token).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}

/// Waits until reloads with this `result` are so many.
#[track_caller]
fn reloaded(agent: &Agent, result: &str, times: f64) {
    let begun = Instant::now();
    agent.signal(Signal::HUP);
    while agent.metric("profiler_config_reloads_total", result) < times {
        assert!(begun.elapsed() < WAIT_MAX, "no reload was {result}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn rules_ceiling_and_token_change_while_it_runs() {
    need!(gate::bpf());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, token) = (folder.path().join("profiler.toml"), folder.path().join("token"));
    let server = Pyroscope::start(Mood::Takes);
    let start = format!(
        "sinks = \"pyroscope={}\"\ninterval = \"1s\"\nfrequency = 99\nlisten = \"127.0.0.1:0\"\n\
         admin_listen = \"127.0.0.1:0\"\ntoken_file = {token:?}\n",
        server.url()
    );
    let write = |more: &str| fs::write(&config, format!("{start}{more}")).expect("a file");
    write("");
    write_token(&token, FIRST);
    let _work =
        Running::start(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=1M", "status=none"]));
    let mut agent = Agent::of(Spoken::start(Command::new(binary()).args(["run", "--config"]).arg(&config)));
    let asked = |page, token| get_with(page, "/api/services?last=60", token).expect("the page answers").0;
    let page = agent.page();

    // The embedded server is asked for its page as soon as it knows who may look.
    assert_eq!((asked(page, None), asked(page, Some(FIRST))), (401, 200));
    assert_eq!(agent.ask("/metrics").0, 401);
    agent.show(Some(FIRST));
    assert_eq!(agent.metric("profiler_cpu_ceiling", ""), 0.0);
    server.wait_for("a profile", 0, |pushed| pushed.service == "dd");

    write_token(&token, SECOND);
    write(
        "cpu_max = \"50%\"\n[[relabel]]\nsource_labels = [\"service_name\"]\nregex = \"dd\"\n\
         target_label = \"service_name\"\nreplacement = \"renamed\"\n",
    );
    agent.signal(Signal::HUP);
    agent.process().wait_until_said("the configuration was read again");
    let begun = Instant::now();
    while asked(page, Some(SECOND)) != 200 {
        assert!(begun.elapsed() < WAIT_MAX, "the page does not know the second token");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((asked(page, None), asked(page, Some(FIRST)), agent.ask("/metrics").0), (401, 401, 401));
    agent.show(Some(SECOND));
    let delivered = agent.metric("profiler_delivered_weight_total", "");
    server.wait_for("a renamed profile", 0, |pushed| pushed.service == "renamed");
    let processors = std::thread::available_parallelism().expect("there are some").get();
    let begun = Instant::now();
    while agent.metric("profiler_cpu_ceiling", "") == 0.0
        || agent.metric("profiler_delivered_weight_total", "") == delivered
    {
        assert!(begun.elapsed() < WAIT_MAX, "no ceiling, or nothing is delivered any more");
        std::thread::sleep(Duration::from_millis(100));
    }
    let ceiling = agent.metric("profiler_cpu_ceiling", "");
    assert!(ceiling <= processors as f64 / 2.0, "{ceiling} of {processors}");

    // A server that ends knows the token of now when it is back.
    let serving = agent.wait_for_child("serve", None);
    let pid = rustix::process::Pid::from_raw(i32::try_from(serving).expect("a number")).expect("a process");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    agent.wait_for_child("serve", Some(serving));
    assert_eq!((asked(page, Some(FIRST)), asked(page, Some(SECOND))), (401, 200));

    // Who asks why finds the agent, if it has the token; and the rules that hold now.
    let why = |token: &Path| {
        let mut doctor = Command::new(binary());
        doctor.args(["doctor", "why", &std::process::id().to_string(), "--json"]);
        doctor.env("PROFILER_ADMIN_LISTEN", agent.admin().to_string()).env("PROFILER_TOKEN_FILE", token);
        let said = doctor.env_remove("PROFILER_CONFIG").output().expect("it starts").stdout;
        String::from_utf8(said).expect("JSON")
    };
    let said = why(&token);
    assert!(
        said.contains("was asked") && said.contains("\"stacks\"") && said.contains("hostname="),
        "{said}"
    );
    let said = why(Path::new("/nowhere"));
    assert!(said.contains("asks for its token") && said.contains("\"work\""), "{said}");

    // What is wrong changes nothing, and is told.
    fs::remove_file(&token).expect("it was there");
    reloaded(&agent, "refused", 1.0);
    assert_eq!(agent.metric("profiler_config_last_reload_successful", ""), 0.0);
    assert_eq!((agent.ask("/metrics").0, asked(page, Some(SECOND))), (200, 200));
    let ended = agent.stop();
    assert!(!ended.said.contains(FIRST) && !ended.said.contains(SECOND), "{}", ended.said);
    assert!(ended.said.contains("cannot be read"), "{}", ended.said);
    assert!(get(page, "/").is_err(), "nobody is left");
    ended.books();
}
