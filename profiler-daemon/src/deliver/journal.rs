//! What is said of pushes in the log: changes, with their numbers.
//!
//! In: how each push ended. Out: a line where that differs from the last one. Not here: what is done about it.

use std::time::{Duration, Instant};

use super::answer::{Answer, Failure, FailureKind, Meaning};
use crate::model::Weight;

/// Remembers what was said.
#[derive(Debug)]
pub(super) struct Journal {
    /// Where we push, fit to be shown.
    address: String,
    trouble: Option<Trouble>,
    /// The status of the last refusal that was told.
    refusal: Option<u16>,
}

#[derive(Debug)]
struct Trouble {
    kind: Kind,
    since: Instant,
    pushes: u64,
}

/// Two troubles of one kind are told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed(FailureKind),
    Status(u16),
    GivenUp,
}

impl Journal {
    /// For pushes to `address`.
    pub(super) fn new(address: String) -> Self {
        Self { address, trouble: None, refusal: None }
    }

    /// A push was delivered. The line to be told at level info, if any.
    pub(super) fn delivered(&mut self, now: Instant) -> Option<String> {
        let Trouble { since, pushes, .. } = self.trouble.take()?;
        self.refusal = None;
        let lasted = now.saturating_duration_since(since);
        Some(format!(
            "{} takes pushes again, after {pushes} in {} that it did not",
            self.address,
            seconds(lasted)
        ))
    }

    /// A push got no answer and will be tried again. The line to be told at level warn, if any.
    pub(super) fn failed(&mut self, now: Instant, failure: &Failure, waiting: Weight) -> Option<String> {
        if !self.is_new(now, Kind::Failed(failure.kind)) {
            return None;
        }
        let Self { address, .. } = self;
        let cause = &failure.cause;
        let what = match failure.kind {
            FailureKind::Connect => {
                format!("cannot connect to {address}: {cause}; is the server running there?")
            }
            FailureKind::Timeout => format!("{address} does not answer in time ({cause})"),
            FailureKind::Eof | FailureKind::Reset | FailureKind::Pipe => {
                format!("{address} closed the connection instead of answering ({cause})")
            }
            FailureKind::Garbage => {
                format!("{address} does not answer in HTTP/1.1 ({cause}): is this the right port?")
            }
            FailureKind::Canceled | FailureKind::Other => format!("cannot push to {address}: {cause}"),
        };
        Some(format!("{what}; {} samples wait and are tried again", waiting.0))
    }

    /// A push was answered, not taken, and will be tried again. The line to be told at level warn, if any.
    pub(super) fn turned_away(&mut self, now: Instant, answer: &Answer, waiting: Weight) -> Option<String> {
        if !self.is_new(now, Kind::Status(answer.status)) {
            return None;
        }
        let Self { address, .. } = self;
        let Answer { status, .. } = answer;
        let words = words(answer);
        let what = match status {
            401 | 403 => format!(
                "{address} wants other credentials (status {status}{words}): put them in --server, as \
                 http://USER:PASSWORD@HOST"
            ),
            429 => format!("{address} limits our rate (status 429{words})"),
            _ => format!("{address} cannot take pushes now (status {status}{words})"),
        };
        Some(format!("{what}; {} samples wait and are tried again", waiting.0))
    }

    /// A push got no answer, may have been carried out, and is given up. The line to be told at level warn, if any.
    pub(super) fn given_up(&mut self, now: Instant, cause: &str, lost: Weight) -> Option<String> {
        self.is_new(now, Kind::GivenUp).then(|| {
            format!(
                "nobody knows whether {} has the last push ({cause}); it is not sent again, as was asked for \
                 (--delivery at-most-once): {} samples may be lost",
                self.address, lost.0
            )
        })
    }

    /// A push was refused for good. The line to be told at level warn, if any.
    pub(super) fn refused(&mut self, answer: &Answer, meaning: Meaning, lost: Weight) -> Option<String> {
        if self.refusal.replace(answer.status) == Some(answer.status) {
            return None;
        }
        let Self { address, .. } = self;
        let Answer { status, .. } = answer;
        let words = words(answer);
        let what = match meaning {
            Meaning::WrongServer => format!(
                "{address} does not look like a Pyroscope server (status {status}{words}): check --server, path \
                 included; one listens on port 4040 unless told otherwise"
            ),
            _ => format!("{address} refused a profile for good (status {status}{words})"),
        };
        Some(format!("{what}; {} samples lost", lost.0))
    }

    /// True if it is another trouble than the last one, which is remembered.
    fn is_new(&mut self, now: Instant, kind: Kind) -> bool {
        match &mut self.trouble {
            Some(trouble) => {
                trouble.pushes += 1;
                std::mem::replace(&mut trouble.kind, kind) != kind
            }
            None => {
                self.trouble = Some(Trouble { kind, since: now, pushes: 1 });
                true
            }
        }
    }
}

/// The server's own words, with what leads to them.
fn words(answer: &Answer) -> String {
    match (answer.status, answer.html, answer.words.as_str()) {
        (300..400, _, to) if !to.is_empty() => format!(", redirects to {to}"),
        (_, true, _) => ", a web page".to_owned(),
        (_, _, "") => String::new(),
        (_, _, words) => format!(", “{words}”"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn journal() -> Journal {
        Journal::new("http://h:4040".to_owned())
    }

    fn failure(kind: FailureKind) -> Failure {
        Failure { kind, cause: "Connection refused".to_owned(), evidence: None }
    }

    fn answer(status: u16, words: &str) -> Answer {
        Answer { status, words: words.to_owned(), ..Answer::default() }
    }

    #[test]
    fn trouble_is_told_once_and_its_end_with_numbers() {
        let (mut journal, start) = (journal(), Instant::now());
        assert_eq!(journal.delivered(start), None);
        let said = journal.failed(start, &failure(FailureKind::Connect), Weight(7)).unwrap();
        assert_eq!(
            said,
            "cannot connect to http://h:4040: Connection refused; is the server running there?; 7 samples wait and \
             are tried again"
        );
        assert_eq!(journal.failed(start, &failure(FailureKind::Connect), Weight(9)), None);
        assert!(
            journal.failed(start, &failure(FailureKind::Timeout), Weight(9)).is_some(),
            "it is another one"
        );
        let said = journal.delivered(start + Duration::from_millis(2_500)).unwrap();
        assert_eq!(said, "http://h:4040 takes pushes again, after 3 in 2.5 s that it did not");
        assert_eq!(journal.delivered(start), None);
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_once() {
        let mut journal = journal();
        let refusal = answer(400, "{\"code\":\"invalid_argument\"}");
        assert_eq!(
            journal.refused(&refusal, Meaning::SomeNever, Weight(3)).unwrap(),
            "http://h:4040 refused a profile for good (status 400, “{\"code\":\"invalid_argument\"}”); 3 samples lost"
        );
        assert_eq!(journal.refused(&refusal, Meaning::SomeNever, Weight(3)), None);
        assert_eq!(journal.delivered(Instant::now()), None);
        assert_eq!(journal.refused(&refusal, Meaning::SomeNever, Weight(3)), None);
        assert!(journal.refused(&answer(422, ""), Meaning::SomeNever, Weight(3)).is_some());
    }

    #[test]
    fn a_wrong_server_is_named_as_one() {
        let page = Answer { html: true, ..answer(404, "<html>") };
        let said = journal().refused(&page, Meaning::WrongServer, Weight(1)).unwrap();
        assert!(said.contains("does not look like a Pyroscope server (status 404, a web page)"), "{said}");
        let said = journal().refused(&answer(302, "/login"), Meaning::WrongServer, Weight(1)).unwrap();
        assert!(said.contains("(status 302, redirects to /login)"), "{said}");
    }

    #[test]
    fn credentials_and_limits_are_told_as_what_they_are() {
        let said = journal().turned_away(Instant::now(), &answer(401, "no org id"), Weight(1)).unwrap();
        assert!(said.contains("wants other credentials (status 401, “no org id”)"), "{said}");
        let said = journal().turned_away(Instant::now(), &answer(429, ""), Weight(1)).unwrap();
        assert!(said.contains("limits our rate (status 429)"), "{said}");
    }
}
