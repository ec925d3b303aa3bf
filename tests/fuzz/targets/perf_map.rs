//! A file of any bytes as what a process wrote down about the code it made: addresses have names or not, in bounded time.

#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use profiler_daemon::symbolize::perf_map_names_of;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a file"));
}

// A byte: where the part begins that is read. Then the file.
fuzz_target!(|bytes: &[u8]| {
    let Some((&from, bytes)) = bytes.split_first() else { return };
    FILE.with_borrow(|file| {
        file.set_len(0).expect("it can be emptied");
        file.write_all_at(bytes, 0).expect("it can be written");
        let length = bytes.len() as u64;
        let addresses: Vec<u64> = (0..256).map(|step| step << 4).chain([u64::MAX - 1, u64::MAX]).collect();
        let part = length.min(from.into())..length;
        let names = perf_map_names_of(file, part, &addresses).expect("a regular file");
        assert_eq!(names.len(), addresses.len());
        assert!(names.into_iter().flatten().all(|name| !name.is_empty() && !name.contains('\n')));
    });
});
