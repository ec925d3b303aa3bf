//! `POST /push.v1.PusherService/Push`: how profilers and SDKs deliver.
//!
//! In: a request, in protobuf or in the JSON of the Connect protocol, compressed or not. Out: profiles in the store and
//! the answer that a Pyroscope gives, or a better one: 400 where that says 500 for a malformed pprof, and never 200
//! for a profile that was not stored. Each profile of a batch stands for itself: an answer that refuses means that
//! the others may be stored; pushed again with equal bytes they count once.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use prost::Message;

use super::meters::ServerMeters;
use super::profile::{self, Limits, Taken};
use super::refusal::{Code, Refusal};
use super::store::Store;
use super::web::{Answer, json, method_not_allowed, refused, text};
use super::wire::{PushRequest, RawProfileSeries, parts};
use crate::pprof::{GunzipError, gunzip};
use crate::time::WallNs;

/// Where profiles are pushed to.
pub(super) const PATH: &str = "/push.v1.PusherService/Push";

const PROTO: &str = "application/proto";
const JSON: &str = "application/json";

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Proto,
    Json,
}

/// A request whose body is worth reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    codec: Codec,
    gzip: bool,
}

/// Looks at the head of a request; an answer if its body need not be read.
pub(super) fn accept(method: &Method, headers: &HeaderMap) -> Result<Accepted, Box<Answer>> {
    if method != Method::POST {
        return Err(Box::new(method_not_allowed("POST")));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let codec = match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str()
    {
        PROTO => Codec::Proto,
        JSON => Codec::Json,
        _ => {
            let mut answer = text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain; charset=utf-8", "");
            answer
                .headers_mut()
                .insert("accept-post", HeaderValue::from_static("application/json, application/proto"));
            return Err(Box::new(answer));
        }
    };
    if let Some(version) = headers.get("connect-protocol-version").filter(|version| *version != "1") {
        let message = format!("connect-protocol-version must be \"1\": got {version:?}");
        return Err(Box::new(refused(&Refusal::invalid("protocol", message))));
    }
    let gzip = match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => {
            let name = String::from_utf8_lossy(other);
            let message = format!("unknown compression {name:?}: supported encodings are gzip");
            return Err(Box::new(refused(&Refusal::new(Code::Unimplemented, "encoding", message))));
        }
    };
    Ok(Accepted { codec, gzip })
}

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
    let body = if accepted.gzip {
        Cow::Owned(gunzip(body, body_bytes_max).map_err(|error| match error {
            GunzipError::TooLarge { bytes_max } => Refusal::exhausted(
                "body size",
                format!("message size is larger than configured max {bytes_max}"),
            ),
            GunzipError::Malformed(_) => {
                Refusal::invalid("malformed", format!("decompress message: {error}"))
            }
        })?)
    } else {
        Cow::Borrowed(body)
    };
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
