//! Who may look: one token, in a file, for a page and a port that others on the machine could reach too.
//!
//! In: the file, and what a request shows: a header, a cookie, or, once, a part of its address. Out: whether the request may
//! be answered, and the cookie that a browser is to keep instead of the token. A [`Gate`] has the token of the moment, which a reload
//! may change. Not here: which requests are asked for it.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Uri};
use subtle::ConstantTimeEq;

/// Characters of a token at least: 16 of base64 are 96 bits, which nobody guesses over a network.
pub const CHARACTERS_MIN: usize = 16;
/// Characters of a token at most: more than any generator makes, and less than a line of a request may be.
pub const CHARACTERS_MAX: usize = 256;

/// The cookie's name. Browsers keep cookies by host and not by port, so that one serves the page and the agent's port.
const COOKIE_NAME: &str = "profiler_daemon";
/// The part of an address that brings the token.
const QUERY_NAME: &str = "token";

/// A token. Never shown, and compared in a time that says nothing of it.
#[derive(Clone)]
pub struct Token {
    text: String,
    /// What the cookie holds: who steals it has not got the token.
    cookie: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(hidden)")
    }
}

/// What is to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Granted,
    /// It is answered by status 303 with these headers, so that the token stands in the address of a browser for no longer
    /// than it must: the next request brings the cookie.
    Introduced {
        /// `Location`: the same address, without the token.
        location: String,
        /// `Set-Cookie`.
        cookie: String,
    },
    /// It is refused, by status 401 and `WWW-Authenticate: Bearer`.
    Refused,
}

impl Token {
    /// The token in the first line of `path`. A sentence where there is none that would keep anybody out.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let unread = |error: std::io::Error| format!("{shown} cannot be read: {error}");
        let mut file = std::fs::File::open(path).map_err(unread)?;
        let status = file.metadata().map_err(unread)?;
        if status.is_file() && status.permissions().mode() & 0o007 != 0 {
            return Err(format!(
                "{shown} may be read or written by everybody (mode {:o}), so it keeps nobody out: chmod 640 {shown}",
                status.permissions().mode() & 0o777
            ));
        }
        let mut text = String::new();
        let most = CHARACTERS_MAX as u64 + 2;
        file.by_ref().take(most).read_to_string(&mut text).map_err(unread)?;
        Self::new(text.lines().next().unwrap_or_default().trim())
            .map_err(|problem| format!("{shown}: {problem}"))
    }

    /// `text` as a token.
    pub fn new(text: &str) -> Result<Self, String> {
        if !(CHARACTERS_MIN..=CHARACTERS_MAX).contains(&text.len()) {
            return Err(format!(
                "a token has {CHARACTERS_MIN} to {CHARACTERS_MAX} characters, this one {}; \
                 `head -c 24 /dev/urandom | base64 | tr +/ -_` makes one",
                text.len()
            ));
        }
        // What stands in an address and in a header without being written in another way.
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return Err("a token has letters, digits and -._~ only".to_owned());
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, format!("cookie of {text}").as_bytes());
        let cookie = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { text: text.to_owned(), cookie })
    }

    /// What becomes of a request for `uri` with these headers.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri) -> Verdict {
        let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
        if bearer.filter_map(bearer_of).any(|text| is(text, &self.text)) {
            return Verdict::Granted;
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        if cookies.any(|(name, text)| name == COOKIE_NAME && is(text, &self.cookie)) {
            return Verdict::Granted;
        }
        let query = uri.query().unwrap_or_default();
        if parts(query).any(|(name, text)| name == QUERY_NAME && is(text, &self.text)) {
            return Verdict::Introduced { location: without_token(uri), cookie: self.set_cookie() };
        }
        Verdict::Refused
    }

    /// The cookie is for this host alone, for no script and for no request that another site began.
    fn set_cookie(&self) -> String {
        format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie)
    }

    /// The part of an address that brings this token, for the line that is printed where it may be read.
    pub fn query(&self) -> String {
        format!("{QUERY_NAME}={}", self.text)
    }

    /// The value of `Authorization` that this token is shown by.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.text)
    }

    /// The token itself, for who has to know it to let others in.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Who may pass: whoever shows the token of the moment, or everybody while there is none. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<RwLock<Option<Token>>>);

impl Gate {
    /// One that asks for `token`.
    pub fn new(token: Option<Token>) -> Self {
        Self(Arc::new(RwLock::new(token)))
    }

    /// Asks for `token` from now on; a cookie for another one lets nobody in any more.
    pub fn replace(&self, token: Option<Token>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// The token of the moment.
    pub fn token(&self) -> Option<Token> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What becomes of a request for `uri` with these headers.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri) -> Verdict {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        token.as_ref().map_or(Verdict::Granted, |token| token.check(headers, uri))
    }
}

/// Equal, found in a time that depends on the lengths alone.
fn is(shown: &str, known: &str) -> bool {
    shown.as_bytes().ct_eq(known.as_bytes()).into()
}

/// The token of an `Authorization`; its scheme is written as one likes.
fn bearer_of(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn parts(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Path and query of `uri`, every token left out. It begins with one slash, so that it leads to no other host.
fn without_token(uri: &Uri) -> String {
    let rest = uri.query().unwrap_or_default().split('&');
    let rest: Vec<&str> =
        rest.filter(|part| part.split('=').next() != Some(QUERY_NAME) && !part.is_empty()).collect();
    let mark = if rest.is_empty() { "" } else { "?" };
    format!("/{}{mark}{}", uri.path().trim_start_matches('/'), rest.join("&"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use http::HeaderValue;

    use super::*;

    const TEXT: &str = "0123456789abcdef-._~";

    /// What becomes of a request for `uri` with one header.
    fn verdict(header: Option<(&'static str, &str)>, uri: &str) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        Token::new(TEXT).unwrap().check(&headers, &uri.parse().unwrap())
    }

    #[track_caller]
    fn check(header: Option<(&'static str, &str)>, uri: &str, expected: &Verdict) {
        assert_eq!(verdict(header, uri), *expected);
    }

    #[test]
    fn who_shows_the_token_is_let_in_and_nobody_else() {
        check(Some(("authorization", &format!("Bearer {TEXT}"))), "/metrics", &Verdict::Granted);
        check(Some(("authorization", &format!("bearer  {TEXT}"))), "/metrics", &Verdict::Granted);
        for wrong in [
            "Bearer",
            "Bearer ",
            &format!("Basic {TEXT}"),
            &format!("Bearer {TEXT}0"),
            "Bearer 0123456789abcdef-._",
        ] {
            check(Some(("authorization", wrong)), "/metrics", &Verdict::Refused);
        }
        check(None, "/metrics", &Verdict::Refused);
        check(None, "/?token=", &Verdict::Refused);
        check(None, &format!("/?tokens={TEXT}"), &Verdict::Refused);
        check(Some(("cookie", &format!("profiler_daemon={TEXT}"))), "/", &Verdict::Refused);
    }

    #[test]
    fn a_browser_brings_it_once_and_then_its_cookie() {
        let Verdict::Introduced { location, cookie } = verdict(None, &format!("/page?a=1&token={TEXT}&b=2"))
        else {
            panic!("the token was right");
        };
        assert_eq!(location, "/page?a=1&b=2");
        assert!(!cookie.contains(TEXT), "{cookie}");
        let (pair, attributes) = cookie.split_once(';').unwrap();
        assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"), "{cookie}");
        check(Some(("cookie", &format!("other=1; {pair}; more=2"))), "/", &Verdict::Granted);
    }

    #[test]
    fn where_a_browser_is_sent_on_to_is_always_this_host() {
        for (uri, expected) in [("//evil.example/?token=", "/evil.example/"), ("/?token=", "/")] {
            let Verdict::Introduced { location, .. } = verdict(None, &format!("{uri}{TEXT}")) else {
                panic!("the token was right");
            };
            assert_eq!(location, expected);
        }
    }

    #[track_caller]
    fn check_file(text: &str, mode: u32, words: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        match Token::read(file.path()) {
            Ok(token) => assert_eq!((token.text.as_str(), words), (TEXT, "")),
            Err(problem) => assert!(!words.is_empty() && problem.contains(words), "{problem}"),
        }
    }

    #[test]
    fn a_file_that_keeps_nobody_out_is_refused() {
        check_file(&format!("{TEXT}\n"), 0o640, "");
        check_file(TEXT, 0o600, "");
        check_file(TEXT, 0o644, "chmod 640");
        check_file("", 0o600, "16 to 256 characters, this one 0");
        check_file("short\n", 0o600, "this one 5");
        check_file(&"a".repeat(4000), 0o600, "16 to 256");
        check_file("sixteen characters", 0o600, "letters, digits");
        assert!(
            Token::read(Path::new("/nowhere"))
                .is_err_and(|problem| problem.contains("/nowhere cannot be read"))
        );
    }

    #[test]
    fn a_gate_asks_for_the_token_of_the_moment() {
        let gate = Gate::default();
        let shared = gate.clone();
        let (nothing, uri) = (HeaderMap::new(), Uri::from_static("/metrics"));
        assert_eq!(shared.check(&nothing, &uri), Verdict::Granted);
        let token = Token::new(TEXT).unwrap();
        let mut shown = HeaderMap::new();
        shown.insert(AUTHORIZATION, HeaderValue::from_str(&token.authorization()).unwrap());
        gate.replace(Some(token));
        assert_eq!(shared.check(&nothing, &uri), Verdict::Refused);
        assert_eq!(shared.check(&shown, &uri), Verdict::Granted);
        gate.replace(Some(Token::new("another-token-of-some-length").unwrap()));
        assert_eq!(shared.check(&shown, &uri), Verdict::Refused);
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new(TEXT).unwrap();
        assert!(!format!("{token:?}{:?}", Gate::new(Some(token.clone()))).contains(TEXT));
    }
}
