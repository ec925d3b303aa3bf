//! perf beside us, on the same run: it copies 64 KiB of stack a sample and unwinds them afterwards.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use profiler_tests::harness::profile::{Frame, Profile, Stack};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Rare, for each sample takes as much as a disk does.
const FREQUENCY: &str = "29";

/// `perf record` of the whole system.
#[derive(Debug)]
pub(crate) struct Perf {
    child: Child,
    folder: TempDir,
}

impl Perf {
    /// Starts it; `None` where there is none.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut record = Command::new("perf");
        record.args([
            "record",
            "-q",
            "-a",
            "--no-bpf-event",
            "-e",
            "cpu-clock:u",
            "-F",
            FREQUENCY,
            "--call-graph",
            "dwarf,65528",
        ]);
        record.arg("-o").arg(folder.path().join("perf.data"));
        let child = record.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        std::thread::sleep(Duration::from_secs(1));
        Some(Self { child, folder })
    }

    /// Ends it and has it read what it wrote, of the processes `wanted`.
    ///
    /// `None` if it came to nothing: perf 6.1 aborts now and then when it is to end.
    pub(crate) fn stop(mut self, wanted: impl Fn(u32) -> bool) -> Option<Profile> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let status = self.child.wait().expect("a child can be waited for");
        let script = script(&self.folder.path().join("perf.data"));
        let mut profile = read(&script);
        profile.stacks.retain(|stack| wanted(stack.pid));
        if profile.stacks.is_empty() {
            println!("perf beside us came to nothing: perf record ended by {status}");
            return None;
        }
        Some(profile)
    }
}

fn script(data: &Path) -> String {
    let mut script = Command::new("perf");
    script
        .args(["script", "--no-inline", "--max-stack", "2048", "-F", "comm,pid,tid,ip,sym,dso", "-i"])
        .arg(data);
    let output =
        script.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("perf reads what it wrote");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads samples, one a paragraph: `comm pid/tid`, then a line a frame, leaf first: `address function (file)`.
fn read(script: &str) -> Profile {
    let stack = |paragraph: &str| {
        let mut lines = paragraph.lines();
        let (comm, ids) = lines.next()?.trim().rsplit_once(char::is_whitespace)?;
        let pid = ids.split('/').next()?.parse().ok()?;
        let mut frames: Vec<Frame> = lines.filter_map(frame).collect();
        frames.reverse();
        Some(Stack { comm: comm.trim().to_owned(), pid, service_name: String::new(), frames, samples: 1 })
    };
    Profile { stacks: script.split("\n\n").filter_map(stack).collect(), period_ns: 0 }
}

fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, module) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    // It has no name, which is not a reason to cut a stack.
    let name = name.trim_matches(['[', ']']);
    Some(Frame { name: name.to_owned(), module: module.trim_end_matches(')').to_owned(), kernel: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_a_stack() {
        let script =
            "wl a   7/8 \n\t    55d0 f(int) (/tmp/wl a)\n\t    7f00 __libc_start (/lib/libc.so.6)\n\n";
        let profile = read(script);
        let [stack] = &profile.stacks[..] else { panic!("{profile:?}") };
        assert_eq!((stack.comm.as_str(), stack.pid), ("wl a", 7));
        let frames: Vec<_> = stack.frames.iter().map(|f| (f.name.as_str(), f.module.as_str())).collect();
        assert_eq!(frames, [("__libc_start", "/lib/libc.so.6"), ("f(int)", "/tmp/wl a")]);
    }
}
