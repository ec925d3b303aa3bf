//! Which server closes, and which of its settings says when.
//!
//! In: what an answer's headers say, and how the connection ended. Out: the setting, ready to be copied. One line per
//! family. Not here: whether anything has to be set.
//!
//! The one who closes is the first on the way: `Via` names a proxy, `Server` mostly the origin behind it, so `Via` is
//! asked first. Some never say their name and are known by what they do.

use std::time::Duration;

/// What tells families apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs<'a> {
    /// The `Server` header.
    pub(super) server: Option<&'a str>,
    /// The `Via` header.
    pub(super) via: Option<&'a str>,
    /// The push path is known there.
    pub(super) pyroscope: bool,
    /// It says how long it keeps a connection.
    pub(super) advertises: bool,
    /// After how long it closed.
    pub(super) closed_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Sign {
    /// The last proxy in `Via` calls itself so.
    Via(&'static str),
    /// One of the products in `Server`.
    Server(&'static str),
    /// No `Server`; a timeout is advertised.
    Advertises,
    /// No `Server`; it knows the push path.
    Pyroscope,
    /// No `Server`; closes after so many seconds.
    ClosesAfter(u64),
    /// No `Server`, and it says nothing else either.
    Silent,
    /// Whatever it is.
    Any,
}

/// `{s}` is the timeout that is needed in seconds, `{ms}` in milliseconds.
#[rustfmt::skip] // a line each
const FAMILIES: &[(Sign, &str, &str)] = &[
    (Sign::Via("varnish"), "Varnish", "varnishd -p timeout_idle={s}"),
    (Sign::Via("squid"), "Squid", "client_idle_pconn_timeout {s} seconds"),
    (Sign::Via("google"), "a Google load balancer", "gcloud compute target-https-proxies update PROXY --http-keep-alive-timeout-sec={s}"),
    (Sign::Via("caddy"), "Caddy", "servers { timeouts { idle {s}s } } in the global options"),
    (Sign::Server("nginx"), "nginx", "keepalive_timeout {s}s {s}s; (only the second value is advertised)"),
    (Sign::Server("openresty"), "OpenResty", "keepalive_timeout {s}s {s}s; (only the second value is advertised)"),
    (Sign::Server("apache-coyote"), "Tomcat", "keepAliveTimeout=\"{ms}\" of its Connector"),
    (Sign::Server("apache"), "Apache", "KeepAliveTimeout {s} (and KeepAlive On)"),
    (Sign::Server("envoy"), "Envoy", "common_http_protocol_options.idle_timeout: {s}s of its HTTP connection manager"),
    (Sign::Server("istio-envoy"), "Istio's Envoy", "common_http_protocol_options.idle_timeout: {s}s, by an EnvoyFilter"),
    (Sign::Server("awselb"), "an AWS load balancer", "idle_timeout.timeout_seconds={s} of the load balancer"),
    (Sign::Server("caddy"), "Caddy", "servers { timeouts { idle {s}s } } in the global options"),
    (Sign::Server("lighttpd"), "lighttpd", "server.max-keep-alive-idle = {s}"),
    (Sign::Server("gunicorn"), "gunicorn", "--keep-alive {s}, with a worker class other than sync"),
    (Sign::Server("uvicorn"), "uvicorn", "--timeout-keep-alive {s}"),
    (Sign::Server("hypercorn-h11"), "hypercorn", "--keep-alive {s}"),
    (Sign::Server("aiohttp"), "aiohttp", "web.run_app(…, keepalive_timeout={s})"),
    (Sign::Server("waitress"), "waitress", "--channel-timeout={s}"),
    (Sign::Server("tornadoserver"), "Tornado", "HTTPServer(…, idle_connection_timeout={s})"),
    (Sign::Server("kestrel"), "Kestrel", "Limits.KeepAliveTimeout = TimeSpan.FromSeconds({s})"),
    (Sign::Server("microsoft-iis"), "IIS", "connectionTimeout of the site's limits, {s} seconds"),
    (Sign::Server("jetty"), "Jetty", "jetty.http.idleTimeout={ms}"),
    (Sign::Server("ats"), "Apache Traffic Server", "proxy.config.http.keep_alive_no_activity_timeout_in: {s}"),
    (Sign::Advertises, "Node.js, by its looks", "server.keepAliveTimeout = {ms}"),
    (Sign::Pyroscope, "Grafana Pyroscope, by its looks", "-server.http-idle-timeout={s}s (another server in Go: http.Server{IdleTimeout: {s} * time.Second}; HAProxy before it: timeout http-keep-alive {s}s)"),
    (Sign::ClosesAfter(30), "hyper or axum, by its looks", "header_read_timeout(Duration::from_secs({s})), which also runs while a connection is idle; in Go, http.Server{IdleTimeout: {s} * time.Second}"),
    (Sign::Silent, "Go, by its looks", "http.Server{IdleTimeout: {s} * time.Second} (left at 0 it is ReadTimeout; HAProxy before it: timeout http-keep-alive {s}s)"),
    (Sign::Any, "whatever server or proxy comes first on the way", "its idle or keep-alive timeout, {s} s (HAProxy: timeout http-keep-alive; Envoy: common_http_protocol_options.idle_timeout; AWS ALB: idle_timeout.timeout_seconds)"),
];

/// The family's name, and the setting with which it keeps idle connections for `needed`, whole seconds.
pub(super) fn setting(signs: Signs<'_>, needed: Duration) -> (&'static str, String) {
    let (_, name, text) = FAMILIES
        .iter()
        .find(|(sign, _, _)| is_of(*sign, signs))
        .expect("the last line is for whatever it is");
    let seconds = needed.as_secs().to_string();
    (name, text.replace("{s}", &seconds).replace("{ms}", &needed.as_millis().to_string()))
}

fn is_of(sign: Sign, signs: Signs<'_>) -> bool {
    let nameless = signs.server.is_none();
    match sign {
        Sign::Via(name) => signs.via.is_some_and(|via| last_proxy(via).contains(name)),
        Sign::Server(name) => signs.server.is_some_and(|server| products(server).any(|it| it == name)),
        Sign::Advertises => nameless && signs.advertises,
        Sign::Pyroscope => nameless && signs.pyroscope,
        Sign::ClosesAfter(seconds) => {
            let near =
                |after: Duration| after.abs_diff(Duration::from_secs(seconds)) < Duration::from_millis(500);
            nameless && signs.closed_after.is_some_and(near)
        }
        Sign::Silent => nameless && signs.via.is_none(),
        Sign::Any => true,
    }
}

/// `1.1 first, 1.1 last (comment)`: who is next to us comes last.
fn last_proxy(via: &str) -> String {
    via.rsplit(',').next().unwrap_or_default().to_ascii_lowercase()
}

/// The names in `Python/3.11 aiohttp/3.14 (comment)`.
fn products(server: &str) -> impl Iterator<Item = String> {
    server
        .split([' ', ','])
        .filter_map(|product| product.split(['/', '(']).next())
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(signs: Signs<'_>, family: &str, words: &str) {
        let (name, setting) = setting(signs, Duration::from_secs(12));
        assert!(name.contains(family), "{name}");
        assert!(setting.contains(words), "{setting}");
        assert!(!setting.contains("{s}") && !setting.contains("{ms}"), "{setting}");
    }

    #[track_caller]
    fn check_server(server: &str, family: &str, words: &str) {
        check(Signs { server: Some(server), ..Signs::default() }, family, words);
    }

    #[test]
    fn those_who_say_their_name_are_known_by_it() {
        check_server("nginx", "nginx", "keepalive_timeout 12s 12s;");
        check_server("nginx/1.22.1", "nginx", "keepalive_timeout 12s 12s;");
        check_server("openresty/1.21.4.1", "OpenResty", "keepalive_timeout 12s 12s;");
        check_server("Apache/2.4.71 (Debian)", "Apache", "KeepAliveTimeout 12");
        check_server("Apache-Coyote/1.1", "Tomcat", "keepAliveTimeout=\"12000\"");
        check_server("envoy", "Envoy", "idle_timeout: 12s");
        check_server("istio-envoy", "Istio", "idle_timeout: 12s");
        check_server("awselb/2.0", "AWS", "idle_timeout.timeout_seconds=12");
        check_server("Caddy", "Caddy", "idle 12s");
        check_server("lighttpd/1.4.69", "lighttpd", "max-keep-alive-idle = 12");
        check_server("gunicorn/20.1.0", "gunicorn", "--keep-alive 12");
        check_server("uvicorn", "uvicorn", "--timeout-keep-alive 12");
        check_server("hypercorn-h11", "hypercorn", "--keep-alive 12");
        check_server("Python/3.11 aiohttp/3.14.5", "aiohttp", "keepalive_timeout=12");
        check_server("waitress", "waitress", "--channel-timeout=12");
        check_server("TornadoServer/6.2", "Tornado", "idle_connection_timeout=12");
        check_server("Kestrel", "Kestrel", "FromSeconds(12)");
        check_server("Microsoft-IIS/10.0", "IIS", "12 seconds");
        check_server("Jetty(9.4.50.v20221201)", "Jetty", "jetty.http.idleTimeout=12000");
        check_server("ATS/9.2.0", "Traffic Server", "timeout_in: 12");
    }

    #[test]
    fn a_proxy_on_the_way_closes_before_the_origin_can() {
        let behind = |via| Signs { server: Some("nginx"), via: Some(via), ..Signs::default() };
        check(behind("1.1 squid, 1.1 varnish (Varnish/7.1)"), "Varnish", "timeout_idle=12");
        check(behind("1.1 cache (squid/5.7)"), "Squid", "client_idle_pconn_timeout 12 seconds");
        check(behind("1.1 google"), "Google", "--http-keep-alive-timeout-sec=12");
        check(behind("1.1 Caddy"), "Caddy", "idle 12s");
        check(behind("1.1 somebody"), "nginx", "keepalive_timeout");
    }

    #[test]
    fn the_nameless_are_known_by_what_they_do() {
        check(Signs { advertises: true, ..Signs::default() }, "Node", "server.keepAliveTimeout = 12000");
        check(Signs { pyroscope: true, ..Signs::default() }, "Pyroscope", "-server.http-idle-timeout=12s");
        let after = |seconds| Signs { closed_after: Some(Duration::from_secs(seconds)), ..Signs::default() };
        check(after(30), "hyper", "header_read_timeout(Duration::from_secs(12))");
        check(after(10), "Go", "IdleTimeout: 12 * time.Second");
        check(Signs::default(), "Go", "IdleTimeout: 12 * time.Second");
    }

    #[test]
    fn a_stranger_gets_the_words_to_look_for() {
        check_server("Frobnicator/1", "whatever", "timeout http-keep-alive");
        check_server("", "whatever", "12 s");
        check(Signs { via: Some("1.1 x"), ..Signs::default() }, "whatever", "AWS ALB");
        check_server("\u{0}/((((, , ,/", "whatever", "12 s");
    }
}
