//! Questions to the embedded server: the name of a method in the first line, then its message; and selectors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_daemon::server::foreign::{question, selector};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = selector(text);
    }
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return };
    let Ok(method) = std::str::from_utf8(&bytes[..end]) else { return };
    for json in [false, true] {
        let Some(status) = question(method, &bytes[end + 1..], json) else { return };
        assert!(matches!(status, 200 | 400 | 501), "{status}");
    }
});
