//! A real HTTP server on loopback that answers what a test tells it to, byte for byte.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::read::GzDecoder;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Number of the connection, from zero.
    pub(super) connection: usize,
    /// First line and headers, lower case names.
    pub(super) line: String,
    pub(super) headers: HashMap<String, String>,
    /// As it came.
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

impl Seen {
    /// The body before it was compressed.
    pub(super) fn raw(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        GzDecoder::new(&*self.body).read_to_end(&mut raw).unwrap();
        raw
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Sends these bytes and goes on.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes.
    Last(Vec<u8>),
    /// Sends these bytes and closes after so long.
    Later(Vec<u8>, Duration),
    /// Closes without a word, in a way that the client sees as a reset.
    Reset,
    /// Sends these bytes over and over until the client has enough.
    Endless(Vec<u8>, Vec<u8>),
    /// Says nothing and keeps the connection.
    Silence,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    ByClient { after_last_request: Duration },
    ByServer,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) seen: Vec<Seen>,
    pub(super) connections: usize,
    pub(super) ended: Vec<Ended>,
}

pub(super) struct Server {
    pub(super) address: String,
    record: Arc<Mutex<Record>>,
}

impl Server {
    /// Starts a server on a port of its own. `script` gets the number of the request, from zero, and the request.
    pub(super) async fn start(script: impl FnMut(usize, &Seen) -> Reply + Send + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// The same, where `listener` listens.
    pub(super) fn on(
        listener: TcpListener,
        script: impl FnMut(usize, &Seen) -> Reply + Send + 'static,
    ) -> Self {
        let address = format!("http://{}", listener.local_addr().unwrap());
        let record = Arc::new(Mutex::new(Record::default()));
        let (kept, script) = (Arc::clone(&record), Arc::new(Mutex::new(script)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, script) = (Arc::clone(&kept), Arc::clone(&script));
                let connection = {
                    let mut record = record.lock().unwrap();
                    record.connections += 1;
                    record.connections - 1
                };
                tokio::spawn(async move {
                    let answer = |seen: Seen| {
                        let mut record = record.lock().unwrap();
                        let reply = script.lock().unwrap()(record.seen.len(), &seen);
                        record.seen.push(seen);
                        reply
                    };
                    let ended = converse(stream, connection, answer).await;
                    record.lock().unwrap().ended.push(ended);
                });
            }
        });
        Self { address, record }
    }

    /// What has happened so far.
    pub(super) fn record(&self) -> Record {
        self.record.lock().unwrap().clone()
    }
}

async fn converse(stream: TcpStream, connection: usize, mut answer: impl FnMut(Seen) -> Reply) -> Ended {
    let mut stream = BufReader::new(stream);
    let mut last = Instant::now();
    loop {
        let Some(seen) = request(&mut stream, connection).await else {
            return Ended::ByClient { after_last_request: last.elapsed() };
        };
        last = seen.at;
        match answer(seen) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap(),
            Reply::Last(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                stream.shutdown().await.unwrap();
                return Ended::ByServer;
            }
            Reply::Later(bytes, pause) => {
                stream.write_all(&bytes).await.unwrap();
                tokio::time::sleep(pause).await;
                return Ended::ByServer;
            }
            Reply::Reset => {
                socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
                return Ended::ByServer;
            }
            Reply::Endless(head, more) => {
                stream.write_all(&head).await.unwrap();
                while stream.write_all(&more).await.is_ok() {}
                return Ended::ByClient { after_last_request: last.elapsed() };
            }
            Reply::Silence => {}
        }
    }
}

/// Reads one request; `None` if the connection ends before or in it.
async fn request(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { connection, line, headers, body, at: Instant::now() })
}

/// An answer with an empty body; `headers` are whole lines.
pub(super) fn answer(status: u16, headers: &str) -> Vec<u8> {
    answer_with(status, headers, "")
}

/// An answer.
pub(super) fn answer_with(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let lines: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status} X\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
