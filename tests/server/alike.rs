//! The same profiles pushed to a real Pyroscope and to ours, and every question of clients asked of both.
//!
//! `PYROSCOPE_URL=http://127.0.0.1:4040 cargo xtask test server`; skipped aloud without it. The real one has to have one kind of storage
//! (`-architecture.storage=v2`): between two it splits a range, and then it answers in pieces of its own. What is compared is what an
//! answer says: names in a flame graph are numbered as they come, and JSON has its keys in any order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use profiler_daemon::pprof::{Function, Line, Location, Message, Profile, Sample, Strings, ValueType};
use profiler_daemon::server::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use profiler_tests::harness::gate;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::serving::Serving;

const MS: i64 = 1_000_000;
const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

/// One profile of `service` on `host`, of stacks in millions of nanoseconds, root first.
fn push_of(service: &str, host: &str, at_ms: i64, stacks: &[(&str, i64)]) -> Vec<u8> {
    let mut strings = Strings::default();
    let cpu = ValueType { r#type: strings.intern("cpu"), unit: strings.intern("nanoseconds") };
    let mut profile = Profile {
        sample_type: vec![cpu],
        period_type: Some(cpu),
        period: 10_000_000,
        time_nanos: at_ms * MS,
        duration_nanos: 1_000 * MS,
        ..Profile::default()
    };
    let mut known: Vec<&str> = Vec::new();
    for (stack, value) in stacks {
        let mut location_id: Vec<u64> = (stack.split(';'))
            .map(|name| {
                let at = known.iter().position(|known| *known == name).unwrap_or_else(|| {
                    known.push(name);
                    let id = known.len() as u64;
                    profile.function.push(Function { id, name: strings.intern(name), ..Function::default() });
                    let line = vec![Line { function_id: id, line: 1 }];
                    profile.location.push(Location { id, line, ..Location::default() });
                    known.len() - 1
                });
                at as u64 + 1
            })
            .collect();
        location_id.reverse();
        profile.sample.push(Sample { location_id, value: vec![value * MS], label: vec![] });
    }
    profile.string_table = strings.finish();
    let pair = |name: &str, value: &str| LabelPair { name: name.into(), value: value.into() };
    let labels = vec![pair("__name__", "process_cpu"), pair("host", host), pair("service_name", service)];
    let samples = vec![RawSample { raw_profile: profile.encode_to_vec(), id: String::new() }];
    PushRequest { series: vec![RawProfileSeries { labels, samples }] }.encode_to_vec()
}

/// What both are asked about one service: a name for each question, and the question.
fn questions(service: &str, from: i64, until: i64) -> Vec<(String, Asked)> {
    let selector = format!("{{service_name=\"{service}\"}}");
    let on = |host: &str| format!("{{service_name=\"{service}\", host=\"{host}\"}}");
    let merge = |selector: &str| json!({ "profileTypeID": CPU, "labelSelector": selector, "start": from, "end": until, "maxNodes": "10000" });
    let with = |mut question: Value, more: &[(&str, Value)]| {
        for (key, value) in more {
            question[*key] = value.clone();
        }
        question
    };
    let call = |method: &str, question: Value| {
        (format!("{method} {question}"), Asked::Call { method: method.to_owned(), question })
    };
    let get = |path: String| (path.clone(), Asked::Get { path });
    let ranged = |more: Value| with(more, &[("start", from.into()), ("end", until.into())]);
    let query = |selector: &str| {
        format!("{CPU}{selector}").replace('{', "%7B").replace('}', "%7D").replace(' ', "%20")
    };
    vec![
        call("LabelNames", ranged(json!({ "matchers": [selector] }))),
        call("LabelValues", ranged(json!({ "matchers": [selector], "name": "host" }))),
        call("LabelValues", ranged(json!({ "matchers": [selector], "name": "__profile_type__" }))),
        call("LabelValues", ranged(json!({ "matchers": [selector], "name": "nobody" }))),
        call("Series", ranged(json!({ "matchers": [selector] }))),
        call("Series", ranged(json!({ "matchers": [selector], "labelNames": ["host", "service_name"] }))),
        call("SelectMergeStacktraces", merge(&selector)),
        call("SelectMergeStacktraces", merge(&on("h1"))),
        call("SelectMergeStacktraces", merge(&format!("{{service_name=\"{service}\", host=~\"h[2-9]\"}}"))),
        call("SelectMergeStacktraces", merge("{service_name=\"nobody at all\"}")),
        call("SelectMergeStacktraces", with(merge(&selector), &[("format", "PROFILE_FORMAT_PPROF".into())])),
        call("SelectMergeStacktraces", with(merge(&selector), &[("start", (from + 60_000).into())])),
        call("SelectMergeProfile", merge(&selector)),
        call("SelectSeries", with(merge(&selector), &[("step", 15.into())])),
        call("SelectSeries", with(merge(&selector), &[("step", 7.into()), ("groupBy", json!(["host"]))])),
        call("SelectSeries", with(merge(&selector), &[("step", 0.into())])),
        call("Diff", json!({ "left": merge(&on("h1")), "right": merge(&on("h2")) })),
        call("Diff", json!({ "left": merge(&selector), "right": merge("{service_name=\"nobody at all\"}") })),
        get(format!("/pyroscope/render?query={}&from={from}&until={until}", query(&selector))),
        get(format!(
            "/pyroscope/render?query={}&from={}&until={until}",
            query(&selector),
            until - 20 * 3_600_000
        )),
        get(format!("/pyroscope/render?query={}&from={from}&until={until}&groupBy=host", query(&selector))),
        get(format!(
            "/pyroscope/render-diff?leftQuery={0}&rightQuery={1}&leftFrom={from}&leftUntil={until}&rightFrom={from}&rightUntil={until}",
            query(&on("h1")),
            query(&on("h2"))
        )),
        get(format!("/pyroscope/render?query={}&from={until}&until={from}", query(&selector))),
    ]
}

enum Asked {
    Call { method: String, question: Value },
    Get { path: String },
}

/// What `asked` ends with, milliseconds, if it asks for series.
fn end_of_series(asked: &Asked) -> Option<i64> {
    match asked {
        Asked::Call { method, question } if method == "SelectSeries" => question["end"].as_i64(),
        Asked::Call { .. } | Asked::Get { .. } => None,
    }
}

/// Series without what lies in a step that begins before `end` and ends after it. A Pyroscope leaves that step out; with us
/// it stays, on purpose: without it series weigh less than what a merge of the same range does.
fn until_end(mut said: Value, end: i64) -> Value {
    for series in said.get_mut("series").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(points) = series.get_mut("points").and_then(Value::as_array_mut) {
            points.retain(|point| number(&point["timestamp"]) <= end);
        }
    }
    said
}

/// The status and what is said.
async fn ask(client: &reqwest::Client, url: &str, asked: &Asked) -> (u16, Value) {
    let request = match asked {
        Asked::Get { path } => client.get(format!("{url}{path}")),
        Asked::Call { method, question } => client
            .post(format!("{url}/querier.v1.QuerierService/{method}"))
            .header("Content-Type", "application/json")
            .body(question.to_string()),
    };
    let answer = request.send().await.expect("the server answers");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a whole answer");
    let said: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    // How a refusal is put into words is everyone's own.
    if status == 200 { (status, plain(&said)) } else { (status, said["code"].clone()) }
}

fn number(value: &Value) -> i64 {
    value.as_str().map_or_else(|| value.as_i64().unwrap_or(0), |text| text.parse().expect("a number"))
}

/// An answer with names in place of their numbers.
fn plain(said: &Value) -> Value {
    match said {
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(object) if object.contains_key("levels") => levels(said),
        Value::Object(object) if object.contains_key("stringTable") => stacks(said),
        Value::Object(object) => {
            let fields = object.iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name.clone(), plain(value))).collect())
        }
        other => other.clone(),
    }
}

/// A flame graph: what each level is made of.
fn levels(graph: &Value) -> Value {
    let values = |level: &Value| -> Vec<i64> {
        let values = level.get("values").unwrap_or(level).as_array().expect("a level");
        values.iter().map(number).collect()
    };
    let levels = graph["levels"].as_array().expect("levels");
    // The root is alone on the first.
    let width = levels.first().map_or(4, |root| values(root).len());
    let level = |level: &Value| -> Value {
        let node = |node: &[i64]| {
            let name = usize::try_from(node[width - 1]).expect("a name");
            json!([node[..width - 1], graph["names"][name]])
        };
        values(level).chunks(width).map(node).collect()
    };
    let ticks = ["total", "maxSelf", "leftTicks", "rightTicks", "numTicks"].map(|name| number(&graph[name]));
    json!({ "levels": levels.iter().map(level).collect::<Vec<_>>(), "ticks": ticks })
}

/// A pprof: its stacks and what they weigh.
fn stacks(profile: &Value) -> Value {
    let list = |name: &str| profile[name].as_array().cloned().unwrap_or_default();
    let find =
        |name: &str, id: &Value| list(name).into_iter().find(|one| one["id"] == *id).expect("it is there");
    let text =
        |place: &Value| profile["stringTable"][usize::try_from(number(place)).expect("a text")].clone();
    let mut stacks: Vec<String> = (list("sample").iter())
        .map(|sample| {
            let names = sample["locationId"].as_array().expect("locations").iter();
            let names = names
                .map(|id| text(&find("function", &find("location", id)["line"][0]["functionId"])["name"]));
            format!("{:?} {}", names.collect::<Vec<_>>(), sample["value"][0])
        })
        .collect();
    stacks.sort();
    json!({ "stacks": stacks, "type": text(&profile["sampleType"][0]["type"]), "period": profile["period"] })
}

#[test]
fn a_real_pyroscope_with_the_same_profiles_says_the_same() {
    let real = match gate::pyroscope() {
        Ok(url) => url.trim_end_matches('/').to_owned(),
        Err(missing) => return gate::skip("a_real_pyroscope_with_the_same_profiles_says_the_same", &missing),
    };
    let folder = TempDir::new().expect("a folder");
    let ours = Serving::start(folder.path());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let now = i64::try_from(now).expect("before the year 292 million");
    let from = now - 180_000;
    let service = format!("alike-{now}");
    let mut pushes = Vec::new();
    for (window, work) in [(0, 100), (15_000, 250), (30_500, 400), (90_000, 700), (179_000, 1)] {
        let stacks = [
            ("main;gc", 30),
            ("main;handle", 50),
            ("main;handle;work", work),
            ("main;handle;read;syscall", 200),
        ];
        pushes.push(push_of(&service, "h1", from + window, &stacks));
        pushes.push(push_of(
            &service,
            "h2",
            from + window,
            &[("main;gc", 3), ("main;handle;work", 10), ("start", work)],
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().expect("a client");
    let mut different = Vec::new();
    let (mut asked, mut answered) = (0, 0);
    runtime.block_on(async {
        for body in &pushes {
            for url in [real.as_str(), ours.url()] {
                let push = client.post(format!("{url}/push.v1.PusherService/Push"));
                let answer = push.header("content-type", "application/proto").body(body.clone()).send().await;
                assert_eq!(answer.expect("an answer").status().as_u16(), 200, "{url}");
            }
        }
        for (name, question) in questions(&service, from, now) {
            let (theirs, mut here) =
                (ask(&client, &real, &question).await, ask(&client, ours.url(), &question).await);
            if let Some(end) = end_of_series(&question) {
                here.1 = until_end(here.1, end);
            }
            asked += 1;
            answered += usize::from(theirs.0 == 200);
            if theirs != here {
                different
                    .push(format!("{name}\n  {} {}\n  instead of {} {}", here.0, here.1, theirs.0, theirs.1));
            }
        }
    });
    ours.stop();
    assert!(different.is_empty(), "{} of {asked}:\n{}", different.len(), different.join("\n"));
    assert_eq!(asked - answered, 2, "a step of nothing and a range that ends before it begins are refused");
    println!("{asked} questions answered alike");
}
