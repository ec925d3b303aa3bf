//! What runs on the machine while something is measured.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A machine to profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    /// Two processes that never wait, 10 and 50 frames deep.
    Busy,
    /// Two hundred processes that sleep.
    Sleeping,
    /// Nothing.
    Idle,
}

impl Scene {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Busy, Self::Sleeping, Self::Idle];

    /// Its name in a table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Busy => "2 busy processes",
            Self::Sleeping => "200 idle processes",
            Self::Idle => "idle machine",
        }
    }
}

/// Processes that end with this value.
#[derive(Debug)]
pub(super) struct Load(Vec<Child>);

impl Load {
    /// The load of `scene`.
    pub(super) fn of(scene: Scene, deep: &Path) -> Result<Self> {
        match scene {
            Scene::Busy => {
                let mut load = Self(Vec::new());
                for depth in [10, 50] {
                    load.add(Command::new(deep).arg(depth.to_string()))?;
                }
                Ok(load)
            }
            Scene::Sleeping => {
                let mut load = Self(Vec::new());
                for _ in 0..200 {
                    load.add(Command::new("sleep").arg("1d"))?;
                }
                Ok(load)
            }
            Scene::Idle => Ok(Self(Vec::new())),
        }
    }

    /// A process with a stack of `depth` frames for every processor.
    pub(super) fn deep(deep: &Path, depth: u32) -> Result<Self> {
        let mut load = Self(Vec::new());
        for _ in 0..std::thread::available_parallelism()?.get() {
            load.add(Command::new(deep).arg(depth.to_string()))?;
        }
        Ok(load)
    }

    fn add(&mut self, command: &mut Command) -> Result<()> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.0.push(child.context("a process to be measured cannot be started")?);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}
