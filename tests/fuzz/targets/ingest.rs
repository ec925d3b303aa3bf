//! What older agents and SDKs send to the embedded server. A first line ends the address, a second is the content type:
//! text, a trie, a form or a pprof are what follows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_daemon::server::foreign::ingest;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |&byte| byte == b'\n');
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (Some(parameters), Some(content_type)) = (text(), text()) else { return };
    let Some(status) = ingest(parameters, content_type, parts.next().unwrap_or_default()) else { return };
    assert!(matches!(status, 200 | 400 | 413 | 422 | 429 | 501), "{status}");
});
