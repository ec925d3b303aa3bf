//! What a process and all its descendants use, read from /proc.

use std::fs;
use std::time::Instant;

/// What was used up to a moment, and what is held at it.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// The moment.
    pub at: Instant,
    /// CPU time, seconds, of living and ended processes.
    pub cpu_s: f64,
    /// Times that a thread slept and was woken.
    pub wakeups: u64,
    /// CPU time of the whole machine, seconds.
    pub machine_s: f64,
    /// Processes and threads that were started on the machine.
    pub machine_starts: u64,
    /// Those that live.
    pub processes: Vec<Process>,
}

/// One process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Process {
    /// The first word of its command line after the program.
    pub command: String,
    /// CPU time of it alone, seconds.
    pub cpu_s: f64,
    /// Times that one of its threads slept and was woken.
    pub wakeups: u64,
    /// Anonymous memory, bytes.
    pub anonymous: u64,
    /// Its part of all memory it shares, bytes.
    pub proportional: u64,
}

impl Reading {
    /// Of process `root` and its descendants.
    pub(super) fn of(root: u32) -> Self {
        Self::read(root, true)
    }

    /// The same without memory, which reads as none: a profiler that is measured sees us too, and has to name what it sees. This takes
    /// a tenth of the time.
    pub(super) fn without_memory(root: u32) -> Self {
        Self::read(root, false)
    }

    fn read(root: u32, memory: bool) -> Self {
        let (mut ended_s, mut processes) = (0.0, Vec::new());
        let at = Instant::now();
        for pid in tree(root) {
            let (mut cpu_s, mut wakeups) = (0.0, 0);
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let on_cpu = read("schedstat");
                let ns: f64 = on_cpu.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0);
                cpu_s += ns / 1e9;
                wakeups += field(&read("status"), "voluntary_ctxt_switches:");
            }
            ended_s += ended_children_s(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            processes.push(Process {
                command: read("cmdline").split('\0').nth(1).unwrap_or_default().to_owned(),
                cpu_s,
                wakeups,
                anonymous: if memory { field(&read("status"), "RssAnon:") * 1024 } else { 0 },
                proportional: if memory { field(&read("smaps_rollup"), "Pss:") * 1024 } else { 0 },
            });
        }
        let cpu_s = ended_s + processes.iter().map(|process| process.cpu_s).sum::<f64>();
        let wakeups = processes.iter().map(|process| process.wakeups).sum();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (machine_s, machine_starts) = (machine_s(&machine), field(&machine, "processes "));
        Self { at, cpu_s, wakeups, machine_s, machine_starts, processes }
    }

    /// Percent of one core since `earlier`.
    pub(super) fn cpu_percent_since(&self, earlier: &Self) -> f64 {
        (self.cpu_s - earlier.cpu_s) * 100.0 / self.seconds_since(earlier)
    }

    /// Wake-ups per second since `earlier`.
    pub(super) fn wakeups_per_second_since(&self, earlier: &Self) -> f64 {
        self.wakeups.saturating_sub(earlier.wakeups) as f64 / self.seconds_since(earlier)
    }

    /// Processes and threads that were started on the machine, per second since `earlier`.
    pub(super) fn machine_starts_since(&self, earlier: &Self) -> f64 {
        self.machine_starts.saturating_sub(earlier.machine_starts) as f64 / self.seconds_since(earlier)
    }

    /// CPU time of the whole machine since `earlier`, seconds.
    pub(super) fn machine_s_since(&self, earlier: &Self) -> f64 {
        self.machine_s - earlier.machine_s
    }

    /// Cores that the whole machine kept busy since `earlier`.
    pub(super) fn machine_cores_since(&self, earlier: &Self) -> f64 {
        self.machine_s_since(earlier) / self.seconds_since(earlier)
    }

    /// CPU time of those that live and are called `command`, seconds.
    pub(super) fn cpu_s_of(&self, command: &str) -> f64 {
        self.called(command).map(|process| process.cpu_s).sum()
    }

    /// Wake-ups per second, since `earlier`, of those that are called `command`.
    pub(super) fn wakeups_per_second_of(&self, command: &str, earlier: &Self) -> f64 {
        let wakeups = |reading: &Self| reading.called(command).map(|process| process.wakeups).sum::<u64>();
        wakeups(self).saturating_sub(wakeups(earlier)) as f64 / self.seconds_since(earlier)
    }

    fn called(&self, command: &str) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.command == command)
    }

    pub(super) fn seconds_since(&self, earlier: &Self) -> f64 {
        self.at.duration_since(earlier.at).as_secs_f64().max(1e-9)
    }

    /// Anonymous bytes of the processes whose command is not `except`.
    pub(super) fn anonymous_without(&self, except: &str) -> u64 {
        self.processes
            .iter()
            .filter(|process| process.command != except)
            .map(|process| process.anonymous)
            .sum()
    }

    /// Proportional bytes of all processes.
    pub(super) fn proportional(&self) -> u64 {
        self.proportional_without("-")
    }

    /// Proportional bytes of the processes whose command is not `except`.
    pub(super) fn proportional_without(&self, except: &str) -> u64 {
        self.processes
            .iter()
            .filter(|process| process.command != except)
            .map(|process| process.proportional)
            .sum()
    }
}

/// CPU time of the children that this process has waited for, seconds.
pub(super) fn own_ended_children_s() -> f64 {
    ended_children_s(&fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

/// Process `root` and all its descendants. (Each is asked for its own: to ask everybody for their parents takes milliseconds beside two
/// hundred others.)
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

/// The number after `name` at a line's start.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Fields 16 and 17 of a stat file; the kernel counts them in hundredths of a second.
fn ended_children_s(stat: &str) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(13).take(2).filter_map(|t| t.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// Time that processors were busy, of the first line of /proc/stat.
fn machine_s(stat: &str) -> f64 {
    let ticks: Vec<f64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = ticks.iter().enumerate().filter(|(which, _)| *which < 8 && ![3, 4].contains(which));
    busy.map(|(_, ticks)| ticks).sum::<f64>() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_used_is_read_behind_a_hostile_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 50 60 70 30 20 0";
        assert!((ended_children_s(stat) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        assert!((machine_s("cpu  100 0 100 999 999 0 50 50 7 7\ncpu0 1") - 3.0).abs() < 1e-9);
    }

    #[test]
    fn children_are_found_and_their_children() {
        let mut child = std::process::Command::new("sh");
        let mut child =
            child.args(["-c", "sleep 60 & echo; wait"]).stdout(std::process::Stdio::piped()).spawn();
        let child = child.as_mut().expect("a shell");
        // It has its own by the time that it says something.
        let said = std::io::Read::read(child.stdout.as_mut().expect("a pipe"), &mut [0]);
        let tree = tree(child.id());
        let mine = super::tree(std::process::id());
        for &pid in tree.iter().rev() {
            let _ =
                std::process::Command::new("sh").args(["-c", "kill \"$1\"", "sh", &pid.to_string()]).status();
        }
        let _ = child.wait();
        assert!(
            said.is_ok() && tree.len() == 2 && tree.iter().all(|pid| mine.contains(pid)),
            "{tree:?}, {mine:?}"
        );
    }

    #[test]
    fn we_find_ourselves() {
        let reading = Reading::of(std::process::id());
        assert!(reading.cpu_s > 0.0 && reading.processes[0].anonymous > 0 && reading.machine_s > 0.0);
    }
}
