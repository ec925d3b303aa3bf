//! `POST /ingest`: how older agents and most SDKs deliver, one profile a request.
//!
//! In: a name with labels and a time in the address, and a body: a pprof, raw or as a part of a form, or text, or a trie
//! of text. Out: the same as `push` makes of it, with the codes that a Pyroscope gives here, or better ones: what holds
//! nothing that can be stored is refused, where that says 200.
//! Not here: what a pprof may be (`profile`).

mod folded;
mod form;
mod name;

use std::collections::HashMap;

use bytes::Bytes;
use http::{Method, StatusCode};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::meters::ServerMeters;
use super::profile::{self, Limits};
use super::refusal::{Code, Refusal};
use super::store::Store;
use super::web::{Answer, method_not_allowed, text};
use crate::pprof::Message;
use crate::time::{WallNs, moment_ms};

pub(super) use form::{Form, parts};

/// Where profiles are sent.
pub(super) const PATHS: [&str; 2] = ["/ingest", "/pyroscope/ingest"];

const MS: i64 = 1_000_000;
/// Samples a second where the sender does not say.
const SAMPLE_RATE: u64 = 100;

/// What a request says beside its body.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Of the address.
    pub(super) parameters: &'a HashMap<String, String>,
    /// As the sender calls the body.
    pub(super) content_type: &'a str,
}

impl Asked<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// An answer if the body need not be read.
pub(super) fn accept(method: &Method) -> Result<(), Box<Answer>> {
    if method == Method::POST { Ok(()) } else { Err(Box::new(method_not_allowed("POST"))) }
}

/// A refusal as it is written here.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal.reason {
        "unprocessable" => StatusCode::UNPROCESSABLE_ENTITY,
        "body size" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => refusal.code.status(),
    };
    let mut answer = super::web::refused(refusal);
    *answer.status_mut() = status;
    answer
}

/// Puts the profile into the store and answers; a good answer may leave when the store is safe.
pub(super) fn answer(
    asked: &Asked<'_>,
    body: Form,
    limits: &Limits,
    store: &mut Store,
    meters: &ServerMeters,
) -> Answer {
    let stored = take(asked, body, limits, WallNs::now(), store, meters);
    meters.store_bytes(store.bytes(), store.disk_bytes());
    match stored {
        Ok(()) => text(StatusCode::OK, "text/plain; charset=utf-8", Bytes::new()),
        Err(refusal) => {
            meters.refused(&refusal);
            refused(&refusal)
        }
    }
}

/// A refusal of a body that is not what it is said to be.
fn unprocessable(message: impl Into<String>) -> Refusal {
    Refusal::invalid("unprocessable", message)
}

fn take(
    asked: &Asked<'_>,
    body: Form,
    limits: &Limits,
    now: WallNs,
    store: &mut Store,
    meters: &ServerMeters,
) -> Result<(), Refusal> {
    let (app, labels) = name::parse(asked.parameter("name").unwrap_or_default())?;
    let moment = |name: &str| {
        let given = asked.parameter(name)?;
        // Nanoseconds stay what they are: a window's length is told by them.
        given
            .parse()
            .ok()
            .filter(|&ns: &i64| ns >= 10_000_000_000_000_000)
            .or_else(|| moment_ms(given, now)?.checked_mul(MS))
    };
    let from = moment("from").unwrap_or(now.0);
    let length_ns = moment("until").map_or(0, |until| until.saturating_sub(from)).max(0);
    let format = asked.parameter("format").unwrap_or_default();
    let spy = asked.parameter("spyName").unwrap_or("unknown");
    if format == "jfr" || format == "speedscope" {
        let message = format!(
            "profiles in {format} are not read here: send pprof or folded text, or send these to a Grafana Pyroscope. The \
             profiler itself names Java methods without an agent in the JVM, once `jcmd PID Compiler.perfmap` was run"
        );
        return Err(Refusal::new(Code::Unimplemented, "format", message));
    }
    let is =
        |kind: &str| asked.content_type.starts_with(&format!("binary/octet-stream+{kind}")) || format == kind;
    if is("tree") {
        let message = "serialized trees are not read here: send pprof, folded text or a trie";
        return Err(Refusal::new(Code::Unimplemented, "format", message));
    }
    let (service, metric, bytes, is_pprof) = match body {
        Form::Parts { profile, .. } if profile.is_empty() => {
            return Err(unprocessable("the form has no part \"profile\", or nothing is in it"));
        }
        Form::Parts { profile, names } => {
            let metric = name::metric_of_pprof(&profile, &names, limits)?;
            (app.to_owned(), metric, profile, true)
        }
        Form::Whole(bytes) if bytes.is_empty() => return Err(unprocessable("the body is empty")),
        Form::Whole(bytes) if format == "pprof" => {
            let metric = name::metric_of_pprof(&bytes, &HashMap::new(), limits)?;
            (app.to_owned(), metric, bytes, true)
        }
        Form::Whole(bytes) => {
            let (service, kind) = name::kind_of_text(app)?;
            let stacks = match (is("trie"), format) {
                (true, _) => folded::trie(&bytes, limits)?,
                (false, "lines") => folded::lines(&bytes, limits)?,
                (false, _) => folded::groups(&bytes, limits)?,
            };
            let rate = asked
                .parameter("sampleRate")
                .and_then(|rate| rate.parse().ok())
                .filter(|&rate: &u64| rate > 0);
            let profile = folded::profile(&stacks, &kind, rate.unwrap_or(SAMPLE_RATE));
            (service.to_owned(), kind.metric.to_owned(), profile.encode_to_vec(), false)
        }
    };
    let own = [("__name__", metric.as_str()), ("service_name", &service), ("pyroscope_spy", spy)];
    let mut all: Vec<(String, String)> = Vec::new();
    // A label of that name overrides what the address says otherwise.
    for (name, value) in labels.into_iter().chain(own) {
        if !all.iter().any(|(known, _)| known == name) {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    let labels = profile::complete(all, limits)?;
    let bytes = with_time(&bytes, from, length_ns, limits)?;
    let taken = profile::take(&bytes, &labels, limits, now, store).map_err(|refusal| {
        // What is wrong with a pprof is told so here.
        if is_pprof && refusal.code == Code::InvalidArgument {
            unprocessable(refusal.message)
        } else {
            refusal
        }
    })?;
    meters.taken(taken.duplicate, taken.negative);
    meters.evicted(taken.evicted);
    Ok(())
}

/// The pprof in `bytes` with a time, if it has none of its own. Of a field that comes twice the last counts, so the time
/// of the address stands before the profile's.
fn with_time(bytes: &[u8], from: i64, length_ns: i64, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let plain = profile::decompressed(bytes, limits).map_err(|refusal| unprocessable(refusal.message))?;
    let mut whole = Vec::with_capacity(plain.len() + 24);
    for (tag, value) in [(9, from), (10, length_ns)] {
        encode_key(tag, WireType::Varint, &mut whole);
        encode_varint(value.cast_unsigned(), &mut whole);
    }
    whole.extend_from_slice(&plain);
    Ok(whole)
}
