//! Tier 2: recordings through the real binary against golden folded text.
//!
//! A new case is a new pair of files. `UPDATE_GOLDEN=1` writes what came out; read the difference before you commit it.

use std::os::unix::fs::MetadataExt;
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

#[track_caller]
fn check_golden(text: &str, golden: &Path) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, text).expect("writing the golden file");
    }
    let expected = std::fs::read_to_string(golden).expect("a golden file beside the recording");
    assert_eq!(text, expected, "{}", golden.display());
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
        check_golden(&text, &path.with_extension("folded"));
        // The books balance: every sample of the recording is in the text.
        let recorded = std::fs::read_to_string(&path).expect("the recording").matches("\"weight\":").count();
        let written: usize =
            text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(written, recorded, "{}", path.display());
    }
}

/// Samples as a kernel took them, with registers and stack, while the table of their program was still being made: each is walked
/// again by the table of that very program, which lies beside.
#[test]
fn recorded_registers_and_stacks_are_walked_by_the_tables_of_their_files() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stacks");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (program, recording) = (folder.path().join("stacks"), folder.path().join("stacks.jsonl"));
    std::fs::copy(beside.join("stacks"), &program).expect("the program");
    // A recording says which file it means; here that is the copy.
    let is = program.metadata().expect("it was copied");
    let ctime_ns = is.ctime() * 1_000_000_000 + is.ctime_nsec();
    let identity = format!(r#""identity":[{},{},{},{ctime_ns}]"#, is.dev(), is.ino(), is.size());
    let text = std::fs::read_to_string(beside.join("stacks.jsonl")).expect("the recording");
    let text = text.replace(r#""identity":[0,0,0,0]"#, &identity);
    let text = text.replace("@/stacks", &program.display().to_string());
    std::fs::write(&recording, &text).expect("a recording");
    let output = Command::new(profiler_tests::harness::daemon::binary())
        .arg("replay")
        .arg(&recording)
        .output()
        .expect("the daemon runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("folded text is text");
    check_golden(&text, &beside.join("stacks.folded"));
}

#[test]
fn every_format_has_the_same_total() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for path in recordings() {
        let file = |name: &str| folder.path().join(name);
        let mut replay = Command::new(profiler_tests::harness::daemon::binary());
        replay.arg("replay").arg(&path);
        for name in ["x.pb.gz", "x.svg", "x.json"] {
            replay.arg("-o").arg(file(name));
        }
        assert!(replay.status().expect("the daemon runs").success(), "{}", path.display());
        let pprof = std::fs::read(file("x.pb.gz")).expect("a pprof");
        let pprof = profiler_tests::harness::profile::from_pprof(&pprof);
        let svg = std::fs::read_to_string(file("x.svg")).expect("a picture");
        assert!(svg.contains(&format!("all ({} samples, 100%)", pprof.samples())), "{}", path.display());
        let speedscope = std::fs::read(file("x.json")).expect("a speedscope file");
        let speedscope: serde_json::Value = serde_json::from_slice(&speedscope).expect("JSON");
        let profiles = speedscope["profiles"].as_array().expect("profiles");
        let total: u64 = profiles.iter().filter_map(|profile| profile["endValue"].as_u64()).sum();
        assert_eq!(total, pprof.samples() * pprof.period_ns, "{}", path.display());
        let weights = profiles.iter().filter_map(|profile| profile["weights"].as_array()).flatten();
        assert_eq!(total, weights.filter_map(serde_json::Value::as_u64).sum::<u64>(), "{}", path.display());
    }
}
