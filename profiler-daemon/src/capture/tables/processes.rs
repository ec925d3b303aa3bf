//! Which list each process has, as the kernel side reads it.
//!
//! In: processes and where their lists are. Out: the same, in the map's own memory: no system call is made for a process that starts
//! or ends. Not here: how the kernel side finds it (`profiler_common::unwind::processes`).

use std::io;
use std::os::fd::BorrowedFd;

use profiler_common::limits::PROCESS_LINES;
use profiler_common::unwind::processes::{Entry, LINE_ENTRIES, lines_of};
use profiler_common::unwind::table::MappingList;

use crate::capture::sys::Words;
use crate::model::Pid;

/// See the head of this file. The only one who writes there.
#[derive(Debug)]
pub(in crate::capture) struct Processes {
    words: Words,
}

/// All entries of the map.
const BYTES: usize = PROCESS_LINES as usize * LINE_ENTRIES * size_of::<Entry>();

impl Processes {
    /// Those of the array `map`: none yet.
    pub(in crate::capture) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { words: Words::map(map, BYTES / size_of::<u32>())? })
    }

    /// Process `pid` has `list` from now on; false if there is no room for it.
    pub(super) fn put(&mut self, pid: Pid, list: MappingList) -> bool {
        let Some(entry) = self.find(pid.0).or_else(|| self.find_free(pid.0)) else { return false };
        let [first, second] = Entry::new(pid.0, list).words();
        // So that a reader who finds the first word twice has the second one that belongs to it.
        self.words.write_double(2 * entry, 0);
        self.words.write_double(2 * entry + 1, second);
        self.words.write_double(2 * entry, first);
        true
    }

    /// Nothing is known of process `pid`.
    pub(super) fn remove(&mut self, pid: Pid) {
        if let Some(entry) = self.find(pid.0) {
            self.words.write_double(2 * entry, 0);
        }
    }

    fn find(&self, tgid: u32) -> Option<usize> {
        entries_of(tgid).find(|entry| self.tgid_at(*entry) == tgid)
    }

    fn find_free(&self, tgid: u32) -> Option<usize> {
        entries_of(tgid).find(|entry| self.tgid_at(*entry) == 0)
    }

    fn tgid_at(&self, entry: usize) -> u32 {
        Entry::from_words([self.words.read_double(2 * entry), 0]).tgid
    }
}

/// The entries where process `tgid` may be.
fn entries_of(tgid: u32) -> impl Iterator<Item = usize> {
    lines_of(tgid).into_iter().flat_map(|line| {
        let first = line as usize * LINE_ENTRIES;
        first..first + LINE_ENTRIES
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// Any memory that can be mapped does.
    fn processes() -> Processes {
        let memory = memfd_create("processes", MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&memory, BYTES as u64).expect("as long as the map");
        Processes::new(memory.as_fd()).expect("it can be mapped")
    }

    fn list(version: u32) -> MappingList {
        MappingList { address: 7 << 16 | 9, mappings: 12, version }
    }

    fn found(processes: &Processes, pid: u32) -> Option<MappingList> {
        let entry = processes.find(pid)?;
        let words = [2 * entry, 2 * entry + 1].map(|at| processes.words.read_double(at));
        Some(Entry::from_words(words).list())
    }

    #[test]
    fn a_process_has_the_list_it_was_given_last() {
        let mut processes = processes();
        assert_eq!(found(&processes, 4711), None);
        for version in [1, 2, u32::MAX] {
            assert!(processes.put(Pid(4711), list(version)));
            assert_eq!(found(&processes, 4711), Some(list(version)));
        }
        processes.remove(Pid(4711));
        assert_eq!(found(&processes, 4711), None);
        processes.remove(Pid(4711));
    }

    #[test]
    fn two_lines_hold_eight_processes_and_the_ninth_waits_for_room() {
        let mut processes = processes();
        let pids: Vec<u32> = (0..9).map(|time| 5 + time * PROCESS_LINES).collect();
        for pid in &pids[..8] {
            assert!(processes.put(Pid(*pid), list(*pid)));
        }
        assert!(!processes.put(Pid(pids[8]), list(1)));
        processes.remove(Pid(pids[3]));
        assert!(processes.put(Pid(pids[8]), list(pids[8])));
        for pid in pids.iter().filter(|pid| **pid != pids[3]) {
            assert_eq!(found(&processes, *pid), Some(list(*pid)));
        }
    }

    #[test]
    fn ten_thousand_processes_in_a_row_find_room() {
        let mut processes = processes();
        assert!((1..=10_000).all(|pid| processes.put(Pid(pid), list(pid))));
        assert!((1..=10_000).all(|pid| found(&processes, pid) == Some(list(pid))));
    }
}
