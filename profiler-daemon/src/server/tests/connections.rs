//! Clocks, bounds and manners of connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[test]
fn every_answer_says_how_long_the_connection_is_kept() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    for (method, path, status) in [
        ("GET", "/ready", 200),
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/nothing", 404),
        ("GET", push::PATH, 405),
        ("POST", "/ready", 405),
        ("POST", push::PATH, 415),
        ("GET", "/api/services", 200),
        ("GET", "/api/flamegraph?service=x&last=60", 200),
        ("GET", "/api/services?last=often", 400),
        ("GET", "/api/services?from=1", 400),
        ("GET", "/metrics", 200),
    ] {
        let answer = client.send(method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(answer.head.contains("\r\nkeep-alive: timeout=120\r\n"), "{}", answer.head);
        assert!(
            answer.head.contains("default-src 'self'") && answer.head.contains("nosniff"),
            "{}",
            answer.head
        );
    }
}

#[test]
fn a_client_that_will_close_is_not_told_to_stay() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    let answer = client.send("GET", "/ready", &[("Connection", "close")], b"");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
    assert!(!answer.head.contains("keep-alive"), "{}", answer.head);
    assert!(client.wait_for_end() < Duration::from_secs(5));
}

#[test]
fn an_idle_connection_is_kept_as_long_as_promised_and_no_read_timeout_ends_it() {
    let second = Duration::from_secs(1);
    let config =
        Config { idle_timeout: second, read_timeout: Duration::from_millis(200), ..Config::default() };
    let server = Running::start(config);
    let mut fresh = server.connect();
    let mut used = server.connect();
    used.send("GET", "/ready", &[], b"");
    std::thread::sleep(second * 7 / 10);
    // A request starts the promise anew.
    let begun = Instant::now();
    assert_eq!(used.send("GET", "/ready", &[], b"").status, 200);
    used.wait_for_end();
    let kept = begun.elapsed();
    assert!(kept >= second && kept < second * 3, "{kept:?}");
    assert!(fresh.wait_for_end() < second);
    server.counted("profiler_server_connections_ended_total{by=\"idle timeout\"} 2");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_the_two_minutes_that_are_advertised() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let meters = Meters::default();
    let serving = serve(listener, Config::default(), &meters, async { drop(stopped.await) });
    let idling = async move {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let begun = tokio::time::Instant::now();
        socket.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).await.unwrap();
        let kept = begun.elapsed();
        drop(stop);
        assert!(said.contains("keep-alive: timeout=120\r\n"), "{said}");
        assert!((120.0..122.0).contains(&kept.as_secs_f64()), "{kept:?}");
    };
    let (served, ()) = tokio::join!(serving, idling);
    served.unwrap();
}

#[test]
fn who_sends_a_request_byte_by_byte_is_dropped() {
    let config = Config { read_timeout: Duration::from_millis(300), ..Config::default() };
    let server = Running::start(config);
    for start in [
        "GET /ready HTTP/1.1\r\n",
        "POST /push.v1.PusherService/Push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/proto\r\nContent-Length: 1000\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.socket.write_all(start.as_bytes()).unwrap();
        let began = Instant::now();
        while client.socket.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            assert!(began.elapsed() < Duration::from_secs(5), "still there: {start}");
        }
    }
    server.counted("profiler_server_connections_ended_total{by=\"read timeout\"} 2");
}

#[test]
fn who_does_not_take_its_answer_is_dropped() {
    let config = Config { write_timeout: Duration::from_millis(300), ..Config::default() };
    let server = Running::start(config);
    let mut client = server.connect();
    // More answers than both sides' buffers hold, and none is read.
    let request = format!("GET /app.js HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).repeat(100);
    client.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let began = Instant::now();
    while client.socket.write_all(request.as_bytes()).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "still there");
    }
    server.counted("profiler_server_connections_ended_total{by=\"write timeout\"} 1");
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Running::start(Config { connections_max: 2, ..Config::default() });
    let mut all: Vec<_> = (0..3).map(|_| server.connect()).collect();
    assert_eq!(all[0].send("GET", "/ready", &[], b"").status, 200);
    assert_eq!(all[1].send("GET", "/ready", &[], b"").status, 200);
    assert_eq!(all[2].receive(false).status, 503);
    server.counted("profiler_server_connections_ended_total{by=\"connections_max\"} 1");
}

#[test]
fn another_name_or_another_sites_page_is_refused() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    assert_eq!(client.send_as("evil.example", "GET", "/", &[], b"").status, 403);
    let origin = ("Origin", "http://evil.example");
    let body = request("a", &[bytes(&[("main", 5)])]).encode_to_vec();
    let answer = client.send("POST", push::PATH, &[PROTO, origin], &body);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("permission_denied"), "{}", answer.body);
    assert_eq!(server.total(), 0);
}

#[test]
fn only_loopback_is_served() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served =
        runtime.block_on(serve(listener, Config::default(), &Meters::default(), std::future::pending()));
    let error = served.unwrap_err().to_string();
    assert!(error.contains("loopback only") && error.contains("127.0.0.1"), "{error}");
}
