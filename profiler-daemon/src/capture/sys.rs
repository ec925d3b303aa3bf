//! The system calls that no safe crate has: perf events, their rings, and eBPF maps that are filled in bulk.
#![expect(unsafe_code, reason = "perf_event_open, bpf, mmap of a perf ring and of a map, ioctl")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_FLAG_MMAPABLE: u32 = 1 << 10;

/// What bpf(2) takes to make a map, as far as we have something to say.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// What bpf(2) takes to set many values of a map.
#[repr(C)]
#[derive(Default)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` begins as `union bpf_attr` does for this command, is as long as said, and what it points to is alive
    // in the callers below.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What bpf(2) takes to run a program once, as far as one is told nothing.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    returned: u32,
    data_bytes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    took: u32,
    context_bytes: [u32; 2],
    context: [u64; 2],
}

/// Runs a program of raw tracepoints here and now.
pub(super) fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    let program = u32::try_from(program.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    bpf(BPF_PROG_TEST_RUN, &mut Run { program, ..Run::default() }).map(drop)
}

/// A map of one value of `words` words, which can be mapped into memory.
pub(super) fn create_words(words: usize) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: MAP_TYPE_ARRAY,
        key_bytes: 4,
        value_bytes: u32::try_from(words * 4).map_err(|_| io::ErrorKind::InvalidInput)?,
        entries_max: 1,
        flags: MAP_FLAG_MMAPABLE,
        name: *b"slab\0\0\0\0\0\0\0\0\0\0\0\0",
        ..MapCreate::default()
    };
    let fd = bpf(BPF_MAP_CREATE, &mut attributes)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel just gave it to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `maps` into a map of maps, from index `first` on.
pub(super) fn put_maps(outer: BorrowedFd<'_>, first: u32, maps: &[OwnedFd]) -> io::Result<()> {
    let keys: Vec<u32> = (first..).take(maps.len()).collect();
    let values: Vec<RawFd> = maps.iter().map(AsRawFd::as_raw_fd).collect();
    let mut attributes = MapBatch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(maps.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        map: u32::try_from(outer.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        ..MapBatch::default()
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut attributes).map(drop)
}

/// The memory of an array that may be mapped, such as [`create_words`] makes.
#[derive(Debug)]
pub(super) struct Words {
    base: *mut u32,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone and may be used from any one thread.
unsafe impl Send for Words {}

impl Words {
    /// Maps the value of `map`, which is `words` words.
    pub(super) fn map(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 4,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), words })
    }

    /// The words, to be read; `None` if they are not as many as asked for.
    pub(super) fn all<const WORDS: usize>(&self) -> Option<&[u32; WORDS]> {
        // SAFETY: mapped by `map` with this length, aligned to a page, and alive as long as `self`. The kernel side only reads, and
        // who writes, through `write`, holds the owner of every mapping of this memory exclusively (`tables/memory.rs`).
        let words = unsafe { std::slice::from_raw_parts(self.base, self.words) };
        words.try_into().ok()
    }

    /// Writes `words` from word `at` on, in this order.
    ///
    /// # Panics
    ///
    /// Where they do not fit.
    pub(super) fn write(&self, at: usize, words: &[u32]) {
        assert!(at <= self.words && words.len() <= self.words - at, "a run lies in one slab");
        for (index, word) in (at..).zip(words) {
            // SAFETY: inside the mapping, by the line above.
            let place = unsafe { self.base.add(index) };
            // SAFETY: aligned and alive; the programs read it meanwhile, so it is written atomically.
            unsafe { &*place.cast::<AtomicU32>() }.store(*word, Ordering::Release);
        }
    }
}

impl Words {
    /// The double word at `at`, counted in double words.
    ///
    /// # Panics
    ///
    /// Beyond the last one.
    pub(super) fn read_double(&self, at: usize) -> u64 {
        self.double(at).load(Ordering::Acquire)
    }

    /// Writes the double word at `at`, after whatever was written before.
    ///
    /// # Panics
    ///
    /// Beyond the last one.
    pub(super) fn write_double(&self, at: usize, double: u64) {
        self.double(at).store(double, Ordering::Release);
    }

    fn double(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.words / 2, "a double word lies in the map");
        // SAFETY: inside the mapping, by the line above.
        let place = unsafe { self.base.add(2 * at) };
        // SAFETY: alive, and aligned, as the mapping is to a page.
        unsafe { &*place.cast::<AtomicU64>() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody keeps a pointer into it.
        unsafe { libc::munmap(self.base.cast(), self.words * 4) };
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
