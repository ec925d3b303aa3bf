//! Servers to be looked at: of others, as processes; and of our own making, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_tests::harness::go_server;
use profiler_tests::harness::ports::unused;

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// A program of others, as a process that ends with the test.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// One of Go's; needs `go`.
    pub(crate) fn go(arguments: &[&str]) -> Self {
        Self::that_says_where(Command::new(go_server::program()).args(arguments))
    }

    /// One of Node's, with a keep-alive timeout.
    pub(crate) fn node(program: &Path, timeout_ms: u32) -> Self {
        let script = format!(
            "const server = require('http').createServer((_, answer) => {{ answer.statusCode = 405; answer.end(); }});
             server.keepAliveTimeout = {timeout_ms};
             server.listen(0, '127.0.0.1', () => console.log('127.0.0.1:' + server.address().port));
             process.stdin.on('end', () => process.exit()).resume();"
        );
        Self::that_says_where(Command::new(program).args(["-e", &script]))
    }

    /// The embedded server, as a user starts it.
    pub(crate) fn embedded(binary: &Path) -> Self {
        Self::that_says_where(Command::new(binary).args(["serve", "--listen", "127.0.0.1:0"]))
    }

    /// A program whose first line has its address.
    fn that_says_where(command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut process = spawned.expect("a server starts");
        let mut said = String::new();
        let output = process.stdout.take().expect("it was piped");
        BufReader::new(output).read_line(&mut said).expect("a server says its address");
        let address = said.trim().trim_start_matches("serving http://");
        let address = address.split('/').next().unwrap_or_default().parse().expect("an address");
        Self { process, address, _folder: None }
    }

    /// nginx, whose second number is what it says to clients.
    pub(crate) fn nginx(program: &Path, timeout: &str) -> Self {
        Self::configured(program, &["-e", "stderr", "-c"], |folder, port| {
            let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|place| format!("{place}_temp_path {folder}/{place};\n"))
                .concat();
            format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
                 events {{ }}
                 http {{ access_log off; {places}
                   server {{ listen 127.0.0.1:{port}; keepalive_timeout {timeout}; location / {{ return 405; }} }} }}"
            )
        })
    }

    /// Apache.
    pub(crate) fn apache(program: &Path, timeout_s: u32) -> Self {
        Self::configured(program, &["-X", "-f"], |folder, port| {
            let modules = ["mpm_event", "authz_core"]
                .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
                .concat();
            format!(
                "{modules}ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {folder}/pid\nErrorLog {folder}/log\n\
                 ServerName localhost\nUser www-data\nGroup www-data\nListen 127.0.0.1:{port}\n\
                 KeepAlive On\nKeepAliveTimeout {timeout_s}\nDocumentRoot {folder}\n"
            )
        })
    }

    /// HAProxy, which answers by itself.
    pub(crate) fn haproxy(program: &Path, timeout: &str) -> Self {
        Self::configured(program, &["-db", "-f"], |_, port| {
            format!(
                "defaults\n  mode http\n  timeout client 60s\n  timeout http-request 60s\n  timeout http-keep-alive {timeout}\n\
                 frontend front\n  bind 127.0.0.1:{port}\n  http-request return status 404\n"
            )
        })
    }

    /// A program that is told where to listen by a file.
    fn configured(program: &Path, arguments: &[&str], text: impl FnOnce(&str, u16) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = unused();
        let file = folder.path().join("config");
        std::fs::write(&file, text(&folder.path().display().to_string(), address.port())).expect("a file");
        let mut command = Command::new(program);
        command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("a server starts");
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < START_MAX, "{} does not listen", program.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, address, _folder: Some(folder) }
    }
}

/// A server that treats each connection as told, on a thread of its own.
pub(crate) fn serve(treat: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    serve_on(TcpListener::bind(("127.0.0.1", 0)).expect("a port"), treat)
}

/// The same, where `listener` listens.
pub(crate) fn serve_on(
    listener: TcpListener,
    treat: impl Fn(TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().expect("it has an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let treat = treat.clone();
            std::thread::spawn(move || treat(stream));
        }
    });
    address
}

/// Reads a request without a body, and says its first line; `None` at the end of the connection.
pub(crate) fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).lines().next().map(str::to_owned)
}

/// Answers with these header lines, each of which ends with a line feed, and no body.
pub(crate) fn answer(stream: &mut TcpStream, status: u16, headers: &str) {
    let headers = headers.replace('\n', "\r\n");
    let text = format!("HTTP/1.1 {status} X\r\nServer: test\r\n{headers}Content-Length: 0\r\n\r\n");
    // Who asked may have gone.
    let _ = stream.write_all(text.as_bytes());
}

/// Keeps the connection for so long after its last request, which it answers with these headers.
pub(crate) fn keep(stream: &mut TcpStream, headers: &str, idle: Duration) {
    while request(stream).is_some() {
        answer(stream, 405, &format!("Allow: POST\n{headers}"));
        let _ = stream.set_read_timeout(Some(idle));
    }
}

/// Closes in a way that the other side sees as a reset.
pub(crate) fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket option");
}
