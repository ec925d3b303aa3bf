//! Tier 6: a run pushed to a real Pyroscope and read back: what the server shows is what the agent says it delivered.
//!
//! `PYROSCOPE_URL=http://127.0.0.1:4040 cargo xtask test real_pyroscope`; skipped aloud without it.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::gate;
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;
use serde_json::{Value, json};

const FREQUENCY_HZ: u64 = 99;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the year 500 million")
}

/// Asks one procedure of the querier.
async fn ask(client: &reqwest::Client, url: &str, procedure: &str, question: &Value) -> Value {
    let address = format!("{url}/querier.v1.QuerierService/{procedure}");
    let body = question.to_string();
    let request = client.post(&address).header("Content-Type", "application/json").body(body);
    let answer = request.send().await.expect("the server answers");
    let status = answer.status();
    let text = answer.text().await.expect("a whole answer");
    assert!(status.is_success(), "{address}: {status} {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The number that protojson writes as text, and leaves out where it is zero.
fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().expect("a number"))
}

#[test]
fn what_was_delivered_is_what_a_real_pyroscope_shows() {
    need!(gate::bpf());
    let url = match gate::pyroscope() {
        Ok(url) => url,
        Err(missing) => return gate::skip("what_was_delivered_is_what_a_real_pyroscope_shows", &missing),
    };
    let url = url.trim_end_matches('/');
    let start = now_ms();
    let hostname = format!("test-{start}");
    let work = Running::start(Command::new(workloads::shop_c("wl-pyroscope")).arg("8"));
    let agent = Agent::start(&[
        "--server",
        url,
        "--interval",
        "2s",
        "--frequency",
        &FREQUENCY_HZ.to_string(),
        "--hostname",
        &hostname,
    ]);
    let _ = work.finish();
    let ended = agent.stop();
    let books = ended.books();
    assert_eq!(books.lost_by_us, 0, "{}", ended.said);
    assert!(books.delivered > 500, "{}", ended.said);

    let question = |selector: String| {
        json!({
            "profileTypeID": "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "labelSelector": selector,
            "start": start.saturating_sub(60_000).to_string(),
            "end": (now_ms() + 60_000).to_string(),
            "maxNodes": "1000000",
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client =
            reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().expect("a client");
        let all = question(format!("{{hostname=\"{hostname}\"}}"));
        let answer = ask(&client, url, "SelectMergeStacktraces", &all).await;
        let shown = number(&answer["flamegraph"]["total"]);
        let period_ns = 1_000_000_000 / FREQUENCY_HZ;
        assert_eq!(shown, books.delivered * period_ns, "{}", ended.said);

        let one = question(format!("{{hostname=\"{hostname}\",service_name=\"wl-pyroscope\"}}"));
        let answer = ask(&client, url, "SelectMergeStacktraces", &one).await;
        let names = answer["flamegraph"]["names"].as_array().expect("names");
        for name in ["main", "checkout", "price", "report"] {
            assert!(names.iter().any(|found| found == name), "no {name} in {names:?}");
        }
        println!("{} samples delivered, {} ns shown: equal", books.delivered, shown);
    });
}
