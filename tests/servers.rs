//! Tier 3: servers that are not there, not well, or not what they should be, met by the whole agent: what it says once,
//! what it keeps, what it counts. However it goes, every sample that was captured was delivered or is lost under a reason.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use profiler_tests::harness::agent::{Agent, Ended, wait_until_gone};
use profiler_tests::harness::pyroscope::{Mood, Pyroscope};
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::harness::{gate, ports};
use profiler_tests::need;
use rustix::process::Signal;

/// A process that works, so that there is always something to push.
fn work() -> Running {
    Running::start(Command::new(workloads::shop_c("wl-server")).arg("60"))
}

fn push_to(url: &str) -> Agent {
    Agent::start(&["--server", url, "--interval", "1s"])
}

/// Stops the agent while the server takes everything: nothing may be lost, and all be there in order, once.
#[track_caller]
fn check_nothing_lost(agent: Agent, server: &Pyroscope) -> Ended {
    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert_eq!(books.delivered, server.samples(), "{}", ended.said);
    assert!(books.delivered > 0, "{}", ended.said);
    let mut ends: HashMap<String, i64> = HashMap::new();
    for pushed in server.pushed() {
        let end = ends.entry(pushed.service.clone()).or_default();
        assert!(pushed.start_ns >= *end, "{} came out of order, or twice", pushed.service);
        *end = pushed.start_ns + pushed.length_ns;
    }
    ended
}

fn count(said: &str, words: &str) -> usize {
    said.matches(words).count()
}

#[test]
fn a_server_that_comes_up_later_gets_all_of_it_in_order() {
    need!(gate::bpf());
    let _work = work();
    let address = ports::unused();
    let mut agent = push_to(&format!("http://{address}"));
    agent.process().wait_until_said("cannot connect to");
    std::thread::sleep(Duration::from_secs(2));
    let server = Pyroscope::start_at(address, Mood::Takes);
    agent.process().wait_until_said("takes pushes again");
    let Ended { said, .. } = check_nothing_lost(agent, &server);
    assert_eq!(count(&said, "cannot connect to"), 1, "said once: {said}");
    assert!(said.contains("Connection refused (os error 111); is the server running there?"), "{said}");
}

#[test]
fn a_server_that_has_troubles_of_its_own_is_asked_again() {
    need!(gate::bpf());
    let _work = work();
    let server = Pyroscope::start(Mood::Says(503, "starting up"));
    let mut agent = push_to(&server.url());
    server.wait_for_requests(2);
    server.set(Mood::Says(500, "{\"message\":\"out of luck\"}"));
    server.wait_for_requests(1);
    server.set(Mood::Takes);
    agent.process().wait_until_said("takes pushes again");
    let Ended { said, .. } = check_nothing_lost(agent, &server);
    assert_eq!(count(&said, "(status 503, “starting up”)"), 1, "{said}");
    assert_eq!(count(&said, "(status 500, “{\"message\":\"out of luck\"}”)"), 1, "{said}");
}

#[test]
fn a_refusal_is_counted_and_said_once_in_the_servers_words() {
    need!(gate::bpf());
    let _work = work();
    let server = Pyroscope::start(Mood::Says(400, "no such tenant"));
    let mut agent = push_to(&server.url());
    agent.process().wait_until_said("(status 400, “no such tenant”)");
    server.wait_for_requests(5);
    server.set(Mood::Says(413, "too large"));
    agent.process().wait_until_said("(status 413, “too large”)");
    server.set(Mood::Says(422, "out of order"));
    agent.process().wait_until_said("(status 422, “out of order”)");
    assert!(agent.metric("profiler_samples_lost_total", "refused by server") > 0.0);
    server.set(Mood::Takes);
    server.wait_for("a profile", 0, |_| true);
    let ended = agent.stop();
    let books = ended.books();
    assert!(books.lost_by_us > 0 && books.delivered == server.samples(), "{}", ended.said);
    assert!(ended.said.contains("refused by server)"), "the reason stands in the books: {}", ended.said);
    for words in ["(status 400", "(status 413", "(status 422"] {
        assert_eq!(count(&ended.said, words), 1, "said once: {}", ended.said);
    }
}

#[test]
fn a_web_server_is_not_taken_for_a_pyroscope() {
    need!(gate::bpf());
    let _work = work();
    let server = Pyroscope::start(Mood::Page(200));
    let mut agent = push_to(&server.url());
    agent
        .process()
        .wait_until_said("does not look like a Pyroscope server (status 200, a web page): check --server");
    server.set(Mood::Page(404));
    agent
        .process()
        .wait_until_said("does not look like a Pyroscope server (status 404, a web page): check --server");
    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.delivered, 0, "{}", ended.said);
    assert!(ended.said.contains("refused by server)"), "{}", ended.said);
}

#[test]
fn a_server_that_never_answers_is_left_and_asked_again() {
    need!(gate::bpf());
    let _work = work();
    let server = Pyroscope::start(Mood::Silent);
    let mut agent = push_to(&server.url());
    agent.process().wait_until_said("does not answer in time");
    let (_, standing) = agent.ask("/-/status");
    assert!(standing.contains("pushing every") && standing.contains("keep-alive: "), "{standing}");
    let (status, _) = agent.ask("/-/healthy");
    assert_eq!(status, 200, "the agent itself is well");
    server.set(Mood::Takes);
    agent.process().wait_until_said("takes pushes again");
    check_nothing_lost(agent, &server);
}

#[test]
fn a_server_that_answers_a_half_is_asked_again() {
    need!(gate::bpf());
    let _work = work();
    let server = Pyroscope::start(Mood::Half);
    let mut agent = push_to(&server.url());
    agent.process().wait_until_said("closed the connection instead of answering");
    server.wait_for_requests(1);
    server.set(Mood::Takes);
    agent.process().wait_until_said("takes pushes again");
    check_nothing_lost(agent, &server);
}

#[test]
fn what_speaks_no_http_is_said_to() {
    need!(gate::bpf());
    let _work = work();
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = other.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in other.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"220 mail.example.org ESMTP\r\n");
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        }
    });
    let mut agent = push_to(&format!("http://{address}"));
    agent.process().wait_until_said("is this the right port?");
    agent.stop().books();
}

#[test]
fn a_stop_does_not_wait_for_a_server_that_is_not_there() {
    need!(gate::bpf());
    let _work = work();
    let silent = Pyroscope::start(Mood::Silent);
    let nobody = format!("http://{}", ports::unused());
    let agents = [nobody, silent.url()].map(|url| {
        let mut agent = push_to(&url);
        agent.process().wait_until_said("wait and are tried again");
        agent
    });
    agents.iter().for_each(|agent| agent.signal(Signal::TERM));
    for agent in agents {
        let ended = agent.end(Duration::from_secs(10));
        assert!(ended.status.success(), "{}", ended.said);
        let books = ended.books();
        assert!(books.lost_by_us > 0 && books.delivered == 0, "{}", ended.said);
        assert!(ended.said.contains(" stopped)"), "what is lost has its reason: {}", ended.said);
    }
}

#[test]
fn ctrl_c_ends_the_agent_and_all_its_children_and_loses_nothing() {
    need!(gate::bpf());
    let _work = work();
    let mut agent = Agent::start(&["--interval", "1s"]);
    let children = ["serve", "namer"].map(|command| agent.wait_for_child(command, None));
    let begun = std::time::Instant::now();
    while agent.metric("profiler_push_attempts_total", "result=\"ok\"") < 2.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", agent.process().said());
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.process().signal_group(Signal::INT);
    let ended = agent.end(Duration::from_secs(10));
    assert!(ended.status.success(), "{}", ended.said);
    let books = ended.books();
    assert!(books.lost_by_us == 0 && books.delivered > 0, "{}", ended.said);
    children.into_iter().for_each(wait_until_gone);
}
