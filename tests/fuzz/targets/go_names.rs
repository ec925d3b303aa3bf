//! A file of any bytes: if it has a table of Go functions, places in it have names or not, in bounded time.

#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use profiler_daemon::symbolize::go_names_of;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a file"));
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow(|file| {
        file.set_len(0).expect("it can be emptied");
        file.write_all_at(bytes, 0).expect("it can be written");
        let offsets: Vec<u64> = (0..bytes.len() as u64).step_by(3).take(4096).collect();
        for names in go_names_of(file, &offsets).unwrap_or_default() {
            assert!(names.len() <= 65 && names.iter().all(|name| !name.is_empty()));
        }
    });
});
