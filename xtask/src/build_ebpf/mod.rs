//! `cargo xtask build-ebpf`: the kernel side, built into the object that the daemon embeds.
//!
//! The object is committed, so that stable Rust alone builds everything else, and beside it a note: which sources and
//! tools made it, and what it holds. `--check` compares the three and needs no nightly.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host;
use note::Note;
pub(crate) use tools::{nightly, rustup_run};

mod note;
mod object;
mod sources;
mod tools;

/// Where the object lies, from the top of the workspace.
const OBJECT: &str = "profiler-daemon/bpf/profiler.bpf.o";
/// Where the note lies.
const NOTE: &str = "profiler-daemon/bpf/profiler.bpf.toml";
/// What mends everything that a check can find.
const MEND: &str = "build it with `cargo xtask build-ebpf` and commit both files of profiler-daemon/bpf";

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build nothing; fail if the committed object is not whole or does not belong to the sources
    #[arg(long)]
    check: bool,
}

/// Builds the object and its note, or checks them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = host::root();
    if options.check {
        let contents = check(&root).context(MEND)?;
        host::say(&format!("{OBJECT} is whole and belongs to the sources ({})", contents.summary()));
        return Ok(());
    }
    let tools = tools::Tools::find_or_install()?;
    let built = tools.build()?;
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let contents = object::read(&object).context("what was just built is not an object we could load")?;
    for place in tools.machine_paths() {
        if let Some(text) = object::text_around(&object, place.as_bytes()) {
            bail!("the object holds a path of this machine: {text}");
        }
    }
    let note = Note {
        sources_sha256: sources::hash(&root)?,
        object_sha256: sources::hex_sha256(&object),
        programs: contents.programs.clone(),
        maps: contents.maps.clone(),
        tools: tools.versions(&root)?,
    };
    let folder = root.join(OBJECT);
    let folder = folder.parent().expect("the object lies in a folder");
    fs::create_dir_all(folder)?;
    fs::write(root.join(OBJECT), &object)?;
    fs::write(root.join(NOTE), note.to_text()?)?;
    host::say(&format!("{OBJECT}: {} bytes, {}", object.len(), contents.summary()));
    Ok(())
}

/// Whether the committed object is whole, is the one of its note, and was made from the sources as they are.
fn check(root: &Path) -> Result<object::Contents> {
    let bytes = match fs::read(root.join(OBJECT)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{OBJECT} is missing"),
        Err(error) => return Err(error).context(format!("{OBJECT} cannot be read")),
    };
    let contents = object::read(&bytes).context(OBJECT)?;
    let note = match fs::read_to_string(root.join(NOTE)) {
        Ok(text) => Note::from_text(&text).context(NOTE)?,
        Err(error) => return Err(error).context(format!("{NOTE} cannot be read")),
    };
    note.compare(&contents, &sources::hex_sha256(&bytes), &sources::hash(root)?)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A workspace with one source, and the committed object with a note that fits.
    fn workspace() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["profiler-ebpf/src", "profiler-common/src", "profiler-daemon/bpf"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("profiler-ebpf/Cargo.toml"), "[package]\n").unwrap();
        fs::write(root.join("profiler-ebpf/src/main.rs"), "//! hooks\n").unwrap();
        fs::write(root.join("profiler-common/Cargo.toml"), "[package]\n").unwrap();
        fs::write(root.join("profiler-common/src/lib.rs"), "//! contract\n").unwrap();
        fs::write(root.join("Cargo.lock"), "[[package]]\nname = \"aya-ebpf\"\nversion = \"1.2.3\"\n")
            .unwrap();
        let object = fs::read(host::root().join(OBJECT)).unwrap();
        let contents = object::read(&object).unwrap();
        let note = Note {
            sources_sha256: sources::hash(root).unwrap(),
            object_sha256: sources::hex_sha256(&object),
            programs: contents.programs,
            maps: contents.maps,
            tools: note::Versions::default(),
        };
        fs::write(root.join(OBJECT), object).unwrap();
        fs::write(root.join(NOTE), note.to_text().unwrap()).unwrap();
        dir
    }

    /// Does `damage` to a workspace that is well, and expects a refusal with `words`.
    #[track_caller]
    fn check_refused(damage: impl FnOnce(&Path), words: &str) {
        let dir = workspace();
        check(dir.path()).unwrap();
        damage(dir.path());
        let error = format!("{:#}", check(dir.path()).unwrap_err());
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn a_source_that_changed_is_noticed() {
        check_refused(
            |root| fs::write(root.join("profiler-ebpf/src/main.rs"), "//! other hooks\n").unwrap(),
            "sources have changed",
        );
    }

    #[test]
    fn a_new_source_is_noticed() {
        check_refused(
            |root| fs::write(root.join("profiler-common/src/new.rs"), "").unwrap(),
            "sources have changed",
        );
    }

    #[test]
    fn a_missing_object_is_noticed() {
        check_refused(|root| fs::remove_file(root.join(OBJECT)).unwrap(), "is missing");
    }

    #[test]
    fn a_missing_note_is_noticed() {
        check_refused(|root| fs::remove_file(root.join(NOTE)).unwrap(), "cannot be read");
    }

    #[test]
    fn a_byte_that_changed_in_the_object_is_noticed() {
        check_refused(
            |root| {
                let mut object = fs::read(root.join(OBJECT)).unwrap();
                object[0x40] ^= 1; // in the first program's code
                fs::write(root.join(OBJECT), object).unwrap();
            },
            "is not the object that",
        );
    }
}
