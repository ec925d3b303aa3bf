//! The note beside the committed object: what made it and what it holds.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::object::Contents;

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// Hash of the sources it was made from.
    pub sources_sha256: String,
    /// Hash of the object.
    pub object_sha256: String,
    /// Names of its programs.
    pub programs: Vec<String>,
    /// Names of its maps.
    pub maps: Vec<String>,
    /// What it was made with.
    pub tools: Versions,
}

/// Versions of what made the object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versions {
    /// `rustc --version` of the nightly.
    pub rustc: String,
    /// Version of its LLVM.
    pub llvm: String,
    /// `bpf-linker --version`.
    pub bpf_linker: String,
    /// The aya-ebpf crate.
    pub aya_ebpf: String,
}

impl Note {
    /// As it is committed.
    pub(super) fn to_text(&self) -> Result<String> {
        let body = toml::to_string_pretty(self)?;
        Ok(format!("# Written by `cargo xtask build-ebpf` beside the object; read by its `--check`.\n{body}"))
    }

    /// From its text.
    pub(super) fn from_text(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Whether this is the note of that object and those sources.
    pub(super) fn compare(&self, contents: &Contents, object: &str, sources: &str) -> Result<()> {
        let Self { sources_sha256, object_sha256, programs, maps, tools: _ } = self;
        ensure!(
            sources_sha256 == sources,
            "the kernel side's sources have changed since the committed object was built"
        );
        ensure!(object_sha256 == object, "the committed object is not the object that its note describes");
        ensure!(
            *programs == contents.programs && *maps == contents.maps,
            "the note names other programs or maps than the object has ({})",
            contents.summary()
        );
        Ok(())
    }
}
