//! A machine in an emulator: a kernel, an initramfs, a serial line.
//!
//! In: both files. Out: what each step said on the line. Not here: what was to be said (`findings`).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::emulator::finding::Finding;
use crate::host;

pub(crate) mod archive;
pub(crate) mod finding;
pub(crate) mod image;

/// What a step said and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its lines.
    pub lines: Vec<String>,
    /// Its exit code; `None` if the machine ended first.
    pub code: Option<i32>,
}

/// What was said on the serial line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    steps: BTreeMap<String, Step>,
    /// How it ended, if the machine did not turn itself off.
    broken_off: Option<String>,
}

impl Transcript {
    /// The steps in `text`; what is said outside of them is nobody's.
    fn parse(text: &str) -> Self {
        let mut steps: BTreeMap<String, Step> = BTreeMap::new();
        let mut current: Option<String> = None;
        for line in text.lines().map(|line| line.trim_end_matches('\r')) {
            // A line may follow the terminal's control characters, or words without an end of line.
            if let Some((_, name)) = line.split_once("@begin ") {
                steps.insert(name.to_owned(), Step::default());
                current = Some(name.to_owned());
            } else if let (Some(name), Some((before, end))) = (&current, line.split_once("@end ")) {
                let step = steps.entry(name.clone()).or_default();
                step.lines.extend((!before.is_empty()).then(|| before.to_owned()));
                step.code = end.rsplit(' ').next().and_then(|code| code.parse().ok());
                current = None;
            } else if let Some(name) = &current {
                steps.entry(name.clone()).or_default().lines.push(line.to_owned());
            }
        }
        Self { steps, broken_off: None }
    }

    /// The step called `name`; an empty one without an end if it never began.
    pub(crate) fn step(&self, name: &str) -> Step {
        self.steps.get(name).cloned().unwrap_or_default()
    }

    /// Whether the machine lived until it turned itself off.
    pub(crate) fn end(&self) -> Finding {
        let seen = self.broken_off.clone().unwrap_or_else(|| "it did".to_owned());
        Finding { what: "the machine turns itself off".to_owned(), seen, well: self.broken_off.is_none() }
    }
}

/// A machine that can be turned on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    /// Its kernel.
    pub image: &'a Path,
    /// What the kernel unpacks into memory and starts `/init` of.
    pub initramfs: &'a Path,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// When it is given up. An emulated boot takes a minute; on a machine whose processors are taken, some.
    pub seconds_max: u32,
}

/// Runs `machine` until it turns itself off or its time is over, and keeps what it said in `log`.
pub(crate) fn boot(machine: &Machine, log: &Path) -> Result<Transcript> {
    let mut emulator = Command::new("timeout");
    emulator.arg(machine.seconds_max.to_string()).arg("qemu-system-x86_64");
    // Without KVM, so that it runs in a virtual machine too; a panic ends it.
    emulator.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    emulator.arg("-m").arg(machine.memory_mib.to_string());
    emulator.args(["-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"]);
    emulator.arg("-kernel").arg(machine.image).arg("-initrd").arg(machine.initramfs);
    // The kernel's check that its clock ticks fails where the emulator has to wait for a processor.
    emulator.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check"]);
    host::say(&format!("$ {}", host::typed(&emulator)));
    let said = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = emulator.stdin(Stdio::null()).stdout(said).status().context("cannot start the emulator")?;
    let mut transcript = Transcript::parse(&String::from_utf8_lossy(&std::fs::read(log)?));
    if !status.success() {
        // As timeout(1) says that the time was over.
        let is_late = status.code() == Some(124);
        let late = format!("not within {} s", machine.seconds_max);
        transcript.broken_off =
            Some(if is_late { late } else { format!("the emulator ended before ({status})") });
    }
    Ok(transcript)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, name: &str, lines: &[&str], code: Option<i32>) {
        let step = Transcript::parse(text).step(name);
        assert_eq!(
            (step.lines.iter().map(String::as_str).collect::<Vec<_>>(), step.code),
            (lines.to_vec(), code)
        );
    }

    #[test]
    fn a_step_is_what_lies_between_its_begin_and_its_end() {
        let text = "boot\r\n\x1bc@begin a b\r\none\r\ntwo\r\n@end a b 3\r\nelse\r\n";
        check(text, "a b", &["one", "two"], Some(3));
    }

    #[test]
    fn words_without_an_end_of_line_belong_to_the_step() {
        check("@begin x\nword@end x 0\n", "x", &["word"], Some(0));
    }

    #[test]
    fn a_step_that_the_machine_did_not_survive_has_no_end() {
        check("@begin x\nKernel panic\n", "x", &["Kernel panic"], None);
    }

    #[test]
    fn a_step_that_never_began_said_nothing() {
        check("", "x", &[], None);
    }
}
