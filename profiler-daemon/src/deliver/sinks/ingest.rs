//! The `/ingest` of Pyroscope before 1.0, which later ones keep: one profile per request, what it is in the address.
//!
//! In: profiles as `pyroscope` encodes them, so that what waits looks the same. Out: requests, and what an answer means.
//! Not here: sending.
//!
//! The body is a gzipped pprof and says so by its first bytes: these servers undo no `Content-Encoding`. The name
//! has a grammar of its own, without quotes, so what has no place in it becomes `_`; the name of a service, where that
//! changes it, is given as a label too, which allows more.

use prost::Message;
use reqwest::Url;

use super::{Outgoing, Pushed, pyroscope};
use crate::deliver::StartError;
use crate::deliver::answer::{Answer, Meaning};
use crate::deliver::connect_error::Code;
use crate::pprof;

/// The content type of a request: what it is stands in the address.
pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

/// What the server calls whoever pushes.
const SPY_NAME: &str = "profiler-daemon";

/// The label that is the name.
const SERVICE: &str = "service_name";
/// The name of what has none.
const NO_SERVICE: &str = "unknown_service";

/// When a profile was taken: the rest of a pprof is passed over.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Times {
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

/// The address to push to, given that of the server: its path is kept.
pub(super) fn push_address(server: &str) -> Result<Url, StartError> {
    pyroscope::address_below(server, &["ingest"])
}

/// The request for one profile; `None` if it is none.
pub(super) fn request(Pushed { labels, pprof }: &Pushed) -> Option<Outgoing> {
    let Times { time_nanos, duration_nanos } = Times::decode(pprof.clone()).ok()?;
    let seconds = |nanos: i64| nanos.div_euclid(1_000_000_000).to_string();
    let until = time_nanos.saturating_add(duration_nanos).saturating_add(999_999_999);
    let query = vec![
        ("name", name(labels)),
        ("format", "pprof".to_owned()),
        ("from", seconds(time_nanos)),
        ("until", seconds(until)),
        ("spyName", SPY_NAME.to_owned()),
    ];
    Some(Outgoing { query, gzip: false, body: pprof::gzip(pprof).into() })
}

/// What the server calls a profile: `service{label=value,label=value}`.
fn name(labels: &[(String, String)]) -> String {
    let service = labels.iter().find(|(name, _)| name == SERVICE).map_or("", |(_, value)| value);
    let application = fit(service, |c| c.is_ascii_alphanumeric() || "_./-".contains(c));
    let labels: Vec<String> = labels
        .iter()
        .filter(|(name, _)| !name.starts_with("__") && (name != SERVICE || application != service))
        .map(|(name, value)| {
            let name = fit(name, |c| c.is_ascii_alphanumeric() || "_.".contains(c));
            format!("{name}={}", fit(value, |c| !c.is_control() && !"{},=".contains(c)))
        })
        .collect();
    let application = if application.is_empty() { NO_SERVICE } else { &application };
    format!("{application}{{{}}}", labels.join(","))
}

/// `text` with `_` for what does not fit.
fn fit(text: &str, fits: impl Fn(char) -> bool) -> String {
    text.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// What an answer means there.
pub(super) fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        // Before 2.2 a limit is told from a bad profile by its words only.
        422 if answer.code == Some(Code::ResourceExhausted) || answer.words.contains("rate limit") => {
            Meaning::SomeNotNow
        }
        // Whatever the code, here it is about the profile.
        422 if !answer.html => Meaning::SomeNever,
        _ => pyroscope::meaning(answer),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check_name(labels: &[(&str, &str)], expected: &str) {
        let labels: Vec<_> = labels.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        assert_eq!(name(&labels), expected);
    }

    #[test]
    fn a_service_is_the_name_and_labels_stand_behind_it() {
        check_name(
            &[("__name__", "process_cpu"), ("hostname", "h"), ("service_name", "web"), ("zone", "a")],
            "web{hostname=h,zone=a}",
        );
        check_name(&[("service_name", "a/b.service")], "a/b.service{}");
    }

    #[test]
    fn what_has_no_place_in_a_name_is_replaced_and_the_service_is_told_as_a_label_too() {
        check_name(
            &[("service_name", "user@1000.service")],
            "user_1000.service{service_name=user@1000.service}",
        );
        check_name(&[("odd name", "a,b={c}"), ("service_name", "é")], "_{odd_name=a_b__c_,service_name=é}");
        check_name(&[], "unknown_service{}");
    }

    #[test]
    fn a_profile_is_one_request_with_its_times_in_the_address() {
        let profile = pprof::Profile {
            time_nanos: 1_700_000_000_500_000_000,
            duration_nanos: 10_000_000_000,
            ..Default::default()
        };
        let labels = vec![("service_name".to_owned(), "web".to_owned())];
        let pprof = profile.encode_to_vec();
        let Outgoing { query, gzip, body } =
            request(&Pushed { labels, pprof: pprof.clone().into() }).unwrap();
        let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            query,
            ["name=web{}", "format=pprof", "from=1700000000", "until=1700000011", "spyName=profiler-daemon"]
        );
        assert!(!gzip && pprof::is_gzip(&body));
        assert_eq!(pprof::gunzip(&body, 1_000).unwrap(), pprof);
    }

    #[track_caller]
    fn check_meaning(status: u16, code: Option<Code>, words: &str, expected: Meaning) {
        let answer = Answer { status, code, words: words.to_owned(), ..Answer::default() };
        assert_eq!(meaning(&answer), expected);
    }

    #[test]
    fn a_limit_is_told_from_a_bad_profile_by_code_or_by_words() {
        check_meaning(200, None, "", Meaning::Delivered);
        check_meaning(422, Some(Code::ResourceExhausted), "", Meaning::SomeNotNow);
        check_meaning(422, Some(Code::Unknown), "push rate limit (4 MiB) exceeded", Meaning::SomeNotNow);
        check_meaning(422, Some(Code::Unknown), "failed to parse pprof", Meaning::SomeNever);
        check_meaning(429, None, "", Meaning::SomeNotNow);
        check_meaning(413, None, "", Meaning::TooLarge);
        check_meaning(404, None, "", Meaning::WrongServer);
    }
}
