//! A Grafana Pyroscope, or a server that speaks its `push.v1`.
//!
//! In: payloads. Out: pieces of a `PushRequest`, and what an answer means. Not here: sending.
//!
//! Pyroscope stores each profile of a request by itself and answers with the first error it met, so an error says
//! that *something* in the request was not stored. Where that may be a matter of one profile, each is sent again
//! alone, once, with the same bytes: those that are there already collapse into one when the server compacts its
//! blocks (measured: within about a minute, mostly), so until then they may count twice. The other choice,
//! to take an error for all of them, loses good profiles on servers that store all or nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use prost::Message;
use reqwest::Url;

use crate::deliver::StartError;
use crate::deliver::answer::{Answer, Meaning};
use crate::deliver::connect_error::Code;
use crate::deliver::parcel::Piece;
use crate::deliver::sinks::Pushed;
use crate::deliver::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use crate::model::{Format, Labels, Payload, Weight};
use crate::pprof;
use crate::time::{WallNs, Window};

/// How far apart two profiles of a series begin at least: some servers keep milliseconds only.
const STEP_NS_MIN: i64 = 1_000_000;

/// The name of every series of ours.
const PROFILE_NAME: &str = "process_cpu";

/// The content type of a request.
pub(in crate::deliver) const CONTENT_TYPE: &str = "application/proto";

/// The address to push to, given that of the server: its path is kept.
pub(in crate::deliver) fn push_address(server: &str) -> Result<Url, StartError> {
    address_below(server, &["push.v1.PusherService", "Push"])
}

/// An address below that of the server, whose path is kept.
pub(in crate::deliver) fn address_below(server: &str, path: &[&str]) -> Result<Url, StartError> {
    let bad = |why: &str| StartError::Address { given: without_secret(server), why: why.to_owned() };
    let mut address = Url::parse(server).map_err(|error| bad(&error.to_string()))?;
    if !matches!(address.scheme(), "http" | "https") {
        return Err(bad("only http and https are spoken"));
    }
    if address.query().is_some() || address.fragment().is_some() {
        return Err(bad("a query or fragment has no place in it"));
    }
    address.path_segments_mut().map_err(|()| bad("it has no path"))?.pop_if_empty().extend(path);
    Ok(address)
}

/// An address as it may be shown: without what stands before an `@`.
pub(in crate::deliver) fn without_secret(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{}", &rest[host..])
}

/// Encodes a payload, or gives it back where Pyroscope has no use for its format.
pub(in crate::deliver) fn encode(payload: Payload) -> Result<Piece, Payload> {
    match payload.format {
        Format::Pprof => {}
        Format::Folded => return Err(payload),
    }
    let id = id(&payload);
    let Payload { window, labels, body, weight, .. } = payload;
    let name = LabelPair { name: "__name__".to_owned(), value: PROFILE_NAME.to_owned() };
    let labels = labels
        .iter()
        .filter(|&(name, _)| name != "__name__")
        .map(|(name, value)| LabelPair { name: name.to_owned(), value: value.to_owned() });
    let series = RawProfileSeries {
        labels: std::iter::once(name).chain(labels).collect(),
        samples: vec![RawSample { raw_profile: body.into(), id }],
    };
    Ok(Piece { bytes: PushRequest { series: vec![series] }.encode_to_vec(), weight, time: window.start })
}

/// The profiles in what was encoded; none if it was not.
pub(in crate::deliver) fn decode(bytes: &[u8]) -> Vec<Pushed> {
    let series = PushRequest::decode(bytes).map_or(Vec::new(), |request| request.series);
    let of_series = |RawProfileSeries { labels, samples }: RawProfileSeries| {
        let labels: Vec<_> = labels.into_iter().map(|LabelPair { name, value }| (name, value)).collect();
        samples
            .into_iter()
            .map(move |RawSample { raw_profile, .. }| Pushed { labels: labels.clone(), pprof: raw_profile })
    };
    series.into_iter().flat_map(of_series).collect()
}

/// Two pieces instead of one that is too large: each has half of the stacks, and half of the window, for no two profiles
/// of a series may begin at the same time. `None` if there is nothing to divide.
pub(in crate::deliver) fn halve(piece: &Piece) -> Option<[Piece; 2]> {
    let [Pushed { labels, pprof }] = <[Pushed; 1]>::try_from(decode(&piece.bytes)).ok()?;
    let whole = pprof::Profile::decode(pprof).ok()?;
    let (stacks, half_ns) = (whole.sample.len(), whole.duration_nanos / 2);
    if stacks < 2 || half_ns < STEP_NS_MIN {
        return None;
    }
    let mut first = whole.part(0..stacks / 2);
    first.duration_nanos = half_ns;
    let mut second = whole.part(stacks / 2..stacks);
    second.duration_nanos = whole.duration_nanos - half_ns;
    second.time_nanos = whole.time_nanos.checked_add(half_ns)?;
    let value: i64 = first.sample.iter().filter_map(|sample| sample.value.first()).sum();
    let weight = u64::try_from(value / whole.period.max(1)).ok()?.min(piece.weight.0);
    let labels = Labels::new(labels.into_iter().map(|(name, value)| (name.into(), value.into())));
    let labels = Arc::new(labels);
    let encode = |part: &pprof::Profile, weight| {
        let start = WallNs(part.time_nanos);
        let duration_ns = part.duration_nanos.unsigned_abs();
        let payload = Payload {
            window: Window { start, duration_ns },
            labels: Arc::clone(&labels),
            format: Format::Pprof,
            body: part.encode_to_vec(),
            weight: Weight(weight),
        };
        encode(payload).ok()
    };
    Some([encode(&first, weight)?, encode(&second, piece.weight.0 - weight)?])
}

/// A UUID (version 8: our own making) that is the same for the same profile, so that sending it again changes no
/// byte.
fn id(payload: &Payload) -> String {
    let mut hasher = DefaultHasher::new();
    payload.labels.hash(&mut hasher);
    payload.window.hash(&mut hasher);
    payload.body.hash(&mut hasher);
    let high = hasher.finish();
    hasher.write_u8(1);
    let low = hasher.finish();
    let high = high & 0xffff_ffff_ffff_0fff | 0x8000;
    let low = low & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// What Pyroscope means by an answer. Its errors are Connect's; proxies before it have their own.
pub(in crate::deliver) fn meaning(answer: &Answer) -> Meaning {
    match (answer.status, answer.code) {
        (400.., Some(code)) => meaning_of_code(code),
        (status, _) => meaning_of_status(status, answer.html),
    }
}

/// Whoever gives a code speaks our protocol, whatever its status.
const fn meaning_of_code(code: Code) -> Meaning {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::AlreadyExists => {
            Meaning::SomeNever
        }
        // The limit is per series: those that passed are stored.
        Code::ResourceExhausted => Meaning::SomeNotNow,
        // What cannot be decoded is `unknown`, for ever.
        Code::Unknown | Code::Internal | Code::DataLoss => Meaning::SomeBroken,
        Code::Unavailable | Code::DeadlineExceeded | Code::Canceled | Code::Aborted => Meaning::NotNow,
        // Credentials can be put right while we wait; so can a tenant that is not known yet.
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => Meaning::NotNow,
        Code::Unimplemented => Meaning::WrongServer,
    }
}

const fn meaning_of_status(status: u16, html: bool) -> Meaning {
    match status {
        // A web page is not what a Pyroscope says, however friendly.
        200..300 if html => Meaning::WrongServer,
        200..300 => Meaning::Delivered,
        // As above; a proxy asks for credentials without a code.
        401 | 403 => Meaning::NotNow,
        429 => Meaning::SomeNotNow,
        408 => Meaning::NotNow,
        // Mostly a proxy's word, with a page of its own.
        413 => Meaning::TooLarge,
        400 | 422 if html => Meaning::WrongServer,
        400 | 422 => Meaning::SomeNever,
        500 => Meaning::SomeBroken,
        501 | 505 => Meaning::WrongServer,
        502..600 => Meaning::NotNow,
        // 404, 405, 415, redirects, and whatever else nobody who knows `push.v1` would say.
        _ => Meaning::WrongServer,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn payload(service: &str, start: i64, body: &[u8]) -> Payload {
        let pair = |name: &str, value: &str| (Arc::from(name), Arc::from(value));
        Payload {
            window: Window { start: WallNs(start), duration_ns: 10_000_000_000 },
            labels: Arc::new(Labels::new([pair("service_name", service), pair("hostname", "h")])),
            format: Format::Pprof,
            body: body.to_vec(),
            weight: Weight(3),
        }
    }

    #[track_caller]
    fn check_address(given: &str, address: &str) {
        assert_eq!(push_address(given).unwrap().as_str(), address);
    }

    #[test]
    fn the_base_path_is_kept() {
        check_address("http://h:4040", "http://h:4040/push.v1.PusherService/Push");
        check_address("http://h:4040/", "http://h:4040/push.v1.PusherService/Push");
        check_address("https://h/a/b", "https://h/a/b/push.v1.PusherService/Push");
        check_address("https://u:p@h/a/b/", "https://u:p@h/a/b/push.v1.PusherService/Push");
        check_address("http://[::1]:1", "http://[::1]:1/push.v1.PusherService/Push");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_advice() {
        for given in
            ["", "localhost:4040", "ftp://h", "http://", "h", "unix:/x", "http://h/?a=b", "http://h/#x"]
        {
            let said = push_address(given).unwrap_err().to_string();
            assert!(said.contains("http://127.0.0.1:4040"), "{given}: {said}");
        }
    }

    #[test]
    fn a_secret_in_an_address_is_not_shown() {
        assert_eq!(without_secret("https://u:p@ss@h:1/a@b"), "https://h:1/a@b");
        assert_eq!(without_secret("http://h"), "http://h");
        assert_eq!(without_secret("u:p@h"), "h");
        let said = push_address("ftp://user:hunter2@h").unwrap_err().to_string();
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn a_payload_becomes_a_series_with_our_name() {
        let piece = encode(payload("web", 5, b"pprof")).unwrap();
        assert_eq!(piece.weight, Weight(3));
        let request = PushRequest::decode(&*piece.bytes).unwrap();
        let [series] = request.series.as_slice() else { panic!("one series") };
        let labels: Vec<_> = series.labels.iter().map(|pair| (&*pair.name, &*pair.value)).collect();
        assert_eq!(labels, [("__name__", "process_cpu"), ("hostname", "h"), ("service_name", "web")]);
        assert_eq!((series.samples.len(), &*series.samples[0].raw_profile), (1, &b"pprof"[..]));
    }

    #[test]
    fn pieces_one_after_the_other_are_one_request() {
        let mut joined = encode(payload("a", 5, b"1")).unwrap().bytes;
        joined.extend(encode(payload("b", 5, b"2")).unwrap().bytes);
        assert_eq!(PushRequest::decode(&*joined).unwrap().series.len(), 2);
    }

    /// A piece with a stack per value, and a period of one.
    fn piece(values: &[i64], duration_ns: i64) -> Piece {
        let sample = |&value| pprof::Sample { location_id: vec![1], value: vec![value], label: vec![] };
        let profile = pprof::Profile {
            sample: values.iter().map(sample).collect(),
            location: vec![pprof::Location { id: 1, ..Default::default() }],
            time_nanos: 1_000,
            duration_nanos: duration_ns,
            period: 1,
            string_table: vec![String::new()],
            ..Default::default()
        };
        let weight = Weight(values.iter().sum::<i64>().unsigned_abs());
        encode(Payload { weight, ..payload("web", 1_000, &profile.encode_to_vec()) }).unwrap()
    }

    /// Halves until nothing can be divided: start, duration and values of what is left.
    fn halved(piece: &Piece) -> Vec<(i64, i64, Vec<i64>)> {
        if let Some(halves) = halve(piece) {
            assert_eq!(halves.iter().map(|half| half.weight).sum::<Weight>(), piece.weight);
            return halves.iter().flat_map(halved).collect();
        }
        let Pushed { labels, pprof } = decode(&piece.bytes).remove(0);
        let names: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["__name__", "hostname", "service_name"]);
        let profile = pprof::Profile::decode(pprof).unwrap();
        let values = profile.sample.iter().map(|sample| sample.value[0]).collect();
        vec![(profile.time_nanos, profile.duration_nanos, values)]
    }

    #[test]
    fn halves_share_the_stacks_and_the_window() {
        let second = 1_000_000_000;
        assert_eq!(
            halved(&piece(&[1, 2], second)),
            [(1_000, second / 2, vec![1]), (1_000 + second / 2, second / 2, vec![2]),]
        );
        let parts = halved(&piece(&(1..=100).collect::<Vec<_>>(), second));
        assert_eq!(
            parts.iter().flat_map(|(_, _, values)| values.clone()).collect::<Vec<_>>(),
            (1..=100).collect::<Vec<_>>()
        );
        for pair in parts.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= STEP_NS_MIN, "no two begin at the same time");
        }
        assert_eq!(parts.iter().map(|(_, length, _)| length).sum::<i64>(), second);
    }

    #[test]
    fn a_single_stack_and_a_moment_are_not_halved() {
        assert!(halve(&piece(&[1], 1_000_000_000)).is_none());
        assert!(halve(&piece(&[1, 2], 1_999_999)).is_none());
        let nonsense = Piece { bytes: vec![0xff; 9], weight: Weight(1), time: WallNs(0) };
        assert!(halve(&nonsense).is_none());
        assert!(halve(&encode(payload("web", 5, b"no pprof")).unwrap()).is_none());
    }

    #[test]
    fn the_id_is_a_uuid_and_the_same_only_for_the_same_profile() {
        let one = id(&payload("a", 5, b"1"));
        assert_eq!(one, id(&payload("a", 5, b"1")));
        let groups: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert!(one.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
        assert_eq!((&one[14..15], u8::from_str_radix(&one[19..20], 16).unwrap() >> 2), ("8", 0b10));
        for other in [payload("b", 5, b"1"), payload("a", 6, b"1"), payload("a", 5, b"2")] {
            assert_ne!(one, id(&other));
        }
    }

    #[test]
    fn folded_text_is_given_back() {
        assert!(encode(Payload { format: Format::Folded, ..payload("a", 5, b"x 1") }).is_err());
    }

    #[track_caller]
    fn check_meaning(status: u16, html: bool, expected: Meaning) {
        assert_eq!(meaning(&Answer { status, html, ..Answer::default() }), expected, "{status}, html {html}");
    }

    #[test]
    fn every_status_means_something() {
        check_meaning(200, false, Meaning::Delivered);
        check_meaning(200, true, Meaning::WrongServer);
        check_meaning(302, false, Meaning::WrongServer);
        check_meaning(400, false, Meaning::SomeNever);
        check_meaning(400, true, Meaning::WrongServer);
        check_meaning(401, false, Meaning::NotNow);
        check_meaning(403, true, Meaning::NotNow);
        check_meaning(404, false, Meaning::WrongServer);
        check_meaning(405, false, Meaning::WrongServer);
        check_meaning(408, false, Meaning::NotNow);
        check_meaning(413, false, Meaning::TooLarge);
        check_meaning(413, true, Meaning::TooLarge);
        check_meaning(415, false, Meaning::WrongServer);
        check_meaning(429, false, Meaning::SomeNotNow);
        check_meaning(500, false, Meaning::SomeBroken);
        check_meaning(501, false, Meaning::WrongServer);
        check_meaning(502, true, Meaning::NotNow);
        check_meaning(503, false, Meaning::NotNow);
        check_meaning(599, false, Meaning::NotNow);
        check_meaning(999, false, Meaning::WrongServer);
    }

    #[track_caller]
    fn check_code(status: u16, code: Code, expected: Meaning) {
        let answer = Answer { status, code: Some(code), ..Answer::default() };
        assert_eq!(meaning(&answer), expected, "{status} {code:?}");
    }

    #[test]
    fn a_code_tells_more_than_its_status() {
        check_code(400, Code::InvalidArgument, Meaning::SomeNever);
        check_code(429, Code::ResourceExhausted, Meaning::SomeNotNow);
        // Older servers say 422 where they mean 429, 404 where they mean 501, 408 where they mean 504.
        check_code(422, Code::ResourceExhausted, Meaning::SomeNotNow);
        check_code(404, Code::Unimplemented, Meaning::WrongServer);
        check_code(408, Code::DeadlineExceeded, Meaning::NotNow);
        // None of these is said by a server that we do not look for.
        check_code(404, Code::NotFound, Meaning::NotNow);
        check_code(409, Code::Aborted, Meaning::NotNow);
        check_code(499, Code::Canceled, Meaning::NotNow);
        check_code(500, Code::Unknown, Meaning::SomeBroken);
        check_code(500, Code::Unavailable, Meaning::NotNow);
    }

    #[test]
    fn a_code_in_an_answer_that_is_no_error_is_none() {
        check_code(200, Code::Internal, Meaning::Delivered);
        check_code(302, Code::Internal, Meaning::WrongServer);
    }
}
