//! What runs on the machine while something is measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// How deep the stacks are of the programs that run; some keep every processor busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stacks {
    /// One program for each processor, as many frames deep.
    Deep(u32),
    /// Two for each processor, 20 and 70 frames deep, which take turns.
    Mixed,
}

impl Stacks {
    /// All that are measured.
    pub(super) const ALL: [Self; 4] = [Self::Deep(10), Self::Deep(50), Self::Deep(200), Self::Mixed];

    /// Its name in a table.
    pub(super) fn name(self) -> String {
        match self {
            Self::Deep(frames) => format!("{frames} frames"),
            Self::Mixed => "20 and 70".to_owned(),
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

    /// Programs with such stacks, which are at their bottom when this returns.
    pub(super) fn deep(deep: &Path, stacks: Stacks) -> Result<Self> {
        let depths = match stacks {
            Stacks::Deep(frames) => vec![frames],
            Stacks::Mixed => vec![20, 70],
        };
        let mut load = Self(Vec::new());
        for _ in 0..std::thread::available_parallelism()?.get() {
            for depth in &depths {
                load.add(Command::new(deep).arg(depth.to_string()))?;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(load)
    }

    /// Each of `binaries`, 20 frames deep.
    pub(super) fn each(binaries: &[PathBuf]) -> Result<Self> {
        let mut load = Self(Vec::new());
        for binary in binaries {
            load.add(Command::new(binary).arg("20"))?;
        }
        Ok(load)
    }

    /// Its process ids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Child::id)
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
