//! A partition of the embedded server as a bad disk gives it back: a sound one, of which some bytes are others. And a batch
//! of a journal, whose check is right.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use profiler_daemon::server::foreign::{batch, folder, partition};
use tempfile::TempDir;

/// What is damaged again and again.
struct Sound {
    folder: TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
    weight: u64,
}

static SOUND: OnceLock<Sound> = OnceLock::new();

fn make() -> Sound {
    // redb panics over damage where it is not optimised, which the server takes for an error; here a panic ends all.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|place| place.file().contains("redb")) {
            hook(info);
        }
    }));
    let folder = TempDir::new().expect("a folder");
    let weight = partition(folder.path());
    let mut files = fs::read_dir(folder.path()).expect("a folder");
    let file = files.next().expect("a partition").expect("a file").path();
    let bytes = fs::read(&file).expect("a file");
    Sound { folder, file, bytes, weight }
}

fuzz_target!(|input: &[u8]| {
    let _ = batch(input);
    let Sound { folder: place, file, bytes, weight } = SOUND.get_or_init(make);
    let mut bytes = bytes.clone();
    // Three bytes say where, one what is flipped there.
    for patch in input.as_chunks::<4>().0 {
        let at = usize::from(patch[0]) << 16 | usize::from(patch[1]) << 8 | usize::from(patch[2]);
        let at = at % bytes.len();
        bytes[at] ^= patch[3];
    }
    fs::write(file, bytes).expect("a file");
    let found =
        folder(place.path()).expect("a file that cannot be read never keeps the server from starting");
    assert!(
        found == 0 || found == *weight,
        "{found} of {weight}: history says something else than was pushed"
    );
});
