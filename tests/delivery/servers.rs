//! Real servers, each started for one cell of the grid with the idle timeout that the cell wants.
//!
//! In: a setting. Out: an address, and every body in the cell's books. Servers of others run as processes with a
//! folder and a port of their own; those that cannot count pass on to one of ours that never closes.
//! Not here: what they are tested with.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profiler_daemon::meters::Meters;
use profiler_daemon::server;
use profiler_tests::harness::gate::Missing;
use serde_json::json;

use crate::configs;
use crate::receiver::{self, Books, Manners, Received};
use crate::relay::{Mischief, Relay};

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// Longer than any cell runs: what a server gets that is not to close.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// How far the server behind a proxy is: the proxy's pushes are in danger for as long before its timeout.
const ORIGIN_RTT: Duration = Duration::from_millis(4);

/// Which server, and in which place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Program {
    /// nginx, whose own idle timeout is the one.
    Nginx,
    /// Apache, likewise.
    Apache,
    /// HAProxy, likewise.
    HaProxy,
    /// Node's `http`.
    Node,
    /// Go's `http.Server` with `ReadTimeout` and `WriteTimeout` only: the idle timeout is that of reading.
    GoRead,
    /// Go's `http.Server` with `IdleTimeout`.
    GoIdle,
    /// hyper with a timer: the idle timeout is that of reading a head.
    Hyper,
    /// The embedded server.
    Embedded,
    /// nginx, which never closes, before a Go server that does.
    NginxBefore,
    /// Apache, likewise.
    ApacheBefore,
    /// HAProxy, likewise.
    HaProxyBefore,
}

impl Program {
    pub(crate) const ALL: [Self; 11] = [
        Self::Nginx,
        Self::Apache,
        Self::HaProxy,
        Self::Node,
        Self::GoRead,
        Self::GoIdle,
        Self::Hyper,
        Self::Embedded,
        Self::NginxBefore,
        Self::ApacheBefore,
        Self::HaProxyBefore,
    ];

    /// It stands before the server whose connections are in question: those are not ours.
    pub(crate) const fn is_proxy(self) -> bool {
        matches!(self, Self::NginxBefore | Self::ApacheBefore | Self::HaProxyBefore)
    }

    /// It runs in a process of its own, which can be killed.
    pub(crate) const fn is_process(self) -> bool {
        !matches!(self, Self::Hyper | Self::Embedded)
    }
}

/// What is spoken to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Http1,
    Tls,
    Http2,
}

/// How a server is to be.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) program: Program,
    pub(crate) protocol: Protocol,
    pub(crate) idle_timeout: Duration,
    /// What its `Keep-Alive` header says, seconds.
    pub(crate) says: Option<u64>,
    /// Requests that are answered by a 429, by their number.
    pub(crate) refused: Range<u64>,
}

impl Setting {
    pub(crate) fn new(program: Program, protocol: Protocol, idle_timeout: Duration) -> Self {
        Self { program, protocol, idle_timeout, says: None, refused: 0..0 }
    }
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// What goes before the address.
    pub(crate) scheme: &'static str,
    books: Arc<Books>,
    /// Where the embedded server counts.
    meters: Option<Meters>,
    command: Option<Launch>,
    running: Option<Child>,
    /// What stands behind it.
    _origin: Option<Box<Self>>,
    _folder: Option<tempfile::TempDir>,
}

/// How a process is started, again if need be.
#[derive(Debug)]
struct Launch {
    words: Vec<String>,
    /// Its standard output is the bodies it was pushed, after its address.
    counts: bool,
}

/// Programs that the grid needs, with what is missing.
pub(crate) fn missing() -> Option<Missing> {
    let missing =
        ["go", "node", "nginx", "apache2", "haproxy"].into_iter().find(|name| find(name).is_none())?;
    Some(Missing { required_by: "TEST_REQUIRE_SERVERS", what: format!("no program called {missing}") })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root looks.
    let folders =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/go/bin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The folder with the certificate that every server shows.
pub(crate) fn certificates() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
        std::fs::create_dir_all(&folder).expect("a folder");
        let made = Command::new(go_server()).arg("-make-certificates").arg(&folder).status();
        assert!(made.is_ok_and(|status| status.success()), "no certificate was made");
        folder
    })
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("delivery/programs")
}

/// The Go server, built.
fn go_server() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("delivery-server");
        let go = find("go").expect("go is there");
        let mut build = Command::new(go);
        build.args(["build", "-o"]).args([&program, Path::new(".")]).current_dir(programs());
        let built = build.env("GOTOOLCHAIN", "local").status();
        assert!(built.is_ok_and(|status| status.success()), "the Go server does not build");
        program
    })
}

/// A port that nobody has, outside of those that connections get.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Starts one whose pushes go into `books`.
    pub(crate) async fn start(setting: &Setting, books: Arc<Books>) -> Self {
        let says = setting.says.map(|seconds| format!("timeout={seconds}"));
        let scheme = if setting.protocol == Protocol::Http1 { "http" } else { "https" };
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            scheme,
            books: Arc::clone(&books),
            meters: None,
            command: None,
            running: None,
            _origin: None,
            _folder: None,
        };
        match setting.program {
            Program::Hyper => {
                let manners = Manners {
                    idle_timeout: Some(setting.idle_timeout),
                    keep_alive: says,
                    refused: setting.refused.clone(),
                };
                server.address = receiver::serve(books, manners).await;
            }
            Program::Embedded => {
                let meters = Meters::default();
                server.address = embedded(setting.idle_timeout, &meters);
                server.meters = Some(meters);
            }
            Program::Node => server.launch(Launch { words: node(setting, says), counts: true }),
            Program::GoRead | Program::GoIdle => {
                server.launch(Launch { words: go(setting, says), counts: true });
            }
            Program::Nginx | Program::Apache | Program::HaProxy => {
                let manners = Manners { refused: setting.refused.clone(), ..Manners::default() };
                let origin = receiver::serve(books, manners).await;
                server.launch_before(setting, origin);
            }
            Program::NginxBefore | Program::ApacheBefore | Program::HaProxyBefore => {
                let behind = Setting {
                    program: Program::GoIdle,
                    protocol: Protocol::Http1,
                    says: None,
                    ..setting.clone()
                };
                let origin = Box::pin(Self::start(&behind, books)).await;
                let before = Setting { idle_timeout: LONG, ..setting.clone() };
                let wire = Relay::start(origin.address, ORIGIN_RTT / 2, Mischief::None).await;
                server.launch_before(&before, wire.address);
                server._origin = Some(Box::new(origin));
            }
        }
        server
    }

    /// Starts a server that passes on to `origin`.
    fn launch_before(&mut self, setting: &Setting, origin: SocketAddr) {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let site = configs::Site {
            folder: folder.path(),
            port,
            origin,
            certificates: certificates(),
            protocol: setting.protocol,
            idle_timeout: setting.idle_timeout,
            says: setting.says,
        };
        let (name, text, words): (_, _, &[&str]) = match setting.program {
            Program::Nginx | Program::NginxBefore => ("nginx", site.nginx(), &["-e", "stderr", "-c"]),
            Program::Apache | Program::ApacheBefore => ("apache2", site.apache(), &["-X", "-f"]),
            Program::HaProxy | Program::HaProxyBefore => ("haproxy", site.haproxy(), &["-db", "-f"]),
            other => unreachable!("{other:?} passes nothing on"),
        };
        let file = folder.path().join("config");
        std::fs::write(&file, text).expect("a config");
        let program = find(name).expect("it is there");
        let words = [program.display().to_string()]
            .into_iter()
            .chain(words.iter().map(|&word| word.to_owned()))
            .chain([file.display().to_string()])
            .collect();
        self.address.set_port(port);
        self._folder = Some(folder);
        self.launch(Launch { words, counts: false });
    }

    fn launch(&mut self, launch: Launch) {
        let output = if launch.counts { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&launch.words[0])
            .args(&launch.words[1..])
            .stdin(Stdio::piped())
            .stdout(output)
            // What it says of connections that break is what we ask for.
            .stderr(Stdio::null())
            .spawn()
            .expect("a server starts");
        if launch.counts {
            let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
            let address = lines.next().expect("a server says its address").expect("as text");
            self.address = address.parse().expect("an address");
            let books = Arc::clone(&self.books);
            std::thread::spawn(move || {
                // A line that was cut off by the server's end was never answered.
                for body in lines.map_while(Result::ok).filter_map(|line| STANDARD.decode(line).ok()) {
                    books.take(&body);
                }
            });
        }
        self.running = Some(child);
        self.command = Some(launch);
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(begun.elapsed() < START_MAX, "{self} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it and starts it again where it was.
    pub(crate) fn restart(&mut self) {
        let Some(mut launch) = self.command.take() else { return };
        self.kill();
        if launch.counts {
            let port = self.address.port();
            launch.words = launch.words.iter().map(|word| configs::with_port(word, port)).collect();
        }
        self.launch(launch);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What came.
    pub(crate) fn received(&self) -> Received {
        let Some(meters) = &self.meters else { return self.books.received() };
        let text = meters.render();
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            line.unwrap_or_default()
        };
        Received {
            profiles: count("profiler_server_profiles_total "),
            // It counts profiles, of which a request has one, mostly.
            repeats: count("profiler_server_profiles_duplicate_total "),
            doubles: 0,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", self.scheme, self.address)
    }
}

/// The embedded server on a thread of its own, for as long as the test runs.
fn embedded(idle_timeout: Duration, meters: &Meters) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("it has one");
    let config = server::Config { listen: address, idle_timeout, ..server::Config::default() };
    let meters = meters.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let served = runtime.block_on(server::serve(listener, config, &meters, std::future::pending()));
        served.expect("it serves");
    });
    address
}

fn node(setting: &Setting, says: Option<String>) -> Vec<String> {
    // Of HTTP/2 the script takes care itself.
    let late = if setting.protocol == Protocol::Http2 { Duration::ZERO } else { node_is_late() };
    let idle_ms = setting.idle_timeout.saturating_sub(late).as_millis();
    let mut settings = json!({
        "port": 0,
        "idleMs": u64::try_from(idle_ms).expect("a timeout of minutes at most"),
        "refusedFrom": setting.refused.start,
        "refusedTo": setting.refused.end,
        // An empty header is none.
        "keepAlive": says.unwrap_or_default(),
        "http2": setting.protocol == Protocol::Http2,
    });
    if setting.protocol != Protocol::Http1 {
        settings["certificate"] = json!(certificates().join("certificate.pem"));
        settings["key"] = json!(certificates().join("key.pem"));
    }
    let node = find("node").expect("it is there");
    vec![node.display().to_string(), programs().join("node.js").display().to_string(), settings.to_string()]
}

/// Some versions of Node keep connections for a second longer than they are told. Found out once.
fn node_is_late() -> Duration {
    static LATE: OnceLock<Duration> = OnceLock::new();
    *LATE.get_or_init(|| {
        const TOLD: Duration = Duration::from_millis(100);
        let script = "const s=require('http').createServer((q,r)=>r.end()).listen(0,'127.0.0.1',()=>console.log(s.address().port));\
                      s.keepAliveTimeout=100;process.stdin.on('end',()=>process.exit()).resume()";
        let node = find("node").expect("it is there");
        let mut child = Command::new(node)
            .args(["-e", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
        let mut socket = TcpStream::connect(("127.0.0.1", port.trim().parse().expect("a port"))).expect("it listens");
        socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a request");
        let _ = socket.read(&mut [0; 512]);
        let answered = Instant::now();
        let _ = socket.read_to_end(&mut Vec::new());
        let kept = answered.elapsed();
        let _ = child.kill();
        let _ = child.wait();
        // A whole number of seconds, as it is written in Node's sources.
        Duration::from_secs_f64((kept.saturating_sub(TOLD)).as_secs_f64().round())
    })
}

fn go(setting: &Setting, says: Option<String>) -> Vec<String> {
    let idle_us = setting.idle_timeout.as_micros();
    let idle = if setting.program == Program::GoRead { "read" } else { "idle" };
    let mut words = vec![
        go_server().display().to_string(),
        "-listen=127.0.0.1:0".to_owned(),
        format!("-{idle}={idle_us}us"),
        format!("-refused-from={}", setting.refused.start),
        format!("-refused-to={}", setting.refused.end),
    ];
    words.extend(says.map(|says| format!("-advertise={says}")));
    if setting.protocol != Protocol::Http1 {
        words.push(format!("-certificates={}", certificates().display()));
    }
    if setting.protocol == Protocol::Http2 {
        words.push("-http2".to_owned());
    }
    words
}
