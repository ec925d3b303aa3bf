//! What the page is told.

use super::*;

#[test]
fn services_are_listed_by_weight_with_their_time_series() {
    let server = Running::start(Config::default());
    server.push(&request("small", &[bytes(&[("main", 1_000)])]));
    server.push(&request("large", &[bytes(&[("main", 9_000)])]));
    let answer = server.ask("/api/services?last=60");
    let services = answer["services"].as_array().unwrap();
    let names: Vec<_> = services.iter().map(|service| service["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["large", "small"]);
    assert_eq!(answer["interval_ms"], 10_000);
    let points: Vec<_> =
        services[0]["points"].as_array().unwrap().iter().map(|p| p.as_u64().unwrap()).collect();
    assert_eq!(points.iter().sum::<u64>(), 9_000);
    assert_eq!(points.len(), 6);
    assert!(points[5] >= 8_999, "the last point is a whole window: {points:?}");
}

fn index(number: &Value) -> usize {
    usize::try_from(number.as_u64().unwrap()).unwrap()
}

/// The folded stacks of an answer of `/api/flamegraph`, with what they weigh alone.
fn folded(answer: &Value) -> Vec<(String, u64)> {
    let number = |path: &str, at: usize| index(&answer.pointer(path).unwrap()[at]);
    let mut stacks: Vec<String> = Vec::new();
    let mut out = Vec::new();
    for node in 0..answer["nodes"]["parent"].as_array().unwrap().len() {
        let function = number("/nodes/function", node);
        let name = answer["texts"][number("/functions/name", function)].as_str().unwrap();
        let parent = number("/nodes/parent", node);
        let stack = if node == 0 { String::new() } else { format!("{};{name}", stacks[parent]) };
        let own = number("/nodes/self", node) as u64;
        if own > 0 {
            out.push((stack.clone(), own));
        }
        stacks.push(stack);
    }
    out
}

fn rows(answer: &Value) -> Vec<(String, u64, u64)> {
    let rows = &answer["rows"];
    (0..rows["function"].as_array().unwrap().len())
        .map(|row| {
            let name = &answer["functions"]["name"][index(&rows["function"][row])];
            let name = answer["texts"][index(name)].as_str().unwrap().to_owned();
            (name, rows["self"][row].as_u64().unwrap(), rows["total"][row].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn graph_and_table_come_from_one_merged_tree() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;work;leaf", 60), ("main;rest", 30)])]));
    server.push(&request("a", &[bytes(&[("main;work;leaf", 6), ("main;work;work;leaf", 4)])]));
    server.push(&request("b", &[bytes(&[("start", 1000)])]));
    let answer = server.ask("/api/flamegraph?service=a");
    assert_eq!(answer["total"], 100);
    let mut stacks = folded(&answer);
    stacks.sort();
    let expected = [(";main;rest", 30), (";main;work;leaf", 66), (";main;work;work;leaf", 4)];
    assert_eq!(stacks, expected.map(|(stack, own)| (stack.to_owned(), own)));
    let expected = [("leaf", 70, 70), ("rest", 30, 30), ("main", 0, 100), ("work", 0, 70)];
    assert_eq!(rows(&answer), expected.map(|(name, own, total)| (name.to_owned(), own, total)));
    assert_eq!(server.ask("/api/flamegraph")["total"], 1100);
}

#[test]
fn a_stack_of_thousands_of_frames_keeps_its_weight_and_its_root() {
    let server = Running::start(Config::default());
    let deep: Vec<_> = (0..5000).map(|depth| format!("f{depth}")).collect();
    server.push(&request("a", &[bytes(&[(&deep.join(";"), 7)])]));
    let answer = server.ask("/api/flamegraph?service=a");
    let stacks = folded(&answer);
    assert_eq!(stacks.len(), 1);
    assert_eq!(stacks[0].1, 7);
    assert!(stacks[0].0.starts_with(";f0;f1;") && stacks[0].0.ends_with(";f2047;[stack too deep]"));
}

#[test]
fn what_is_too_light_to_be_drawn_is_said() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;big", 90), ("main;small", 10)])]));
    let answer = server.ask("/api/flamegraph?nodes=3");
    assert_eq!(folded(&answer), [(";main;big".to_owned(), 90)]);
    assert_eq!(answer["hidden"]["nodes"], 1);
    assert_eq!(answer["hidden"]["value"], 10);
    assert_eq!(rows(&answer).len(), 3, "the table stays whole");
}

#[test]
fn a_location_without_a_name_is_called_by_its_address() {
    let server = Running::start(Config::default());
    let mut nameless = profile(&[("main@/usr/lib/libfoo.so", 1)]);
    nameless.location[0].line.clear();
    nameless.location[0].address = 0x1234;
    server.push(&request("a", &[nameless.encode_to_vec()]));
    let answer = server.ask("/api/flamegraph");
    assert_eq!(folded(&answer), [(";libfoo.so+0x1234".to_owned(), 1)]);
}

#[test]
fn a_question_asked_again_costs_no_answer() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main", 1)])]));
    let mut client = server.connect();
    let first = client.send("GET", "/api/flamegraph", &[], b"");
    let tag = first.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert_eq!(client.send("GET", "/api/flamegraph", &[("If-None-Match", &tag)], b"").status, 304);
    server.push(&request("a", &[bytes(&[("main", 1)])]));
    assert_eq!(client.send("GET", "/api/flamegraph", &[("If-None-Match", &tag)], b"").status, 200);
}
