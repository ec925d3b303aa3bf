//! A file of the spool, as some other version, a torn write or a bad disk left it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_daemon::deliver::spool::file::{FILE_BYTES_MAX, HEAD_BYTES, Head, read, write};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The check at its end, which chance does not find, put right: what stands before it may be anything.
    if let Some(checked) = bytes.len().checked_sub(4).map(|end| &bytes[..end]) {
        check(&[checked, &crc32fast::hash(checked).to_le_bytes()].concat());
    }
});

fn check(bytes: &[u8]) {
    let head = Head::read(bytes, bytes.len() as u64);
    let Ok(parcel) = read(bytes) else { return };
    let head = head.expect("a whole file has a head");
    assert_eq!((head.key, head.parent, head.time), (parcel.key, parcel.parent, parcel.time));
    assert_eq!(head.weight.0, parcel.pieces.iter().map(|(_, weight)| weight.0).sum::<u64>());
    assert!(bytes.len() as u64 <= FILE_BYTES_MAX && bytes.len() >= HEAD_BYTES);
    assert!(
        parcel.body.len() + parcel.pieces.len() * 16 < bytes.len(),
        "no more memory than the file has bytes"
    );
    assert_eq!(write(&parcel).as_deref(), Some(bytes), "what was read is written the same");
}
