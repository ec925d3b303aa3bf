//! Tier 3: `doctor connection` against servers that are well, servers that are not, and what is no server at all. What
//! it says is what the server was told to do, and it always comes to an end.

mod servers;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::Spoken;
use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::gate;
use profiler_tests::harness::go_server;
use profiler_tests::harness::ports::unused;
use profiler_tests::need;
use rustix::process::Signal;
use serde_json::Value;

use servers::{Server, answer, keep, request, reset, serve, serve_on};

/// How long the longest check may take: ten seconds for each step that gets no answer.
const CHECK_MAX: Duration = Duration::from_secs(40);

/// Most servers here close after a second. A busy machine is late in closing and in looking, never early, so this lies
/// above by most of what still is a race.
const INTERVAL: &str = "1030ms";

fn doctor(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["doctor", "connection", url, "--interval", INTERVAL, "--patience", "2500ms"])
        .args(arguments);
    // What is set for the agents of this machine is none of the test's business.
    for key in ["PROFILER_CONFIG", "PROFILER_SERVER", "PROFILER_INTERVAL"] {
        command.env_remove(key);
    }
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let begun = Instant::now();
    let output = command.output().expect("the daemon's binary can be started");
    assert!(begun.elapsed() < CHECK_MAX, "{command:?} took {:?}", begun.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{command:?}: {said}");
    output
}

/// Runs `command`, which must end with `code` and one JSON object with this verdict and nothing beside it.
#[track_caller]
fn check_command(command: &mut Command, code: i32, verdict: &str) -> Value {
    let Output { status, stdout, stderr } = run(command.arg("--json"));
    let (said, noise) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(noise, "", "{command:?}");
    let found: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{command:?}: {error}: {said}"));
    assert_eq!(
        (status.code(), &found["verdict"]),
        (Some(code), &Value::from(verdict)),
        "{command:?}: {said}"
    );
    found
}

#[track_caller]
fn check(url: &str, code: i32, verdict: &str) -> Value {
    check_command(&mut doctor(url, &[]), code, verdict)
}

/// Closed by the server, in this way, after about so many milliseconds.
#[track_caller]
fn check_closed(found: &Value, how: &str, after_ms: u64) {
    assert_eq!(
        (&found["closed_first"], &found["how"]),
        (&Value::from("server"), &Value::from(how)),
        "{found}"
    );
    let idle_ms = found["idle_timeout_ms"].as_u64().unwrap_or_default();
    // The clock starts with our request, the server's with the whole millisecond that it looked at last.
    assert!((after_ms - 5..after_ms + 80).contains(&idle_ms), "{after_ms}: {found}");
    assert_eq!(found["connections"].as_array().map_or(0, Vec::len), 3, "{found}");
}

#[track_caller]
fn check_words(found: &Value, key: &str, words: &str) {
    let text = found[key].to_string();
    assert!(text.contains(words), "{key} lacks {words:?}: {found}");
}

// Servers of others.

#[test]
fn a_go_server_with_read_timeouts_only_closes_at_the_interval() {
    need!(gate::go());
    let server = Server::go(&["-read=1s"]);
    let url = format!("http://{}", server.address);
    let found = check(&url, 1, "race");
    check_closed(&found, "fin", 1_000);
    check_words(&found, "advice", "-server.http-idle-timeout=2s");
    check_words(&found, "advice", "http.Server{IdleTimeout: 2 * time.Second}");
    assert_eq!((&found["advertised_timeout_ms"], &found["interval_ms"]), (&Value::Null, &Value::from(1_030)));
    assert_eq!((&found["url"], &found["notes"]), (&Value::from(url.clone()), &Value::Array(vec![])));
    for time in ["rtt_ms", "connect_ms", "first_byte_ms", "guard_ms"] {
        assert!(found[time].as_f64().is_some_and(|ms| ms > 0.0 && ms < 500.0), "{time}: {found}");
    }

    let Output { status, stdout, .. } = run(&mut doctor(&url, &[]));
    let said = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches(": the SERVER sent FIN first after 1.0").count(), 3, "{said}");
    for words in ["HTTP/1.1 405", "Keep-Alive: - (not advertised)", "tcp rtt ", "VERDICT race: ", "ADVICE "] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_go_server_without_timeouts_keeps_everything() {
    need!(gate::go());
    let server = Server::go(&[]);
    let found = check(&format!("http://{}", server.address), 0, "open");
    for key in ["closed_first", "how", "idle_timeout_ms", "advertised_timeout_ms", "advice"] {
        assert_eq!(found[key], Value::Null, "{key}: {found}");
    }
}

#[test]
fn tls_is_measured_where_the_certificate_is_trusted_and_refused_where_it_is_not() {
    need!(gate::go());
    let folder = tempfile::tempdir().expect("a folder");
    let [certificate, another] = ["one", "another"].map(|name| {
        go_server::make_certificates(&folder.path().join(name));
        folder.path().join(name).join("certificate.pem")
    });
    let certificates = format!("-certificates={}", folder.path().join("one").display());
    let server = Server::go(&["-read=1s", &certificates]);
    let url = format!("https://{}", server.address);
    let mut trusting = doctor(&url, &[]);
    trusting.env("SSL_CERT_FILE", &certificate).env_remove("SSL_CERT_DIR");
    let found = check_command(&mut trusting, 1, "race");
    check_closed(&found, "fin", 1_000);
    assert!(found["tls_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{found}");

    let mut distrusting = doctor(&url, &[]);
    distrusting.env("SSL_CERT_FILE", &another).env_remove("SSL_CERT_DIR");
    let found = check_command(&mut distrusting, 2, "tls_failure");
    check_words(&found, "advice", "SSL_CERT_FILE");
    // It answers those who speak no TLS, and closes.
    check(&format!("http://{}", server.address), 1, "closes_each");
}

#[test]
fn nodes_header_is_believed_though_it_closes_later() {
    need!(gate::server("node").map(drop));
    let server = Server::node(&gate::server("node").expect("it is there"), 1_000);
    let found = check(&format!("http://{}", server.address), 1, "no_reuse");
    assert_eq!(found["advertised_timeout_ms"], 1_000, "{found}");
    check_words(&found, "advice", "server.keepAliveTimeout = 2000");
}

#[test]
fn nginx_advertises_its_second_number_only() {
    need!(gate::server("nginx").map(drop));
    let program = gate::server("nginx").expect("it is there");
    for (timeout, advertised) in [("1s", Value::Null), ("1s 1s", Value::from(1_000))] {
        let server = Server::nginx(&program, timeout);
        let found = check(&format!("http://{}", server.address), 1, "race");
        check_closed(&found, "fin", 1_000);
        assert_eq!(found["advertised_timeout_ms"], advertised, "{found}");
        check_words(&found, "server", "nginx");
        check_words(&found, "advice", "keepalive_timeout 2s 2s;");
    }
    let server = Server::nginx(&program, "1s 30s");
    let found = check(&format!("http://{}", server.address), 1, "header_lies");
    assert_eq!(found["advertised_timeout_ms"], 30_000, "{found}");
}

#[test]
fn apache_advertises_to_those_who_ask_for_it() {
    need!(gate::server("apache2").map(drop));
    let server = Server::apache(&gate::server("apache2").expect("it is there"), 1);
    let found = check(&format!("http://{}", server.address), 1, "race");
    check_closed(&found, "fin", 1_000);
    assert_eq!(found["advertised_timeout_ms"], 1_000, "{found}");
    check_words(&found, "advice", "KeepAliveTimeout 2");
    check_words(&found, "notes", "is a Pyroscope there?");
}

#[test]
fn haproxy_says_nothing_of_itself() {
    need!(gate::server("haproxy").map(drop));
    let server = Server::haproxy(&gate::server("haproxy").expect("it is there"), "1s");
    let found = check(&format!("http://{}", server.address), 1, "race");
    check_closed(&found, "fin", 1_000);
    check_words(&found, "advice", "timeout http-keep-alive 2s");
}

#[test]
fn the_embedded_server_fits() {
    let server = Server::embedded(&binary());
    let found = check(&format!("http://{}", server.address), 0, "fits");
    assert_eq!(found["advertised_timeout_ms"], 120_000, "{found}");
    assert_eq!(found["notes"], Value::Array(vec![]), "{found}");
}

// Servers that behave in some way.

#[test]
fn a_timeout_well_above_or_below_the_interval_is_no_race() {
    let address = serve(|mut stream| keep(&mut stream, "", Duration::from_millis(1_500)));
    check_closed(&check(&format!("http://{address}"), 0, "fits"), "fin", 1_500);
    let address = serve(|mut stream| keep(&mut stream, "", Duration::from_millis(500)));
    check_closed(&check(&format!("http://{address}"), 1, "no_reuse"), "fin", 500);
}

#[test]
fn a_reset_is_told_from_a_fin() {
    let address = serve(|mut stream| {
        keep(&mut stream, "", Duration::from_secs(1));
        reset(&stream);
    });
    let found = check(&format!("http://{address}"), 1, "race");
    check_closed(&found, "rst", 1_000);
    check_words(&found, "notes", "reset");
}

#[test]
fn a_farewell_that_nobody_asked_for_is_seen() {
    let address = serve(|mut stream| {
        keep(&mut stream, "", Duration::from_secs(1));
        answer(&mut stream, 408, "Connection: close\n");
    });
    let found = check(&format!("http://{address}"), 1, "race");
    check_closed(&found, "fin", 1_000);
    assert!(found["connections"][0]["unasked_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{found}");
}

#[test]
fn a_server_that_closes_each_connection_is_known_by_its_word_or_by_its_deed() {
    let address = serve(|mut stream| {
        request(&mut stream);
        answer(&mut stream, 405, "Connection: close\n");
    });
    let found = check(&format!("http://{address}"), 1, "closes_each");
    assert_eq!((&found["closed_first"], &found["idle_timeout_ms"]), (&Value::from("server"), &Value::Null));
    let address = serve(|mut stream| {
        request(&mut stream);
        answer(&mut stream, 405, "");
    });
    check(&format!("http://{address}"), 1, "closes_each");
    // It says so and leaves it to us.
    let address = serve(|mut stream| {
        request(&mut stream);
        answer(&mut stream, 405, "Connection: close\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let found = check(&format!("http://{address}"), 1, "closes_each");
    assert_eq!(found["closed_first"], "client", "{found}");
    let address = serve(|mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n");
    });
    check(&format!("http://{address}"), 1, "closes_each");
}

#[test]
fn a_server_that_only_dislikes_the_question_is_asked_another() {
    let address = serve(|mut stream| {
        while let Some(line) = request(&mut stream) {
            if line == "GET /a/ready HTTP/1.1" {
                answer(&mut stream, 200, "Keep-Alive: timeout=60\n");
            } else {
                return answer(&mut stream, 405, "Connection: close\nAllow: POST\n");
            }
        }
    });
    check(&format!("http://{address}/a"), 0, "fits");
}

#[test]
fn a_connection_that_nobody_closes_and_nobody_answers_is_dead() {
    let address = serve(|mut stream| {
        request(&mut stream);
        answer(&mut stream, 405, "Allow: POST\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let found = check(&format!("http://{address}"), 1, "silent_drop");
    assert_eq!(found["closed_first"], Value::Null, "{found}");
    check_words(&found, "advice", "firewall");
}

#[test]
fn too_little_patience_finds_nothing_out() {
    let address = serve(|mut stream| keep(&mut stream, "", Duration::from_secs(20)));
    let mut impatient = doctor(&format!("http://{address}"), &[]);
    impatient.args(["--patience", "300ms"]);
    let patient = run(&mut impatient);
    assert_eq!(patient.status.code(), Some(2), "given twice: a usage error");
    let mut impatient = Command::new(binary());
    impatient.args([
        "doctor",
        "connection",
        &format!("http://{address}"),
        "--interval=1s",
        "--patience=300ms",
    ]);
    check_words(&check_command(&mut impatient, 2, "too_short"), "advice", "--patience 2s");
}

#[test]
fn watching_tells_what_changes_and_nothing_else() {
    let idle_ms = Arc::new(AtomicU64::new(1_000));
    let told = Arc::clone(&idle_ms);
    let address = serve(move |mut stream| {
        keep(&mut stream, "", Duration::from_millis(told.load(Ordering::Relaxed)));
    });
    let mut watching = Spoken::start(&mut doctor(&format!("http://{address}"), &["--watch", "--json"]));
    watching.wait_until_said("\"race\"");
    // Twice the same is said once.
    std::thread::sleep(Duration::from_secs(3));
    idle_ms.store(1_700, Ordering::Relaxed);
    watching.wait_until_said("\"fits\"");
    assert!(watching.is_alive());
    watching.signal(Signal::INT);
    let ended = watching.end(Duration::from_secs(5));
    assert_eq!(ended.status.code(), Some(0), "the last verdict: {}", ended.said);
    let verdicts: Vec<Value> = ended
        .said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one object per line")["verdict"].clone())
        .collect();
    assert_eq!(verdicts, ["race", "fits"], "{}", ended.said);
}

// What is no server, or none of HTTP.

#[test]
fn nobody_is_there() {
    let found = check(&format!("http://{}", unused()), 2, "unreachable");
    check_words(&found, "words", "Connection refused");
    let found = check("http://nobody.invalid:4040", 2, "unreachable");
    check_words(&found, "words", "nobody.invalid cannot be looked up");
}

#[test]
fn of_the_addresses_of_a_name_the_one_that_answers_is_asked() {
    // Where there is IPv6, the name has an address at which nobody listens, too.
    let address = serve(|mut stream| keep(&mut stream, "", Duration::from_secs(1)));
    let found = check(&format!("http://localhost:{}", address.port()), 1, "race");
    check_closed(&found, "fin", 1_000);
    check_words(&found["connections"][0], "peer", "127.0.0.1:");
}

#[test]
fn the_newer_protocol_is_spoken_too() {
    let Ok(listener) = TcpListener::bind(("::1", 0)) else {
        let missing = gate::Missing { required_by: "TEST_REQUIRE_IPV6", what: "no IPv6".to_owned() };
        return gate::skip("the_newer_protocol_is_spoken_too", &missing);
    };
    let address = serve_on(listener, |mut stream| keep(&mut stream, "", Duration::from_secs(1)));
    check_closed(&check(&format!("http://{address}"), 1, "race"), "fin", 1_000);
}

#[test]
fn what_is_not_http_is_told() {
    let says = |bytes: &'static [u8]| {
        serve(move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(bytes);
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    check(&format!("http://{}", says(b"-ERR unknown command\r\n")), 2, "not_http");
    check(&format!("http://{}", says(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n")), 2, "not_http");
    check(&format!("http://{}", says(b"HTTP/1.1 abc\r\n\r\n")), 2, "not_http");
    check(&format!("http://{}", says(b"HTTP/2 200\r\n\r\n")), 2, "not_http");
    // It speaks before it is asked.
    let banner = serve(|mut stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    check(&format!("http://{banner}"), 2, "not_http");
}

#[test]
fn a_connection_that_ends_instead_of_an_answer_is_told() {
    let closes = serve(drop);
    check_words(&check(&format!("http://{closes}"), 2, "not_http"), "words", "instead of answering");
    let resets = serve(|mut stream| {
        request(&mut stream);
        reset(&stream);
    });
    check_words(&check(&format!("http://{resets}"), 2, "not_http"), "words", "reset");
    let half = serve(|mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
    });
    check_words(&check(&format!("http://{half}"), 2, "not_http"), "words", "instead of answering");
}

#[test]
fn a_server_that_says_nothing_is_left_after_ten_seconds() {
    let silent = serve(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let begun = Instant::now();
    std::thread::scope(|both| {
        both.spawn(|| {
            let found = check(&format!("http://{silent}"), 2, "no_answer");
            check_words(&found, "words", "no answer within 10 s");
        });
        both.spawn(|| {
            let found = check(&format!("https://{silent}"), 2, "tls_failure");
            check_words(&found, "words", "timed out");
        });
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn tls_that_fails_half_way_is_told() {
    let garbage = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    check(&format!("https://{garbage}"), 2, "tls_failure");
    let closes = serve(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
    });
    check(&format!("https://{closes}"), 2, "tls_failure");
}

#[test]
fn an_answer_without_an_end_is_bounded() {
    let endless = |head: &'static [u8], more: &'static [u8]| {
        serve(move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(head);
            while stream.write_all(more).is_ok() {}
        })
    };
    let head =
        endless(b"HTTP/1.1 200 OK\r\nX: ", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    check(&format!("http://{head}"), 2, "not_http");
    let many =
        endless(b"HTTP/1.1 200 OK\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
    check(&format!("http://{many}"), 2, "not_http");
    let heads = endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n");
    check(&format!("http://{heads}"), 2, "no_answer");
    // A body that a HEAD does not have.
    let body = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\naaaa\r\n");
    let found = check(&format!("http://{body}"), 1, "closes_each");
    check_words(&found, "notes", "no client can use the connection again");
    // One that a GET has, from a server that closes after a HEAD.
    let ready = serve(|mut stream| {
        let get = request(&mut stream).is_some_and(|line| line.starts_with("GET /ready "));
        if !get {
            return answer(&mut stream, 405, "Connection: close\n");
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"4\r\naaaa\r\n").is_ok() {}
    });
    check(&format!("http://{ready}"), 1, "closes_each");
}

#[test]
fn headers_that_lie_or_are_none_are_taken_for_what_they_are() {
    let headers = "Keep-Alive: timeout=-1, max=x\nKeep-Alive: timeout=99999999999999999999\nKeep-Alive: \u{fffd}=\nServer: a\u{1}b\n";
    let address = serve(move |mut stream| {
        let headers = headers.replace('\u{1}', "\t");
        keep(&mut stream, &headers, Duration::from_millis(500));
    });
    let found = check(&format!("http://{address}"), 1, "header_lies");
    assert_eq!(found["advertised_timeout_ms"], 86_400_000, "{found}");
}

// How it is called.

#[test]
fn a_secret_in_the_url_is_never_shown() {
    let address = serve(|mut stream| {
        request(&mut stream);
        answer(&mut stream, 401, "Connection: close\n");
    });
    for url in [format!("http://user:hunter2@{address}/x"), "http://user:hunter2@h:port".to_owned()] {
        for json in [&["--json"][..], &[]] {
            let Output { stdout, stderr, .. } = run(&mut doctor(&url, json));
            let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            assert!(!said.contains("hunter2") && !said.contains("user:"), "{said}");
        }
    }
}

#[test]
fn the_configured_server_and_interval_are_the_defaults() {
    let address = serve(|mut stream| keep(&mut stream, "", Duration::from_secs(1)));
    let mut command = Command::new(binary());
    command.args(["doctor", "connection"]).env_remove("PROFILER_CONFIG");
    command.env("PROFILER_SERVER", format!("http://{address}")).env("PROFILER_INTERVAL", "1200ms");
    let found = check_command(&mut command, 1, "no_reuse");
    assert_eq!(
        (&found["interval_ms"], &found["url"]),
        (&Value::from(1_200), &Value::from(format!("http://{address}")))
    );
    let mut command = Command::new(binary());
    let port = unused().port();
    command.args(["doctor", "connection"]).env_remove("PROFILER_CONFIG").env_remove("PROFILER_SERVER");
    command.env("PROFILER_LISTEN", format!("127.0.0.1:{port}"));
    assert_eq!(check_command(&mut command, 2, "unreachable")["url"], format!("http://127.0.0.1:{port}"));
}

#[test]
fn this_machine_is_looked_at() {
    let mut command = Command::new(binary());
    command.args(["doctor", "--json"]).env_remove("PROFILER_CONFIG");
    command.env("PROFILER_SERVER", format!("http://127.0.0.1:{}", unused().port()));
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1), "a server that is not there is to be changed");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = found["checks"].as_array().expect("a list");
    let health =
        |name: &str| checks.iter().find(|check| check["check"] == name).map(|check| &check["health"]);
    assert_eq!(health("server"), Some(&Value::from("change")));
    assert_eq!(health("kernel"), Some(&Value::from("ok")));
    assert!(health("sampling").is_some() && checks.len() == 14, "{found}");
}

#[test]
fn wrong_usage_is_told() {
    for (arguments, words) in [
        (&["doctor", "--config", "/nowhere.toml"][..], "/nowhere.toml cannot be read"),
        (&["doctor", "connection", "localhost:4040"], "give one like http://127.0.0.1:4040"),
        (&["doctor", "connection", "--interval", "soon"], "such as 10s"),
        (&["doctor", "connection", "--patience", "0s"], "such as 30s"),
    ] {
        let output = run(Command::new(binary()).args(arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
    assert!(Path::new(&binary()).exists());
}
