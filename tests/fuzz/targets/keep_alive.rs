//! The `Keep-Alive` header, any number of times: lines are values of it.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use profiler_daemon::deliver::keep_alive::KeepAlive;

fuzz_target!(|bytes: &[u8]| {
    let values = || bytes.split(|&byte| byte == b'\n');
    let said = KeepAlive::read(values());
    assert!(said.timeout.is_none_or(|timeout| timeout <= Duration::from_hours(24)));
    assert_eq!(said, KeepAlive::read(values().rev()), "the order of the values means nothing");
    assert_eq!(said, KeepAlive::read([values().collect::<Vec<_>>().join(&b',').as_slice()]));
    // What was understood is understood again when it is written plainly.
    let mut plain = String::new();
    if let Some(timeout) = said.timeout {
        plain += &format!("timeout={}, ", timeout.as_secs());
    }
    if let Some(requests) = said.requests {
        plain += &format!("max={requests}");
    }
    assert_eq!(said, KeepAlive::read([plain.as_bytes()]));
});
