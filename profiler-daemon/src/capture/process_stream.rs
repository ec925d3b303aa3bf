//! The kernel's own word about processes: perf records of two software dummy events per processor.
//!
//! Out: raw records in the order each processor wrote them, on the clock of the samples. Two events because a
//! ring has one wake-up rule: an exec or a new executable mapping wakes the reader at its first byte, since what
//! it names must be opened while it is there; a fork or an exit takes nothing away and waits for company.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::decode::{Said, record};
use super::sys::{self, Attributes, PerfRing};
use crate::model::ProcessEvent;

const TYPE_SOFTWARE: u32 = 1;
const SOFTWARE_DUMMY: u64 = 9;
const SAMPLE_TID_TIME: u64 = 1 << 1 | 1 << 2;

const DISABLED: u64 = 1;
const MMAP: u64 = 1 << 8;
const COMM: u64 = 1 << 9;
const TASK: u64 = 1 << 13;
const WATERMARK: u64 = 1 << 14;
const SAMPLE_ID_ALL: u64 = 1 << 18;
const MMAP2: u64 = 1 << 23;
const COMM_EXEC: u64 = 1 << 24;
const USE_CLOCKID: u64 = 1 << 25;
const BUILD_ID: u64 = 1 << 34;

/// Pages of the ring of execs and mappings: 256 KiB hold some 1,500 records of a long path, four times what
/// 200 execs a second write in the time the reader may be kept from running.
const URGENT_PAGES: usize = 64;
/// Pages of the ring of forks and exits: 128 KiB hold 1,800 records, threads included.
const PATIENT_PAGES: usize = 32;

/// Bytes of both rings, without the pages that say how far they are read.
pub(super) const RING_BYTES: u64 = ((URGENT_PAGES + PATIENT_PAGES) << 12) as u64;

/// One event and its ring.
#[derive(Debug)]
struct Stream {
    ring: PerfRing,
    event: OwnedFd,
}

impl Stream {
    fn open(cpu: u32, flags: u64, wakeup: u32, pages: usize) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TYPE_SOFTWARE,
            config: SOFTWARE_DUMMY,
            sample_type: SAMPLE_TID_TIME,
            flags: DISABLED | WATERMARK | SAMPLE_ID_ALL | USE_CLOCKID | flags,
            wakeup,
            clock: libc::CLOCK_MONOTONIC,
            ..Attributes::default()
        };
        let event = sys::perf_event_open(attributes, cpu)?;
        let ring = PerfRing::map(event.as_fd(), pages)?;
        sys::enable(event.as_fd())?;
        Ok(Self { ring, event })
    }
}

/// What happens to processes on one processor.
#[derive(Debug)]
pub(super) struct ProcessStream {
    urgent: Stream,
    patient: Stream,
}

/// What a drain met besides events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records the kernel lost for want of room.
    pub lost: u64,
    /// Records that made no sense.
    pub malformed: u64,
}

impl ProcessStream {
    pub(super) fn open(cpu: u32) -> io::Result<Self> {
        Ok(Self {
            urgent: Stream::open(cpu, MMAP | MMAP2 | BUILD_ID | COMM | COMM_EXEC, 1, URGENT_PAGES)?,
            patient: Stream::open(
                cpu,
                TASK,
                u32::try_from(PATIENT_PAGES * rustix::param::page_size() / 2).unwrap_or(1 << 16),
                PATIENT_PAGES,
            )?,
        })
    }

    /// What wakes the reader.
    pub(super) fn wakers(&self) -> [BorrowedFd<'_>; 2] {
        [self.urgent.event.as_fd(), self.patient.event.as_fd()]
    }

    /// Appends everything since the last call to `events`, unsorted.
    pub(super) fn drain(
        &mut self,
        scratch: &mut Vec<u8>,
        events: &mut Vec<ProcessEvent>,
        drained: &mut Drained,
    ) {
        for stream in [&mut self.urgent, &mut self.patient] {
            stream.ring.drain(scratch, |kind, misc, body| match record(kind, misc, body) {
                Some(Said::Event(event)) => events.push(event),
                Some(Said::Lost(lost)) => drained.lost += lost,
                Some(Said::Nothing) => {}
                None => drained.malformed += 1,
            });
        }
    }
}
