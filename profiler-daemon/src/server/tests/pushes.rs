//! What is stored, and what is refused.

use super::*;

#[test]
fn a_push_is_taken_in_every_form_and_seen_at_once() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    let plain = |value| request("a", &[bytes(&[("main;work", value)])]).encode_to_vec();
    let answer = client.send("POST", push::PATH, &[PROTO], &plain(1));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(client.send("POST", push::PATH, &[PROTO, GZIP], &gzip(&plain(10))).status, 200);
    let inner = request("a", &[gzip(&bytes(&[("main;work", 100)]))]).encode_to_vec();
    assert_eq!(client.send("POST", push::PATH, &[PROTO, GZIP], &gzip(&inner)).status, 200);
    let raw =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes(&[("main;work", 1000)]));
    let json = format!(
        r#"{{"series":[{{"labels":[{{"name":"__name__","value":"process_cpu"}},{{"name":"service_name","value":"a"}}],
        "samples":[{{"rawProfile":"{raw}"}}]}}]}}"#
    );
    let answer = client.send("POST", push::PATH, &[JSON], json.as_bytes());
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(server.total(), 1111);
}

#[test]
fn what_is_not_understood_is_refused_with_the_right_status() {
    let server = Running::start(Config::default());
    let mut client = server.connect();
    let good = request("a", &[bytes(&[("main", 5)])]).encode_to_vec();
    for (headers, body, status, code) in [
        (&[PROTO, ("Content-Encoding", "zstd")][..], &good[..], 501, "unimplemented"),
        (&[PROTO, ("Connect-Protocol-Version", "9")], &good, 400, "invalid_argument"),
        (&[PROTO], b"", 400, "no profiles received"),
        (&[PROTO], b"\xff\xff", 400, "unmarshal message"),
        (&[JSON], b"{", 400, "unmarshal message"),
        (&[JSON], b"{\"series\":[]}", 400, "no profiles received"),
        (&[PROTO, GZIP], &gzip(&good)[..20], 400, "decompress"),
    ] {
        let answer = client.send("POST", push::PATH, headers, body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(code), "{}", answer.body);
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    }
    assert_eq!(server.total(), 0);
}

#[track_caller]
fn check_refused(profile: Vec<u8>, words: &str) {
    let server = Running::start(Config::default());
    let (status, body) = server.push(&request("a", &[profile]));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("invalid_argument") && body.contains(words), "{body}");
    assert_eq!(server.total(), 0);
}

#[test]
fn a_malformed_pprof_is_never_answered_with_200() {
    check_refused(vec![], "empty profile");
    check_refused(b"not a pprof".to_vec(), "malformed profile");
    check_refused(gzip(&bytes(&[("main", 1)]))[..30].to_vec(), "malformed profile");
}

#[test]
fn a_reference_to_nothing_is_malformed() {
    let mut broken = profile(&[("main", 1)]);
    broken.sample[0].location_id = vec![99];
    check_refused(broken.encode_to_vec(), "no location 99");
    let mut broken = profile(&[("main", 1)]);
    broken.location[0].line[0].function_id = 99;
    check_refused(broken.encode_to_vec(), "no function 99");
    let mut broken = profile(&[("main", 1)]);
    broken.function[0].name = 99;
    check_refused(broken.encode_to_vec(), "text 99");
    let mut broken = profile(&[("main", 1)]);
    broken.sample[0].value.push(1);
    check_refused(broken.encode_to_vec(), "2 values for 1 sample types");
}

#[test]
fn a_profile_of_another_time_is_refused() {
    let mut old = profile(&[("main", 1)]);
    old.time_nanos -= 3_660_000_000_000;
    check_refused(old.encode_to_vec(), "outside of ingestion window");
    let mut ahead = profile(&[("main", 1)]);
    ahead.time_nanos += 660_000_000_000;
    check_refused(ahead.encode_to_vec(), "outside of ingestion window");
}

#[test]
fn a_profile_beyond_the_limits_is_refused() {
    let mut many = profile(&[("main", 1)]);
    many.sample = vec![many.sample[0].clone(); 16_001];
    check_refused(many.encode_to_vec(), "16001 samples; limit 16000");
    many.sample.pop();
    let server = Running::start(Config::default());
    assert_eq!(server.push(&request("a", &[many.encode_to_vec()])).0, 200);
    check_refused(gzip(&vec![0; 5 << 20]), "exceeds limit");
    // Two bytes each on the wire, and forty in memory.
    check_refused([4 << 3 | 2, 0].repeat(600_000), "600000 parts");
}

#[test]
fn a_request_that_is_a_bomb_is_not_unpacked() {
    let server = Running::start(Config::default());
    let bomb = gzip(&vec![0; 64 << 20]);
    let answer = server.connect().send("POST", push::PATH, &[PROTO, GZIP], &bomb);
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert!(answer.body.contains("resource_exhausted"), "{}", answer.body);
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/proto\r\nContent-Length: 99999999999\r\n\r\n",
        push::PATH
    );
    let mut client = server.connect();
    client.socket.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.receive(false).status, 429);
}

#[test]
fn labels_are_checked_as_a_pyroscope_does() {
    let server = Running::start(Config::default());
    let pair = |name: String, value: String| LabelPair { name, value };
    let check = |labels: Vec<LabelPair>, status: u16, words: &str| {
        let mut request = request("x", &[bytes(&[("main", 1)])]);
        request.series[0].labels = labels;
        let (got, body) = server.push(&request);
        assert!(got == status && body.contains(words), "{got} {body}");
    };
    let name = || pair("__name__".into(), "process_cpu".into());
    let many = |count: usize| {
        (2..count)
            .map(|i| pair(format!("k{i}"), "v".into()))
            .chain([name(), pair("service_name".into(), "x".into())])
            .collect()
    };
    check(vec![], 400, "invalid metric name");
    check(vec![name()], 200, "");
    check(vec![name(), pair("service_name".into(), String::new())], 400, "service name is not provided");
    check(vec![name(), pair("a".into(), "1".into()), pair("a".into(), "1".into())], 400, "duplicate label");
    check(many(31), 400, "31 label names; limit 30");
    check(many(30), 200, "");
    check(vec![name(), pair("a".into(), "v".repeat(2049))], 400, "longer than 2048");
    check(vec![name(), pair("a".repeat(1025), "v".into())], 400, "longer than 1024");
    check(vec![name(), pair("odd name.é".into(), String::new())], 200, "");
}

#[test]
fn the_good_profiles_of_a_batch_are_stored() {
    let server = Running::start(Config::default());
    let mut old = profile(&[("main", 1)]);
    old.time_nanos -= 3_660_000_000_000;
    let batch = request("a", &[bytes(&[("main", 10)]), old.encode_to_vec(), bytes(&[("main", 100)])]);
    let (status, body) = server.push(&batch);
    assert_eq!(status, 400);
    assert!(body.contains("1 of 3 profiles refused"), "{body}");
    assert_eq!(server.total(), 110);
    // Who takes the answer for all of the batch pushes all of it again.
    assert_eq!(server.push(&batch), (status, body));
    assert_eq!(server.total(), 110);
    server.counted("profiler_server_profiles_duplicate_total 2");
}

#[test]
fn equal_bytes_count_once_and_other_bytes_of_the_same_time_count_too() {
    let server = Running::start(Config::default());
    let first = profile(&[("main", 1)]);
    let mut second = profile(&[("other", 10)]);
    second.time_nanos = first.time_nanos;
    let first = first.encode_to_vec();
    for raw in [&first, &gzip(&first), &second.encode_to_vec(), &first] {
        assert_eq!(server.push(&request("a", std::slice::from_ref(raw))).0, 200);
    }
    assert_eq!(server.total(), 11);
    server.counted("profiler_server_profiles_duplicate_total 2");
    // Other labels, another profile.
    assert_eq!(server.push(&request("b", &[first])).0, 200);
    assert_eq!(server.total(), 12);
}

#[test]
fn one_that_is_twice_in_a_request_counts_once() {
    let server = Running::start(Config::default());
    let raw = bytes(&[("main", 1)]);
    assert_eq!(server.push(&request("a", &[raw.clone(), raw])).0, 200);
    assert_eq!(server.total(), 1);
    server.counted("profiler_server_profiles_duplicate_total 1");
}

#[test]
fn one_that_was_refused_is_no_duplicate_when_it_comes_again() {
    let server = Running::start(Config { series_max: 1, ..Config::default() });
    let (kept, refused) = (request("a", &[bytes(&[("main", 1)])]), request("b", &[bytes(&[("main", 10)])]));
    for (request, status) in [(&kept, 200), (&refused, 429), (&refused, 429), (&kept, 200)] {
        assert_eq!(server.push(request).0, status);
    }
    server.counted("profiler_server_profiles_duplicate_total 1");
    assert_eq!(server.total(), 1);
}

/// Pushes `count` profiles of stacks that no other has, so that segments fill up and others are begun.
fn fill(server: &Running, count: usize) {
    for push in 0..count {
        let names: Vec<_> = (0..100).map(|index| format!("f{push}_{index}")).collect();
        let stacks: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(server.push(&request(&format!("s{push}"), &[bytes(&stacks)])).0, 200);
    }
}

#[test]
fn one_of_an_older_segment_is_known_as_long_as_it_is_there() {
    let server = Running::start(Config { memory_bytes_max: 800_000, ..Config::default() });
    let first = request("a", &[bytes(&[("main", 7)])]);
    assert_eq!(server.push(&first).0, 200);
    // Twice a segment, and less than all of them.
    fill(&server, 14);
    assert_eq!(server.push(&first).0, 200);
    server.counted("profiler_server_profiles_duplicate_total 1");
    assert_eq!(server.total(), 1_407);
    assert!(!server.meters.render().contains("profiler_server_windows_evicted_total{"), "all of it is there");
}

#[test]
fn what_is_known_of_a_profile_is_part_of_the_bounded_memory() {
    let server = Running::start(Config { memory_bytes_max: 20_000, ..Config::default() });
    // Nothing to keep but that they were here.
    for batch in 0..10 {
        let mut empty = profile(&[]);
        let profiles: Vec<_> = (0..1_000)
            .map(|number| {
                empty.time_nanos -= 1 + batch * 1_000 + number;
                empty.encode_to_vec()
            })
            .collect();
        assert_eq!(server.push(&request("a", &profiles)).0, 200);
    }
    let page = server.meters.render();
    let bytes = page.lines().find_map(|line| line.strip_prefix("profiler_server_store_bytes ")).unwrap();
    assert!(bytes.parse::<f64>().unwrap() < 30_000.0, "{bytes}");
}

#[test]
fn texts_that_label_samples_make_series_and_numbers_do_not() {
    let server = Running::start(Config::default());
    let mut labelled = profile(&[("main", 1), ("main", 10)]);
    labelled.string_table.extend(["service_name", "other", "thread", "t1"].map(String::from));
    let at = |text: &str| labelled.string_table.iter().position(|known| known == text).unwrap() as i64;
    let own = pprof::Label { key: at("service_name"), str: at("other"), ..Default::default() };
    let thread = pprof::Label { key: at("thread"), str: at("t1"), ..Default::default() };
    let number = pprof::Label { key: at("thread"), num: 5, ..Default::default() };
    labelled.sample[0].label = vec![own, thread, number];
    assert_eq!(server.push(&request("a", &[labelled.encode_to_vec()])).0, 200);
    let answer = server.ask("/api/services");
    assert_eq!(answer["services"].as_array().unwrap().len(), 1, "labels of the request win");
    assert_eq!(answer["total"], 11);
}

#[test]
fn when_memory_is_short_the_oldest_go_first() {
    let server = Running::start(Config { memory_bytes_max: 400_000, ..Config::default() });
    fill(&server, 60);
    let answer = server.ask("/api/services");
    let names: Vec<_> = answer["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.contains(&"s59".to_owned()) && !names.contains(&"s0".to_owned()), "{names:?}");
    let page = server.meters.render();
    let bytes = page.lines().find_map(|line| line.strip_prefix("profiler_server_store_bytes ")).unwrap();
    assert!(bytes.parse::<f64>().unwrap() < 600_000.0, "{bytes}");
    assert!(page.contains("profiler_server_windows_evicted_total{reason=\"memory_bytes_max\"}"), "{page}");
}

#[test]
fn one_series_too_many_is_refused() {
    let server = Running::start(Config { series_max: 2, ..Config::default() });
    for (service, status) in [("a", 200), ("b", 200), ("c", 429), ("a", 200)] {
        assert_eq!(server.push(&request(service, &[bytes(&[("main", 1)])])).0, status, "{service}");
    }
}
