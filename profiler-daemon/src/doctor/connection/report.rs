//! What was found, for people and for programs.
//!
//! In: steps and verdicts. Out: lines of text; one JSON object. Not here: where they are written to.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::seen::{Answer, Ending, Opened, Seen};
use super::verdict::{Seconds, Verdict};
use super::{Event, Found, Question};
use crate::socket::{End, How};

/// Before the steps.
pub fn opening(question: &Question) -> String {
    let Question { address, interval, patience } = question;
    format!(
        "doctor connection {}  push interval {}, watching for {} at most",
        address.shown,
        Seconds(*interval),
        Seconds(*patience)
    )
}

/// How long after the beginning something was.
pub fn moment(at: Duration) -> String {
    format!("{:9.3} s", at.as_secs_f64())
}

/// One step, `at` this moment since the beginning.
pub fn step(at: Duration, event: &Event) -> String {
    let at = moment(at);
    match event {
        Event::Chosen { peer, of } => format!("{at}  {peer} is asked, one of {of} addresses"),
        Event::Answered { number, opened, answer } => {
            let Opened { local, peer, connect, tls } = opened;
            let Answer { method, status, version, first_byte, server, via, connection, keep_alive, .. } =
                &**answer;
            let mut text = format!("{at}  #{number} {local} -> {peer}  connect {}", Millis(*connect));
            if let Some(tls) = tls {
                let _ = write!(text, ", TLS {}", Millis(*tls));
            }
            let _ = write!(text, ", first byte {}", Millis(*first_byte));
            if let (Some(rtt), Some(min)) = (answer.rtt, answer.rtt_min) {
                let _ = write!(text, ", tcp rtt {} (min {})", Millis(rtt), Millis(min));
            }
            if *number > 0 {
                return text;
            }
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let _ = write!(
                text,
                "\n{:11}  {method}: {version:?} {status}  Server: {}  Via: {}  Connection: {}  Keep-Alive: {}",
                "",
                or_none(server),
                or_none(via),
                or_none(connection),
                keep_alive.clone().unwrap_or_else(|| "- (not advertised)".to_owned()),
            );
            text
        }
        Event::Ended { number, local, ending } => {
            let said = match ending {
                Ending::WithAnswer { by: End::Server, how } => {
                    format!("the SERVER closed it with its answer ({})", name(*how))
                }
                Ending::WithAnswer { by: End::Client, .. } => {
                    "the server said that it closes and left it to us: the CLIENT sent FIN first".to_owned()
                }
                Ending::Closed { by, how, idle, unasked_bytes } => {
                    let who = match by {
                        End::Server => "the SERVER",
                        End::Client => "the CLIENT",
                    };
                    let before = match unasked_bytes {
                        0 => String::new(),
                        bytes => format!(", after {bytes} bytes that nobody asked for"),
                    };
                    format!("{who} sent {} first after {:.3} s idle{before}", name(*how), idle.as_secs_f64())
                }
                Ending::Spoilt { .. } => {
                    "more came after the answer than was asked for: nobody can use it again".to_owned()
                }
                Ending::Open { idle } => {
                    format!("still open after {:.3} s idle, and it answers", idle.as_secs_f64())
                }
                Ending::Dead { idle } => {
                    format!(
                        "DEAD after {:.3} s idle: nobody closed it, and it answers no more",
                        idle.as_secs_f64()
                    )
                }
            };
            format!("{at}  #{number} {local}: {said}")
        }
    }
}

/// After the steps.
pub fn closing(found: &Found) -> String {
    match &found.result {
        Ok((seen, verdict)) => {
            let first_byte =
                seen.iter().map(|connection| connection.answer.first_byte).max().unwrap_or_default();
            let mut text = format!(
                "guard = max(2 % of the timeout, 50 ms) + the longest time to first byte, {} = {:.3} s\n",
                Millis(first_byte),
                verdict.guard.as_secs_f64()
            );
            for note in &verdict.notes {
                let _ = writeln!(text, "note: {note}");
            }
            let _ = write!(text, "{}", line(found));
            text
        }
        Err(_) => line(found),
    }
}

/// The verdict in a line or two.
pub fn line(found: &Found) -> String {
    match &found.result {
        Ok((_, verdict)) => {
            let Verdict { kind, words, advice, .. } = verdict;
            let advice = advice.as_ref().map_or(String::new(), |advice| format!("\nADVICE {advice}"));
            format!("VERDICT {}: {words}{advice}", kind.as_str())
        }
        Err(trouble) => {
            let (kind, advice) = (trouble.as_str(), trouble.advice());
            format!("VERDICT {kind}: nothing was measured, {trouble}\nADVICE {advice}")
        }
    }
}

const fn name(how: How) -> &'static str {
    match how {
        How::Fin => "FIN",
        How::Rst => "RST",
    }
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// What was found, as one JSON object on one line.
pub fn json(question: &Question, found: &Found) -> String {
    let Question { address, interval, .. } = question;
    let object = match &found.result {
        Ok((seen, verdict)) => Object::measured(&address.shown, *interval, seen, verdict),
        Err(trouble) => Object {
            url: &address.shown,
            interval_ms: whole_ms(*interval),
            verdict: trouble.as_str(),
            words: trouble.to_string(),
            advice: Some(trouble.advice()),
            ..Object::default()
        },
    };
    serde_json::to_string(&object).expect("texts and numbers only")
}

#[derive(Default, Serialize)]
struct Object<'a> {
    url: &'a str,
    verdict: &'a str,
    words: String,
    advice: Option<&'a str>,
    closed_first: Option<&'a str>,
    how: Option<&'a str>,
    idle_timeout_ms: Option<u64>,
    advertised_timeout_ms: Option<u64>,
    interval_ms: u64,
    guard_ms: Option<f64>,
    server: Option<&'a str>,
    via: Option<&'a str>,
    status: Option<u16>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    rtt_ms: Option<f64>,
    notes: &'a [String],
    connections: Vec<Connection>,
}

#[derive(Serialize)]
struct Connection {
    local: String,
    peer: String,
    connect_ms: f64,
    first_byte_ms: f64,
    rtt_ms: Option<f64>,
    rtt_min_ms: Option<f64>,
    ending: &'static str,
    closed_first: Option<&'static str>,
    how: Option<&'static str>,
    idle_ms: Option<f64>,
    unasked_bytes: u64,
}

impl<'a> Object<'a> {
    fn measured(url: &'a str, interval: Duration, seen: &'a [Seen], verdict: &'a Verdict) -> Self {
        let Verdict { kind, words, advice, idle_timeout, advertised, guard, closed, notes } = verdict;
        // The first stands for all; what differs is in the list.
        let first = &seen[0];
        let Answer { server, via, status, first_byte, rtt, .. } = &first.answer;
        Self {
            url,
            verdict: kind.as_str(),
            words: words.clone(),
            advice: advice.as_deref(),
            closed_first: closed.map(|(by, _)| end(by)),
            how: closed.map(|(_, how)| how.as_str()),
            idle_timeout_ms: idle_timeout.map(whole_ms),
            advertised_timeout_ms: advertised.map(whole_ms),
            interval_ms: whole_ms(interval),
            guard_ms: Some(ms(*guard)),
            server: server.as_deref(),
            via: via.as_deref(),
            status: Some(*status),
            connect_ms: Some(ms(first.opened.connect)),
            tls_ms: first.opened.tls.map(ms),
            first_byte_ms: Some(ms(*first_byte)),
            rtt_ms: rtt.map(ms),
            notes,
            connections: seen.iter().map(Connection::new).collect(),
        }
    }
}

impl Connection {
    fn new(seen: &Seen) -> Self {
        let Seen { opened, answer, ending } = seen;
        let mut connection = Self {
            local: opened.local.to_string(),
            peer: opened.peer.to_string(),
            connect_ms: ms(opened.connect),
            first_byte_ms: ms(answer.first_byte),
            rtt_ms: answer.rtt.map(ms),
            rtt_min_ms: answer.rtt_min.map(ms),
            ending: "open",
            closed_first: None,
            how: None,
            idle_ms: None,
            unasked_bytes: 0,
        };
        match *ending {
            Ending::WithAnswer { by, how } => {
                connection.ending = "with_answer";
                (connection.closed_first, connection.how) = (Some(end(by)), Some(how.as_str()));
            }
            Ending::Closed { by, how, idle, unasked_bytes } => {
                connection.ending = "closed";
                (connection.closed_first, connection.how) = (Some(end(by)), Some(how.as_str()));
                connection.idle_ms = Some(ms(idle));
                connection.unasked_bytes = unasked_bytes;
            }
            Ending::Open { idle } => connection.idle_ms = Some(ms(idle)),
            Ending::Spoilt { idle } => {
                connection.ending = "spoilt";
                connection.idle_ms = Some(ms(idle));
            }
            Ending::Dead { idle } => {
                connection.ending = "dead";
                connection.idle_ms = Some(ms(idle));
            }
        }
        connection
    }
}

const fn end(by: End) -> &'static str {
    match by {
        End::Client => "client",
        End::Server => "server",
    }
}

/// To the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from((time + Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX)
}
