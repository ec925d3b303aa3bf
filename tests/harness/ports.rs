//! Addresses where nobody listens, and where nobody will unless told to.
//!
//! A port that was taken with port 0 and let go is anybody's who asks for any port next. Those here lie below the ports that the
//! kernel gives away.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first of them; the kernel begins at 32,768 unless its `ip_local_port_range` says otherwise.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// An address where nobody listens, another one each time.
pub fn unused() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
