//! The system calls that no safe crate has: perf events, their rings, and one trick with a resource limit.
#![expect(unsafe_code, reason = "perf_event_open, mmap of a perf ring, ioctl")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// `struct perf_event_attr`, as far as 5.13 knows it (`PERF_ATTR_SIZE_VER7`). See perf_event_open(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    pub(super) kind: u32,
    pub(super) size: u32,
    pub(super) config: u64,
    pub(super) sample_period: u64,
    pub(super) sample_type: u64,
    pub(super) read_format: u64,
    pub(super) flags: u64,
    pub(super) wakeup: u32,
    pub(super) breakpoint_type: u32,
    pub(super) config1: u64,
    pub(super) config2: u64,
    pub(super) branch_sample_type: u64,
    pub(super) sample_regs_user: u64,
    pub(super) sample_stack_user: u32,
    pub(super) clock: i32,
    pub(super) sample_regs_intr: u64,
    pub(super) aux_watermark: u32,
    pub(super) sample_max_stack: u16,
    pub(super) reserved: u16,
    pub(super) aux_sample_size: u32,
    pub(super) reserved2: u32,
    pub(super) signal_data: u64,
}

const _: () = assert!(size_of::<Attributes>() == 128, "PERF_ATTR_SIZE_VER7");

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_DISABLE: libc::c_ulong = 0x2401;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// Opens an event for all tasks on processor `cpu`.
pub(super) fn perf_event_open(mut attributes: Attributes, cpu: u32) -> io::Result<OwnedFd> {
    attributes.size = 128;
    // SAFETY: `attributes` is a valid perf_event_attr of the size it states, alive during the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel just gave it to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the loaded program `program` at every overflow of `event`.
pub(super) fn set_program(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    control(event, IOC_SET_BPF, program.as_raw_fd())
}

/// Starts `event`.
pub(super) fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    control(event, IOC_ENABLE, 0)
}

/// Stops `event`.
pub(super) fn disable(event: BorrowedFd<'_>) -> io::Result<()> {
    control(event, IOC_DISABLE, 0)
}

fn control(event: BorrowedFd<'_>, request: libc::c_ulong, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these requests take an integer and touch no memory of ours.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The ring that the kernel writes an event's records to.
#[derive(Debug)]
pub(super) struct PerfRing {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and may be used from any one thread.
unsafe impl Send for PerfRing {}

/// Where `struct perf_event_mmap_page` keeps the kernel's write position, and ours to read.
const HEAD_OFFSET: usize = 1024;
const TAIL_OFFSET: usize = 1032;

impl PerfRing {
    /// Maps the ring of `event`, `pages` (a power of two) pages of records.
    pub(super) fn map(event: BorrowedFd<'_>, pages: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = pages * page;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes + page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes })
    }

    /// Hands every whole record since the last call to `each`: type, misc bits, and what follows the header.
    pub(super) fn drain(&mut self, scratch: &mut Vec<u8>, mut each: impl FnMut(u32, u16, &[u8])) {
        let head = self.position(HEAD_OFFSET).load(Ordering::Acquire);
        let mut tail = self.position(TAIL_OFFSET).load(Ordering::Relaxed);
        while tail < head {
            let mut header = [0; 8];
            self.copy(tail, &mut header);
            let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let misc = u16::from_ne_bytes([header[4], header[5]]);
            let size = u16::from_ne_bytes([header[6], header[7]]);
            let Some(body) = usize::from(size).checked_sub(header.len()) else {
                tail = head; // cannot be, and there is no way to find the next record
                break;
            };
            scratch.resize(body, 0);
            self.copy(tail + 8, scratch);
            each(kind, misc, scratch);
            tail += u64::from(size);
        }
        self.position(TAIL_OFFSET).store(tail, Ordering::Release);
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: inside the first page of the mapping.
        let position = unsafe { self.base.add(offset) };
        // SAFETY: aligned, and the kernel reads and writes it atomically too.
        unsafe { &*position.cast::<AtomicU64>() }
    }

    /// Copies from the ring at `position`, around its end if need be.
    fn copy(&self, position: u64, into: &mut [u8]) {
        let mask = self.bytes as u64 - 1;
        let at = usize::try_from(position & mask).expect("less than the ring's length, which is a usize");
        let first = into.len().min(self.bytes - at);
        // SAFETY: the records follow the first page.
        let data = unsafe { self.base.add(rustix::param::page_size()) };
        // SAFETY: less than the ring's length.
        let from = unsafe { data.add(at) };
        // SAFETY: `at + first` lies inside the ring, and the kernel does not write between tail and head.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), first) };
        let rest = &mut into[first..];
        // SAFETY: as above, from the ring's start: a record is shorter than the ring.
        unsafe { std::ptr::copy_nonoverlapping(data, rest.as_mut_ptr(), rest.len().min(self.bytes)) };
    }
}

impl Drop for PerfRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody keeps a pointer into it.
        unsafe { libc::munmap(self.base.cast(), self.bytes + rustix::param::page_size()) };
    }
}

/// The descriptor that `owner` owns, where its crate shows only the number.
pub(super) fn borrow<T>(fd: RawFd, _owner: &T) -> BorrowedFd<'_> {
    // SAFETY: `owner` keeps the descriptor open, and the result cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Nanoseconds spent in a program and times it ran, as its `fdinfo` says.
pub(super) fn run_statistics(program: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start_matches([':', '\t', ' ']).parse().ok())
    };
    Some((field("run_time_ns")?, field("run_cnt")?))
}
