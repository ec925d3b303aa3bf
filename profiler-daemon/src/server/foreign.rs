//! What reads other people's bytes here, one function each: for the fuzz targets, which know no HTTP.
//!
//! In: bytes that anyone may send, or that a disk may give back. Out: the status of the answer. It is the code that the
//! server runs, on a store in memory that is as good as new.

use std::collections::HashMap;
use std::path::Path;

use axum::extract::Query;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::meters::ServerMeters;
use super::store::{self, Store};
use super::{Config, connect, ingest, push, query, selector};
use crate::meters::Meters;
use crate::time::WallNs;

/// Late enough for any profile of a corpus to be young.
const NOW: WallNs = WallNs(1_800_000_000_000_000_000);

fn store() -> (Config, Store, ServerMeters) {
    let config = Config::default();
    let (store, _) = Store::open(config.bounds(), NOW).expect("no folder is needed");
    (config, store, ServerMeters::new(&Meters::default()))
}

fn accepted(json: bool, gzip: bool) -> connect::Accepted {
    let mut headers = HeaderMap::new();
    let codec = if json { "application/json" } else { connect::PROTO };
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(codec));
    if gzip {
        headers.insert(http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    connect::accept(&Method::POST, &headers).expect("these headers are accepted")
}

/// A push, in JSON or protobuf, compressed or not. What it stored can be asked for.
pub fn push(body: &[u8], json: bool, gzip: bool) -> u16 {
    let (config, mut store, meters) = store();
    let accepted = accepted(json, gzip);
    let answer =
        push::answer(accepted, body, config.body_bytes_max, &config.limits, &mut store, &meters).status();
    store::check(&store);
    answer.as_u16()
}

/// A request to `/ingest` whose address ends in `parameters`.
pub fn ingest(parameters: &str, content_type: &str, body: &[u8]) -> Option<u16> {
    let (config, mut store, meters) = store();
    let uri = Uri::try_from(format!("/ingest?{parameters}")).ok()?;
    let Query(parameters) = Query::<HashMap<String, String>>::try_from_uri(&uri).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let answer = match runtime.block_on(ingest::parts(body.to_vec(), content_type)) {
        Err(refusal) => ingest::refused(&refusal),
        Ok(body) => {
            let asked = ingest::Asked { parameters: &parameters, content_type };
            ingest::answer(&asked, body, &config.limits, &mut store, &meters)
        }
    };
    store::check(&store);
    Some(answer.status().as_u16())
}

/// A selector: whether it is one, and whether it takes a series that has none of its labels.
pub fn selector(text: &str) -> Option<bool> {
    let matchers = selector::parse(text).ok()?;
    Some(matchers.iter().all(|matcher| matcher.takes("")))
}

/// A question of `querier.v1.QuerierService`, in JSON or protobuf.
pub fn question(method: &str, body: &[u8], json: bool) -> Option<u16> {
    if !query::api::knows(method) {
        return None;
    }
    let (_, store, _) = store();
    let codec = if json { connect::Codec::Json } else { connect::Codec::Proto };
    let answer = query::api::answer(method, codec, body, true, NOW, &store);
    Some(answer.map_or_else(|refusal| refusal.code.status(), |answer| answer.status()).as_u16())
}

/// A batch of a journal, whose check is right: whether it is one. What it holds can be asked for.
pub fn batch(bytes: &[u8]) -> bool {
    store::read_batch(bytes)
}

/// Puts a sound partition into `folder`, which is empty; what it weighs.
pub fn partition(folder: &Path) -> u64 {
    let config = Config { store: Some(folder.to_owned()), ..Config::default() };
    let (mut store, journal) = Store::open(config.bounds(), WallNs::now()).expect("an empty folder");
    let journal = journal.expect("there is a folder");
    let lines: String =
        (1..40).map(|stack| format!("main;handle_{};work_{stack} {stack}\n", stack % 7)).collect();
    let parameters = HashMap::from([("name".to_owned(), "a".to_owned())]);
    let asked = ingest::Asked { parameters: &parameters, content_type: "" };
    let meters = ServerMeters::new(&Meters::default());
    for _ in 0..3 {
        let body = ingest::Form::Whole(lines.clone().into_bytes());
        assert!(ingest::answer(&asked, body, &config.limits, &mut store, &meters).status().is_success());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // In two hours the head is full.
    let later = WallNs(WallNs::now().0 + 2 * 3_600_000_000_000);
    while let Some(work) = store.next_work(later) {
        let done = runtime.block_on(journal.run(work));
        store.done(done);
    }
    store::check(&store)
}

/// What all that is in `folder` weighs; a file that turns out to be damaged weighs nothing. `None` if the server would not
/// start.
pub fn folder(folder: &Path) -> Option<u64> {
    let config = Config { store: Some(folder.to_owned()), ..Config::default() };
    let (store, _journal) = Store::open(config.bounds(), NOW).ok()?;
    Some(store::check(&store))
}
