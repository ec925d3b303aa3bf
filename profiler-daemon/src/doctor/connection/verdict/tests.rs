//! Verdicts on connections as they may be seen.

use std::net::SocketAddr;

use http::Version;

use super::super::seen::{Answer, Opened};
use super::*;
use crate::deliver::keep_alive::KeepAlive;

const INTERVAL: Duration = Duration::from_secs(10);
/// 2 % of ten seconds, and a time to first byte of 5 ms.
const GUARD: Duration = Duration::from_millis(205);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn seen(advertised_s: Option<u64>, ending: Ending) -> Seen {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let timeout = advertised_s.map(Duration::from_secs);
    Seen {
        opened: Opened { local: nowhere, peer: nowhere, connect: ms(1), tls: None },
        answer: Answer {
            method: "HEAD",
            status: 405,
            version: Version::HTTP_11,
            first_byte: ms(5),
            server: None,
            via: None,
            connection: None,
            keep_alive: advertised_s.map(|seconds| format!("timeout={seconds}")),
            advertised: KeepAlive { timeout, requests: None },
            closes: false,
            pushable: Some(true),
            rtt: None,
            rtt_min: None,
        },
        ending,
    }
}

fn closed(idle_ms: u64) -> Ending {
    Ending::Closed { by: End::Server, how: How::Fin, idle: ms(idle_ms), unasked_bytes: 0 }
}

fn open(idle_ms: u64) -> Ending {
    Ending::Open { idle: ms(idle_ms) }
}

/// Three connections with the same header, at an interval of ten seconds.
#[track_caller]
fn check(advertised_s: Option<u64>, endings: [Ending; 3], kind: Kind) -> Verdict {
    let seen = endings.map(|ending| seen(advertised_s, ending));
    let verdict = judge(&seen, INTERVAL);
    assert_eq!(verdict.kind, kind, "{verdict:?}");
    let healthy = kind.health() == Health::Fits;
    assert_eq!(verdict.advice.is_none(), healthy, "{verdict:?}");
    verdict
}

#[track_caller]
fn check_closes(advertised_s: Option<u64>, idle_ms: u64, kind: Kind) -> Verdict {
    let verdict = check(advertised_s, [idle_ms + 1, idle_ms, idle_ms + 2].map(closed), kind);
    assert_eq!(verdict.idle_timeout, Some(ms(idle_ms)));
    assert_eq!(verdict.closed, Some((End::Server, How::Fin)));
    verdict
}

#[test]
fn a_timeout_that_is_the_interval_is_a_race() {
    let verdict = check_closes(None, 10_000, Kind::Race);
    assert_eq!(verdict.guard, GUARD);
    let advice = verdict.advice.unwrap_or_default();
    assert!(advice.contains("-server.http-idle-timeout=12s"), "{advice}");
    assert!(
        advice.contains("or push every 9.7 s or more often (--interval 9700ms), or let the daemon"),
        "{advice}"
    );
}

#[test]
fn the_race_is_as_wide_as_the_guard_on_either_side() {
    check_closes(None, 9_700, Kind::NoReuse);
    check_closes(None, 9_810, Kind::Race);
    check_closes(None, 10_200, Kind::Race);
    check_closes(None, 10_220, Kind::Fits);
}

#[test]
fn a_shorter_timeout_costs_a_connection_per_push_and_a_longer_one_fits() {
    let advice = check_closes(None, 2_000, Kind::NoReuse).advice.unwrap_or_default();
    assert!(advice.ends_with("(--interval 1900ms)"), "{advice}");
    check_closes(None, 14_999, Kind::Fits);
    check_closes(Some(60), 59_998, Kind::Fits);
}

#[test]
fn what_is_advertised_counts_where_it_is_less() {
    let node = check_closes(Some(5), 6_001, Kind::NoReuse);
    assert!(node.words.contains("promised for 5 s only"), "{}", node.words);
    assert!(node.notes[0].contains("5 s is advertised, 6.001 s is kept"), "{:?}", node.notes);
    // No client that ignores it would lose a push, so it is no race.
    check_closes(Some(10), 11_000, Kind::NoReuse);
    check(Some(10), [open(15_000); 3], Kind::NoReuse);
    check(Some(75), [open(15_000); 3], Kind::Fits);
}

#[test]
fn a_header_that_lies_is_told_from_a_race_and_only_noted_where_the_interval_fits() {
    let verdict = check_closes(Some(60), 10_000, Kind::HeaderLies);
    assert_eq!(verdict.advertised, Some(Duration::from_secs(60)));
    check_closes(Some(60), 4_000, Kind::HeaderLies);
    let fits = check_closes(Some(60), 30_000, Kind::Fits);
    assert!(fits.notes[0].contains("the header lies"), "{:?}", fits.notes);
    check_closes(Some(10), 9_990, Kind::Race);
}

#[test]
fn nothing_closed_fits_if_it_was_watched_for_longer_than_the_interval() {
    let verdict = check(None, [open(15_000); 3], Kind::Open);
    assert_eq!((verdict.idle_timeout, verdict.closed), (None, None));
    let verdict = check(None, [open(10_100); 3], Kind::TooShort);
    assert_eq!(verdict.kind.health(), Health::Unknown);
    assert!(verdict.advice.unwrap_or_default().contains("--patience 12s"));
}

#[test]
fn the_shortest_close_counts_and_closes_that_disagree_are_noted() {
    let gunicorn = check(None, [2_970, 2_400, 2_001].map(closed), Kind::NoReuse);
    assert_eq!(gunicorn.idle_timeout, Some(ms(2_001)));
    assert!(gunicorn.notes[0].contains("do not agree, 2.001 s to 2.97 s"), "{:?}", gunicorn.notes);
    let one = check(None, [open(15_000), closed(7_000), open(15_000)], Kind::NoReuse);
    assert!(one.notes[0].contains("1 of 3"), "{:?}", one.notes);
}

#[test]
fn an_answer_that_ends_each_connection_is_no_timeout() {
    let ending = Ending::WithAnswer { by: End::Server, how: How::Fin };
    let verdict = check(None, [ending; 3], Kind::ClosesEach);
    assert_eq!((verdict.idle_timeout, verdict.closed), (None, Some((End::Server, How::Fin))));
    let ours = Ending::WithAnswer { by: End::Client, how: How::Fin };
    assert_eq!(check(None, [ours; 3], Kind::ClosesEach).closed, Some((End::Client, How::Fin)));
}

#[test]
fn a_reset_is_told_from_a_fin() {
    let reset = Ending::Closed { by: End::Server, how: How::Rst, idle: ms(10_001), unasked_bytes: 0 };
    let verdict = check(None, [closed(10_002), reset, closed(10_003)], Kind::Race);
    assert_eq!(verdict.closed, Some((End::Server, How::Rst)));
    assert!(verdict.notes.iter().any(|note| note.contains("reset")), "{:?}", verdict.notes);
}

#[test]
fn a_connection_that_died_unseen_is_the_worst() {
    let dead = Ending::Dead { idle: ms(15_000) };
    let verdict = check(None, [open(15_000), dead, open(15_000)], Kind::SilentDrop);
    assert!(verdict.advice.unwrap_or_default().contains("for 12 s or more"));
}

#[test]
fn a_slow_server_widens_the_guard() {
    let mut slow = [closed(10_600), closed(10_600), closed(10_600)].map(|ending| seen(None, ending));
    slow[2].answer.first_byte = ms(500);
    let verdict = judge(&slow, INTERVAL);
    assert_eq!((verdict.kind, verdict.guard), (Kind::Race, ms(712)));
}

#[test]
fn what_is_no_pyroscope_is_noted() {
    let mut other = [seen(None, open(15_000))];
    other[0].answer.pushable = Some(false);
    other[0].answer.status = 404;
    assert!(judge(&other, INTERVAL).notes[0].contains("is a Pyroscope there?"));
    other[0].answer.pushable = None;
    other[0].answer.status = 401;
    assert!(judge(&other, INTERVAL).notes[0].contains("no credentials"));
    other[0].answer.status = 502;
    assert!(judge(&other, INTERVAL).notes[0].contains("longer than the proxy does"));
}

#[test]
fn an_interval_below_the_smallest_is_not_advised() {
    let advice = check_closes(None, 1_000, Kind::NoReuse).advice.unwrap_or_default();
    assert!(!advice.contains("--interval"), "{advice}");
}

#[test]
fn bytes_that_nobody_asked_for_spoil_a_connection() {
    let verdict = check(None, [Ending::Spoilt { idle: ms(15_000) }; 3], Kind::ClosesEach);
    assert_eq!(verdict.closed, Some((End::Client, How::Fin)));
    assert!(verdict.notes[0].contains("no client can use"), "{:?}", verdict.notes);
}
