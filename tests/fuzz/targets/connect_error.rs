//! The body of an answer, as an error of the Connect protocol.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_daemon::deliver::connect_error::{BODY_BYTES_MAX, ConnectError};

fuzz_target!(|bytes: &[u8]| {
    let Some(ConnectError { code: _, message }) = ConnectError::read(bytes) else { return };
    assert!(bytes.len() <= BODY_BYTES_MAX);
    assert!(message.len() < bytes.len(), "an answer cannot take more memory than it has bytes");
    assert_eq!(bytes.trim_ascii().first(), Some(&b'{'));
});
