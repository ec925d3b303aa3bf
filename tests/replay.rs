//! Tier 2: recordings through the real binary against golden folded text.
//!
//! A new case is a new pair of files. `UPDATE_GOLDEN=1` writes what came out; read the difference before you commit it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of recordings")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_recording_replays_to_its_golden_text() {
    let paths = recordings();
    assert!(!paths.is_empty());
    for path in paths {
        let output = Command::new(profiler_tests::harness::daemon::binary())
            .arg("replay")
            .arg(&path)
            .output()
            .expect("the daemon runs");
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("folded text is text");
        let golden = path.with_extension("folded");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).expect("writing the golden file");
        }
        let expected = std::fs::read_to_string(&golden).expect("a golden file beside the recording");
        assert_eq!(text, expected, "{}", path.display());
        // The books balance: every sample of the recording is in the text.
        let recorded = std::fs::read_to_string(&path).expect("the recording").matches("\"weight\":").count();
        let written: usize =
            text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(written, recorded, "{}", path.display());
    }
}
