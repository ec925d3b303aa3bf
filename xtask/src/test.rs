//! `cargo xtask test`: the one test command. It installs what the tests need, runs the tiers from the quickest to the
//! slowest, and says at the end which ones ran.
//!
//! A test target's tier stands beside it, in `[package.metadata.tiers]` of its package. A test that cannot run here says
//! so aloud and is counted as skipped; with `TEST_REQUIRE_BPF=1`, `TEST_REQUIRE_BROWSER=1`, `TEST_REQUIRE_GO=1`,
//! `TEST_REQUIRE_MUSL=1` and `TEST_REQUIRE_SERVERS=1`, as in CI, it fails instead.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::host::{self, Need};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Tiers 1 to 3 only: what needs no kernel, no privilege and no browser
    #[arg(long)]
    quick: bool,
    /// Do more of what can be done more of: `test delivery --long` pushes 100,000 times
    #[arg(long)]
    long: bool,
}

/// One tier: what it proves, and what must be installed for it.
#[derive(Debug)]
struct Tier {
    number: u8,
    name: &'static str,
    needs: &'static [Need],
}

const GO: Need =
    Need { program: "go", package: "golang-go", purpose: "programs and servers in Go are tested" };
const C: Need = Need { program: "cc", package: "build-essential", purpose: "programs in C are profiled" };
const CPP: Need =
    Need { program: "c++", package: "build-essential", purpose: "programs in C++ are profiled" };
const MUSL: Need = Need {
    program: "musl-gcc",
    package: "musl-tools",
    purpose: "programs without unwind tables are profiled",
};
const CHROMIUM: Need =
    Need { program: "chromium", package: "chromium", purpose: "the page is looked at in a real browser" };

const NODE: Need = Need { program: "node", package: "nodejs", purpose: "profiles are pushed to it" };
const NGINX: Need = Need { program: "nginx", package: "nginx-light", purpose: "profiles are pushed to it" };
const APACHE: Need =
    Need { program: "apache2", package: "apache2-bin", purpose: "profiles are pushed to it" };
const HAPROXY: Need = Need { program: "haproxy", package: "haproxy", purpose: "profiles are pushed to it" };

const TIERS: [Tier; 7] = [
    Tier { number: 1, name: "pure functions beside their code", needs: &[] },
    Tier { number: 2, name: "replay of recordings", needs: &[] },
    Tier { number: 3, name: "delivery against real servers", needs: &[GO, NODE, NGINX, APACHE, HAPROXY] },
    Tier { number: 4, name: "layouts against the object's types", needs: &[] },
    Tier { number: 5, name: "every program through the verifier", needs: &[] },
    Tier { number: 6, name: "end to end on this kernel", needs: &[C, CPP, GO, MUSL] },
    Tier { number: 7, name: "the page in a real browser", needs: &[CHROMIUM] },
];
/// The last tier of `--quick`.
const QUICK_MAX: u8 = 3;

/// What became of a tier.
#[derive(Debug, Default)]
struct Outcome {
    tests: u64,
    failed: bool,
    skipped: Vec<String>,
    took: Duration,
}

/// Runs the tiers; an error if any test failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |tier: &&Tier| !options.quick || tier.number <= QUICK_MAX;
    let targets = targets()?;
    let needs: Vec<Need> = TIERS
        .iter()
        .filter(wanted)
        .filter(|tier| targets.contains_key(&tier.number))
        .flat_map(|tier| tier.needs.iter().copied())
        .collect();
    if let Err(error) = host::install(&needs) {
        host::say(&format!("{error:#}"));
        host::say("tests that need it will say that they are skipped, or fail where they are required");
    }

    host::run(host::cargo().args(["test", "--no-run"]))?;
    if !options.quick {
        // What is tested end to end is what ships.
        host::run(host::cargo().args(["build", "--release", "--bins", "--package", "profiler-daemon"]))?;
    }

    let mut rows = Vec::new();
    for tier in TIERS.iter().filter(wanted) {
        let mut outcome = Outcome::default();
        if tier.number == 1 {
            outcome.add(&["--lib", "--bins"], options)?;
        }
        for target in targets.get(&tier.number).into_iter().flatten() {
            outcome.add(&["--package", &target.package, "--test", &target.name], options)?;
        }
        rows.push((tier, outcome));
    }
    print!("{}", table(&rows, options.quick));
    if rows.iter().any(|(_, outcome)| outcome.failed) {
        bail!("a test failed");
    }
    Ok(())
}

impl Outcome {
    /// Runs the tests that `selection` names.
    fn add(&mut self, selection: &[&str], options: &Options) -> Result<()> {
        let begun = Instant::now();
        let skips = host::target_dir().join("skipped-tests.txt");
        std::fs::write(&skips, "")?;
        let mut test = host::cargo();
        test.arg("test").args(selection).arg("--").args(&options.filter);
        if options.long {
            test.env("TEST_LONG", "1").arg("--nocapture");
        }
        test.env("TEST_SKIPS_FILE", &skips);
        test.env("PROFILER_DAEMON_BIN", host::target_dir().join("release/profiler-daemon"));
        host::say(&format!("$ {}", host::typed(&test)));
        let mut child = test.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
        let output = child.stdout.take().expect("it was piped");
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            self.tests += passed(&line);
        }
        self.failed |= !child.wait()?.success();
        self.skipped.extend(read_skips(&skips));
        self.took += begun.elapsed();
        Ok(())
    }
}

/// How many tests a line of libtest's says have passed.
fn passed(line: &str) -> u64 {
    let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
        return 0;
    };
    counts.split_once(" passed").and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

fn read_skips(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Which tiers ran, and how that ended.
fn table(rows: &[(&Tier, Outcome)], quick: bool) -> String {
    let mut text = format!("\n{:<40} {:<8} {:>6} {:>8}\n", "tier", "result", "tests", "time");
    for (tier, outcome) in rows {
        let Outcome { tests, failed, skipped, took } = outcome;
        // A test that skips itself passes as far as libtest knows.
        let ran = tests.saturating_sub(skipped.len() as u64);
        let result = match (failed, ran, skipped.is_empty()) {
            (true, _, _) => "FAILED",
            (false, 0, true) => "empty",
            (false, 0, false) => "SKIPPED",
            (false, _, true) => "ok",
            (false, _, false) => "partly",
        };
        let name = format!("{} {}", tier.number, tier.name);
        let seconds = took.as_secs_f64();
        text += &format!("{name:<40} {result:<8} {ran:>6} {seconds:>6.1} s\n");
        for reason in skipped {
            text += &format!("    skipped: {reason}\n");
        }
    }
    if quick {
        text += &format!("tiers {} to {} were not run (--quick)\n", QUICK_MAX + 1, TIERS.len());
    }
    text
}

/// A test target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    package: String,
    name: String,
}

/// The test targets of the workspace by tier.
fn targets() -> Result<BTreeMap<u8, Vec<Target>>> {
    let metadata = host::output(host::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .context("`cargo metadata` failed")?;
    by_tier(&metadata)
}

fn by_tier(metadata: &str) -> Result<BTreeMap<u8, Vec<Target>>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        targets: Vec<Built>,
        metadata: Option<Extra>,
    }
    #[derive(Deserialize)]
    struct Built {
        name: String,
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Extra {
        #[serde(default)]
        tiers: BTreeMap<String, u8>,
    }
    let metadata: Metadata = serde_json::from_str(metadata)?;
    let mut targets: BTreeMap<u8, Vec<Target>> = BTreeMap::new();
    for package in metadata.packages {
        let tiers = package.metadata.map(|extra| extra.tiers).unwrap_or_default();
        for built in package.targets.into_iter().filter(|built| built.kind.iter().any(|kind| kind == "test"))
        {
            let tier = tiers.get(&built.name).with_context(|| {
                format!(
                    "test `{}` has no tier: add it to [package.metadata.tiers] of package {}",
                    built.name, package.name
                )
            })?;
            if !TIERS.iter().any(|known| known.number == *tier) {
                bail!("test `{}` says it is of tier {tier}, which is none", built.name);
            }
            targets
                .entry(*tier)
                .or_default()
                .push(Target { package: package.name.clone(), name: built.name });
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn metadata(tiers: &str) -> String {
        format!(
            r#"{{"packages":[{{"name":"p","metadata":{tiers},"targets":[
                {{"name":"p","kind":["lib"]}},{{"name":"e2e","kind":["test"]}}]}}]}}"#
        )
    }

    #[test]
    fn a_target_is_run_in_the_tier_its_package_says() {
        let targets = by_tier(&metadata(r#"{"tiers":{"e2e":6}}"#)).unwrap();
        assert_eq!(targets[&6], [Target { package: "p".into(), name: "e2e".into() }]);
    }

    #[test]
    fn a_target_without_a_tier_is_not_forgotten() {
        assert!(by_tier(&metadata("null")).unwrap_err().to_string().contains("`e2e` has no tier"));
    }

    #[test]
    fn a_tier_that_is_none_is_refused() {
        assert!(by_tier(&metadata(r#"{"tiers":{"e2e":9}}"#)).is_err());
    }

    #[test]
    fn every_test_of_this_workspace_has_a_tier() {
        assert!(targets().unwrap().contains_key(&1));
    }

    #[test]
    fn passed_tests_are_counted_from_the_line_libtest_prints() {
        assert_eq!(passed("test result: ok. 27 passed; 0 failed; 0 ignored; 0 measured"), 27);
        assert_eq!(passed("test result: FAILED. 3 passed; 2 failed; 0 ignored"), 3);
        assert_eq!(passed("running 4 tests"), 0);
    }

    #[test]
    fn a_tier_that_only_skipped_did_not_run() {
        let outcome = Outcome { tests: 1, skipped: vec!["e2e: needs root".into()], ..Outcome::default() };
        let text = table(&[(&TIERS[5], outcome)], false);
        assert!(text.contains("SKIPPED") && text.contains("skipped: e2e: needs root"), "{text}");
    }
}
