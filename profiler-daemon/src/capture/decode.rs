//! Bytes of the kernel into values of the corridor.
//!
//! In: one record of the sample ring, or one perf record. Out: a `RawSample`, a `ProcessEvent`, or nothing where the bytes
//! make no sense (the caller counts it). Not here: any look at `/proc`.

use std::sync::Arc;

use profiler_common::limits::COMM_BYTES;
use profiler_common::sample::{HAS_STACK, STACK_REGS_WORDS, SampleHeader, WANTS_TABLES};
use profiler_common::unwind::{End, Regs};

use crate::model::{
    BuildId, Comm, Cpu, KernelAddr, Mapping, Pid, ProcessChange, ProcessEvent, RawSample, RawStack, Task,
    Tid, UserAddr, Weight,
};
use crate::time::MonoNs;

/// Takes numbers off the front of a record; `None` past its end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What comes before the first zero.
    fn text(&self) -> &'a [u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// One record of the sample ring, and whether its walk wants tables.
pub(super) fn sample(record: &[u8]) -> Option<(RawSample, bool)> {
    let mut bytes = Bytes(record);
    // Field by field, in the order `wire!` proves.
    let header = SampleHeader {
        time: bytes.u64()?,
        tgid: bytes.u32()?,
        tid: bytes.u32()?,
        comm: bytes.take::<COMM_BYTES>()?,
        cpu: bytes.u16()?,
        kernel_frames: bytes.u16()?,
        user_frames: bytes.u16()?,
        ended: bytes.u16()?,
        weight: bytes.u64()?,
    };
    let mut words = |count: usize| -> Option<Vec<u64>> {
        let (words, rest) = bytes.0.split_at_checked(count * 8)?;
        bytes.0 = rest;
        Some(whole_words(words))
    };
    let kernel = words(usize::from(header.kernel_frames))?;
    let user = words(usize::from(header.user_frames))?;
    let stack = if header.ended & HAS_STACK != 0 {
        let regs = words(STACK_REGS_WORDS)?;
        let &[ip, sp, fp, rdi, r12] = regs.as_slice() else { return None };
        let regs = Regs { ip, sp, fp };
        Some(Arc::new(RawStack { regs, links: [rdi, r12], words: whole_words(bytes.0) }))
    } else {
        None
    };
    let wants_tables = header.ended & WANTS_TABLES != 0;
    let sample = RawSample {
        time: MonoNs(header.time),
        cpu: Cpu(header.cpu),
        task: Task { pid: Pid(header.tgid), tid: Tid(header.tid), comm: Comm(header.comm) },
        kernel: kernel.into_iter().map(KernelAddr).collect(),
        user: user.into_iter().map(UserAddr).collect(),
        ended: End::from_wire(header.ended & !(WANTS_TABLES | HAS_STACK))?,
        stack,
        weight: Weight(header.weight),
    };
    Some((sample, wants_tables))
}

fn whole_words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes)).collect()
}

/// What a record of the process stream says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Something happened to a process.
    Event(ProcessEvent),
    /// The kernel lost this many records.
    Lost(u64),
    /// Nothing of interest.
    Nothing,
}

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_MMAP_BUILD_ID: u16 = 1 << 14;
const PROT_EXEC: u32 = 4;

/// One perf record without its header. Every record ends with `sample_id`: pid, tid, time (see `process_stream`).
pub(super) fn record(kind: u32, misc: u16, body: &[u8]) -> Option<Said> {
    let (front, trailer) = body.split_at_checked(body.len().checked_sub(16)?)?;
    let mut trailer = Bytes(trailer);
    let (_pid, _tid, time) = (trailer.u32()?, trailer.u32()?, MonoNs(trailer.u64()?));
    let mut bytes = Bytes(front);
    let event = |pid: u32, change| Some(Said::Event(ProcessEvent { time, pid: Pid(pid), change }));
    match kind {
        RECORD_LOST => {
            let _id = bytes.u64()?;
            Some(Said::Lost(bytes.u64()?))
        }
        RECORD_COMM => {
            let (pid, tid) = (bytes.u32()?, bytes.u32()?);
            let comm = Comm::new(bytes.text());
            if misc & MISC_COMM_EXEC != 0 {
                event(pid, ProcessChange::Executed { comm, cgroup: None })
            } else {
                event(pid, ProcessChange::Renamed { tid: Tid(tid), comm })
            }
        }
        RECORD_FORK => {
            let (pid, parent) = (bytes.u32()?, bytes.u32()?);
            if pid == parent {
                return Some(Said::Nothing); // a thread
            }
            event(pid, ProcessChange::Forked { parent: Pid(parent) })
        }
        RECORD_EXIT => {
            let (pid, _parent, tid) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
            if pid != tid {
                return Some(Said::Nothing); // a thread
            }
            event(pid, ProcessChange::Exited)
        }
        RECORD_MMAP2 => {
            let (pid, _tid) = (bytes.u32()?, bytes.u32()?);
            let (start, length, file_offset) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
            let file = bytes.take::<24>()?;
            let (protection, _flags) = (bytes.u32()?, bytes.u32()?);
            if protection & PROT_EXEC == 0 || length == 0 {
                return Some(Said::Nothing);
            }
            let build_id = (misc & MISC_MMAP_BUILD_ID != 0)
                .then(|| file.get(4..4 + usize::from(file[0])).and_then(BuildId::new))
                .flatten();
            let mapping = Mapping {
                start: UserAddr(start),
                end: UserAddr(start.checked_add(length)?),
                file_offset,
                path: Arc::from(bytes.text()),
                build_id,
                module: None,
            };
            event(pid, ProcessChange::Mapped(Box::new(mapping)))
        }
        _ => Some(Said::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn pair(low: u32, high: u32) -> u64 {
        u64::from(low) | u64::from(high) << 32
    }

    /// A record of the ring: one kernel frame, two user frames.
    fn ring_record() -> Vec<u8> {
        let mut record = words(&[77, pair(10, 11)]);
        record.extend(*b"work\0er\0\0\0\0\0\0\0\0\0");
        for half in [3u16, 1, 2, 0] {
            record.extend(half.to_ne_bytes());
        }
        record.extend(words(&[5, 0xffff_ffff_8100_0000, 0x40_1000, 0x40_2000]));
        record
    }

    #[test]
    fn a_sample_is_its_header_and_its_frames() {
        let (sample, wants_tables) = sample(&ring_record()).expect("a whole record");
        assert!(!wants_tables);
        assert_eq!(
            (sample.time, sample.cpu, sample.task.pid, sample.task.tid),
            (MonoNs(77), Cpu(3), Pid(10), Tid(11))
        );
        assert_eq!(sample.task.comm.to_string(), "work");
        assert_eq!(sample.kernel, [KernelAddr(0xffff_ffff_8100_0000)]);
        assert_eq!(sample.user, [UserAddr(0x40_1000), UserAddr(0x40_2000)]);
        assert_eq!((sample.ended, sample.weight), (End::Root, Weight(5)));
    }

    #[test]
    fn a_walk_that_wants_tables_ends_like_any_other() {
        let mut record = ring_record();
        record[39] = 0x80;
        let (sample, wants_tables) = sample(&record).expect("a whole record");
        assert_eq!((sample.ended, wants_tables), (End::Root, true));
    }

    #[test]
    fn a_stack_that_was_brought_along_follows_the_frames() {
        let mut record = ring_record();
        record[39] = 0x40;
        assert_eq!(sample(&record), None, "no registers");
        record.extend(words(&[0x40_1000, 0x7000, 0x7010, 3, 4, 5, 6]));
        record.push(7); // not a whole word
        let (sample, wants_tables) = sample(&record).expect("a whole record");
        let regs = Regs { ip: 0x40_1000, sp: 0x7000, fp: 0x7010 };
        let stack = RawStack { regs, links: [3, 4], words: vec![5, 6] };
        assert_eq!((sample.stack.as_deref(), sample.ended, wants_tables), (Some(&stack), End::Root, false));
    }

    #[test]
    fn a_sample_cut_anywhere_is_refused() {
        let record = ring_record();
        for length in 0..record.len() {
            assert_eq!(sample(&record[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn an_unknown_end_is_refused() {
        let mut record = ring_record();
        record[38] = 99;
        assert_eq!(sample(&record), None);
    }

    #[track_caller]
    fn check(kind: u32, misc: u16, body: &[u64], text: &[u8], expected: &Said) {
        let mut record = words(body);
        record.extend(text);
        record.extend(words(&[pair(5, 6), 1234]));
        assert_eq!(super::record(kind, misc, &record).as_ref(), Some(expected));
    }

    fn happened(pid: u32, change: ProcessChange) -> Said {
        Said::Event(ProcessEvent { time: MonoNs(1234), pid: Pid(pid), change })
    }

    #[test]
    fn a_new_process_is_a_fork_and_a_thread_is_not() {
        check(
            RECORD_FORK,
            0,
            &[pair(5, 4), pair(5, 4), 9],
            &[],
            &happened(5, ProcessChange::Forked { parent: Pid(4) }),
        );
        check(RECORD_FORK, 0, &[pair(5, 5), pair(7, 5), 9], &[], &Said::Nothing);
    }

    #[test]
    fn only_the_main_thread_ends_the_process() {
        check(RECORD_EXIT, 0, &[pair(5, 4), pair(5, 4), 9], &[], &happened(5, ProcessChange::Exited));
        check(RECORD_EXIT, 0, &[pair(5, 4), pair(6, 4), 9], &[], &Said::Nothing);
    }

    #[test]
    fn an_exec_is_a_comm_with_a_bit() {
        let comm = Comm::new(b"new");
        check(
            RECORD_COMM,
            MISC_COMM_EXEC,
            &[pair(5, 5)],
            b"new\0\0\0\0\0",
            &happened(5, ProcessChange::Executed { comm, cgroup: None }),
        );
        check(
            RECORD_COMM,
            0,
            &[pair(5, 8)],
            b"new\0\0\0\0\0",
            &happened(5, ProcessChange::Renamed { tid: Tid(8), comm }),
        );
    }

    #[test]
    fn a_mapping_carries_the_build_id_the_kernel_read() {
        let id = [20u64, 0x0102_0304_0506_0708, 0x090a];
        let mut file = [0u8; 24];
        file[0] = 20;
        for (at, byte) in file[4..].iter_mut().enumerate() {
            *byte = u8::try_from(at).unwrap_or(0);
        }
        let union: Vec<u64> = file
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .collect();
        assert_eq!(union.len(), id.len());
        let body = [
            pair(5, 5),
            0x7f00_0000_0000,
            0x2000,
            0x1000,
            union[0],
            union[1],
            union[2],
            pair(PROT_EXEC | 1, 2),
        ];
        let mapping = Mapping {
            start: UserAddr(0x7f00_0000_0000),
            end: UserAddr(0x7f00_0000_2000),
            file_offset: 0x1000,
            path: Arc::from(&b"/lib/x.so"[..]),
            build_id: BuildId::new(&file[4..]),
            module: None,
        };
        check(
            RECORD_MMAP2,
            MISC_MMAP_BUILD_ID,
            &body,
            b"/lib/x.so\0\0\0\0\0\0\0",
            &happened(5, ProcessChange::Mapped(Box::new(mapping))),
        );
    }

    #[test]
    fn a_mapping_that_wraps_around_or_claims_a_long_build_id_does_no_harm() {
        let body = words(&[pair(5, 5), u64::MAX, 2, 0, 0xff, 0, 0, pair(PROT_EXEC, 2), 0, 0]);
        assert_eq!(record(RECORD_MMAP2, MISC_MMAP_BUILD_ID, &body), None);
        let body = words(&[pair(5, 5), 4096, 4096, 0, 0xff, 0, 0, pair(PROT_EXEC, 2), 0, 0]);
        assert!(matches!(record(RECORD_MMAP2, MISC_MMAP_BUILD_ID, &body), Some(Said::Event(_))));
    }

    #[test]
    fn lost_records_are_told() {
        check(RECORD_LOST, 0, &[1, 42], &[], &Said::Lost(42));
    }

    #[test]
    fn any_record_cut_short_is_refused_or_ignored() {
        let body = words(&[pair(5, 5), 4096, 4096, 0, 0, 0, 0, pair(PROT_EXEC, 2), 0, 0, 0]);
        for kind in 0..24 {
            for length in 0..body.len() {
                let _ = record(kind, 0xffff, &body[..length]);
            }
        }
    }
}
