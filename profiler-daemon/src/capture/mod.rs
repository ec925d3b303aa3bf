//! Takes up what the kernel saw.
//!
//! In: the committed eBPF object, one perf event per processor, and the kernel's records about processes. Out: samples and process
//! events, decoded and in time order, and what was lost by reason. Not here: whose samples they are (`processes`,
//! `attribute`). The only room that names aya.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::PerfEvent;
use profiler_common::limits::{
    PROCESS_LINES, SAMPLE_RING_BYTES_MAX, SAMPLE_RING_BYTES_MIN, SLABS_MAX, STACK_PROCESSES_MAX,
};
use profiler_common::unwind::processes::Line;
use profiler_common::unwind::table::SLAB_WORDS;
use rustix::event::{Timespec, epoll};

use crate::meters::Meters;
use crate::model::{Knobs, Pid, ProcessEvent, RawSample, Reason, Weight};
use crate::time::MonoNs;

mod bench;
mod counters;
mod decode;
mod kernel_names;
mod load;
mod object;
mod process_stream;
pub mod recording;
mod samplers;
mod sys;
mod tables;

pub use bench::{LoadedProgram, ProgramCost, bench, bench_names, loaded_programs};
pub use counters::Balance;
pub use kernel_names::KernelNames;
pub use load::AttachError;
pub use process_stream::Drained;
pub use tables::{Tables, Walked};

/// Kernel memory is taken for unwind tables in pieces of so many bytes.
pub const SLAB_BYTES: u64 = SLAB_WORDS as u64 * 4;
/// The most that is taken, bytes.
pub const UNWIND_BYTES_MAX: u64 = SLABS_MAX as u64 * SLAB_BYTES;

/// What an entry of a hash map by process takes in the kernel, bytes.
const PROCESS_BYTES: u64 = 64;
/// Where a processor puts a sample together, and one with its stack, what it remembers and what it counts, bytes: some hundred kilobytes.
const SCRATCH_BYTES: u64 = 108 << 10;

/// What capture is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ticks per second and processor, 1 to 999.
    pub frequency_hz: u32,
    /// Another eBPF object than the committed one.
    pub object: Option<PathBuf>,
    /// The kernel side's own diagnostics: 0 off, 1 error … 5 trace.
    pub log_level: u8,
    /// Walk by the bounded loop of old kernels, though this one has `bpf_loop`: for tests.
    pub bounded_loop: bool,
    /// Most kernel memory for unwind tables and lists of mappings, bytes, in pieces of [`SLAB_BYTES`]; 64 MiB is the most there is. With
    /// nothing, stacks are walked by frame pointer alone.
    pub unwind_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frequency_hz: 19,
            object: None,
            log_level: 0,
            bounded_loop: false,
            unwind_bytes_max: UNWIND_BYTES_MAX,
        }
    }
}

impl Config {
    /// Nanoseconds between two ticks.
    pub fn period_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.frequency_hz.max(1))
    }

    /// Kernel memory that is taken on a machine of `cpus`, beside unwind tables: rings and maps of a fixed size, bytes.
    pub fn kernel_bytes(&self, cpus: usize) -> u64 {
        let processes = u64::from(PROCESS_LINES) * size_of::<Line>() as u64;
        let stacks = u64::from(STACK_PROCESSES_MAX) * PROCESS_BYTES;
        let by_processor = process_stream::RING_BYTES + SCRATCH_BYTES;
        u64::from(self.ring_bytes(cpus)) + processes + stacks + cpus as u64 * by_processor
    }

    /// Bytes of the sample ring: four seconds of `cpus` saturated processors with records of 1 KiB, between the bounds.
    fn ring_bytes(&self, cpus: usize) -> u32 {
        let wanted = (cpus as u64).saturating_mul(u64::from(self.frequency_hz)).saturating_mul(4 << 10);
        let wanted = wanted.clamp(u64::from(SAMPLE_RING_BYTES_MIN), u64::from(SAMPLE_RING_BYTES_MAX));
        u32::try_from(wanted).unwrap_or(SAMPLE_RING_BYTES_MAX).next_power_of_two().min(SAMPLE_RING_BYTES_MAX)
    }
}

/// Why the reader woke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The kernel has something to say about processes.
    pub processes: bool,
    /// The sample ring fills.
    pub samples: bool,
    /// What was given to [`Kernel::listen`] became readable.
    pub called: bool,
    /// The stop descriptor became readable.
    pub stop: bool,
}

/// What listens on one processor.
#[derive(Debug)]
struct Processor {
    /// Kept for its `Drop`, which stops the clock, and for `detach`.
    clock: OwnedFd,
    stream: process_stream::ProcessStream,
}

/// The attached kernel side. Dropping it leaves nothing behind.
pub struct Kernel {
    config: Config,
    processors: BTreeMap<u32, Processor>,
    since: MonoNs,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, counters::Wire>,
    last: counters::Totals,
    knobs: Array<MapData, u64>,
    /// Idle time of all processors when the first clock was started, nanoseconds.
    idle_at_start: Option<u64>,
    malformed: u64,
    epoll: OwnedFd,
    scratch: Vec<u8>,
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    tables: Tables,
    names: Option<KernelNames>,
    _chain: Option<ProgramArray<MapData>>,
    ebpf: Ebpf,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Kernel")
            .field("config", &self.config)
            .field("processors", &self.processors)
            .finish_non_exhaustive()
    }
}

/// What an epoll event's data says.
const WAKER_PROCESSES: u64 = 1;
const WAKER_SAMPLES: u64 = 2;
const WAKER_STOP: u64 = 3;
const WAKER_CALL: u64 = 4;

impl Kernel {
    /// Loads and attaches. `stop` wakes [`Self::wait`] for good when it becomes readable.
    pub fn open(config: Config, stop: BorrowedFd<'_>, meters: &Meters) -> Result<Self, AttachError> {
        let online = online_cpus()?;
        let ring_bytes = config.ring_bytes(online.len());
        let settings = load::settings(&config, u64::from(ring_bytes) / 4, u64::from(ring_bytes) / 2);
        let mut ebpf = load::object(&config, settings, ring_bytes)?;
        load::program(&mut ebpf, samplers::cpu::PROGRAM)?;
        let chain = load::chain(&mut ebpf, &settings)?;

        let ring =
            RingBuf::try_from(load::map(&mut ebpf, "SAMPLES")?).map_err(|error| AttachError::map(&error))?;
        let counters = PerCpuArray::try_from(load::map(&mut ebpf, "COUNTERS")?)
            .map_err(|error| AttachError::map(&error))?;
        let knobs =
            Array::try_from(load::map(&mut ebpf, "KNOBS")?).map_err(|error| AttachError::map(&error))?;
        let tables = load::tables(&mut ebpf, &config, meters)?;
        let names = match KernelNames::open(&mut ebpf) {
            Ok(names) => Some(names),
            Err(error) => {
                tracing::debug!("kernel functions are named from /proc/kallsyms: {error}");
                None
            }
        };
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(AttachError::system("epoll_create1"))?;
        // Edge-triggered: a level would wake at every record, though the kernel side signals only a filling ring.
        watch(&epoll, ring_fd(&ring), WAKER_SAMPLES, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        watch(&epoll, stop, WAKER_STOP, epoll::EventFlags::IN)?;

        let logger = (config.log_level > 0).then(|| aya_log::EbpfLogger::init(&mut ebpf).ok()).flatten();
        let mut kernel = Self {
            config,
            processors: BTreeMap::new(),
            since: MonoNs::now(),
            ring,
            counters,
            last: counters::Totals::default(),
            knobs,
            idle_at_start: counters::idle_ns(),
            malformed: 0,
            epoll,
            scratch: Vec::new(),
            logger,
            tables,
            names,
            _chain: chain,
            ebpf,
        };
        for cpu in online {
            kernel.attach(cpu)?;
        }
        Ok(kernel)
    }

    /// When the first clock was started.
    pub fn since(&self) -> MonoNs {
        self.since
    }

    /// Processors that are sampled.
    pub fn processors(&self) -> usize {
        self.processors.len()
    }

    /// The process stream starts before the clock, so that no sample is older than what explains it.
    fn attach(&mut self, cpu: u32) -> Result<(), AttachError> {
        let stream = process_stream::ProcessStream::open(cpu).map_err(AttachError::perf_event(cpu))?;
        for waker in stream.wakers() {
            watch(&self.epoll, waker, WAKER_PROCESSES, epoll::EventFlags::IN)?;
        }
        let program: &mut PerfEvent = load::perf_program(&mut self.ebpf, samplers::cpu::PROGRAM)?;
        let program = program.fd().map_err(AttachError::program(samplers::cpu::PROGRAM))?;
        let clock = samplers::cpu::attach(cpu, self.config.period_ns(), program.as_fd())
            .map_err(AttachError::perf_event(cpu))?;
        self.processors.insert(cpu, Processor { clock, stream });
        Ok(())
    }

    /// Follows processors that came or went since the last call. Returns how many of either; one that cannot be
    /// attached is tried again at the next call.
    pub fn follow_processors(&mut self) -> usize {
        let Ok(online) = online_cpus() else { return 0 };
        let gone: Vec<u32> = self.processors.keys().filter(|cpu| !online.contains(cpu)).copied().collect();
        let come: Vec<u32> = online.into_iter().filter(|cpu| !self.processors.contains_key(cpu)).collect();
        for cpu in &gone {
            self.processors.remove(cpu);
        }
        gone.len() + come.into_iter().filter(|&cpu| self.attach(cpu).is_ok()).count()
    }

    /// Sleeps until something is to be done or `deadline` is there.
    pub fn wait(&mut self, deadline: MonoNs) -> io::Result<Woken> {
        let left = deadline.since(MonoNs::now());
        let timeout = Timespec::try_from(left.max(Duration::ZERO)).ok();
        let mut ready = Vec::with_capacity(16);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut woken = Woken::default();
        for event in &ready {
            match event.data.u64() {
                WAKER_PROCESSES => woken.processes = true,
                WAKER_SAMPLES => woken.samples = true,
                WAKER_CALL => woken.called = true,
                _ => woken.stop = true,
            }
        }
        Ok(woken)
    }

    /// Wakes [`Self::wait`] each time `call` becomes readable.
    pub fn listen(&mut self, call: BorrowedFd<'_>) -> Result<(), AttachError> {
        watch(&self.epoll, call, WAKER_CALL, epoll::EventFlags::IN)
    }

    /// What the kernel side walks by; `None` if it was told to walk by frame pointer alone.
    pub fn tables(&mut self) -> Option<&mut Tables> {
        (self.config.unwind_bytes_max > 0).then_some(&mut self.tables)
    }

    /// Who knows the names of the kernel's functions, the first time; `None` if this kernel cannot be asked.
    pub fn names(&mut self) -> Option<KernelNames> {
        self.names.take()
    }

    /// Appends what happened to processes since the last call, in time order.
    pub fn events(&mut self, events: &mut Vec<ProcessEvent>) -> Drained {
        let mut drained = Drained::default();
        let before = events.len();
        for processor in self.processors.values_mut() {
            processor.stream.drain(&mut self.scratch, events, &mut drained);
        }
        events[before..].sort_by_key(|event| event.time);
        drained
    }

    /// Appends the samples since the last call, in time order, and to `wanting` the processes whose walks want tables, which
    /// may be named more than once.
    pub fn samples(&mut self, samples: &mut Vec<RawSample>, wanting: &mut Vec<Pid>) {
        let before = samples.len();
        while let Some(record) = self.ring.next() {
            match decode::sample(&record) {
                Some((sample, wants_tables)) => {
                    if wants_tables {
                        wanting.push(sample.task.pid);
                    }
                    samples.push(sample);
                }
                None => self.malformed += 1,
            }
        }
        samples[before..].sort_by_key(|sample| sample.time);
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// What the kernel side counted since the last call. To be called after [`Self::samples`].
    pub fn balance(&mut self) -> Balance {
        let totals = counters::Totals::read(&self.counters, self.config.period_ns(), self.idle_at_start)
            .unwrap_or(self.last);
        let mut balance = totals.since(&self.last);
        self.last = totals;
        balance.lost.add(Reason::Malformed, Weight(std::mem::take(&mut self.malformed)));
        balance
    }

    /// Time that the kernel side spent on samples, all processors together, since it was loaded.
    pub fn spent(&self) -> Duration {
        counters::Totals::read(&self.counters, self.config.period_ns(), None)
            .map_or(Duration::ZERO, |totals| totals.spent())
    }

    /// Turns the knobs: from the next tick of each processor on. Samples say what they stand for, so nothing has to wait for it.
    pub fn turn(&mut self, Knobs { stretch }: Knobs) -> io::Result<()> {
        self.knobs.set(0, stretch, 0).map_err(io::Error::other)
    }

    /// Stops the clocks: no sample is taken after this returns. What is in the rings stays to be read.
    pub fn detach(&mut self) {
        for processor in self.processors.values() {
            // An event that cannot be disabled is closed with the processor all the same.
            let _ = sys::disable(processor.clock.as_fd());
        }
    }
}

fn ring_fd(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    sys::borrow(ring.as_raw_fd(), ring)
}

fn watch(
    epoll: &OwnedFd,
    waker: BorrowedFd<'_>,
    data: u64,
    flags: epoll::EventFlags,
) -> Result<(), AttachError> {
    epoll::add(epoll, waker, epoll::EventData::new_u64(data), flags).map_err(AttachError::system("epoll_ctl"))
}

/// How many processors are online; one, if that cannot be known.
pub fn processors() -> usize {
    online_cpus().map_or(1, |cpus| cpus.len())
}

/// Numbers of the processors that are online.
fn online_cpus() -> Result<Vec<u32>, AttachError> {
    let path = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(path)
        .map_err(|error| AttachError::Sysfs { path, error: error.to_string() })?;
    parse_cpu_list(&text).ok_or(AttachError::Sysfs { path, error: format!("unexpected content {text:?}") })
}

/// A list of processors as the kernel prints it: `0-3,8`.
fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_list(text: &str, cpus: Option<&[u32]>) {
        assert_eq!(parse_cpu_list(text).as_deref(), cpus);
    }

    #[test]
    fn a_cpu_list_is_numbers_and_ranges() {
        check_list("0-1\n", Some(&[0, 1]));
        check_list("0,2-4,9\n", Some(&[0, 2, 3, 4, 9]));
    }

    #[test]
    fn a_strange_cpu_list_is_refused() {
        check_list("", None);
        check_list("3-1", None);
        check_list("0-99999999", None);
        check_list("x", None);
    }

    #[track_caller]
    fn check_ring(frequency_hz: u32, cpus: usize, bytes: u32) {
        assert_eq!(Config { frequency_hz, ..Config::default() }.ring_bytes(cpus), bytes);
    }

    #[test]
    fn the_ring_grows_with_the_machine_between_its_bounds() {
        check_ring(19, 2, SAMPLE_RING_BYTES_MIN);
        check_ring(99, 2, 1 << 20);
        check_ring(99, 64, 32 << 20);
        check_ring(999, 512, SAMPLE_RING_BYTES_MAX);
    }
}
