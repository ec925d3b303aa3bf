//! Any profiles, pushed and asked for: every answer is what a naive account of the pushed stacks says, however little of it
//! may be told; children lie inside their parents, and what a function weighs alone and what it calls weigh what it weighs.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What stacks weigh alone, root first with `;` between.
type Account = BTreeMap<String, i64>;

/// A profile of a service.
#[derive(Clone, Debug)]
struct Pushed {
    service: &'static str,
    stacks: Account,
}

fn any_push() -> impl Strategy<Value = Pushed> {
    // Also what answers use themselves, and what merges by name only where the file does not matter.
    let frame = prop::sample::select(vec![
        "main",
        "work@/lib/a.so",
        "work@/lib/b.so",
        "other",
        "total",
        "ü<b>",
        "f",
        "g",
    ]);
    let stack = prop::collection::vec(frame, 1..6).prop_map(|frames| frames.join(";"));
    let stacks = prop::collection::btree_map(stack, 1..1_000_000_i64, 1..20);
    (prop::sample::select(vec!["left", "right"]), stacks)
        .prop_map(|(service, stacks)| Pushed { service, stacks })
}

/// All that was pushed of `service`, by names alone.
fn naive(all: &[Pushed], service: &str) -> Account {
    let mut account = Account::new();
    for (stack, value) in
        all.iter().filter(|pushed| pushed.service == service).flat_map(|pushed| &pushed.stacks)
    {
        let names: Vec<_> = stack.split(';').map(|frame| frame.split('@').next().unwrap()).collect();
        *account.entry(names.join(";")).or_default() += value;
    }
    account
}

fn number(value: &Value) -> i64 {
    value.as_str().map_or_else(|| value.as_i64().unwrap_or(0), |text| text.parse().unwrap())
}

/// The stacks of a flame graph of one or two sides with what each weighs alone on each side, after a look at how they lie.
fn laid<const SIDES: usize>(graph: &Value) -> BTreeMap<String, [i64; SIDES]> {
    struct Lying<const SIDES: usize> {
        stack: String,
        from: [i64; SIDES],
        until: [i64; SIDES],
        own: [i64; SIDES],
        called: [i64; SIDES],
    }
    let names: Vec<_> =
        graph["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let mut account = BTreeMap::new();
    let mut above: Vec<Lying<SIDES>> = Vec::new();
    let mut finish = |level: Vec<Lying<SIDES>>| {
        for Lying { stack, from, until, own, called } in level {
            for side in 0..SIDES {
                assert_eq!(own[side] + called[side], until[side] - from[side], "{stack} on side {side}");
            }
            if own != [0; SIDES] {
                let sum: &mut [i64; SIDES] = account.entry(stack).or_insert([0; SIDES]);
                sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            }
        }
    };
    for level in graph["levels"].as_array().unwrap() {
        let values: Vec<i64> = level["values"].as_array().unwrap().iter().map(number).collect();
        let mut here: Vec<Lying<SIDES>> = Vec::new();
        let mut at = [0_i64; SIDES];
        for node in values.chunks(3 * SIDES + 1) {
            let part = |side: usize, what: usize| node[3 * side + what];
            let from: [i64; SIDES] = std::array::from_fn(|side| at[side] + part(side, 0));
            let until: [i64; SIDES] = std::array::from_fn(|side| from[side] + part(side, 1));
            let own: [i64; SIDES] = std::array::from_fn(|side| part(side, 2));
            at = until;
            let name = names[usize::try_from(node[3 * SIDES]).unwrap()];
            let inside = |parent: &&mut Lying<SIDES>| {
                (0..SIDES).all(|side| {
                    parent.from[side] + parent.own[side] <= from[side] && until[side] <= parent.until[side]
                })
            };
            let stack = match above.iter_mut().find(inside) {
                Some(parent) => {
                    (0..SIDES).for_each(|side| parent.called[side] += until[side] - from[side]);
                    if parent.stack.is_empty() { name.to_owned() } else { format!("{};{name}", parent.stack) }
                }
                None => {
                    assert!(above.is_empty(), "{name} lies outside of all that could call it");
                    String::new()
                }
            };
            here.push(Lying { stack, from, until, own, called: [0; SIDES] });
        }
        finish(std::mem::replace(&mut above, here));
    }
    finish(above);
    account
}

/// What each side weighs in all.
fn sum<const SIDES: usize>(account: &BTreeMap<String, [i64; SIDES]>) -> [i64; SIDES] {
    let mut sum = [0; SIDES];
    account.values().for_each(|own| (0..SIDES).for_each(|side| sum[side] += own[side]));
    sum
}

/// The stacks of a pprof in JSON.
fn of_pprof(profile: &Value) -> Account {
    let list = |name: &str| profile[name].as_array().cloned().unwrap_or_default();
    let by_id =
        |name: &str| list(name).into_iter().map(|one| (number(&one["id"]), one)).collect::<HashMap<_, _>>();
    let (functions, locations, texts) = (by_id("function"), by_id("location"), list("stringTable"));
    let mut account = Account::new();
    for sample in list("sample") {
        let mut names: Vec<_> = (sample["locationId"].as_array().unwrap().iter())
            .map(|id| &functions[&number(&locations[&number(id)]["line"][0]["functionId"])])
            .map(|function| texts[usize::try_from(number(&function["name"])).unwrap()].as_str().unwrap())
            .collect();
        names.reverse();
        *account.entry(names.join(";")).or_default() += number(&sample["value"][0]);
    }
    account
}

/// The stacks of what the page is sent, and what it is told was left out.
fn of_page(answer: &Value) -> (Account, i64) {
    let (nodes, functions) = (&answer["nodes"], &answer["functions"]);
    let at = |list: &Value, index: usize| usize::try_from(number(&list[index])).unwrap();
    let count = nodes["parent"].as_array().unwrap().len();
    let mut stacks = vec![String::new(); count];
    let mut left: Vec<i64> =
        (0..count).map(|node| number(&nodes["total"][node]) - number(&nodes["self"][node])).collect();
    let mut account = Account::new();
    for node in 0..count {
        if node > 0 {
            let parent = at(&nodes["parent"], node);
            let name =
                answer["texts"][at(&functions["name"], at(&nodes["function"], node))].as_str().unwrap();
            stacks[node] = if stacks[parent].is_empty() {
                name.to_owned()
            } else {
                format!("{};{name}", stacks[parent])
            };
            left[parent] -= number(&nodes["total"][node]);
        }
        let own = number(&nodes["self"][node]);
        if own > 0 {
            *account.entry(stacks[node].clone()).or_default() += own;
        }
    }
    assert!(left.iter().all(|&left| left >= 0), "children are no heavier than what calls them: {left:?}");
    let hidden = number(&answer["hidden"]["value"]);
    assert_eq!(left.iter().sum::<i64>(), hidden, "what is missing below all nodes is what is hidden");
    (account, hidden)
}

fn ask(server: &Running, method: &str, question: &Value) -> Value {
    let path = format!("{}{method}", query::api::PATH);
    let answer = server.connect().send("POST", &path, &[JSON], question.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{method}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// A question about a service, in the last hour.
fn about(service: &str, nodes: usize, format: &str) -> Value {
    let now = WallNs::now().0 / 1_000_000;
    json!({
        "profileTypeID": "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
        "labelSelector": format!("{{service_name=\"{service}\"}}"),
        "start": now - 3_600_000, "end": now + 1000, "maxNodes": nodes, "format": format, "step": 7,
    })
}

fn check(all: &[Pushed], nodes: usize) {
    let server = Running::start(Config::default());
    for pushed in all {
        let stacks: Vec<_> = pushed.stacks.iter().map(|(stack, &value)| (stack.as_str(), value)).collect();
        assert_eq!(server.push(&request(pushed.service, &[bytes(&stacks)])).0, 200);
    }
    let expected = [naive(all, "left"), naive(all, "right")];
    let totals = expected.each_ref().map(|account| account.values().sum::<i64>());
    for (service, (expected, total)) in ["left", "right"].into_iter().zip(expected.iter().zip(totals)) {
        let alone = |account: BTreeMap<String, [i64; 1]>| {
            account.into_iter().map(|(stack, [own])| (stack, own)).collect::<Account>()
        };
        let whole = ask(&server, "SelectMergeStacktraces", &about(service, 1000, ""));
        assert_eq!(number(&whole["flamegraph"]["total"]), total);
        assert_eq!(alone(laid(&whole["flamegraph"])), *expected, "{service}");
        let cut = ask(&server, "SelectMergeStacktraces", &about(service, nodes, ""));
        assert_eq!(sum(&laid::<1>(&cut["flamegraph"])), [total], "{service} in {nodes} nodes");
        let pprof = ask(&server, "SelectMergeStacktraces", &about(service, 0, "PROFILE_FORMAT_PPROF"));
        assert_eq!(of_pprof(&pprof["pprof"]["profile"]), *expected, "{service}");
        assert_eq!(
            of_pprof(&ask(&server, "SelectMergeProfile", &about(service, 0, ""))),
            *expected,
            "{service}"
        );
        let series = ask(&server, "SelectSeries", &about(service, 0, ""));
        let points = series["series"][0]["points"].as_array().cloned().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "the values are small")]
        let due = total as f64;
        assert_eq!(
            points.iter().map(|point| point["value"].as_f64().unwrap()).sum::<f64>(),
            due,
            "{service}"
        );

        let path = format!("/api/flamegraph?service={service}&last=3600");
        assert_eq!(of_page(&server.ask(&path)), (expected.clone(), 0), "{service}");
        for view in ["calls", "inverted"] {
            let answer = server.ask(&format!("{path}&view={view}&nodes={nodes}"));
            let (shown, hidden) = of_page(&answer);
            assert_eq!(shown.values().sum::<i64>() + hidden, total, "{service} {view} in {nodes} nodes");
        }
    }
    for nodes in [1000, nodes] {
        let question = json!({ "left": about("left", nodes, ""), "right": about("right", nodes, "") });
        let both = laid::<2>(&ask(&server, "Diff", &question)["flamegraph"]);
        assert_eq!(sum(&both), totals, "in {nodes} nodes");
        if nodes == 1000 {
            for side in 0..2 {
                let one: Account = (both.iter())
                    .filter(|(_, own)| own[side] > 0)
                    .map(|(stack, own)| (stack.clone(), own[side]))
                    .collect();
                assert_eq!(one, expected[side]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_what_a_naive_account_says(
        all in prop::collection::vec(any_push(), 1..6),
        nodes in 1..30_usize,
    ) {
        check(&all, nodes);
    }
}
