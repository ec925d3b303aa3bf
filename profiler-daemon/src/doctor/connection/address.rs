//! Whom to ask: the server's address, taken apart.
//!
//! In: the address as `run --server` takes it. Out: host, port, the paths to ask for, and how it may be shown.
//! Not here: looking the name up.

use http::Uri;

/// Where pushes go, below the server's own path.
const PUSH_PATH: &str = "/push.v1.PusherService/Push";
/// What every Pyroscope answers, whatever it thinks of the push path.
const READY_PATH: &str = "/ready";

/// A server's address. What stands before an `@` in it is not kept: any answer will do, a refusal too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// TLS is spoken.
    pub(super) encrypted: bool,
    /// Name or number, without brackets.
    pub(in crate::doctor) host: String,
    pub(in crate::doctor) port: u16,
    /// What goes into the `Host` header.
    pub(super) authority: String,
    pub(super) push_path: String,
    pub(super) ready_path: String,
    /// The address of the server as it may be shown.
    pub(super) shown: String,
}

/// The address is none. It is not shown: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL is no address of a server ({0}): give one like http://127.0.0.1:4040")]
pub struct BadAddress(String);

impl Address {
    /// Takes `url` apart.
    pub fn parse(url: &str) -> Result<Self, BadAddress> {
        let bad = |why: &str| BadAddress(why.to_owned());
        let uri: Uri = url.trim().parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it begins with neither http:// nor https://")),
        };
        if uri.query().is_some() || url.contains('#') {
            return Err(bad("a query or fragment has no place in it"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        let all = uri.authority().map_or("", http::uri::Authority::as_str);
        // What follows the host may be anything as far as the parser cares.
        let port = match all.rsplit_once(host).map_or("", |(_, rest)| rest) {
            "" => None,
            rest => Some(
                rest.strip_prefix(':')
                    .and_then(|digits| digits.parse().ok())
                    .ok_or_else(|| bad("its port is no number up to 65535"))?,
            ),
        };
        let authority = port.map_or(host.to_owned(), |port: u16| format!("{host}:{port}"));
        let base = uri.path().trim_end_matches('/');
        let push_path = format!("{base}{PUSH_PATH}");
        push_path.parse::<Uri>().map_err(|error| bad(&error.to_string()))?;
        Ok(Self {
            encrypted,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.unwrap_or(if encrypted { 443 } else { 80 }),
            push_path,
            ready_path: format!("{base}{READY_PATH}"),
            shown: format!("{}://{authority}{base}", if encrypted { "https" } else { "http" }),
            authority,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check(url: &str, encrypted: bool, host: &str, port: u16, push_path: &str, shown: &str) {
        let address = Address::parse(url).unwrap();
        assert_eq!((address.encrypted, &*address.host, address.port), (encrypted, host, port));
        assert_eq!((&*address.push_path, &*address.shown), (push_path, shown));
    }

    #[test]
    fn scheme_port_and_path_are_those_of_a_push() {
        let push = "/push.v1.PusherService/Push";
        check("http://h", false, "h", 80, push, "http://h");
        check("https://h/", true, "h", 443, push, "https://h");
        check(" http://127.0.0.1:4040/\n", false, "127.0.0.1", 4040, push, "http://127.0.0.1:4040");
        check("https://h:8443/a/b", true, "h", 8443, "/a/b/push.v1.PusherService/Push", "https://h:8443/a/b");
        check("http://[::1]:4040", false, "::1", 4040, push, "http://[::1]:4040");
    }

    #[test]
    fn what_stands_before_an_at_is_not_kept() {
        check("http://u:hunter2@h:1/a", false, "h", 1, "/a/push.v1.PusherService/Push", "http://h:1/a");
        assert!(!format!("{:?}", Address::parse("http://u:hunter2@h:1/a").unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_path_that_only_just_fits_has_no_room_for_ours() {
        check_bad(&format!("http://h/{}", "a".repeat(65_510)));
        check_bad(&format!("http://h/{}", "a".repeat(1 << 20)));
    }

    #[track_caller]
    fn check_bad(url: &str) {
        let said = Address::parse(url).unwrap_err().to_string();
        assert!(said.contains("give one like http://127.0.0.1:4040"), "{url}: {said}");
        assert!(!said.contains("hunter2"), "{url}: {said}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_advice_and_without_its_secrets() {
        for url in [
            "",
            " ",
            "h",
            "h:4040",
            "ftp://u:hunter2@h",
            "http://",
            "http:///x",
            "http://u:hunter2@",
            "http://[::1",
            "http://h:",
            "http://h:99999",
            "http://h:x",
            "http://h/?a=b",
            "http://h/#x",
            "http://a b",
            "unix:/x",
            "http://u:hunter2@h:0x1",
            "\u{0}",
            "http://\u{fffd}/",
        ] {
            check_bad(url);
        }
    }
}
