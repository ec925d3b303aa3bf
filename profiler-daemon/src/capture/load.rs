//! Loading the object through aya, reading no more of the kernel's type information than is needed: none.

use std::io;
use std::os::fd::AsFd;

use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::{PerfEvent, ProgramError};
use aya::{Ebpf, EbpfLoader};
use profiler_common::knobs::{SETTINGS_MAGIC, Settings};
use profiler_common::limits::SLABS_MAX;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::tables::Processes;
use super::{Config, SLAB_BYTES, Tables, object};
use crate::meters::Meters;

/// Why the kernel side cannot be started: what, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A privilege is missing.
    #[error(
        "not permitted to {what}, {missing} missing: profiling the whole system needs root, or the capabilities CAP_BPF and \
         CAP_PERFMON (and CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_CHECKPOINT_RESTORE to name what is found): \
         start it with sudo"
    )]
    Privilege {
        /// What was tried.
        what: String,
        /// What is missing, as a subject: `CAP_BPF is`.
        missing: &'static str,
    },
    /// The capabilities are there, and a distribution's kernel wants more of everybody.
    #[error(
        "not permitted to {what}: kernel.perf_event_paranoid is {level}, at which this kernel wants CAP_SYS_ADMIN in \
         place of CAP_PERFMON: set it to 2, as kernels come (sysctl kernel.perf_event_paranoid=2, and in \
         /etc/sysctl.d to keep it)"
    )]
    Paranoid {
        /// What was tried.
        what: String,
        /// The setting.
        level: i32,
    },
    /// The kernel lacks something.
    #[error(
        "this kernel cannot {what}: Linux 5.15 or newer with BTF (CONFIG_DEBUG_INFO_BTF) is needed ({detail})"
    )]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's own words.
        detail: String,
    },
    /// The object is not ours, or not whole.
    #[error("{what}: build it with `cargo xtask build-ebpf`")]
    Object {
        /// What is wrong.
        what: String,
    },
    /// A file of the kernel cannot be read.
    #[error("{path} cannot be read: {error}: is /sys mounted?")]
    Sysfs {
        /// Which.
        path: &'static str,
        /// Why.
        error: String,
    },
    /// A system call failed that never should.
    #[error("{call} failed: {error}")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl AttachError {
    pub(super) fn map(error: &aya::maps::MapError) -> Self {
        Self::Object { what: format!("the eBPF object's maps are not the ones this daemon knows ({error})") }
    }

    pub(super) fn system(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::System { call, error: error.into() }
    }

    pub(super) fn perf_event(cpu: u32) -> impl FnOnce(io::Error) -> Self {
        let what = format!("open a perf event on processor {cpu}");
        move |error| match paranoid_level() {
            Some(level) if error.raw_os_error() == Some(libc::EACCES) && is_privileged() => {
                Self::Paranoid { what, level }
            }
            _ => Self::refused(what, &error, &error),
        }
    }

    pub(super) fn program(name: &str) -> impl FnOnce(ProgramError) -> Self {
        let what = format!("load the eBPF program {name}");
        move |error| match &error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                Self::refused(what, io_error, &format!("{io_error}; verifier: {}", complaint(&log)))
            }
            ProgramError::SyscallError(call) => Self::refused(what, &call.io_error, &error),
            _ => Self::Object { what: format!("cannot {what}: {error}") },
        }
    }

    /// A refusal by the kernel: by its number, a missing privilege or a missing feature.
    fn refused(what: String, error: &io::Error, detail: &dyn std::fmt::Display) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if !is_privileged() => {
                Self::Privilege { what, missing: missing() }
            }
            _ => Self::Kernel { what, detail: detail.to_string() },
        }
    }
}

/// What the verifier complains of: the last thing it says before its statistics.
fn complaint(log: &str) -> &str {
    let statistics = ["processed ", "stack depth ", "verification time "];
    let says = |line: &&str| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start));
    log.lines().map(str::trim).rfind(says).unwrap_or("nothing said")
}

/// Whether a refusal can have another reason than a missing privilege: a verifier's EACCES, a locked-down kernel.
fn is_privileged() -> bool {
    capabilities(None).is_ok_and(|sets| {
        sets.effective.contains(CapabilitySet::SYS_ADMIN)
            || sets.effective.contains(CapabilitySet::BPF | CapabilitySet::PERFMON)
    })
}

/// Which of the two privileges that there is no profiling without is missing.
fn missing() -> &'static str {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    match (held.contains(CapabilitySet::BPF), held.contains(CapabilitySet::PERFMON)) {
        (false, true) => "CAP_BPF is",
        (true, false) => "CAP_PERFMON is",
        (false, false) | (true, true) => "CAP_BPF and CAP_PERFMON are",
    }
}

/// What the programs are told.
pub(super) fn settings(config: &Config, wakeup_bytes: u64, stacks_bytes: u64) -> Settings {
    Settings {
        magic: SETTINGS_MAGIC,
        period_ns: config.period_ns().max(1),
        wakeup_bytes,
        stacks_bytes,
        bpf_loop: u64::from(!config.bounded_loop && has_bpf_loop()),
        tables: u64::from(config.unwind_bytes_max > 0),
    }
}

/// `bpf_loop` came with Linux 5.17. (Asking by loading a program that calls it costs more than reading two numbers, and no
/// distribution is known to have carried it back.)
fn has_bpf_loop() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 17)
}

/// Processors that there may ever be.
fn processors() -> Result<u32, AttachError> {
    let count = aya::util::nr_cpus().map_err(|(_, error)| AttachError::Sysfs {
        path: "/sys/devices/system/cpu/possible",
        error: error.to_string(),
    })?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Parses the object and creates its maps.
pub(super) fn object(config: &Config, settings: Settings, ring_bytes: u32) -> Result<Ebpf, AttachError> {
    let bytes = object::bytes(config.object.as_ref())?;
    let words = settings.to_words();
    let log_level = config.log_level;
    let mut loader = without_vmlinux_btf(EbpfLoader::new);
    loader.override_global("SETTINGS", &words, true);
    loader.override_global(aya_log::LEVEL, &log_level, false);
    loader.map_max_entries("SAMPLES", ring_bytes);
    loader.map_max_entries("ROOMS", processors()?);
    if log_level == 0 {
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    loader.load(&bytes).map_err(|error| match &error {
        aya::EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) => {
            AttachError::refused("create eBPF maps".to_owned(), io_error, &error)
        }
        _ => AttachError::Object { what: format!("the eBPF object cannot be loaded ({error})") },
    })
}

/// Runs `make` while no file can be opened.
///
/// aya's loader parses all of `/sys/kernel/btf/vmlinux` when it is made, 0.1–0.3 CPU seconds and some 30 MB, though our object has
/// no relocation that asks for it, and does without if it cannot be opened. There is no other way to ask for that
/// before 0.15. Called before any other thread runs that opens a file.
fn without_vmlinux_btf<T>(make: impl FnOnce() -> T) -> T {
    let limit = getrlimit(Resource::Nofile);
    let closed = rustix::process::Rlimit { current: Some(0), maximum: limit.maximum };
    let lowered = setrlimit(Resource::Nofile, closed).is_ok();
    let made = make();
    if lowered {
        setrlimit(Resource::Nofile, limit).expect("a soft limit may be raised to where it was");
    }
    made
}

/// The program called `name`.
pub(super) fn perf_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut PerfEvent, AttachError> {
    ebpf.program_mut(name)
        .ok_or_else(|| AttachError::Object { what: format!("the eBPF object has no program {name}") })?
        .try_into()
        .map_err(AttachError::program(name))
}

/// Passes the program called `name` through the verifier.
pub(super) fn program(ebpf: &mut Ebpf, name: &str) -> Result<(), AttachError> {
    perf_program(ebpf, name)?.load().map_err(AttachError::program(name))
}

/// Puts the programs that walk on into their chain, on a kernel where one program cannot walk to the end. It works for as long
/// as the result is kept.
pub(super) fn chain(
    ebpf: &mut Ebpf,
    settings: &Settings,
) -> Result<Option<ProgramArray<MapData>>, AttachError> {
    if settings.bpf_loop != 0 {
        return Ok(None);
    }
    let chain = map(ebpf, "CHAIN")?;
    let mut chain = ProgramArray::try_from(chain).map_err(|error| AttachError::map(&error))?;
    // In the order of the kernel side's `maps.rs`.
    for (index, name) in (0..).zip(["cpu_on", "bench_walk_on"]) {
        program(ebpf, name)?;
        let fd = perf_program(ebpf, name)?.fd().map_err(AttachError::program(name))?;
        chain.set(index, fd, 0).map_err(|error| AttachError::map(&error))?;
    }
    Ok(Some(chain))
}

/// Takes the map called `name` out of the object.
pub(super) fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map, AttachError> {
    ebpf.take_map(name)
        .ok_or_else(|| AttachError::Object { what: format!("the eBPF object has no map {name}") })
}

/// What the programs walk by, empty.
pub(super) fn tables(ebpf: &mut Ebpf, config: &Config, meters: &Meters) -> Result<Tables, AttachError> {
    let Map::Array(processes) = map(ebpf, "PROCESSES")? else {
        return Err(AttachError::Object {
            what: "the eBPF object's map PROCESSES is not an array".to_owned(),
        });
    };
    let processes = Processes::new(processes.fd().as_fd())
        .map_err(|error| AttachError::System { call: "mmap", error })?;
    let Map::ArrayOfMaps(slabs) = map(ebpf, "SLABS")? else {
        return Err(AttachError::Object {
            what: "the eBPF object's map SLABS is not one of maps".to_owned(),
        });
    };
    let slabs_max = usize::try_from(config.unwind_bytes_max / SLAB_BYTES).unwrap_or(SLABS_MAX).min(SLABS_MAX);
    Ok(Tables::new(slabs, processes, slabs_max, meters))
}

/// `kernel.perf_event_paranoid`, where it is above what kernels know: Debian's default is 3 and Ubuntu's 4, by a change of
/// theirs that asks for CAP_SYS_ADMIN then.
fn paranoid_level() -> Option<i32> {
    const KNOWN_MAX: i32 = 2;
    let text = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    text.trim().parse().ok().filter(|level| *level > KNOWN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_complaint(log: &str, expected: &str) {
        assert_eq!(complaint(log), expected);
    }

    #[test]
    fn the_statistics_at_the_end_of_a_log_are_no_complaint() {
        check_complaint(
            "last insn is not an exit or jmp\nverification time 550 usec\nstack depth 0+0\nprocessed 0 insns\n\n",
            "last insn is not an exit or jmp",
        );
    }

    #[test]
    fn a_verifier_may_say_nothing() {
        check_complaint("", "nothing said");
        check_complaint("processed 0 insns (limit 1000000)\n", "nothing said");
    }
}
