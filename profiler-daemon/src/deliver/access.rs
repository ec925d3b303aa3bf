//! What a server asks of those who push to it: who they are, for which tenant, and by which certificates both sides know
//! each other.
//!
//! In: what was configured, and the files that hold the secrets. Out: headers of each request, and what the encryption
//! needs. Not here: any text that would show a secret. Headers can be replaced while pushes go on; certificates are read
//! once.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of a file with a secret or certificates at most: a chain has some thousand.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Which tenant of a Pyroscope a push is for.
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Headers that say how a request is carried, which is not for the operator to say.
const OURS: [&str; 7] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "transfer-encoding",
];

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

/// What was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Who pushes, by basic authentication.
    pub user: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// A file that holds it.
    pub password_file: Option<PathBuf>,
    /// The token of bearer authentication.
    pub bearer_token: Option<Secret>,
    /// A file that holds it.
    pub bearer_token_file: Option<PathBuf>,
    /// Which tenant a push is for.
    pub tenant: Option<String>,
    /// More headers.
    pub headers: Vec<(String, Secret)>,
    /// Certificates of authorities to trust beside the machine's own, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and those that vouch for it, PEM.
    pub client_certificate_file: Option<PathBuf>,
    /// The key of our certificate, PEM.
    pub client_key_file: Option<PathBuf>,
}

/// Who we are to a server, by its certificate.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// What goes with a push. Cheap to clone; clones share the headers.
#[derive(Clone, Debug, Default)]
pub struct Access {
    headers: Arc<RwLock<HeaderMap>>,
    pub(super) authorities: Arc<Vec<CertificateDer<'static>>>,
    pub(super) identity: Option<Arc<Identity>>,
}

impl Access {
    /// Reads the files that `config` names. Everything that is wrong, one line each.
    pub fn read(config: &AccessConfig) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let headers = headers(config, &mut problems);
        let mut pem = |path: &Option<PathBuf>, what| match path {
            None => Vec::new(),
            Some(path) => read(path).and_then(|text| certificates(&text, path)).unwrap_or_else(|problem| {
                problems.push(format!("{what}: {problem}"));
                Vec::new()
            }),
        };
        let authorities = pem(&config.ca_file, "ca_file");
        let chain = pem(&config.client_certificate_file, "client_certificate_file");
        let identity = match (&config.client_certificate_file, &config.client_key_file) {
            (None, None) => None,
            (Some(_), Some(path)) => match read(path).and_then(|text| key(&text, path)) {
                Ok(key) => Some(Arc::new(Identity { chain, key })),
                Err(problem) => {
                    problems.push(format!("client_key_file: {problem}"));
                    None
                }
            },
            (Some(_), None) | (None, Some(_)) => {
                problems
                    .push("client_certificate_file and client_key_file go together: give both".to_owned());
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { headers: Arc::new(RwLock::new(headers)), authorities: Arc::new(authorities), identity })
    }

    /// The same, with `authorization` in place of what was configured: a whole value of that header.
    #[must_use]
    pub fn with_authorization(self, authorization: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(authorization) {
            value.set_sensitive(true);
            self.headers.write().unwrap_or_else(PoisonError::into_inner).insert(AUTHORIZATION, value);
        }
        self
    }

    /// Takes the headers of `newer`, from the next push on.
    pub fn replace_headers(&self, newer: &Self) {
        let newer = newer.headers();
        *self.headers.write().unwrap_or_else(PoisonError::into_inner) = newer;
    }

    /// What each request says.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn headers(config: &AccessConfig, problems: &mut Vec<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut secret = |given: &Option<Secret>, path: &Option<PathBuf>, what| match path {
        Some(path) => match read(path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(problem) => {
                problems.push(format!("{what}: {problem}"));
                None
            }
        },
        None => given.as_ref().map(|Secret(text)| text.clone()),
    };
    let password = secret(&config.password, &config.password_file, "password_file");
    let token = secret(&config.bearer_token, &config.bearer_token_file, "bearer_token_file");
    let authorization = match (&config.user, password, token) {
        (Some(_), _, Some(_)) => {
            problems.push(
                "user and a bearer token exclude each other: a request has one Authorization".to_owned(),
            );
            None
        }
        (Some(user), password, None) => {
            Some(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.unwrap_or_default()))))
        }
        (None, _, token) => token.map(|token| format!("Bearer {token}")),
    };
    let mut add = |name: HeaderName, text: &str| match HeaderValue::from_str(text) {
        Ok(mut value) => {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Err(_) => problems.push(format!("the value of {name} has characters that no header may have")),
    };
    if let Some(text) = authorization {
        add(AUTHORIZATION, &text);
    }
    if let Some(tenant) = &config.tenant {
        add(TENANT, tenant);
    }
    let mut strange = Vec::new();
    for (name, Secret(value)) in &config.headers {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) if !OURS.contains(&name.as_str()) => add(name, value),
            Ok(name) => strange.push(format!("headers: {name} is not for the operator to say")),
            Err(_) => strange.push(format!("headers: {name:?} is no name of a header")),
        }
    }
    problems.extend(strange);
    headers
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} has more than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

fn certificates(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} has no certificate in PEM", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn key(text: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// What is said with `config`, or what is wrong with it.
    #[track_caller]
    fn check(config: &AccessConfig, expected: Result<&[(&str, &str)], &str>) {
        match (Access::read(config), expected) {
            (Ok(access), Ok(expected)) => {
                let headers = access.headers();
                assert_eq!(headers.len(), expected.len(), "{headers:?}");
                for (name, value) in expected {
                    assert_eq!(
                        headers.get(*name).map(HeaderValue::as_bytes),
                        Some(value.as_bytes()),
                        "{name}"
                    );
                }
                assert!(!format!("{access:?}{config:?}").contains("sesame"), "a secret is shown");
            }
            (Err(problems), Err(words)) => {
                assert!(problems.iter().any(|problem| problem.contains(words)), "{problems:?}");
                assert!(!problems.concat().contains("sesame"), "a secret is shown");
            }
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    fn sesame() -> Option<Secret> {
        Some(Secret("sesame".to_owned()))
    }

    fn file(text: &str) -> (tempfile::TempDir, Option<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        (folder, Some(path))
    }

    #[test]
    fn who_asks_nothing_is_told_nothing() {
        check(&AccessConfig::default(), Ok(&[]));
    }

    #[test]
    fn a_user_has_a_password() {
        let config =
            AccessConfig { user: Some("a".to_owned()), password: sesame(), ..AccessConfig::default() };
        check(&config, Ok(&[("authorization", "Basic YTpzZXNhbWU=")]));
        let (_folder, password_file) = file("open\n");
        let config = AccessConfig { user: Some("a".to_owned()), password_file, ..AccessConfig::default() };
        check(&config, Ok(&[("authorization", "Basic YTpvcGVu")]));
    }

    #[test]
    fn a_token_is_read_from_its_file_without_its_last_line_end() {
        let (_folder, bearer_token_file) = file("sesame\r\n");
        let config = AccessConfig { bearer_token_file, ..AccessConfig::default() };
        check(&config, Ok(&[("authorization", "Bearer sesame")]));
        let config = AccessConfig { user: Some("a".to_owned()), ..config };
        check(&config, Err("exclude each other"));
    }

    #[test]
    fn a_tenant_and_other_headers_are_said() {
        let headers = vec![("X-Team".to_owned(), Secret("sesame".to_owned()))];
        let config = AccessConfig { tenant: Some("t".to_owned()), headers, ..AccessConfig::default() };
        check(&config, Ok(&[("x-scope-orgid", "t"), ("x-team", "sesame")]));
    }

    #[test]
    fn what_no_header_may_be_is_told() {
        for (name, value, words) in [
            ("Connection", "sesame", "not for the operator"),
            ("a b", "sesame", "no name of a header"),
            ("x-a", "sesame\n", "characters that no header may have"),
        ] {
            let headers = vec![(name.to_owned(), Secret(value.to_owned()))];
            check(&AccessConfig { headers, ..AccessConfig::default() }, Err(words));
        }
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_told() {
        let (_folder, some) = file("no PEM\n");
        check(
            &AccessConfig { ca_file: some.clone(), ..AccessConfig::default() },
            Err("has no certificate in PEM"),
        );
        let config = AccessConfig { client_certificate_file: some.clone(), ..AccessConfig::default() };
        check(&config, Err("go together"));
        let missing = Some(PathBuf::from("/nowhere/token"));
        check(
            &AccessConfig { bearer_token_file: missing, ..AccessConfig::default() },
            Err("/nowhere/token cannot be read"),
        );
        let (_folder, large) = file(&"x".repeat(300 << 10));
        check(&AccessConfig { bearer_token_file: large, ..AccessConfig::default() }, Err("more than"));
    }

    #[test]
    fn an_authorization_takes_the_place_of_what_was_configured() {
        let config = AccessConfig { user: Some("a".to_owned()), ..AccessConfig::default() };
        let access = Access::read(&config).unwrap().with_authorization("Bearer b");
        assert_eq!(access.headers().get(AUTHORIZATION).unwrap(), "Bearer b");
    }

    #[test]
    fn headers_are_replaced_for_whoever_shares_them() {
        let config =
            |tenant: &str| AccessConfig { tenant: Some(tenant.to_owned()), ..AccessConfig::default() };
        let access = Access::read(&config("old")).unwrap();
        let shared = access.clone();
        access.replace_headers(&Access::read(&config("new")).unwrap());
        assert_eq!(shared.headers().get(TENANT).unwrap(), "new");
    }
}
