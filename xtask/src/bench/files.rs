//! What unwind tables cost: bytes and time by file, and memory of an agent that meets many files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::daemon::Daemon;
use super::load::Load;
use super::meter::Reading;
use super::{Budget, Tools, output_of};
use crate::host;

/// Files that everyone knows, where they lie on some distributions; the first of each that is there is measured.
const FILES: [(&str, &[&str]); 5] = [
    ("libc", &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"]),
    ("python3", &["/usr/bin/python3", "/usr/local/bin/python3"]),
    ("node", &["/usr/bin/node", "/usr/local/bin/node"]),
    ("chromium", &["/usr/lib/chromium/chromium", "/usr/lib64/chromium-browser/chromium-browser"]),
    (
        "libLLVM",
        &[
            "/usr/lib/x86_64-linux-gnu/libLLVM.so.22.1",
            "/usr/lib/x86_64-linux-gnu/libLLVM-15.so.1",
            "/usr/lib/x86_64-linux-gnu/libLLVM-14.so.1",
        ],
    ),
];

/// A table of the largest library known may have that many bytes.
const TABLE_MIB_MAX: f64 = 8.0;
/// All tables.
const TABLES_MIB_MAX: f64 = 64.0;

/// Different binaries that run at once.
const BINARIES: usize = 200;
/// Samples of all of them come within that time, and their tables.
const BINARIES_SEEN: Duration = Duration::from_secs(40);

const MIB: f64 = (1 << 20) as f64;

/// Builds the table of each file and prints what it costs.
pub(super) fn measure(tools: &Tools) -> Result<Vec<Budget>> {
    println!("\n{:<10} {:>9} {:>12} {:>8} {:>9}  walk", "file", "MiB", "table KiB", "% of it", "built ms");
    let mut largest: f64 = 0.0;
    for (name, places) in FILES {
        let Some(file) = places.iter().map(Path::new).find(|file| file.is_file()) else {
            println!("{name:<10} not on this machine");
            continue;
        };
        let bytes = file.metadata()?.len() as f64;
        let line = output_of(Command::new(&tools.daemon).arg("bench-table").arg(file))?;
        let Cost { table_bytes, seconds, keeps_frames } = parse(&line)?;
        largest = largest.max(table_bytes);
        let walk = if keeps_frames { "innermost frame by table, then pointers" } else { "by table" };
        println!(
            "{name:<10} {:>9.1} {:>12.0} {:>8.2} {:>9.1}  {walk}",
            bytes / MIB,
            table_bytes / 1024.0,
            table_bytes * 100.0 / bytes,
            seconds * 1e3
        );
    }
    Ok(vec![Budget {
        what: "largest table".to_owned(),
        found: largest / MIB,
        most: TABLE_MIB_MAX,
        unit: "MB",
    }])
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    table_bytes: f64,
    seconds: f64,
    keeps_frames: bool,
}

/// Reads `bytes seconds keeps_frames`.
fn parse(line: &str) -> Result<Cost> {
    let mut words = line.split_whitespace();
    let mut cost = || {
        Some(Cost {
            table_bytes: words.next()?.parse().ok()?,
            seconds: words.next()?.parse().ok()?,
            keeps_frames: words.next()?.parse().ok()?,
        })
    };
    cost().with_context(|| format!("`bench-table` printed `{line}`"))
}

/// Measures an agent on a machine where many different binaries run.
pub(super) fn measure_many(tools: &Tools) -> Result<Vec<Budget>> {
    let binaries = link_different(tools)?;
    let _load = Load::each(&binaries)?;
    let mut daemon = Daemon::start(&tools.daemon, 99)?;
    daemon.wait_for_data()?;
    std::thread::sleep(BINARIES_SEEN);
    let reading = Reading::of(daemon.id());
    let placed = daemon.metric("profiler_unwind_tables_total", "placed")?;
    let [used, taken] = [
        daemon.metric("profiler_unwind_tables_bytes", "")?,
        daemon.metric("profiler_unwind_memory_bytes", "")?,
    ];
    println!(
        "\n{BINARIES} different binaries at 99 Hz: {placed:.0} tables placed, {:.2} MiB of {:.2} MiB of kernel memory; agent and namer \
         {:.1} MB anonymous, {:.1} MB with what they share of files",
        used / MIB,
        taken / MIB,
        reading.anonymous_without("serve") as f64 / 1e6,
        reading.proportional_without("serve") as f64 / 1e6,
    );
    ensure!(placed >= BINARIES as f64, "{placed} tables were placed of {BINARIES} binaries");
    Ok(vec![
        Budget {
            what: format!("kernel memory for {BINARIES} binaries"),
            found: taken / MIB,
            most: TABLES_MIB_MAX,
            unit: "MB",
        },
        Budget {
            what: format!("anonymous memory with {BINARIES} binaries"),
            found: reading.anonymous_without("serve") as f64 / 1e6,
            most: 40.0,
            unit: "MB",
        },
    ])
}

/// One program under many build ids.
fn link_different(tools: &Tools) -> Result<Vec<PathBuf>> {
    let folder = host::target_dir().join("workloads/different");
    std::fs::create_dir_all(&folder)?;
    let mut linked = Vec::new();
    for number in 0..BINARIES {
        let output = folder.join(format!("wl-{number}"));
        if !output.is_file() {
            let mut link = Command::new("cc");
            link.arg("-o").arg(&output).arg(&tools.bare_object);
            link.arg(format!("-Wl,--build-id=0x{:040x}", number + 1));
            ensure!(link.status()?.success(), "`{}` failed", host::typed(&link));
        }
        linked.push(output);
    }
    Ok(linked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_bench_table_is_read() {
        let cost = parse("4096 0.0125 true\n").expect("a line as it is printed");
        assert_eq!(cost, Cost { table_bytes: 4096.0, seconds: 0.0125, keeps_frames: true });
        assert!(parse("4096 0.0125").is_err());
    }
}
