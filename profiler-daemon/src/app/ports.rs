//! Takes a port, or says who has it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A Pyroscope, or another daemon of ours, listens there.
    #[error(
        "{address} is taken by a Pyroscope server that is up and ready: push to it with --server http://{address}, \
         or choose another port with {flag}"
    )]
    Pyroscope {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// Something else listens there.
    #[error("{address} is taken by another program (`ss -ltnp` says which): choose another port with {flag}")]
    Taken {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// It cannot be listened on at all.
    #[error("cannot listen on {address}: {error}: choose another address with {flag}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// Listens on `address`, which `flag` sets.
pub fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, PortError> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse if is_ready_pyroscope(address) => PortError::Pyroscope { address, flag },
        io::ErrorKind::AddrInUse => PortError::Taken { address, flag },
        _ => PortError::Refused { address, flag, error },
    })
}

/// Whether `GET /ready` answers 200 `ready`, as a Pyroscope's does.
fn is_ready_pyroscope(address: SocketAddr) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        // In one piece: who answers the first of several may have closed before the last.
        let question = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes())?;
        let mut answer = Vec::new();
        // A read that times out after the answer still has the answer.
        let _ = stream.take(4096).read_to_end(&mut answer);
        Ok(answer)
    };
    ask().is_ok_and(|answer| {
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1) == Some("200") && answer.contains("ready")
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// Tries to listen where a server answers every connection with `answer`.
    #[track_caller]
    fn check(answer: &'static str, words: &str) {
        let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = holder.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = holder.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
            holder
        });
        let error = listen(address, "--listen").unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("--listen"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_pyroscope_is_recognized_and_offered_as_the_server() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n", "--server http://127.0.0.1");
    }

    #[test]
    fn another_program_is_said_to_be_one() {
        check("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "another program");
        check("220 smtp ready\r\n", "another program");
    }
}
