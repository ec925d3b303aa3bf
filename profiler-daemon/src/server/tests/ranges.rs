//! Absurd ranges and numbers, asked of everything that takes some: an answer or a refusal with words, at once, and no
//! more of it than of any other question.

use super::*;

/// How long a question may take on a machine that does much else.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer about one profile, whatever was asked.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Both ends of a range, in milliseconds.
const RANGES: &[[&str; 2]] = &[
    ["0", "0"],
    ["0", "1"],
    ["-1", "1"],
    ["1", "-1"],
    ["0", "9223372036854775807"],
    ["1", "9223372036854775807"],
    ["0", "9223372036854775808"],
    ["-9223372036854775808", "9223372036854775807"],
    ["-9223372036854775808", "-9223372036854775808"],
    ["-9223372036854775807", "-9223372036854775806"],
    ["9223372036854775806", "9223372036854775807"],
    ["9223372036854775807", "9223372036854775807"],
    // The first and the last whole milliseconds that have a nanosecond to them.
    ["-9223372036854", "-9223372036853"],
    ["-9223372036854", "-9223372000000"],
    ["9223372036853", "9223372036854"],
    ["9223372000000", "9223372036854"],
    ["1795360230000", "1795360229999"],
    ["1", "253402300799000"],
    ["1e300", "2e300"],
    ["NaN", "Infinity"],
];

fn pushed() -> Running {
    let server = Running::start(Config::default());
    assert_eq!(server.push(&request("a", &[bytes(&[("main;work", 5)])])).0, 200);
    server
}

/// What one asks and what it is answered: 200 or 400, soon, and not much.
#[track_caller]
fn check(server: &Running, method: &str, path: &str, body: &str) -> u16 {
    let began = Instant::now();
    let headers: &[(&str, &str)] = if method == "POST" { &[JSON] } else { &[] };
    let answer = server.connect().send(method, path, headers, body.as_bytes());
    let took = began.elapsed();
    assert!(matches!(answer.status, 200 | 400), "{path} {body}: {} {}", answer.status, answer.body);
    assert!(took < ANSWER_WITHIN, "{path} {body}: {took:?}");
    assert!(answer.body.len() < ANSWER_BYTES_MAX, "{path} {body}: {} bytes", answer.body.len());
    answer.status
}

const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

#[test]
fn everything_a_pyroscope_is_asked_has_an_answer_to_any_range() {
    let server = pushed();
    let mut refused = 0;
    for [from, until] in RANGES {
        // Numbers as they stand, and as texts, which JSON has for those that are large.
        for [from, until] in
            [[(*from).to_owned(), (*until).to_owned()], [from, until].map(|t| format!("{t:?}"))]
        {
            let range = format!("\"start\":{from},\"end\":{until}");
            let one = format!("\"profileTypeID\":\"{CPU}\",\"labelSelector\":\"{{}}\",{range}");
            let asked = [
                ("ProfileTypes", format!("{{{range}}}")),
                ("LabelNames", format!("{{{range}}}")),
                ("LabelValues", format!("{{\"name\":\"service_name\",{range}}}")),
                ("Series", format!("{{\"matchers\":[\"{{}}\"],{range}}}")),
                ("SelectMergeStacktraces", format!("{{{one}}}")),
                ("SelectMergeProfile", format!("{{{one}}}")),
                ("SelectSeries", format!("{{{one},\"step\":0.001}}")),
                ("Diff", format!("{{\"left\":{{{one}}},\"right\":{{{one}}}}}")),
            ];
            for (method, body) in asked {
                let status = check(&server, "POST", &format!("{}{method}", query::api::PATH), &body);
                refused += u32::from(status == 400);
            }
        }
    }
    assert!(refused > 100, "most of them make no sense: {refused}");
    assert_eq!(server.total(), 5);
}

#[test]
fn older_clients_questions_and_the_pages_have_an_answer_to_any_range() {
    let server = pushed();
    let query = format!("{CPU}%7B%7D");
    let mut refused = 0;
    let words = [["now-99999999y", "now"], ["now", "now-1h"], ["yesterday", "now"], ["", ""]];
    for [from, until] in RANGES.iter().chain(&words) {
        let base = format!("leftFrom={from}&leftUntil={until}&rightFrom={until}&rightUntil={from}");
        for path in [
            format!("/pyroscope/render?query={query}&from={from}&until={until}"),
            format!("/pyroscope/render?query={query}&from={from}&until={until}&groupBy=service_name"),
            format!("/pyroscope/render-diff?leftQuery={query}&rightQuery={query}&{base}"),
            format!("/api/services?from={from}&until={until}&points=500"),
            format!("/api/flamegraph?from={from}&until={until}"),
            format!("/api/flamegraph?last=60&base_from={from}&base_until={until}"),
            format!("/api/services?last={until}"),
        ] {
            refused += u32::from(check(&server, "GET", &path, "") == 400);
        }
    }
    assert!(refused > 50, "most of them make no sense: {refused}");
    assert_eq!(server.total(), 5);
}

#[test]
fn a_step_of_nothing_or_of_years_is_bounded_work() {
    let server = pushed();
    let now = WallNs::now().0 / 1_000_000;
    for step in
        ["0", "-1", "1e-9", "0.0004", "0.001", "1", "1e9", "1e18", "1e308", "\"NaN\"", "\"Infinity\"", "null"]
    {
        for (start, end) in [(now - 86_400_000, now), (now - 1, now), (1, i64::MAX)] {
            let body = format!(
                "{{\"profileTypeID\":\"{CPU}\",\"labelSelector\":\"{{}}\",\"start\":{start},\"end\":{end},\"step\":{step}}}"
            );
            check(&server, "POST", &format!("{}SelectSeries", query::api::PATH), &body);
        }
    }
    let many = ["0", "1", "18446744073709551615", "99999999999999999999", "-1"];
    for number in many {
        check(&server, "GET", &format!("/api/services?last=86400&points={number}"), "");
        check(&server, "GET", &format!("/api/flamegraph?last=86400&nodes={number}"), "");
        check(
            &server,
            "GET",
            &format!("/pyroscope/render?query={CPU}%7B%7D&from=now-1h&max-nodes={number}"),
            "",
        );
    }
}
