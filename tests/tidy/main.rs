//! Tier 1: the table of who may know whom, and the looks of the house, read from the sources as they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod metrics;
mod rules;
mod source;

/// Folders that are not ours to tidy: built, fetched or generated.
const SKIPPED_FOLDERS: [&str; 5] = ["target", "node_modules", "dist", ".git", "screenshots"];
/// What is read: sources, settings and words.
const EXTENSIONS: [&str; 11] = ["rs", "toml", "md", "sh", "ts", "css", "html", "c", "cpp", "h", "go"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

/// Path from the top and text of every file that is read.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).expect("a folder of ours").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() && !SKIPPED_FOLDERS.contains(&name.as_str()) {
            files(&path, found);
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let read = EXTENSIONS.contains(&extension.as_str()) || path.ends_with(".ci/run");
        if kind.is_file() && read {
            let inside = path.strip_prefix(root()).expect("it lies in the workspace");
            found.push((inside.display().to_string(), fs::read_to_string(&path).expect("text")));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    assert!(found.len() > 40, "only {} files were read", found.len());
    let faults: Vec<_> = found.iter().flat_map(|(path, text)| rules::check(path, text)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_metric_stands_on_its_page_and_nothing_else_does() {
    let mut found = Vec::new();
    files(&root().join("profiler-daemon/src"), &mut found);
    let shipped = found.iter().filter(|(path, _)| !path.contains("tests"));
    let registered: Vec<_> = shipped.flat_map(|(_, text)| metrics::registered(text)).collect();
    assert!(registered.len() > 50, "only {} metrics were found", registered.len());
    let page = fs::read_to_string(root().join(metrics::PAGE)).expect("the page is there");
    let faults = metrics::check(&registered, &page);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_metric_is_found_however_its_line_is_broken() {
    let source = "fn f(m: &Meters) { m.counter(\"profiler_a\", \"A\"); m\n .gauges(\n  \"profiler_b\",\n \"B\"); \
                  m.register(\"profiler_c\", \"C\", x); other(\"profiler_d\"); } // counter(\"profiler_e\")\n\
                  #[cfg(test)]\nmod tests { fn g() { m.counter(\"profiler_f\", \"F\"); } }";
    let names = metrics::registered(source);
    assert_eq!(names, [vec!["profiler_a_total"], vec!["profiler_b"], vec!["profiler_c", "profiler_c_total"]]);
}

#[test]
fn a_page_of_metrics_is_whole_and_says_enough() {
    let registered = [vec!["profiler_a_total".to_owned()], vec!["profiler_b".to_owned()]];
    let check = |page: &str, words: &str| {
        let faults = metrics::check(&registered, page).join("; ");
        assert!(if words.is_empty() { faults.is_empty() } else { faults.contains(words) }, "{faults:?}");
    };
    let (a, b) =
        ("| `profiler_a_total` | samples | A. | Look. |\n", "| `profiler_b` | bytes | B. | Nothing. |\n");
    check(&format!("{a}{b}"), "");
    check(a, "does not say what profiler_b is");
    check(&format!("{a}{b}{b}"), "twice");
    check(&format!("{a}{b}| `profiler_c` | s | C. | - |"), "no code registers profiler_c");
    check(&format!("{a}| `profiler_b` | bytes | B. |  |"), "needs a unit");
    check(&format!("{a}| `profiler_b` | bytes | B. |"), "needs a unit");
}

#[test]
fn every_file_on_the_list_of_unsafe_ones_is_there() {
    for path in rules::UNSAFE_FILES {
        assert!(root().join(path).is_file(), "{path} is on the list and not there");
    }
}

#[test]
fn a_sampler_is_a_file_of_the_same_name_on_both_sides_of_the_wall() {
    let names = |folder: &str| -> BTreeSet<_> {
        fs::read_dir(root().join(folder)).expect(folder).flatten().map(|entry| entry.file_name()).collect()
    };
    assert_eq!(names("profiler-ebpf/src/samplers"), names("profiler-daemon/src/capture/samplers"));
}

/// Reads `code` as the file at `path` of the daemon's sources, and expects a fault with `words`, or none.
#[track_caller]
fn check(path: &str, code: &str, words: Option<&str>) {
    let faults = rules::check(&format!("profiler-daemon/src/{path}"), &format!("//! Reason.\n{code}"));
    match words {
        Some(words) => {
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].contains(words), "{faults:?}");
        }
        None => assert!(faults.is_empty(), "{faults:?}"),
    }
}

#[test]
fn a_room_may_not_name_another_room() {
    let words = "symbolize/cache.rs:2: forbidden arrow symbolize → capture";
    check("symbolize/cache.rs", "use crate::capture::Config;", Some(words));
}

#[test]
fn a_room_in_a_group_is_seen_too() {
    check("encode/mod.rs", "use crate::{model::{Profile, Stack}, deliver};", Some("encode → deliver"));
}

#[test]
fn a_room_named_in_passing_is_seen_too() {
    check("encode/pprof.rs", "fn f() { crate::server::store(); }", Some("encode → server"));
}

#[test]
fn the_way_up_is_seen_too() {
    check("deliver/sinks/file.rs", "use super::super::super::capture;", Some("deliver → capture"));
    check("aggregate.rs", "use super::{model, encode};", Some("aggregate → encode"));
    check("deliver/sinks/file.rs", "use super::super::retry;", None);
}

#[test]
fn a_room_may_name_the_corridor_and_the_ground_floor() {
    check(
        "encode/mod.rs",
        "use crate::model::Profile;\nuse crate::{meters::Meters, pprof, time::Window};",
        None,
    );
}

#[test]
fn a_room_may_name_itself() {
    check("encode/pprof.rs", "use crate::encode::Config;", None);
}

#[test]
fn capture_and_attribute_may_read_the_tracker_and_others_may_not() {
    check("capture/mod.rs", "use crate::processes::Tracker;", None);
    check("attribute/mod.rs", "use crate::processes::Tracker;", None);
    check("symbolize/mod.rs", "use crate::processes::Tracker;", Some("symbolize → processes"));
}

#[test]
fn the_server_knows_the_agent_by_http_only() {
    check("server/push.rs", "use crate::model::Profile;", Some("server → model"));
    check("server/push.rs", "use crate::pprof::Profile;", None);
}

#[test]
fn nobody_may_name_the_app_but_the_command_line() {
    check("capture/mod.rs", "use crate::app::App;", Some("capture → app"));
    check("cli/run.rs", "use crate::app::App;", None);
}

#[test]
fn the_ground_floor_names_nobody() {
    check("time.rs", "use crate::meters::Meters;", Some("time → meters"));
}

#[test]
fn a_new_room_needs_a_line_in_the_table() {
    check("utils.rs", "", Some("no room is called utils"));
}

#[test]
fn a_crate_has_one_owner() {
    check("app.rs", "use aya::Ebpf;", Some("only capture may name it"));
    check("symbolize/mod.rs", "use blazesym::symbolize;", Some("only symbolize/namer may name it"));
    check("symbolize/namer/mod.rs", "use blazesym::symbolize;", None);
    check("admin.rs", "fn f() -> axum::Router { axum::Router::new() }", None);
    check("config.rs", "#[derive(clap::Args)] struct A;", Some("config → clap"));
}

#[test]
fn the_corridor_has_no_locks_no_files_and_no_serde() {
    check("model/raw.rs", "use std::sync::{Arc, Mutex};", Some("model → Mutex"));
    check("model/raw.rs", "use std::fs::File;", Some("model → fs"));
    check("model/raw.rs", "use serde::Serialize;", Some("model → serde"));
    check("model/raw.rs", "use std::os::fd::OwnedFd;", None);
}

#[test]
fn words_and_tests_are_no_arrows() {
    check("encode/mod.rs", "// use crate::capture;\nconst A: &str = \"crate::capture\";", None);
    check("encode/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::capture;\n}", None);
}

#[test]
fn unsafe_code_is_in_named_files_only() {
    check("encode/mod.rs", "fn f() { unsafe { g() } }", Some("unsafe lives in named files only"));
    check("capture/sys.rs", "fn f() { unsafe { g() } }", Some("no `#![expect(unsafe_code"));
    let reasoned = "#![expect(unsafe_code, reason = \"mmap\")]\nfn f() { unsafe { g() } }";
    check("capture/sys.rs", reasoned, None);
}

#[test]
fn a_file_opens_with_its_reason() {
    let faults = rules::check("profiler-daemon/src/time.rs", "use std::fmt;\n");
    assert!(faults[0].contains("opens with its reason"), "{faults:?}");
}

#[test]
fn nothing_unfinished_is_landed() {
    check("time.rs", concat!("// TO", "DO: more"), Some("nothing unfinished"));
    check("time.rs", "// mastodon, XXXL", None);
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    check("time.rs", concat!("// see /ro", "ot/notes"), Some("path of the machine"));
    check("time.rs", concat!("// /proc/1/ro", "ot/etc and {pid}/ro", "ot/etc"), None);
}

#[test]
fn a_long_file_has_a_second_idea() {
    check("time.rs", &"\n".repeat(600), Some("601 lines"));
}
