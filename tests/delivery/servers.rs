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
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profiler_daemon::meters::Meters;
use profiler_daemon::server;
use profiler_tests::harness::gate::{self, Missing, find};
use profiler_tests::harness::{go_server, ports};
use serde_json::json;
use tokio::sync::oneshot;

use crate::configs;
use crate::receiver::{self, Books, Manners, Received};
use crate::relay::{Mischief, Relay};

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// Longer than any cell runs: what a server gets that is not to close.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// What all requests may take that arrive at the embedded server: more than the agents ever push at once.
const ROOM_BYTES: usize = 64 << 10;

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
    /// nginx, which never closes, before the embedded server, which does: so it is put behind TLS.
    EmbeddedBehind,
    /// nginx, which never closes, before a Go server that does.
    NginxBefore,
    /// Apache, likewise.
    ApacheBefore,
    /// HAProxy, likewise.
    HaProxyBefore,
}

impl Program {
    pub(crate) const ALL: [Self; 12] = [
        Self::Nginx,
        Self::Apache,
        Self::HaProxy,
        Self::Node,
        Self::GoRead,
        Self::GoIdle,
        Self::Hyper,
        Self::Embedded,
        Self::EmbeddedBehind,
        Self::NginxBefore,
        Self::ApacheBefore,
        Self::HaProxyBefore,
    ];

    /// It stands before the server whose connections are in question: those are not ours.
    pub(crate) const fn is_proxy(self) -> bool {
        matches!(self, Self::NginxBefore | Self::ApacheBefore | Self::HaProxyBefore | Self::EmbeddedBehind)
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
    /// Where the embedded server counts, each life of it. None for the others.
    meters: Vec<Meters>,
    launch: Option<Launch>,
    running: Option<Running>,
    /// What stands behind it.
    origin: Option<Box<Self>>,
    _folder: Option<tempfile::TempDir>,
}

/// How a server is started, again if need be.
#[derive(Clone, Debug)]
enum Launch {
    Process {
        words: Vec<String>,
        /// Its standard output is the bodies it was pushed, after its address.
        counts: bool,
    },
    Hyper(Box<Manners>),
    Embedded(Box<server::Config>),
}

/// What can be killed.
#[derive(Debug)]
enum Running {
    Process(Child),
    /// A thread with a runtime of its own. When that goes, the kernel closes its sockets as those of a process.
    Thread(oneshot::Sender<()>, JoinHandle<()>),
}

/// What is missing of the programs that the grid needs.
pub(crate) fn missing() -> Option<Missing> {
    ["go", "node", "nginx", "apache2", "haproxy"].into_iter().find_map(|name| gate::server(name).err())
}

/// The folder with the certificate that every server shows.
pub(crate) fn certificates() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
        go_server::make_certificates(&folder);
        folder
    })
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("delivery/programs")
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
            meters: Vec::new(),
            launch: None,
            running: None,
            origin: None,
            _folder: None,
        };
        match setting.program {
            Program::Hyper => {
                let tls = (setting.protocol != Protocol::Http1)
                    .then(|| receiver::tls(certificates(), setting.protocol == Protocol::Http2));
                server.launch(Launch::Hyper(Box::new(Manners {
                    idle_timeout: Some(setting.idle_timeout),
                    keep_alive: says,
                    refused: setting.refused.clone(),
                    tls,
                })));
            }
            Program::Embedded => {
                server.launch(Launch::Embedded(Box::new(server::Config {
                    idle_timeout: setting.idle_timeout,
                    bodies_bytes_max: ROOM_BYTES,
                    ..server::Config::default()
                })));
                server.fill_room(setting.refused.clone());
            }
            Program::EmbeddedBehind => {
                let behind = Setting { program: Program::Embedded, says: None, ..setting.clone() };
                server.start_before(setting, &behind).await;
            }
            Program::Node => server.launch(Launch::Process { words: node(setting, says), counts: true }),
            Program::GoRead | Program::GoIdle => {
                server.launch(Launch::Process { words: go(setting, says), counts: true });
            }
            Program::Nginx | Program::Apache | Program::HaProxy => {
                let manners = Manners { refused: setting.refused.clone(), ..Manners::default() };
                let origin = receiver::serve(books, manners).await;
                server.launch_before(setting, origin);
            }
            Program::NginxBefore | Program::ApacheBefore | Program::HaProxyBefore => {
                let behind = Setting { program: Program::GoIdle, says: None, ..setting.clone() };
                server.start_before(setting, &behind).await;
            }
        }
        server
    }

    /// Starts a server that never closes before one that does.
    async fn start_before(&mut self, before: &Setting, behind: &Setting) {
        let behind = Setting { protocol: Protocol::Http1, ..behind.clone() };
        let origin = Box::pin(Self::start(&behind, Arc::clone(&self.books))).await;
        let before = Setting { idle_timeout: LONG, ..before.clone() };
        let wire = Relay::start(origin.address, ORIGIN_RTT / 2, Mischief::None).await;
        self.launch_before(&before, wire.address);
        self.origin = Some(Box::new(origin));
    }

    /// Starts a server that passes on to `origin`.
    fn launch_before(&mut self, setting: &Setting, origin: SocketAddr) {
        let folder = tempfile::tempdir().expect("a folder");
        let port = ports::unused().port();
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
            Program::Nginx | Program::NginxBefore | Program::EmbeddedBehind => {
                ("nginx", site.nginx(), &["-e", "stderr", "-c"])
            }
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
        self.launch(Launch::Process { words, counts: false });
    }

    /// Starts what `launch` says where the server was before, or at a port of its own.
    fn launch(&mut self, launch: Launch) {
        let running = match &launch {
            Launch::Process { words, counts } => Running::Process(self.process(words, *counts)),
            Launch::Hyper(manners) => {
                let (listener, books, manners) =
                    (self.listen(), Arc::clone(&self.books), (**manners).clone());
                on_thread(move || receiver::accept(listener, books, manners))
            }
            Launch::Embedded(config) => {
                let (listener, meters) = (self.listen(), Meters::default());
                self.meters.push(meters.clone());
                let config = server::Config { listen: self.address, ..(**config).clone() };
                on_thread(move || async move {
                    let served = server::serve(listener, config, &meters, std::future::pending()).await;
                    served.expect("it serves");
                })
            }
        };
        self.running = Some(running);
        self.launch = Some(launch);
    }

    fn listen(&mut self) -> TcpListener {
        let listener = TcpListener::bind(self.address).expect("a port");
        self.address = listener.local_addr().expect("it has one");
        listener
    }

    fn process(&mut self, words: &[String], counts: bool) -> Child {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(if counts { Stdio::piped() } else { Stdio::null() })
            // What it says of connections that break is what we ask for.
            .stderr(Stdio::null())
            .spawn()
            .expect("a server starts");
        if counts {
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
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(begun.elapsed() < START_MAX, "{self} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// Kills it and starts it again where it was.
    pub(crate) fn restart(&mut self) {
        let Some(mut launch) = self.launch.take() else { return };
        self.kill();
        if let Launch::Process { words, counts: true } = &mut launch {
            let port = self.address.port();
            words.iter_mut().for_each(|word| *word = configs::with_port(word, port));
        }
        self.launch(launch);
    }

    fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Process(mut child)) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Some(Running::Thread(stop, ended)) => {
                // It is told by the loss of the other end.
                drop(stop);
                let _ = ended.join();
            }
            None => {}
        }
    }

    /// Once the embedded server has taken as many profiles as come before the first of `refused`, another client's
    /// request fills its room until it has refused as many.
    fn fill_room(&self, refused: Range<u64>) {
        let (address, meters) = (self.address, self.meters.clone());
        let wait_for = move |name: &str, least: u64| {
            while count(&meters, name) < least {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        if refused.is_empty() {
            return;
        }
        std::thread::spawn(move || {
            wait_for("profiler_server_profiles_total ", refused.start);
            let mut socket = TcpStream::connect(address).expect("it listens");
            let head = format!(
                "POST /push.v1.PusherService/Push HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/proto\r\n\
                 Content-Length: {ROOM_BYTES}\r\n\r\n"
            );
            let all_but_one = vec![0; ROOM_BYTES - 1];
            socket.write_all(&[head.as_bytes(), &all_but_one].concat()).expect("there is room for that");
            wait_for("profiler_server_requests_total{code=\"429\"} ", refused.end - refused.start);
        });
    }

    /// What came.
    pub(crate) fn received(&self) -> Received {
        let meters = match &self.origin {
            Some(origin) => &origin.meters,
            None => &self.meters,
        };
        if meters.is_empty() {
            return self.books.received();
        }
        Received {
            profiles: count(meters, "profiler_server_profiles_total "),
            // It counts profiles, of which a request has one, mostly.
            repeats: count(meters, "profiler_server_profiles_duplicate_total "),
            doubles: 0,
        }
    }
}

/// The sum of a count over the lives of a server.
fn count(meters: &[Meters], name: &str) -> u64 {
    let of = |meters: &Meters| -> Option<u64> {
        meters.render().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    meters.iter().filter_map(of).sum()
}

/// Does `work`, which is a server's, on a thread with a runtime of its own until it is killed.
fn on_thread<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) -> Running {
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::select! {
                () = work() => {}
                _ = stopped => {}
            }
        });
    });
    Running::Thread(stop, thread)
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
        go_server::program().display().to_string(),
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
