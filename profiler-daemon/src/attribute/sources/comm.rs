//! The name of the thread: for processes of which nothing else is known.

use super::Facts;

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    Some(String::from_utf8_lossy(facts.comm.as_bytes()).into_owned())
}
