//! `POST /push.v1.PusherService/Push`: how profilers and SDKs deliver.
//!
//! In: a request, in protobuf or in the JSON of the Connect protocol, compressed or not. Out: profiles in the store and
//! the answer that a Pyroscope gives, or a better one: 400 where that says 500 for a malformed pprof, and never 200
//! for a profile that was not stored. Each profile of a batch stands for itself: an answer that refuses means that
//! the others may be stored; pushed again with equal bytes they count once.

use bytes::Bytes;
use http::StatusCode;
use prost::Message;

use super::connect::{Accepted, Codec, PROTO};
use super::meters::ServerMeters;
use super::profile::{self, Limits, Taken};
use super::refusal::{Code, Refusal};
use super::store::Store;
use super::web::{Answer, json, refused, text};
use super::wire::{PushRequest, RawProfileSeries, parts};
use crate::time::WallNs;

/// Where profiles are pushed to.
pub(super) const PATH: &str = "/push.v1.PusherService/Push";

/// Puts what is in `body` into the store and answers; a good answer may leave when the store is safe.
pub(super) fn answer(
    accepted: Accepted,
    body: &[u8],
    body_bytes_max: usize,
    limits: &Limits,
    store: &mut Store,
    meters: &ServerMeters,
) -> Answer {
    let stored = decode(accepted, body, body_bytes_max, limits)
        .inspect_err(|refusal| meters.refused(refusal))
        .and_then(|request| push(&request, limits, WallNs::now(), store, meters));
    meters.store_bytes(store.bytes(), store.disk_bytes());
    match (stored, accepted.codec) {
        (Err(refusal), _) => refused(&refusal),
        (Ok(()), Codec::Proto) => text(StatusCode::OK, PROTO, Bytes::new()),
        (Ok(()), Codec::Json) => json(StatusCode::OK, "{}"),
    }
}

fn decode(
    accepted: Accepted,
    body: &[u8],
    body_bytes_max: usize,
    limits: &Limits,
) -> Result<PushRequest, Refusal> {
    let body = accepted.body(body, body_bytes_max)?;
    let unreadable =
        |error: &dyn std::fmt::Display| Refusal::invalid("malformed", format!("unmarshal message: {error}"));
    let count = match accepted.codec {
        Codec::Proto => parts(&body, &[1]).ok_or_else(|| unreadable(&"not a whole protobuf message"))?,
        Codec::Json => body.iter().filter(|&&byte| byte == b'{').count(),
    };
    if count > limits.parts_max {
        let max = limits.parts_max;
        return Err(Refusal::invalid("parts", format!("request has {count} parts; limit {max}")));
    }
    match accepted.codec {
        Codec::Proto => PushRequest::decode(&*body).map_err(|error| unreadable(&error)),
        Codec::Json => serde_json::from_slice(&body).map_err(|error| unreadable(&error)),
    }
}

/// Each profile for itself; the first refusal is the answer, after all that can be stored is stored.
fn push(
    request: &PushRequest,
    limits: &Limits,
    now: WallNs,
    store: &mut Store,
    meters: &ServerMeters,
) -> Result<(), Refusal> {
    let mut profiles = 0_usize;
    let mut refusals = Vec::new();
    for RawProfileSeries { labels, samples } in &request.series {
        profiles += samples.len();
        let labels = labels.iter().map(|pair| (pair.name.clone(), pair.value.clone()));
        let labels = match profile::complete(labels, limits) {
            Ok(labels) => labels,
            Err(refusal) => {
                samples.iter().for_each(|_| meters.refused(&refusal));
                refusals.extend((!samples.is_empty()).then_some(refusal));
                continue;
            }
        };
        for sample in samples {
            match profile::take(&sample.raw_profile, &labels, limits, now, store) {
                Ok(Taken { duplicate, negative, evicted }) => {
                    meters.taken(duplicate, negative);
                    meters.evicted(evicted);
                }
                Err(refusal) => {
                    meters.refused(&refusal);
                    refusals.push(refusal);
                }
            }
        }
    }
    if profiles == 0 {
        let refusal = Refusal::invalid("empty", "no profiles received");
        meters.refused(&refusal);
        return Err(refusal);
    }
    // What will never be accepted is the better answer: who is told to try later tries all of it again.
    let worst = refusals.iter().position(|refusal| refusal.code == Code::InvalidArgument).unwrap_or(0);
    let count = refusals.len();
    match refusals.into_iter().nth(worst) {
        None => Ok(()),
        Some(refusal) if profiles == 1 => Err(refusal),
        Some(Refusal { code, reason, message }) => {
            Err(Refusal::new(code, reason, format!("{count} of {profiles} profiles refused: {message}")))
        }
    }
}
