//! Reads the headers with which a server speaks of a connection and of time: `Connection`, whether it ends now; `Keep-Alive`,
//! how long it is kept while it is idle; and `Retry-After`, how long the server wants to be left alone.
//!
//! In: the values of a header, any bytes. Out: a timeout and a number of requests, or a pause, where they were said.
//! Not here: what to make of them; that is `connection` and `retry`.
//!
//! No living standard describes the first, so servers write it as they like. What cannot be understood is
//! ignored, and of two numbers the smaller is believed, since believing less only costs a connection.

use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, HeaderName};
use http::{HeaderMap, Version};

/// Longest timeout that is believed: a day. No push waits longer, and a moment this far ahead can be computed.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// True if a connection ends with an answer of such a version and such headers.
pub fn closes(version: Version, headers: &HeaderMap) -> bool {
    match version {
        Version::HTTP_09 => true,
        Version::HTTP_10 => !contains(headers, CONNECTION, "keep-alive"),
        _ => contains(headers, CONNECTION, "close"),
    }
}

/// True if one of the header's comma-separated tokens is `wanted`.
pub fn contains(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// What a server said of the connection that its answer came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long the server keeps it while it is idle.
    pub timeout: Option<Duration>,
    /// How many more requests the server takes on it.
    pub requests: Option<u64>,
}

impl KeepAlive {
    /// Reads all values of the header.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut said = Self::default();
        for value in values {
            for parameter in value.split(|byte| matches!(byte, b',' | b';')) {
                said.add(parameter);
            }
        }
        said
    }

    fn add(&mut self, parameter: &[u8]) {
        let Some(equals) = parameter.iter().position(|&byte| byte == b'=') else { return };
        let (name, value) = (parameter[..equals].trim_ascii(), &parameter[equals + 1..]);
        let Some(number) = number(value) else { return };
        if name.eq_ignore_ascii_case(b"timeout") {
            let timeout = Duration::from_secs(number).min(TIMEOUT_MAX);
            self.timeout = Some(self.timeout.map_or(timeout, |before| before.min(timeout)));
        } else if name.eq_ignore_ascii_case(b"max") {
            self.requests = Some(self.requests.map_or(number, |before| before.min(number)));
        }
    }
}

/// A whole number, perhaps in quotes, perhaps with decimals, which are cut off. Too large a one is the largest.
fn number(value: &[u8]) -> Option<u64> {
    let mut value = value.trim_ascii();
    if let [b'"', inner @ .., b'"'] = value {
        value = inner.trim_ascii();
    }
    let (whole, decimals) = match value.iter().position(|&byte| byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &[][..]),
    };
    if whole.is_empty() || !whole.iter().chain(decimals).all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        whole
            .iter()
            .fold(0, |sum: u64, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

/// Reads the value of a `Retry-After` header: whole seconds, or a date (RFC 9110, 10.2.3), which `now` makes a pause of.
/// A date that is past is no pause.
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs(seconds).min(TIMEOUT_MAX));
    }
    let date = httpdate::parse_http_date(str::from_utf8(value).ok()?.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_retry_after(value: &str, seconds: Option<u64>) {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(value.as_bytes(), now), seconds.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        check_retry_after("120", Some(120));
        check_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", Some(30));
        check_retry_after("Sunday, 06-Nov-94 08:50:07 GMT", Some(30));
        check_retry_after("Sun Nov  6 08:50:07 1994", Some(30));
        check_retry_after("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        check_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400));
        check_retry_after("99999999999999999999999", Some(86_400));
    }

    #[test]
    fn a_pause_that_cannot_be_understood_is_none() {
        for value in ["", "-1", "soon", "1h", "Sun, 99 Nov 1994 08:49:37 GMT", "\u{fffd}"] {
            check_retry_after(value, None);
        }
    }

    #[track_caller]
    fn check(values: &[&str], timeout_s: Option<u64>, requests: Option<u64>) {
        let said = KeepAlive::read(values.iter().map(|value| value.as_bytes()));
        assert_eq!(said, KeepAlive { timeout: timeout_s.map(Duration::from_secs), requests });
    }

    #[test]
    fn apache_says_both() {
        check(&["timeout=5, max=100"], Some(5), Some(100));
    }

    #[test]
    fn node_says_only_the_timeout() {
        check(&["timeout=5"], Some(5), None);
    }

    #[test]
    fn no_header_says_nothing() {
        check(&[], None, None);
    }

    #[test]
    fn case_spaces_and_quotes_do_not_matter() {
        check(&["  TimeOut = \" 7 \" ;\tMAX= \"3\""], Some(7), Some(3));
    }

    #[test]
    fn a_number_of_requests_alone_is_no_timeout() {
        check(&["max=9"], None, Some(9));
    }

    #[test]
    fn zero_is_zero() {
        check(&["timeout=0, max=0"], Some(0), Some(0));
    }

    #[test]
    fn decimals_are_cut_off() {
        check(&["timeout=4.99"], Some(4), None);
    }

    #[test]
    fn a_huge_timeout_is_a_day_and_a_huge_number_is_the_largest() {
        check(
            &["timeout=99999999999999999999999, max=99999999999999999999999"],
            Some(86_400),
            Some(u64::MAX),
        );
    }

    #[test]
    fn of_two_timeouts_the_smaller_is_believed() {
        check(&["timeout=9, timeout=4", "timeout=6"], Some(4), None);
    }

    #[test]
    fn garbage_is_ignored_and_what_stands_beside_it_is_not() {
        check(
            &["timeout=-1, =, ==, timeout=, timeout=5s, timeout=0x10, \"timeout=3, max=12"],
            None,
            Some(12),
        );
        check(&["\u{fffd}\u{0}, timeout=\u{fffd}, timeout"], None, None);
        check(&["timeout=., timeout=1.x, timeout=\"\", timeout=\"8"], None, None);
    }

    #[test]
    fn a_thousand_parameters_are_a_thousand_parameters() {
        check(&["timeout=30,".repeat(1_000).as_str()], Some(30), None);
    }

    #[track_caller]
    fn check_closes(version: Version, connection: &'static str, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, http::HeaderValue::from_static(connection));
        assert_eq!(closes(version, &headers), expected, "{version:?} {connection:?}");
    }

    #[test]
    fn an_old_server_closes_unless_it_says_otherwise_and_a_new_one_does_not() {
        check_closes(Version::HTTP_09, "keep-alive", true);
        check_closes(Version::HTTP_10, "", true);
        check_closes(Version::HTTP_10, "te, Keep-Alive", false);
        check_closes(Version::HTTP_11, "", false);
        check_closes(Version::HTTP_11, "keep-alive , CLOSE", true);
    }
}
