//! `build-ui`: makes the page that the daemon embeds from its TypeScript sources.
//!
//! In: `profiler-daemon/ui/src`. Out: `profiler-daemon/ui/dist`, which is committed, so that building the daemon needs
//! neither node nor npm. With `--check` nothing is changed: it fails if the committed page is not what the sources make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Node before this does not know what the build script is written in.
const NODE_MIN: u32 = 18;

/// Makes the page; or, to `check`, makes it aside and compares.
pub(crate) fn run(check: bool) -> Result<()> {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiler-daemon/ui");
    let dist = ui.join("dist");
    tools()?;
    let committed = contents(&dist)?;
    // `ci` installs exactly what the lock file says.
    npm(&ui, &["ci", "--no-audit", "--no-fund"])?;
    npm(&ui, &["run", "--silent", "check"])?;
    npm(&ui, &["run", "--silent", "test"])?;
    npm(&ui, &["run", "--silent", "build"])?;
    let made = contents(&dist)?;
    if !check {
        println!("{} files in profiler-daemon/ui/dist", made.len());
        return Ok(());
    }
    if made != committed {
        restore(&dist, &committed, &made)?;
        let names: Vec<_> = made
            .keys()
            .chain(committed.keys())
            .filter(|name| made.get(*name) != committed.get(*name))
            .collect();
        bail!(
            "profiler-daemon/ui/dist does not belong to ui/src ({}): run `cargo xtask build-ui` and commit it",
            name_list(&names)
        );
    }
    println!("profiler-daemon/ui/dist belongs to its sources");
    Ok(())
}

/// Says what is missing before something obscure fails.
fn tools() -> Result<()> {
    let advice = format!(
        "build-ui needs node {NODE_MIN} or newer and npm: https://nodejs.org, or `apt-get install nodejs npm`"
    );
    let output = Command::new("node").arg("--version").output().with_context(|| advice.clone())?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(major(&version).is_some_and(|major| major >= NODE_MIN), "node is {version:?}. {advice}");
    Ok(())
}

/// The first number of `v20.1.0`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn npm(ui: &Path, arguments: &[&str]) -> Result<()> {
    let status =
        Command::new("npm").args(arguments).current_dir(ui).status().context("npm does not start")?;
    ensure!(status.success(), "`npm {}` failed in profiler-daemon/ui", arguments.join(" "));
    Ok(())
}

type Contents = BTreeMap<PathBuf, Vec<u8>>;

fn contents(folder: &Path) -> Result<Contents> {
    if !folder.exists() {
        return Ok(Contents::new());
    }
    let mut files = Contents::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.insert(path.file_name().map(PathBuf::from).unwrap_or_default(), bytes);
    }
    Ok(files)
}

/// Puts back what was committed: a check leaves nothing behind.
fn restore(dist: &Path, committed: &Contents, made: &Contents) -> Result<()> {
    for name in made.keys().filter(|name| !committed.contains_key(*name)) {
        std::fs::remove_file(dist.join(name))?;
    }
    for (name, bytes) in committed {
        std::fs::write(dist.join(name), bytes)?;
    }
    Ok(())
}

fn name_list(names: &[&PathBuf]) -> String {
    let mut names: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_node_is_its_first_number() {
        assert_eq!(major("v20.20.2"), Some(20));
        assert_eq!(major("20"), None);
        assert_eq!(major(""), None);
    }

    #[test]
    fn names_that_differ_are_said_once() {
        let (js, css) = (PathBuf::from("app.js"), PathBuf::from("app.css"));
        assert_eq!(name_list(&[&js, &css, &js]), "app.css, app.js");
    }
}
