//! A server to push to, real in all but its mind, which a test can change at any time: it takes what comes, refuses it,
//! falls silent, or is no Pyroscope at all.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;

use super::profile::{self, Profile};

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes it, as a Pyroscope does.
    Takes,
    /// Answers with a status and words.
    Says(u16, &'static str),
    /// Answers with a status and a web page, as a proxy or a web server does.
    Page(u16),
    /// Reads it and never answers.
    Silent,
    /// Takes it and never answers.
    Mute,
    /// Answers a half and closes.
    Half,
}

/// A profile that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Value of the label `service_name`.
    pub service: String,
    /// Start of its window, nanoseconds since the epoch.
    pub start_ns: i64,
    /// Length of its window, nanoseconds.
    pub length_ns: i64,
    /// What is in it.
    pub profile: Profile,
    /// Tells its bytes from any others.
    pub digest: u64,
    /// Number of the request that brought it, from zero.
    pub request: u64,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    requests: u64,
    pushed: Vec<Pushed>,
    open: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct Pyroscope {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Sample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

/// Bytes of a request at most, packed and not.
const REQUEST_BYTES_MAX: usize = 64 << 20;

impl Pyroscope {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    ///
    /// When there is no port.
    pub fn start(mood: Mood) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), mood)
    }

    /// Starts one at `address`.
    ///
    /// # Panics
    ///
    /// When the port cannot be had.
    pub fn start_at(address: SocketAddr, mood: Mood) -> Self {
        let listener = TcpListener::bind(address).expect("a port to listen on");
        let address = listener.local_addr().expect("a socket has an address");
        let state = State { mood, requests: 0, pushed: Vec::new(), open: true };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !accepting.lock().open {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&accepting)) else { continue };
                // A connection that breaks is no fault: it is what some tests are about.
                std::thread::spawn(move || shared.converse(&stream));
            }
        });
        Self { shared, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to give to `--server`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes its mind.
    pub fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.notify_all();
    }

    /// Waits until `count` more requests have come, whatever became of them.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    #[track_caller]
    pub fn wait_for_requests(&self, count: u64) {
        let until = self.shared.lock().requests + count;
        self.wait_until("requests", |state| state.requests >= until);
    }

    /// Waits until a profile whose window began at `since_ns` or later satisfies `wanted`.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    #[track_caller]
    pub fn wait_for(&self, what: &str, since_ns: i64, wanted: impl Fn(&Pushed) -> bool) {
        self.wait_until(what, |state| {
            state.pushed.iter().any(|pushed| pushed.start_ns >= since_ns && wanted(pushed))
        });
    }

    /// All profiles that were taken, in the order they came.
    pub fn pushed(&self) -> Vec<Pushed> {
        self.shared.lock().pushed.clone()
    }

    /// All samples that were taken.
    pub fn samples(&self) -> u64 {
        self.shared.lock().pushed.iter().map(|pushed| pushed.profile.samples()).sum()
    }

    /// The profiles for who counts identical bytes once, as a push is sent again when its answer was not heard.
    pub fn pushed_once(&self) -> Vec<Pushed> {
        let mut known = HashSet::new();
        let mut pushed = self.pushed();
        pushed.retain(|pushed| known.insert((pushed.service.clone(), pushed.start_ns, pushed.digest)));
        pushed
    }

    /// All samples of these.
    pub fn samples_once(&self) -> u64 {
        self.pushed_once().iter().map(|pushed| pushed.profile.samples()).sum()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, done: impl Fn(&State) -> bool) {
        let begun = Instant::now();
        let mut state = self.shared.lock();
        while !done(&state) {
            assert!(
                begun.elapsed() < WAIT_MAX,
                "waited in vain for {what}; {} requests came",
                state.requests
            );
            let waited = self.shared.changed.wait_timeout(state, Duration::from_millis(500));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// How long a test waits for what should come within seconds.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The port is free again at once.
impl Drop for Pyroscope {
    fn drop(&mut self) {
        self.shared.lock().open = false;
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests and answers on one connection.
    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        loop {
            let Some(body) = request(&mut reader)? else { return Ok(()) };
            let mood = self.lock().mood;
            let mut pushed = match mood {
                Mood::Takes | Mood::Mute => unpack(&body),
                Mood::Says(..) | Mood::Page(_) | Mood::Silent | Mood::Half => Vec::new(),
            };
            let mut state = self.lock();
            pushed.iter_mut().for_each(|pushed| pushed.request = state.requests);
            state.pushed.extend(pushed);
            state.requests += 1;
            drop(state);
            self.changed.notify_all();
            match mood {
                Mood::Takes => answer(&mut writer, 200, "application/proto", "")?,
                Mood::Says(status, words) => answer(&mut writer, status, "application/json", words)?,
                Mood::Page(status) => {
                    answer(&mut writer, status, "text/html", "<html><h1>Welcome to nginx!</h1></html>")?;
                }
                Mood::Silent | Mood::Mute => {
                    let state = self.lock();
                    drop(self.changed.wait_while(state, |state| state.open && state.mood == mood));
                    return Ok(());
                }
                Mood::Half => {
                    write!(writer, "HTTP/1.1 200 OK\r\nContent-Le")?;
                    return Ok(());
                }
            }
        }
    }
}

/// The body of the next request; `None` where there is none.
fn request(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() && !first {
            break;
        }
        first = false;
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(body))
}

fn answer(writer: &mut impl Write, status: u16, content: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n");
    writer
        .write_all(format!("{head}Keep-Alive: timeout=60\r\nConnection: keep-alive\r\n\r\n{body}").as_bytes())
}

fn unpack(body: &[u8]) -> Vec<Pushed> {
    let bytes = profiler_daemon::pprof::gunzip(body, REQUEST_BYTES_MAX).expect("a gzipped request");
    let request = PushRequest::decode(bytes.as_slice()).expect("a PushRequest");
    let series = request.series.into_iter().flat_map(|Series { labels, samples }| {
        let service = labels.iter().find(|label| label.name == "service_name");
        let service = service.map_or(String::new(), |label| label.value.clone());
        samples.into_iter().map(move |sample| (service.clone(), sample.raw_profile))
    });
    series
        .map(|(service, raw)| {
            let (start_ns, length_ns) = profile::window(&raw);
            let mut digest = DefaultHasher::new();
            raw.hash(&mut digest);
            let (digest, profile) = (digest.finish(), profile::from_pprof(&raw));
            Pushed { service, start_ns, length_ns, profile, digest, request: 0 }
        })
        .collect()
}
