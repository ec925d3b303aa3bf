//! A push to the embedded server: protobuf or JSON, compressed or not, with whatever is in it for a pprof.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_daemon::pprof::gzip;
use profiler_daemon::server::foreign::push;

fuzz_target!(|bytes: &[u8]| {
    let statuses = [push(bytes, false, false), push(bytes, true, false), push(bytes, false, true)];
    for status in statuses {
        assert!(matches!(status, 200 | 400 | 429), "{status}");
    }
    // What is compressed is read as if it were not.
    assert_eq!(push(&gzip(bytes), false, true), statuses[0]);
});
