//! Whether the server can be reached at all. How its connections behave is what `doctor connection` measures.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Finding, Place};
use crate::doctor::connection::Address;

/// How long a connection may take.
const TIME_MAX: Duration = Duration::from_secs(3);

pub(super) fn check(place: &Place) -> Finding {
    let Some(url) = &place.server else {
        return Finding::fits("server", "none is configured: the embedded one is started");
    };
    let address = match Address::parse(url) {
        Ok(address) => address,
        Err(error) => {
            return Finding::does_not_fit("server", error.to_string(), "Mend the address in `server`.");
        }
    };
    let place = format!("{}:{}", address.host, address.port);
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let found = match (host, address.port).to_socket_addrs() {
        Ok(found) => found,
        Err(error) => {
            return Finding::does_not_fit(
                "server",
                format!("{} has no address: {error}", address.host),
                "Mend the name in `server`, or this machine's resolver.",
            );
        }
    };
    let mut last = "it has none".to_owned();
    for at in found {
        match TcpStream::connect_timeout(&at, TIME_MAX) {
            Ok(_) => return Finding::fits("server", format!("{place} takes connections")),
            Err(error) => last = error.to_string(),
        }
    }
    Finding::does_not_fit(
        "server",
        format!("{place}: {last}"),
        "Start the server, or let a firewall pass: until then profiles wait here.",
    )
}
