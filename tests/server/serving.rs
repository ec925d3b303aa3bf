//! The embedded server as a process, and a client that speaks to it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use profiler_daemon::pprof::{Function, Line, Location, Message, Profile, Sample, Strings, ValueType};
use profiler_daemon::server::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use profiler_tests::harness::agent::Spoken;
use profiler_tests::harness::daemon::binary;
use rustix::process::Signal;

/// `serve` on a port of its own.
pub(crate) struct Serving {
    process: Spoken,
    url: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Serving {
    /// Starts it on the history in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    /// Starts it with further options.
    pub(crate) fn start_with(folder: &Path, options: &[&str]) -> Self {
        // Set by an earlier test already, perhaps.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder).args(options);
        let process = Spoken::start(&mut command);
        process.wait_until_said("stop: Ctrl-C");
        let said = process.said();
        let url = said.split_once("serving ").expect("it said where").1;
        let url = url.split_once("/ ").expect("an address ends").0.to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
        Self { process, url, client: client.build().expect("a client"), runtime }
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Pushes one profile; the status and the words of the answer, or nothing if there was none.
    pub(crate) fn push(&self, body: Vec<u8>) -> Option<(u16, String, Option<String>)> {
        let request = self.client.post(format!("{}/push.v1.PusherService/Push", self.url));
        let request = request.header("content-type", "application/proto").body(body);
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let later = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            let later = later.map(str::to_owned);
            Some((status, answer.text().await.ok()?, later))
        })
    }

    /// What all services of the last hour weigh.
    pub(crate) fn total(&self) -> u64 {
        let asked = self.client.get(format!("{}/api/services?last=3600", self.url));
        let answer = self.runtime.block_on(async { asked.send().await?.text().await });
        let answer: serde_json::Value =
            serde_json::from_str(&answer.expect("an answer")).expect("it is JSON");
        answer["total"].as_u64().expect("a total")
    }

    /// Kill -9 from elsewhere, after `delay`.
    pub(crate) fn kill_after(&self, delay: Duration) -> std::thread::JoinHandle<()> {
        let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).expect("a process");
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
        })
    }

    /// Waits until it has ended; all it said.
    pub(crate) fn ended(self) -> String {
        self.process.end(Duration::from_secs(10)).said
    }

    /// Stops it.
    pub(crate) fn stop(self) -> String {
        self.process.signal(Signal::TERM);
        self.ended()
    }
}

/// A push of one profile of that weight, in one of `stacks` stacks of a function each.
pub(crate) fn push_of(service: &str, weight: i64, stacks: usize) -> Vec<u8> {
    let mut strings = Strings::default();
    let cpu = ValueType { r#type: strings.intern("cpu"), unit: strings.intern("nanoseconds") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let mut profile = Profile {
        sample_type: vec![cpu],
        period_type: Some(cpu),
        time_nanos: i64::try_from(now).expect("before 2262") - 1_000_000_000,
        duration_nanos: 1_000_000_000,
        ..Profile::default()
    };
    for id in 1..=stacks as u64 {
        let name = strings.intern(&format!("{service}_{now}_{id}"));
        profile.function.push(Function { id, name, ..Function::default() });
        let line = vec![Line { function_id: id, line: 1 }];
        profile.location.push(Location { id, line, ..Location::default() });
        let value = if id == 1 { weight } else { 0 };
        profile.sample.push(Sample {
            location_id: vec![id],
            value: vec![value.max(i64::from(stacks > 1))],
            label: vec![],
        });
    }
    profile.string_table = strings.finish();
    let pair = |name: &str, value: &str| LabelPair { name: name.into(), value: value.into() };
    let samples = vec![RawSample { raw_profile: profile.encode_to_vec(), id: String::new() }];
    let labels = vec![pair("__name__", "process_cpu"), pair("service_name", service)];
    PushRequest { series: vec![RawProfileSeries { labels, samples }] }.encode_to_vec()
}
