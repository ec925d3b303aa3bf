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

#[test]
fn windows_fill_whole_steps_however_long_ago_they_ended() {
    let server = Running::start(Config::default());
    let newest = WallNs::now().0 - 47_300_000_000;
    let windows = [newest, newest - 10_000_000_000].map(|time_nanos| {
        let profile = Profile { time_nanos, ..profile(&[("main", 8_000)]) };
        profile.encode_to_vec()
    });
    server.push(&request("a", &windows));
    let answer = server.ask("/api/services?last=900");
    let points = answer["services"][0]["points"].as_array().unwrap();
    let points: Vec<_> = points.iter().filter(|&point| point != 0).collect();
    // Spread over three they would say that there was less than there was.
    assert_eq!(points, [8_000, 8_000]);
    let behind = answer["now_ms"].as_i64().unwrap() - answer["until_ms"].as_i64().unwrap();
    assert!((0..10_000).contains(&behind), "the range ends now, but for a window: {behind} ms ago");
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

/// What an answer in columns says, as JSON would have said it.
fn read_columns(bytes: &[u8]) -> Value {
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut answer: Value = serde_json::from_slice(&bytes[4..4 + length]).unwrap();
    let fields = answer.as_object_mut().unwrap();
    let [columns, texts] = ["columns", "texts"].map(|name| fields.remove(name).unwrap());
    let mut at = 4 + length;
    for column in columns.as_array().unwrap() {
        let [group, name] = [0, 1].map(|at| column[at].as_str().unwrap());
        let [size, count] = [2, 3].map(|at| index(&column[at]));
        assert_eq!(at % 8, 0, "{group}.{name} begins where a typed array may");
        let numbers = bytes[at..at + size * count].chunks_exact(size).map(|number| match size {
            1 => u64::from(number[0]),
            2 => u64::from(u16::from_le_bytes(number.try_into().unwrap())),
            4 => u64::from(u32::from_le_bytes(number.try_into().unwrap())),
            _ => f64::from_le_bytes(number.try_into().unwrap()).to_string().parse().unwrap(),
        });
        fields.entry(group).or_insert_with(|| serde_json::json!({}))[name] = numbers.collect();
        at = (at + size * count).next_multiple_of(8);
    }
    let all: Vec<u16> = std::str::from_utf8(&bytes[at..]).unwrap().encode_utf16().collect();
    assert_eq!(index(&texts), bytes.len() - at);
    let ends = fields["texts"]["end"].as_array().unwrap().iter().map(index);
    let texts = ends
        .scan(0, |begin, end| Some(String::from_utf16(&all[std::mem::replace(begin, end)..end]).unwrap()));
    fields["texts"] = texts.collect();
    answer
}

#[test]
fn columns_say_what_json_says() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;größe;𝕏::run", 90), ("main;small", 1 << 52)])]));
    server.push(&request("b", &[bytes(&[("main;größe", 7)])]));
    let now = WallNs::now().0 / 1_000_000;
    let range = format!("from={}&until={}&nodes=3", now - 60_000, now + 60_000);
    let b = "base_where=%7Bservice_name%3D%22b%22%7D";
    for question in ["service=a&", &format!("service=a&{b}&"), "service=nobody&"] {
        let path = format!("/api/flamegraph?{question}{range}");
        let (status, body) = server.connect().send_bytes("GET", &format!("{path}&form=columns"), &[], b"");
        assert_eq!(status, 200);
        let mut columns = read_columns(&body);
        // Only the page draws: each function has a shade there.
        let functions = columns["functions"].as_object_mut().unwrap();
        let shades = functions.remove("shade").unwrap();
        assert_eq!(shades.as_array().unwrap().len(), functions["name"].as_array().unwrap().len());
        assert_eq!(columns, server.ask(&path));
    }
    let (status, _) = server.connect().send_bytes("GET", "/api/flamegraph?form=stones", &[], b"");
    assert_eq!(status, 400);
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

#[test]
fn labels_choose_and_tell_apart() {
    let server = Running::start(Config::default());
    for (service, host, value) in [("a", "one", 1), ("a", "two", 20), ("b", "two", 300)] {
        let mut request = request(service, &[bytes(&[("main", value)])]);
        request.series[0].labels.push(LabelPair { name: "host".to_owned(), value: host.to_owned() });
        server.push(&request);
    }
    let named = |path: &str| {
        let answer = server.ask(path);
        let services = answer["services"].as_array().unwrap();
        services
            .iter()
            .map(|one| format!("{} {}", one["name"].as_str().unwrap(), one["total"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(named("/api/services?group=host"), ["two 320", "one 1"]);
    assert_eq!(named("/api/services?group=nobody"), [" 321"]);
    assert_eq!(named("/api/services?where=%7Bhost%3D%22two%22%7D"), ["b 300", "a 20"]);
    let answer = server.ask("/api/flamegraph?where=%7Bhost%3D~%22t.*%22%7D&service=a");
    assert_eq!(answer["total"], 20);
    let answer = server.connect().send("GET", "/api/flamegraph?where=%7Bhost", &[], b"");
    assert_eq!(answer.status, 400);
}

#[test]
fn services_weigh_what_their_stacks_do_that_are_asked_for() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;work;leaf", 60), ("main;leaf", 30), ("main", 10)])]));
    server.push(&request("b", &[bytes(&[("main;work", 5)])]));
    let answer = server.ask("/api/services?only=leaf%0Amain&hide=work");
    let services = answer["services"].as_array().unwrap();
    assert_eq!((services.len(), &services[0]["name"], &services[0]["total"]), (1, &"a".into(), &90.into()));
    let points = services[0]["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|point| point.as_u64().unwrap()).sum::<u64>(), 90);
    assert_eq!(server.ask("/api/services?only=%2FWORK%2F")["total"], 65);
    assert_eq!(server.ask("/api/services?only=nobody")["services"], serde_json::json!([]));
    assert_eq!(server.ask("/api/services?hide=main")["total"], 105, "hidden frames keep their weight");
}

#[test]
fn of_many_stacks_those_too_thin_to_be_drawn_stay_out() {
    let server = Running::start(Config::default());
    let leaves: Vec<_> = (0..50).map(|leaf| (format!("main;leaf{leaf}"), 1 + leaf % 2)).collect();
    let leaves: Vec<_> = leaves.iter().map(|(stack, value)| (stack.as_str(), *value)).collect();
    server.push(&request("a", &[bytes(&leaves), bytes(&[("main;big", 100)])]));
    let sent = |parts: u32| {
        let answer = server.ask(&format!("/api/flamegraph?nodes=52&parts={parts}"));
        (folded(&answer).len(), answer["hidden"]["value"].as_u64().unwrap())
    };
    // All of it weighs 175, and it has a node too many to be sent whole.
    assert_eq!(sent(87), (26, 25));
    assert_eq!(sent(10), (1, 75));
    assert_eq!(server.ask("/api/flamegraph?nodes=53&parts=10")["hidden"]["value"], 0);
}

#[test]
fn the_table_is_the_same_from_whichever_end_stacks_are_read() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;work;leaf", 60), ("main;leaf", 30), ("main", 10)])]));
    let plain = server.ask("/api/flamegraph");
    let inverted = server.ask("/api/flamegraph?view=inverted");
    assert_eq!(rows(&inverted), rows(&plain));
    assert_eq!(
        folded(&inverted).iter().map(|(stack, own)| format!("{stack} {own}")).collect::<Vec<_>>(),
        [";leaf;work;main 60", ";leaf;main 30", ";main 10"]
    );
    let hidden = server.ask("/api/flamegraph?hide=leaf");
    assert_eq!(folded(&hidden), [(";main".to_owned(), 40), (";main;work".to_owned(), 60)]);
}

#[test]
fn what_was_too_light_is_sent_to_who_comes_near() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("big", 80), ("small;one", 9), ("small;two", 2), ("tiny", 9)])]));
    // `key` of the page for `small`, which has no module.
    let units = "small\0".encode_utf16();
    let mut key =
        units.fold(0x811c_9dc5_u32, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(0x0100_0193));
    let mut below = String::new();
    while key > 0 {
        below.insert(0, char::from_digit(key % 36, 36).unwrap());
        key /= 36;
    }
    let sent = |path: &str| folded(&server.ask(path)).into_iter().map(|(stack, _)| stack).collect::<Vec<_>>();
    assert_eq!(sent("/api/flamegraph?nodes=3"), [";big"]);
    assert_eq!(sent(&format!("/api/flamegraph?nodes=3&below={below}")), [";big", ";small;one", ";small;two"]);
    // Who has the rest already is sent no more than that, of few nodes too; all of it is weighed.
    let alone = server.ask(&format!("/api/flamegraph?only_below=true&below={below}"));
    assert_eq!(folded(&alone), [(";small;one".to_owned(), 9), (";small;two".to_owned(), 2)]);
    assert_eq!((&alone["total"], rows(&alone).len()), (&100.into(), 0));
    assert_eq!(rows(&server.ask("/api/flamegraph?only_below=true")).len(), 5, "below nothing is everything");
}

#[test]
fn two_sides_are_told_stack_by_stack() {
    let server = Running::start(Config::default());
    server.push(&request("a", &[bytes(&[("main;same", 50), ("main;more", 50)])]));
    server.push(&request("b", &[bytes(&[("main;same", 100), ("main;gone", 100)])]));
    let answer = server
        .ask("/api/flamegraph?where=%7Bservice_name%3D%22a%22%7D&base_where=%7Bservice_name%3D%22b%22%7D");
    assert_eq!((&answer["all"], &answer["base_all"]), (&100.into(), &200.into()));
    let name = |function: &Value| {
        answer["texts"][index(&answer["functions"]["name"][index(function)])].as_str().unwrap()
    };
    let nodes = &answer["nodes"];
    let sides: Vec<_> = (0..nodes["function"].as_array().unwrap().len())
        .map(|at| {
            format!("{} {} {}", name(&nodes["function"][at]), nodes["total"][at], nodes["base_total"][at])
        })
        .collect();
    assert_eq!(sides, [" 100 200", "main 100 200", "same 50 100", "gone 0 100", "more 50 0"]);
    let rows = &answer["rows"];
    let row = (0..4).find(|&row| name(&rows["function"][row]) == "gone").unwrap();
    assert_eq!((&rows["self"][row], &rows["base_self"][row]), (&0.into(), &100.into()));
    let answer = server.connect().send("GET", "/api/flamegraph?base_from=1", &[], b"");
    assert_eq!(answer.status, 400);
}
