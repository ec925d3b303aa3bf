//! A server that shows a certificate and wants to see one: rustls on the other side, and ours from files.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::{gate, go_server};
use profiler_tests::need;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// Names of files with a certificate and with its key, below one folder.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn make(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        go_server::make_certificates(&folder);
        Self { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("a certificate")
    }
}

/// Starts a server with `own` certificate, that takes everything from who has the one of `client`; its address.
fn start(own: &Pair, client: &Pair) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(client.der()).expect("an authority");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the usual ones")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![own.der()], PrivateKeyDer::from_pem_file(&own.key).expect("a key"))
        .expect("a pair");
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").expect("a port"), Arc::new(config));
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            // Who is not let in ends the conversation, and that is what some tests are about.
            std::thread::spawn(move || converse(StreamOwned::new(connection, stream)));
        }
    });
    url
}

/// Answers each request with nothing, which is an answer of every method.
fn converse(stream: impl Read + Write) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length =
                line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap_or(0));
        }
        std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).ok()?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 0\r\n\r\n";
        stream.get_mut().write_all(answer).ok()?;
    }
}

/// What `query` ends with and says, with these files.
#[track_caller]
fn check(url: &str, authority: Option<&Pair>, identity: Option<(&Path, &Path)>, code: i32, words: &str) {
    let mut query = Command::new(binary());
    query.args(["query", "labels", "-l", "service_name", "--server", url]);
    if let Some(authority) = authority {
        query.arg("--ca-file").arg(&authority.certificate);
    }
    if let Some((certificate, key)) = identity {
        query.arg("--client-certificate-file").arg(certificate).arg("--client-key-file").arg(key);
    }
    let output = query.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && said.contains(words), "{:?}: {said}", output.status);
}

#[test]
fn who_shows_the_right_certificate_is_let_in_and_all_others_know_why_not() {
    need!(gate::go());
    let folder = tempfile::tempdir().expect("a folder");
    let [own, client, stranger] = ["own", "client", "stranger"].map(|name| Pair::make(folder.path(), name));
    let url = start(&own, &client);
    let ours: (&Path, &Path) = (&client.certificate, &client.key);
    // It is let in, and there is nothing.
    check(&url, Some(&own), Some(ours), 4, "nothing is there");
    check(&url, Some(&own), None, 1, "wants to see a certificate of ours");
    check(&url, Some(&own), Some((&stranger.certificate, &stranger.key)), 1, "does not take our certificate");
    check(&url, Some(&stranger), Some(ours), 1, "name who does as ca_file");
    let elsewhere = url.replace("127.0.0.1", "localhost");
    check(&elsewhere, Some(&own), Some(ours), 1, "for another name");
    // What is wrong with the files themselves is known before anything is asked.
    check(&url, Some(&own), Some((&client.certificate, &stranger.key)), 2, "");
    check(&url, Some(&own), Some((&client.key, &client.key)), 2, "has no certificate in PEM");
    check(&url, Some(&own), Some((&client.certificate, &client.certificate)), 2, "client_key_file");
    check(&url, Some(&own), Some((&client.certificate, Path::new("/nowhere"))), 2, "/nowhere cannot be read");
}

#[test]
fn an_agent_pushes_by_its_certificate() {
    need!(gate::bpf());
    need!(gate::go());
    let folder = tempfile::tempdir().expect("a folder");
    let [own, client] = ["own", "client"].map(|name| Pair::make(folder.path(), name));
    let url = start(&own, &client);
    let text = |path: &Path| path.display().to_string();
    let (authority, certificate, key) =
        (text(&own.certificate), text(&client.certificate), text(&client.key));
    let files =
        ["--ca-file", &authority, "--client-certificate-file", &certificate, "--client-key-file", &key];
    let agent = Agent::start(&[&["--server", &url, "--interval", "1s"], files.as_slice()].concat());
    let begun = Instant::now();
    while agent.metric("profiler_delivered_weight_total", "") == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing was delivered");
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = agent.stop();
    assert_eq!(ended.books().lost_by_us, 0, "{}", ended.said);
}
