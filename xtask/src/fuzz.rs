//! `cargo xtask fuzz`: what reads other people's bytes, fed with bytes that no one would send.
//!
//! Each target is a file in `tests/fuzz/targets`, and the folder of the same name in `tests/fuzz/corpus` is where it
//! starts: real inputs, and every input that once broke something. What a run finds beyond that stays below `target`, for
//! the next run on this machine. Targets are built by cargo-fuzz with a nightly, both of which are installed if they can
//! be, and then run side by side, one on each processor.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build_ebpf::{nightly, rustup_run};
use crate::host;

/// The package of the targets, from the top of the workspace.
const PACKAGE: &str = "tests/fuzz";
/// Longest input, bytes: a few times what any of the readers takes in at once.
const INPUT_BYTES_MAX: u32 = 16 << 10;
/// Memory of a target, MiB. Readers promise to be bounded, and the coverage map of a whole daemon takes its part.
const MEMORY_MIB_MAX: u32 = 512;
/// How long one input may take. Milliseconds would do.
const INPUT_SECONDS_MAX: u32 = 20;
/// How much later than asked a target may end before it is taken for one that hangs.
const END_GRACE: Duration = Duration::from_secs(60);
/// How often we look whether a target has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines of a target's log that are shown when it fails.
const LOG_LINES_MAX: usize = 40;

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the targets whose name contains this
    filter: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
}

/// Builds the targets and runs them; an error if one of them broke.
pub(crate) fn run(options: &Options) -> Result<()> {
    let corpus = host::root().join(PACKAGE).join("corpus");
    let targets: Vec<String> = targets(&host::root().join(PACKAGE))?
        .into_iter()
        .filter(|name| options.filter.as_ref().is_none_or(|filter| name.contains(filter)))
        .collect();
    ensure!(!targets.is_empty(), "no target is called so");
    let built = build(options.filter.is_some().then_some(&targets))?;

    let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut waiting = targets.iter();
    let mut running: Vec<Running> = Vec::new();
    let mut broken = Vec::new();
    loop {
        while running.len() < at_once
            && let Some(name) = waiting.next()
        {
            running.push(Running::start(name, &built.join(name), &corpus.join(name), options.seconds)?);
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
        for index in (0..running.len()).rev() {
            if let Some(well) = running[index].ended()? {
                let ended = running.swap_remove(index);
                ended.tell(well)?;
                broken.extend((!well).then_some(ended.name));
            }
        }
    }
    if !broken.is_empty() {
        bail!(
            "{} broke: mend it, and keep the input that did it in {PACKAGE}/corpus under a name that says what it is",
            broken.join(", ")
        );
    }
    Ok(())
}

/// The targets, each of which has a corpus.
fn targets(package: &Path) -> Result<Vec<String>> {
    let names = |folder: &str| -> Result<BTreeSet<String>> {
        let folder = package.join(folder);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let name =
            |entry: fs::DirEntry| entry.path().file_stem().map(|name| name.to_string_lossy().into_owned());
        Ok(entries.flatten().filter_map(name).collect())
    };
    let (targets, corpora) = (names("targets")?, names("corpus")?);
    ensure!(targets == corpora, "{PACKAGE}: targets are {targets:?}, and there are corpora for {corpora:?}");
    Ok(targets.into_iter().collect())
}

/// Builds all targets, or `only` these, and says where they are.
fn build(only: Option<&Vec<String>>) -> Result<PathBuf> {
    let channel = nightly()?;
    let version = || host::output(rustup_run(&channel, "cargo").args(["fuzz", "--version"]));
    if version().is_none() {
        let mut install = host::cargo();
        install.args(["install", "cargo-fuzz", "--locked"]).current_dir("/");
        host::run(&mut install).context("by hand: cargo install cargo-fuzz --locked")?;
        ensure!(version().is_some(), "cargo-fuzz was installed but is not on PATH");
    }
    let host_line = host::output(rustup_run(&channel, "rustc").arg("-vV"));
    let triple =
        host_line.as_deref().unwrap_or_default().lines().find_map(|line| line.strip_prefix("host: "));
    let triple = triple.context("`rustc -vV` does not say its host")?;
    // Coverage makes other files than a usual build, so they have a place of their own. Nothing is unsafe in what is
    // fuzzed, so there is nothing for a sanitizer to see; and what takes a minute to build need not be optimised.
    let folder = host::target_dir().join("fuzz");
    for name in only.map_or(vec![None], |names| names.iter().map(Some).collect()) {
        let mut build = rustup_run(&channel, "cargo");
        build.args(["fuzz", "build", "--dev", "--sanitizer", "none", "--target", triple]);
        build.arg("--fuzz-dir").arg(host::root().join(PACKAGE)).arg("--target-dir").arg(&folder).args(name);
        host::run(build.current_dir(host::root()))?;
    }
    Ok(folder.join(triple).join("debug"))
}

/// A target that runs.
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    until: Instant,
}

impl Running {
    fn start(name: &str, program: &Path, corpus: &Path, seconds: u32) -> Result<Self> {
        let folder = host::target_dir().join("fuzz");
        let (found, broken) = (folder.join("found").join(name), folder.join("broken"));
        fs::create_dir_all(&found)?;
        fs::create_dir_all(&broken)?;
        let log = folder.join(format!("{name}.log"));
        let mut run = Command::new(program);
        run.arg(&found).arg(corpus).arg(format!("-max_total_time={seconds}"));
        run.arg(format!("-max_len={INPUT_BYTES_MAX}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        run.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}")).arg("-print_final_stats=1");
        run.arg(format!("-artifact_prefix={}/{name}-", broken.display()));
        host::say(&format!("$ {}", host::typed(&run)));
        let child = run
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let until = Instant::now() + Duration::from_secs(seconds.into()) + END_GRACE;
        Ok(Self { name: name.to_owned(), child, log, until })
    }

    /// Whether it ended well, if it has ended. One that should have long ago is ended.
    fn ended(&mut self) -> Result<Option<bool>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() < self.until {
            return Ok(None);
        }
        host::say(&format!("{} does not come to its end", self.name));
        self.child.kill()?;
        self.child.wait()?;
        Ok(Some(false))
    }

    fn tell(&self, well: bool) -> Result<()> {
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let inputs = statistic(&log, "number_of_executed_units").unwrap_or("unknown");
        let memory = statistic(&log, "peak_rss_mb").unwrap_or("unknown");
        let how = if well { "held" } else { "BROKE" };
        println!("{:<16} {how}, {inputs} inputs, {memory} MiB at most", self.name);
        if !well {
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n"));
        }
        Ok(())
    }
}

/// One of libFuzzer's final statistics.
fn statistic<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    let line = |line: &'a str| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':');
    log.lines().find_map(line).map(str::trim)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_a_line_in_its_package() {
        let package = host::root().join(PACKAGE);
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        for name in targets(&package).unwrap() {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            assert!(fs::read_dir(package.join("corpus").join(&name)).unwrap().count() > 0, "{name}");
        }
    }

    #[test]
    fn what_libfuzzer_says_at_the_end_is_read() {
        let log = "Done 5 runs\nstat::number_of_executed_units: 684798\nstat::peak_rss_mb:              90\n";
        assert_eq!(statistic(log, "number_of_executed_units"), Some("684798"));
        assert_eq!(statistic(log, "peak_rss_mb"), Some("90"));
        assert_eq!(statistic(log, "other"), None);
    }
}
