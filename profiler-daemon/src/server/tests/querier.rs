//! Questions that a real Pyroscope was asked, with its answers: ours are the same. The fixtures were taken from one that
//! had been pushed what `pushed` pushes here.

use super::*;

const BEGIN_MS: i64 = 1_795_360_230_000;
const MILLION: i64 = 1_000_000;

/// Takes profiles of any time.
fn server() -> Running {
    let long = Duration::from_secs(100 * 365 * 24 * 3600);
    let limits = Limits { age_max: long, ahead_max: long, ..Limits::default() };
    Running::start(Config { limits, keep_in_memory: long, ..Config::default() })
}

/// One profile, of stacks in millions of what it counts.
fn push(
    server: &Running,
    name: &str,
    labels: &[(&str, &str)],
    at_s: i64,
    kinds: [(&str, &str); 2],
    stacks: &[(&str, i64)],
) {
    let stacks: Vec<_> = stacks.iter().map(|&(stack, value)| (stack, value * MILLION)).collect();
    let mut profile = profile(&stacks);
    profile.time_nanos = (BEGIN_MS + at_s * 1000) * MILLION;
    let [kind, period] = kinds.map(|(kind, unit)| {
        let mut intern = |text: &str| {
            let known = profile.string_table.iter().position(|known| known == text);
            known.unwrap_or_else(|| {
                profile.string_table.push(text.to_owned());
                profile.string_table.len() - 1
            })
        };
        ValueType { r#type: intern(kind) as i64, unit: intern(unit) as i64 }
    });
    profile.sample_type = vec![kind];
    profile.period_type = Some(period);
    let mut request = request("", &[profile.encode_to_vec()]);
    let pair = |(name, value): (&str, &str)| LabelPair { name: name.into(), value: value.into() };
    request.series[0].labels = [("__name__", name)].iter().chain(labels).copied().map(pair).collect();
    assert_eq!(server.push(&request).0, 200);
}

fn pushed() -> Running {
    const CPU: [(&str, &str); 2] = [("cpu", "nanoseconds"); 2];
    let server = server();
    for (at_s, parse) in [(60, 100), (75, 250), (90, 400), (120, 700)] {
        let stacks = [
            ("main;gc", 30),
            ("main;handle", 50),
            ("main;handle;parse", parse),
            ("main;handle;db_query;read", 200),
        ];
        let labels = [("service_name", "checkout"), ("host", "h1"), ("pid", "11")];
        push(&server, "process_cpu", &labels, at_s, CPU, &stacks);
        let stacks = [
            ("main;gc", 30),
            ("main;handle", 30),
            ("main;handle;parse", 10),
            ("main;handle;db_query;read", 20),
        ];
        let labels = [("service_name", "checkout"), ("host", "h2"), ("pid", "22")];
        push(&server, "process_cpu", &labels, at_s, CPU, &stacks);
    }
    push(&server, "process_cpu", &[("service_name", "cart")], 60, CPU, &[("main;loop", 2000)]);
    let labels = [("service_name", "checkout"), ("host", "h1")];
    push(&server, "off_cpu", &labels, 60, [("off_cpu", "nanoseconds"); 2], &[("main", 1)]);
    for kind in [("alloc_objects", "count"), ("alloc_space", "bytes")] {
        push(&server, "memory", &[("service_name", "cart")], 60, [kind, ("space", "bytes")], &[("main", 1)]);
    }
    server
}

/// What an answer says, however its names are numbered.
fn said(answer: &Value) -> Value {
    let Value::Object(object) = answer else { return answer.clone() };
    if let (Some(names), Some(levels)) = (object.get("names"), object.get("levels")) {
        let number =
            |value: &Value| value.as_i64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap());
        let mut said = object.clone();
        said.remove("names");
        let values = |level: &Value| -> Vec<i64> {
            level.get("values").unwrap_or(level).as_array().unwrap().iter().map(number).collect()
        };
        // The root is alone on its level, and as long as all nodes: four numbers, or seven where two are compared.
        let width = values(&levels[0]).len();
        let level = |level: &Value| -> Value {
            let name = |index: i64| &names[usize::try_from(index).unwrap()];
            let node = |node: &[i64]| serde_json::json!([&node[..width - 1], name(node[width - 1])]);
            values(level).chunks(width).map(node).collect()
        };
        said.insert("levels".to_owned(), levels.as_array().unwrap().iter().map(level).collect());
        return said.into();
    }
    if object.contains_key("stringTable") {
        return said_by_pprof(answer);
    }
    if let Some(tree) = object.get("tree") {
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, tree.as_str().unwrap());
        return said_by_tree(&bytes.unwrap());
    }
    object.iter().map(|(key, value)| (key.clone(), said(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Stacks with what they weigh, and what is said of them all.
fn said_by_pprof(profile: &Value) -> Value {
    let number = |value: &Value| value.as_str().unwrap().parse::<usize>().unwrap();
    let text = |value: &Value| profile["stringTable"][number(value)].as_str().unwrap().to_owned();
    let find = |list: &str, id: &Value| {
        profile[list].as_array().unwrap().iter().find(|entry| entry["id"] == *id).unwrap().clone()
    };
    let mut stacks = Vec::new();
    for sample in profile["sample"].as_array().unwrap() {
        let mut names: Vec<_> = (sample["locationId"].as_array().unwrap().iter())
            .map(|id| text(&find("function", &find("location", id)["line"][0]["functionId"])["name"]))
            .collect();
        names.reverse();
        stacks.push((names.join(";"), sample["value"][0].as_str().unwrap().to_owned()));
    }
    stacks.sort();
    let kind = |value: &Value| [text(&value["type"]), text(&value["unit"])];
    serde_json::json!({
        "stacks": stacks,
        "types": [kind(&profile["sampleType"][0]), kind(&profile["periodType"])],
        "period": profile["period"],
        "time": profile["timeNanos"],
        "default": text(&profile["defaultSampleType"]),
    })
}

fn said_by_tree(mut bytes: &[u8]) -> Value {
    fn varint(bytes: &mut &[u8]) -> u64 {
        prost::encoding::decode_varint(bytes).unwrap()
    }
    let mut stacks = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(parent) = waiting.pop() {
        let length = usize::try_from(varint(&mut bytes)).unwrap();
        let (name, rest) = bytes.split_at(length);
        bytes = rest;
        let stack = format!("{parent};{}", std::str::from_utf8(name).unwrap());
        stacks.push((stack.clone(), varint(&mut bytes)));
        let children = varint(&mut bytes);
        waiting.extend((0..children).map(|_| stack.clone()));
    }
    assert!(bytes.is_empty());
    stacks.sort();
    serde_json::json!(stacks)
}

fn fixtures() -> Vec<(String, Value)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests/fixtures");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), serde_json::from_str(&text).unwrap())
        })
        .collect();
    all.sort_by(|a: &(String, Value), b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_real_pyroscope_s_answers_are_ours() {
    let server = pushed();
    let mut asked = 0;
    let mut different = Vec::new();
    for (name, fixture) in fixtures().iter().filter(|(name, _)| name != "proto_unary") {
        let (request, expected) = (&fixture["request"], &fixture["response"]);
        let method = request["method"].as_str().unwrap();
        let body = if request["body"].is_null() { String::new() } else { request["body"].to_string() };
        let headers: Vec<(&str, &str)> = (request["headers"].as_object().unwrap().iter())
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let path = request["path"].as_str().unwrap();
        let answer = server.connect().send(method, path, &headers, body.as_bytes());
        asked += 1;
        let ours: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        let theirs = &expected["body"];
        let same = match expected["status"].as_u64().unwrap() {
            200 => said(&ours) == said(theirs),
            // A parser's words for what it did not understand are its own.
            400 if name.contains("selector") || name.contains("bad_matcher") => {
                ours["code"] == theirs["code"]
            }
            400 => ours == *theirs,
            _ => true,
        };
        if u64::from(answer.status) != expected["status"].as_u64().unwrap() || !same {
            different.push(format!(
                "{name}: {} {}\n  instead of {}",
                answer.status,
                said(&ours),
                said(theirs)
            ));
        }
    }
    assert!(asked > 40, "only {asked} fixtures were found");
    assert!(different.is_empty(), "{} of {asked}:\n{}", different.len(), different.join("\n"));
}

#[test]
fn the_same_in_protobuf() {
    let server = pushed();
    let fixtures = fixtures();
    let (_, fixture) = fixtures.iter().find(|(name, _)| name == "proto_unary").unwrap();
    let decode = |text: &Value| {
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.as_str().unwrap()).unwrap()
    };
    let mut asked = 0;
    for (method, pair) in fixture["pairs"].as_object().unwrap() {
        // There it told of services outside of the range; names and levels are numbered in another order.
        let told = !matches!(method.as_str(), "LabelValues" | "SelectMergeStacktraces");
        let path = format!("{}{method}", query::api::PATH);
        let answer = server.connect().send_bytes("POST", &path, &[PROTO], &decode(&pair["request_base64"]));
        assert_eq!(u64::from(answer.0), pair["status"].as_u64().unwrap(), "{method}");
        if told {
            assert_eq!(answer.1, decode(&pair["response_base64"]), "{method}");
            asked += 1;
        } else {
            assert!(!answer.1.is_empty(), "{method}");
        }
    }
    assert!(asked >= 4, "only {asked} were compared");
}

#[test]
fn what_is_too_light_is_added_up_beside_its_siblings() {
    let server = server();
    let stacks = [("main;a", 50), ("main;b;c", 9), ("main;b;d", 1), ("main;e", 5), ("main;other", 40)];
    push(&server, "process_cpu", &[("service_name", "x")], 10, [("cpu", "nanoseconds"); 2], &stacks);
    let body = format!(
        r#"{{"profileTypeID":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","labelSelector":"{{}}",
        "start":{BEGIN_MS},"end":{},"maxNodes":4}}"#,
        BEGIN_MS + 60_000
    );
    let path = format!("{}SelectMergeStacktraces", query::api::PATH);
    let answer = server.connect().send("POST", &path, &[JSON], body.as_bytes());
    let graph = said(&serde_json::from_str::<Value>(&answer.body).unwrap()["flamegraph"]);
    assert_eq!(graph["total"], "105000000");
    let whole: i64 = (graph["levels"].as_array().unwrap().iter())
        .flat_map(|level| level.as_array().unwrap())
        .map(|node| node[0][2].as_i64().unwrap())
        .sum();
    assert_eq!(whole, 105_000_000, "nothing is lost, and nobody's own name is taken: {graph}");
}

/// The answer to `body`, asked of `method`.
fn asked(server: &Running, method: &str, body: &Value) -> (u16, Value) {
    let path = format!("{}{method}", query::api::PATH);
    let answer = server.connect().send("POST", &path, &[JSON], body.to_string().as_bytes());
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

/// What is asked about a service, of at most `nodes` nodes.
fn merge_of(service: &str, nodes: usize) -> Value {
    serde_json::json!({
        "profileTypeID": "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
        "labelSelector": format!("{{service_name=\"{service}\"}}"),
        "start": BEGIN_MS, "end": BEGIN_MS + 60_000, "maxNodes": nodes,
    })
}

/// What the names in a difference weigh alone, left and right.
fn sides(graph: &Value) -> std::collections::BTreeMap<String, [i64; 2]> {
    let mut sides = std::collections::BTreeMap::new();
    for node in said(graph)["levels"].as_array().unwrap().iter().flat_map(|level| level.as_array().unwrap()) {
        let sum: &mut [i64; 2] = sides.entry(node[1].as_str().unwrap().to_owned()).or_default();
        for (side, place) in [2, 5].into_iter().enumerate() {
            sum[side] += node[0][place].as_i64().unwrap();
        }
    }
    sides.retain(|_, weights| *weights != [0, 0]);
    sides
}

#[test]
fn a_difference_loses_nothing_of_either_side() {
    let server = server();
    let cpu = [("cpu", "nanoseconds"); 2];
    let left = [("main;a", 5), ("main;a;b", 7), ("main;gone", 2), ("idle", 1)];
    let right = [("main;a", 3), ("main;a;b", 90), ("main;new;deep;deeper", 4)];
    push(&server, "process_cpu", &[("service_name", "left")], 10, cpu, &left);
    push(&server, "process_cpu", &[("service_name", "right")], 10, cpu, &right);
    let both = |left, right, nodes| serde_json::json!({ "left": merge_of(left, nodes), "right": merge_of(right, nodes) });

    let (status, whole) = asked(&server, "Diff", &both("left", "right", 100));
    assert_eq!(status, 200);
    let expected = [("a", [5, 3]), ("b", [7, 90]), ("deeper", [0, 4]), ("gone", [2, 0]), ("idle", [1, 0])];
    let expected = expected.map(|(name, weights)| (name.to_owned(), weights.map(|weight| weight * MILLION)));
    assert_eq!(sides(&whole["flamegraph"]), expected.into_iter().collect());
    assert_eq!(
        [&whole["flamegraph"]["leftTicks"], &whole["flamegraph"]["rightTicks"]],
        ["15000000", "97000000"]
    );

    for nodes in 1..8 {
        let (_, cut) = asked(&server, "Diff", &both("left", "right", nodes));
        let sum = sides(&cut["flamegraph"])
            .into_values()
            .fold([0, 0], |sum, side| [sum[0] + side[0], sum[1] + side[1]]);
        assert_eq!(sum, [15 * MILLION, 97 * MILLION], "{nodes} nodes");
    }
    let (_, against_nothing) = asked(&server, "Diff", &both("left", "nobody", 100));
    assert_eq!(sides(&against_nothing["flamegraph"])["b"], [7 * MILLION, 0]);
}

#[test]
fn a_difference_needs_two_sides_of_a_kind() {
    let server = server();
    let (status, words) = asked(&server, "Diff", &serde_json::json!({ "left": merge_of("a", 0) }));
    assert_eq!((status, words["code"].as_str()), (400, Some("invalid_argument")));
    let types = ["memory:inuse_space:bytes:space:bytes", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"];
    let path = format!("/pyroscope/render-diff?leftQuery={}%7B%7D&rightQuery={}%7B%7D", types[0], types[1]);
    let answer = server.connect().send("GET", &path, &[], b"");
    assert!(answer.status == 400 && answer.body.contains("profile types must match"), "{}", answer.body);
}

#[test]
fn answers_are_compressed_for_who_takes_that() {
    let server = server();
    let names: Vec<_> = (0..500).map(|index| format!("main;f{index}")).collect();
    let stacks: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    push(&server, "process_cpu", &[("service_name", "x")], 10, [("cpu", "nanoseconds"); 2], &stacks);
    let body = format!(
        r#"{{"profileTypeID":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","labelSelector":"{{}}","start":"{BEGIN_MS}","end":"{}"}}"#,
        BEGIN_MS + 60_000
    );
    let path = format!("{}SelectMergeStacktraces", query::api::PATH);
    let plain = server.connect().send("POST", &path, &[JSON], body.as_bytes()).body;
    let accept = ("Accept-Encoding", "deflate, gzip;q=1");
    let (status, packed) =
        server.connect().send_bytes("POST", &path, &[JSON, GZIP, accept], &gzip(body.as_bytes()));
    assert_eq!(status, 200);
    assert_eq!(pprof::gunzip(&packed, 1 << 20).unwrap(), plain.as_bytes());
}

#[test]
fn a_pprof_in_protobuf_is_where_clients_look_for_it() {
    let server = pushed();
    let request = crate::querier::MergeRequest {
        profile_type: "process_cpu:cpu:nanoseconds:cpu:nanoseconds".to_owned(),
        selector: "{service_name=\"cart\"}".to_owned(),
        start: BEGIN_MS,
        end: BEGIN_MS + 180_000,
        format: crate::querier::PPROF,
        ..Default::default()
    };
    let path = format!("{}SelectMergeStacktraces", query::api::PATH);
    let answer = server.connect().send_bytes("POST", &path, &[PROTO], &request.encode_to_vec());
    // The fifth field, which `querier.proto` calls `pprof`; the fourth is about questions that are answered later.
    assert_eq!((answer.0, answer.1.first()), (200, Some(&(5 << 3 | 2))));
}

#[test]
fn a_graph_of_calls_has_each_function_once_and_loses_no_caller() {
    let server = server();
    let stacks = [("main;f;g", 5_000), ("main;f;f;g", 3_000), ("main;\"quo\\te", 2_000)];
    push(&server, "process_cpu", &[("service_name", "calls")], 10, [("cpu", "nanoseconds"); 2], &stacks);
    let drawn = |functions| {
        let mut question = merge_of("calls", functions);
        question["format"] = "PROFILE_FORMAT_DOT".into();
        asked(&server, "SelectMergeStacktraces", &question).1["dot"].as_str().unwrap().to_owned()
    };
    let whole = drawn(0);
    for line in [
        r#"Type: cpu\l4 of 4 functions: 10.00s of 10.00s\l"#,
        r#"N1 [label="main\n0.00s (0.00%)\nof 10.00s (100.00%)""#,
        r#"N2 [label="g\n8.00s (80.00%)" fontsize=24 "#,
        r#"N3 [label="f\n0.00s (0.00%)\nof 8.00s (80.00%)""#,
        r#"N4 [label="\"quo\\te\n2.00s (20.00%)""#,
        r#"N1 -> N3 [label=" 8.00s" weight=81 penwidth=4]"#,
        r#"N3 -> N3 [label=" 3.00s""#,
        r#"N3 -> N2 [label=" 8.00s""#,
    ] {
        assert!(whole.contains(line), "{line}\n{whole}");
    }
    assert_eq!(whole.matches("->").count(), 4, "{whole}");
    let cut = drawn(2);
    assert!(cut.contains(r#"N1 -> N2 [label=" 8.00s" weight=81 penwidth=4 style=dashed]"#), "{cut}");
    assert_eq!((cut.matches("->").count(), cut.matches("label=\"").count()), (1, 4), "{cut}");
    let times = format!("from={BEGIN_MS}&until={}&format=dot", BEGIN_MS + 180_000);
    let cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
    let path = format!("/pyroscope/render?query={cpu}%7Bservice_name%3D%22calls%22%7D&{times}");
    assert_eq!(server.connect().send("GET", &path, &[], b"").body, whole);
    let nobody = format!("/pyroscope/render?query={cpu}%7Bservice_name%3D%22nobody%22%7D&{times}");
    let answer = server.connect().send("GET", &nobody, &[], b"");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[test]
fn a_selection_that_is_not_made_here_is_refused_rather_than_left_out() {
    let server = pushed();
    let ask = |more: Value| {
        let mut question = merge_of("checkout", 0);
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked(&server, "SelectMergeStacktraces", &question).0
    };
    for selection in [
        serde_json::json!({ "stackTraceSelector": { "callSite": [{ "name": "main" }] } }),
        serde_json::json!({ "profileIdSelector": ["7c9e6679-7425-440d-944b-e07fc1f90ae7"] }),
        serde_json::json!({ "traceIdSelector": ["7c9e66797425440de944be07fc1f90ae"] }),
        serde_json::json!({ "spanSelector": ["9a517183f26a089d"] }),
    ] {
        assert_eq!(ask(selection.clone()), 501, "{selection}");
    }
    // How many frames of a leaf are enough for Go's compiler: with all of them it has those too.
    let for_go = serde_json::json!({ "stackTraceSelector": { "goPgo": { "keepLocations": 5 } } });
    assert_eq!(ask(for_go), 200);
}
