//! What older agents and SDKs send to `/ingest`.

use super::*;

#[track_caller]
fn check(query: &str, content_type: &str, body: &[u8], status: u16, words: &str) -> Running {
    let server = Running::start(Config::default());
    let path = format!("/ingest?{query}");
    let answer = server.connect().send("POST", &path, &[("Content-Type", content_type)], body);
    assert_eq!(answer.status, status, "{}", answer.body);
    assert!(answer.body.contains(words), "{}", answer.body);
    server
}

fn types(server: &Running) -> Vec<String> {
    let body = "{}";
    let path = format!("{}ProfileTypes", query::api::PATH);
    let answer = server.connect().send("POST", &path, &[JSON], body.as_bytes());
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let types = answer["profileTypes"].as_array().cloned().unwrap_or_default();
    types.iter().map(|kind| kind["ID"].as_str().unwrap().to_owned()).collect()
}

const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";

/// A form of these parts.
fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, content) in parts {
        let head =
            format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
        body.extend_from_slice(&[head.as_bytes(), content, b"\r\n"].concat());
    }
    body.extend_from_slice(b"--xyz--\r\n");
    ("multipart/form-data; boundary=xyz".to_owned(), body)
}

#[test]
fn folded_text_is_time_on_the_cpu_unless_its_name_says_otherwise() {
    let server = check("name=shop&sampleRate=19&from=&until=", TEXT, b"main;work 2\nmain 1\n", 200, "");
    assert_eq!(types(&server), ["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]);
    assert_eq!(server.total(), 3 * 52_631_578);
    for (suffix, kind) in [
        ("cpu", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"),
        ("wall", "wall:wall:nanoseconds:cpu:nanoseconds"),
        ("alloc_space", "memory:alloc_space:bytes::"),
        ("inuse_objects", "memory:inuse_objects:count::"),
        ("lock_count", "block:contentions:count::"),
    ] {
        let server = check(&format!("name=shop.{suffix}"), TEXT, b"main;work 2\n", 200, "");
        assert_eq!(types(&server), [kind]);
    }
}

#[test]
fn lines_are_a_sample_each() {
    let server = check("name=shop&format=lines", TEXT, b"main;work\nmain;work\nmain\n", 200, "");
    assert_eq!(server.total(), 30_000_000);
}

#[test]
fn a_trie_is_its_texts() {
    // "main;" with the children "a" and "bc".
    let trie = [&[0, 0, 1, 5], &b"main;"[..], &[0, 2, 1], b"a", &[3, 0, 2], b"bc", &[4, 0]].concat();
    let server = check("name=shop", "binary/octet-stream+trie", &trie, 200, "");
    assert_eq!(server.total(), 70_000_000);
    let graph = server.ask("/api/flamegraph?service=shop");
    assert!(graph["texts"].as_array().unwrap().contains(&"bc".into()), "{graph}");
    check("name=shop", "binary/octet-stream+trie", &trie[..trie.len() - 2], 422, "cut short");
    check("name=shop&format=trie", BYTES, &[0xff; 40], 422, "cut short");
}

#[test]
fn a_pprof_comes_raw_or_in_a_form_as_sdks_send_it() {
    let pprof = gzip(&bytes(&[("main;work", 5)]));
    let name =
        "name=backend.purchases%7B__session_id__%3D77e4%2Cotel.scope.name%3Dcom.grafana.pyroscope%2Fgo%7D";
    let server = check(&format!("{name}&format=pprof&spyName=nodespy"), BYTES, &pprof, 200, "");
    assert_eq!(server.ask("/api/services")["services"][0]["name"], "backend.purchases");
    let (kind, body) = form(&[("profile", &pprof)]);
    let server = check(&format!("{name}&spyName=gospy&aggregationType=&units="), &kind, &body, 200, "");
    assert_eq!(server.total(), 5);
    let (kind, body) = form(&[
        ("sample_type_config", b"{\"cpu\":{\"units\":\"samples\",\"display-name\":\"mutex_count\"}}"),
        ("profile", &pprof),
    ]);
    let server = check(name, &kind, &body, 200, "");
    assert_eq!(types(&server), ["mutex:cpu:nanoseconds:cpu:nanoseconds"]);
}

#[test]
fn a_pprof_of_dotnet_comes_with_all_its_kinds_in_one() {
    let mut profile = profile(&[("Main;Pay", 5)]);
    let mut kinds = vec![profile.sample_type[0]];
    for (kind, unit) in [("wall", "nanoseconds"), ("alloc_samples", "count"), ("lock_time", "nanoseconds")] {
        let texts = [kind, unit].map(|text| {
            profile.string_table.push(text.to_owned());
            profile.string_table.len() as i64 - 1
        });
        kinds.push(ValueType { r#type: texts[0], unit: texts[1] });
    }
    profile.sample_type = kinds;
    profile.sample[0].value = vec![5, 7, 0, 9];
    let config = br#"{
      "alloc_samples": { "units": "objects", "display-name": "alloc_objects" },
      "cpu": { "units": "samples", "sampled": true },
      "lock_time": { "units": "lock_nanoseconds", "display-name": "mutex_duration" },
      "inuse_space": { "units": "bytes", "display-name": "inuse_space", "aggregation": "average" }
    }"#;
    let (kind, body) = form(&[("profile", &profile.encode_to_vec()), ("sample_type_config", config)]);
    let now = WallNs::now().0;
    let query = format!(
        "name=shop%7Bregion%3Dhere%7D&from={}&until={now}&spyName=dotnetspy&spyVersion=0.14.1",
        now - 10_000_000_000
    );
    let server = check(&query, &kind, &body, 200, "");
    let made =
        ["cpu", "lock_time", "wall"].map(|kind| format!("process_cpu:{kind}:nanoseconds:cpu:nanoseconds"));
    assert_eq!(types(&server), made);
    assert_eq!(server.total(), 5);
}

#[test]
fn a_pprof_without_a_time_is_of_the_time_in_the_address() {
    let mut timeless = profile(&[("main", 5)]);
    timeless.time_nanos = 0;
    let at_s = WallNs::now().0 / 1_000_000_000 - 600;
    let query = format!("name=a&format=pprof&from={at_s}&until={}", at_s + 10);
    let server = check(&query, BYTES, &timeless.encode_to_vec(), 200, "");
    let (from, until) = ((at_s - 5) * 1000, (at_s + 15) * 1000);
    assert_eq!(server.ask(&format!("/api/services?from={from}&until={until}"))["total"], 5);
}

#[test]
fn what_cannot_be_stored_is_never_answered_with_200() {
    let pprof = bytes(&[("main", 5)]);
    check("", TEXT, b"main 1", 400, "\"name\\\" is missing");
    check("name=a%7Bb", TEXT, b"main 1", 400, "closing brace");
    check("name=my.service", TEXT, b"main 1", 400, "unknown profile type: service");
    check("name=a", TEXT, b"main one", 422, "whole number");
    check("name=a", TEXT, b"", 422, "empty");
    check("name=a&format=pprof", BYTES, b"", 422, "empty");
    check("name=a&format=pprof", BYTES, b"no pprof", 422, "malformed");
    check("name=a", BYTES, &gzip(&pprof), 422, "no text");
    check("name=a&format=jfr", BYTES, b"FLR", 501, "jfr");
    // As Java's agent sends it: a form in pieces, whose parts have other names.
    let java = "name=shop&units=samples&aggregationType=sum&from=1&until=2&spyName=javaspy&sampleRate=100&format=jfr";
    let (kind, body) = form(&[("jfr", b"\x1f\x8b\x08FLR"), ("labels", b"\x0a\x02\x08\x01")]);
    check(java, &kind, &body, 501, "profiles in jfr are not read here");
    check("name=a", "binary/octet-stream+tree", b"x", 501, "trees");
    let (kind, body) = form(&[("other", &pprof)]);
    check("name=a", &kind, &body, 422, "no part");
    let (kind, body) = form(&[("prev_profile", &pprof), ("profile", &pprof)]);
    check("name=a", &kind, &body, 422, "unsupported client version");
    let (kind, body) = form(&[("profile", &pprof), ("sample_type_config", b"{")]);
    check("name=a", &kind, &body, 422, "sample_type_config");
    check("name=a", "multipart/form-data", b"x", 422, "form");
    check("name=a&from=1500000000", TEXT, b"main 1", 400, "outside of ingestion window");
}

#[test]
fn a_body_that_is_too_large_is_not_read() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    let head = "POST /ingest?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n";
    client.socket.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.receive(false).status, 413);
    let bomb = gzip(&vec![b'x'; 64 << 20]);
    let answer = server.connect().send("POST", "/ingest?name=a", &[GZIP], &bomb);
    assert_eq!(answer.status, 413, "{}", answer.body);
}
