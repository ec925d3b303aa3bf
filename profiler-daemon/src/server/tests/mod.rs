//! The server over real TCP: what all of these tests share.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod connections;
mod cost;
mod ingests;
mod properties;
mod pushes;
mod querier;
mod questions;
mod ranges;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::Value;
use tokio::sync::oneshot;

use super::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use super::*;
use crate::pprof::{self, Function, Line, Location, Mapping, Profile, Sample, Strings, ValueType, gzip};

struct Running {
    address: SocketAddr,
    meters: Meters,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(config: Config) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let meters = Meters::default();
        let (stop, stopped) = oneshot::channel();
        let theirs = meters.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stopped = async { drop(stopped.await) };
            runtime.block_on(serve(listener, config, &theirs, stopped)).unwrap();
        });
        Self { address, meters, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { socket, host: self.address.to_string() }
    }

    fn push(&self, request: &PushRequest) -> (u16, String) {
        let answer = self.connect().send("POST", push::PATH, &[PROTO], &request.encode_to_vec());
        (answer.status, answer.body)
    }

    fn ask(&self, path: &str) -> Value {
        let answer = self.connect().send("GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    fn total(&self) -> u64 {
        self.ask("/api/services")["total"].as_u64().unwrap()
    }

    /// Waits for `line` on the page of meters: a connection is counted when it is taken down, after its end was seen.
    #[track_caller]
    fn counted(&self, line: &str) {
        let began = Instant::now();
        loop {
            let page = self.meters.render();
            if page.lines().any(|known| known == line) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(5), "no {line:?} in\n{page}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

const PROTO: (&str, &str) = ("Content-Type", "application/proto");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

struct Client {
    socket: TcpStream,
    host: String,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let host = self.host.clone();
        self.send_as(&host, method, path, headers, body)
    }

    fn send_as(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.write(host, method, path, headers, body);
        self.receive(method == "HEAD")
    }

    fn write(&mut self, host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    }

    /// The status and the body of an answer that is no text.
    fn send_bytes(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let host = self.host.clone();
        self.write(&host, method, path, headers, body);
        let (head, body) = self.read(method == "HEAD");
        (head[9..12].parse().unwrap(), body)
    }

    fn receive(&mut self, headless: bool) -> Reply {
        let (head, body) = self.read(headless);
        Reply { status: head[9..12].parse().unwrap(), head, body: String::from_utf8(body).unwrap() }
    }

    fn read(&mut self, headless: bool) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let mut body = vec![0; if headless { 0 } else { length.parse().unwrap() }];
        self.socket.read_exact(&mut body).unwrap();
        (head, body)
    }

    /// How long until the other side ends the connection.
    fn wait_for_end(&mut self) -> Duration {
        let start = Instant::now();
        let _ = self.socket.read_to_end(&mut Vec::new());
        start.elapsed()
    }
}

/// A profile of stacks, root first, that ended just now; a frame is `name` or `name@module`.
fn profile(stacks: &[(&str, i64)]) -> Profile {
    let mut strings = Strings::default();
    let cpu = ValueType { r#type: strings.intern("cpu"), unit: strings.intern("nanoseconds") };
    let mut profile = Profile {
        sample_type: vec![cpu],
        period_type: Some(cpu),
        period: 10_000_000,
        time_nanos: WallNs::now().0 - 10_000_000_000,
        duration_nanos: 10_000_000_000,
        ..Profile::default()
    };
    let mut known = HashMap::new();
    for (stack, value) in stacks {
        let mut location_id = Vec::new();
        for frame in stack.split(';').filter(|frame| !frame.is_empty()) {
            let id = *known.entry(frame).or_insert_with(|| {
                let (name, module) = frame.split_once('@').unwrap_or((frame, ""));
                let id = profile.location.len() as u64 + 1;
                let (name, filename) = (strings.intern(name), strings.intern(module));
                profile.mapping.push(Mapping { id, filename, ..Mapping::default() });
                profile.function.push(Function { id, name, start_line: 7, ..Function::default() });
                let line = vec![Line { function_id: id, line: 9 }];
                profile.location.push(Location { id, mapping_id: id, line, ..Location::default() });
                id
            });
            location_id.push(id);
        }
        location_id.reverse();
        profile.sample.push(Sample { location_id, value: vec![*value], label: vec![] });
    }
    profile.string_table = strings.finish();
    profile
}

fn request(service: &str, profiles: &[Vec<u8>]) -> PushRequest {
    let pair = |name: &str, value: &str| LabelPair { name: name.into(), value: value.into() };
    let samples =
        profiles.iter().map(|raw| RawSample { raw_profile: raw.clone(), id: String::new() }).collect();
    let labels = vec![pair("__name__", "process_cpu"), pair("service_name", service)];
    PushRequest { series: vec![RawProfileSeries { labels, samples }] }
}

fn bytes(stacks: &[(&str, i64)]) -> Vec<u8> {
    profile(stacks).encode_to_vec()
}
