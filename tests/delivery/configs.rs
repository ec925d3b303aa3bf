//! Configurations of servers that pass on to another.
//!
//! In: where, what behind, how long idle connections are kept, what is said of it. Out: texts. Everything that could
//! end a connection or a request besides (numbers of requests, other timeouts) is out of the way.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::servers::Protocol;

/// What is configured.
pub(crate) struct Site<'a> {
    /// A folder of its own.
    pub(crate) folder: &'a Path,
    pub(crate) port: u16,
    pub(crate) origin: SocketAddr,
    pub(crate) certificates: &'a Path,
    pub(crate) protocol: Protocol,
    pub(crate) idle_timeout: Duration,
    /// What the `Keep-Alive` header says, seconds.
    pub(crate) says: Option<u64>,
}

impl Site<'_> {
    fn idle_ms(&self) -> u128 {
        self.idle_timeout.as_millis()
    }

    /// One process; only the second number of `keepalive_timeout` is told to clients. The embedded server answers none
    /// who calls it by another name than this machine's.
    pub(crate) fn nginx(&self) -> String {
        let Self { folder, port, origin, certificates, .. } = self;
        let (folder, certificates, idle_ms) = (folder.display(), certificates.display(), self.idle_ms());
        let listen = match self.protocol {
            Protocol::Http1 => "",
            Protocol::Tls => " ssl",
            Protocol::Http2 => " ssl http2",
        };
        let says = self.says.map_or(String::new(), |seconds| format!(" {seconds}s"));
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|place| format!("  {place}_temp_path {folder}/{place};\n"))
            .concat();
        format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 4000; }}\nhttp {{\n  access_log off;\n{places}\
             \x20 upstream origin {{ server {origin} max_fails=0; keepalive 64; keepalive_timeout 600s; keepalive_requests 1000000; }}\n\
             \x20 server {{\n    listen 127.0.0.1:{port}{listen};\n    ssl_certificate {certificates}/certificate.pem;\n\
             \x20   ssl_certificate_key {certificates}/key.pem;\n    keepalive_timeout {idle_ms}ms{says};\n    keepalive_requests 1000000;\n\
             \x20   client_body_buffer_size 1m;\n    location / {{ proxy_pass http://origin; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_set_header Host localhost; proxy_next_upstream off; }}\n  }}\n}}\n"
        )
    }

    /// One process. What it says follows from its timeout, in whole seconds.
    pub(crate) fn apache(&self) -> String {
        let Self { folder, port, origin, certificates, .. } = self;
        let (folder, certificates, idle_ms) = (folder.display(), certificates.display(), self.idle_ms());
        let modules: String = ["mpm_event", "authz_core", "proxy", "proxy_http", "ssl", "http2"]
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .concat();
        let tls = match self.protocol {
            Protocol::Http1 => String::new(),
            Protocol::Tls | Protocol::Http2 => format!(
                "SSLEngine on\nSSLCertificateFile {certificates}/certificate.pem\nSSLCertificateKeyFile {certificates}/key.pem\n"
            ),
        };
        let protocols = if self.protocol == Protocol::Http2 { "h2 http/1.1" } else { "http/1.1" };
        format!(
            "{modules}ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {folder}/pid\nErrorLog {folder}/error\n\
             ServerName localhost\nUser www-data\nGroup www-data\nListen 127.0.0.1:{port}\n\
             ServerLimit 1\nStartServers 1\nThreadsPerChild 64\nMaxRequestWorkers 64\nMaxConnectionsPerChild 0\n\
             Timeout 600\nKeepAlive On\nKeepAliveTimeout {idle_ms}ms\nMaxKeepAliveRequests 0\nProtocols {protocols}\n{tls}\
             ProxyPass / http://{origin}/\n"
        )
    }

    /// One process. It never says anything, unless it is told to write the header.
    pub(crate) fn haproxy(&self) -> String {
        let Self { port, origin, certificates, .. } = self;
        let idle_ms = self.idle_ms();
        let tls = match self.protocol {
            Protocol::Http1 => String::new(),
            Protocol::Tls => format!(" ssl crt {}/both.pem", certificates.display()),
            Protocol::Http2 => format!(" ssl crt {}/both.pem alpn h2,http/1.1", certificates.display()),
        };
        let says = self.says.map_or(String::new(), |seconds| {
            format!("  http-response set-header Keep-Alive timeout={seconds}\n")
        });
        format!(
            "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n\
             \x20 timeout http-request 60s\n  timeout http-keep-alive {idle_ms}ms\n\
             frontend front\n  bind 127.0.0.1:{port}{tls}\n{says}  default_backend back\nbackend back\n  server origin {origin}\n"
        )
    }
}

/// A word of a command line, with the port that was chosen for it.
pub(crate) fn with_port(word: &str, port: u16) -> String {
    word.replace("-listen=127.0.0.1:0", &format!("-listen=127.0.0.1:{port}"))
        .replace("\"port\":0,", &format!("\"port\":{port},"))
}
