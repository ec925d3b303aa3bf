//! Who is let in: with a token and encryption, over the ways that people and programs come.

use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Output};

use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::{gate, go_server};
use profiler_tests::need;
use tempfile::TempDir;

use crate::serving::{Serving, push_of};

const TOKEN: &str = "a-token-of-some-length";

/// A folder with the token in a file that only its owner reads.
fn secrets() -> (TempDir, String) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("token");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("a file");
    std::io::Write::write_all(&mut file, TOKEN.as_bytes()).expect("a file");
    (folder, path.display().to_string())
}

fn query(server: &Serving, options: &[&str]) -> (Option<i32>, String) {
    let mut query = Command::new(binary());
    let Output { status, stdout, stderr } = query
        .args(["query", "labels", "-l", "service_name", "--server", server.url()])
        .args(options)
        .output()
        .expect("it starts");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn who_has_the_token_is_let_in_and_nobody_else() {
    let (folder, token) = secrets();
    let server = Serving::start_with(folder.path(), &["--token-file", &token]);
    let (status, words, _) = server.push(push_of("shut out", 1, 1)).expect("an answer");
    assert_eq!(status, 401, "{words}");
    let (code, said) = query(&server, &[]);
    assert!(code == Some(1) && said.contains("401") && said.contains("--bearer-token-file"), "{said}");
    let (code, said) = query(&server, &["--bearer-token-file", &token]);
    // Nothing was pushed yet, and that is another exit code.
    assert!(code == Some(4) && !said.contains(TOKEN), "{said}");
    let said = server.stop();
    assert!(!said.contains(TOKEN), "no log tells it: {said}");
}

#[test]
fn without_a_token_only_loopback_is_listened_on() {
    let folder = TempDir::new().expect("a folder");
    let mut serve = Command::new(binary());
    serve.args(["serve", "--listen", "0.0.0.0:0", "--data-dir"]).arg(folder.path());
    let Output { status, stderr, .. } = serve.output().expect("it starts");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.code() == Some(2) && said.contains("--token-file"), "{said}");
}

#[test]
fn encrypted_it_speaks_to_who_trusts_its_certificate() {
    need!(gate::go());
    let (folder, token) = secrets();
    go_server::make_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let options = ["--token-file", &token, "--tls-cert", &certificate, "--tls-key", &key];
    let server = Serving::start_with(folder.path(), &options);
    assert!(server.url().starts_with("https://"), "{}", server.url());
    let (code, said) = query(&server, &["--bearer-token-file", &token, "--ca-file", &certificate]);
    assert!(code == Some(4) && said.contains("nothing is there"), "{said}");
    let (code, said) = query(&server, &["--bearer-token-file", &token]);
    assert!(code == Some(1) && said.contains("does not answer"), "{said}");
    server.stop();
}
