//! Takes from this process what it does not need.
//!
//! In: what it may keep. Out: a report of what could be taken; where the kernel or our own rights do not
//! suffice for all of it, the report says so. Capabilities are the exception: a child that keeps more of them
//! than it should does not run.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown as chown};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, geteuid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_name, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Private memory of a namer at most, bytes: a kernel with debug information, or symbols of the largest browser, and as much again. One is
/// ended between two questions with a fraction of that.
pub const NAMER_BYTES_MAX: u64 = 256 << 20;
/// Private memory of a server at most, bytes: the history in memory, what comes and goes, and one question. One that is for several
/// agents may need it; the embedded one is told to do with less.
pub const SERVER_BYTES_MAX: u64 = 1 << 30;

/// What a child may keep.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// Its name in process lists.
    pub name: &'static CStr,
    /// Private writable memory, bytes. Mapped files do not count, as they would under a limit of addresses.
    pub data_bytes_max: u64,
    /// Open files.
    pub files_max: u64,
    /// Capabilities, as far as it has them.
    pub capabilities: CapabilitySet,
    /// Whether it may use sockets other than those it was handed, and start threads.
    pub sockets_and_threads: bool,
    /// Where it may write.
    pub writes: Writes,
    /// How readily the kernel ends it where memory is short, of a thousand; who started it should be ended later.
    pub oom_score_adj: u16,
}

/// Where a child may write.
#[derive(Clone, Debug)]
pub enum Writes {
    /// Nowhere.
    Nowhere,
    /// Beneath these directories.
    Beneath(Vec<PathBuf>),
}

impl Confinement {
    /// For the namer: opens files that it is handed (`/proc/self/fd/N` checks the file's mode again, hence the
    /// capability), reads them, answers.
    pub fn namer() -> Self {
        Self {
            name: c"profiler-namer",
            data_bytes_max: NAMER_BYTES_MAX,
            files_max: 256,
            capabilities: CapabilitySet::DAC_READ_SEARCH,
            sockets_and_threads: false,
            writes: Writes::Nowhere,
            // Before all others: it holds nothing that would be missed, and another is there at the next question.
            oom_score_adj: 1000,
        }
    }

    /// For the embedded server: accepts connections from the listener it is handed, writes in its directory.
    pub fn server(writes: Writes) -> Self {
        Self {
            name: c"profiler-server",
            data_bytes_max: SERVER_BYTES_MAX,
            files_max: 4096,
            capabilities: CapabilitySet::empty(),
            sockets_and_threads: true,
            writes,
            // Before the agent, which starts it again: what was pushed to it is on disk.
            oom_score_adj: 900,
        }
    }
}

/// Why a child does not run.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It was started by hand, or handed nothing.
    #[error("this command is for the daemon's own use, which hands it what it works on: {0}")]
    NotHanded(#[source] io::Error),
    /// It would have kept rights that it must not have.
    #[error("{what} could not be given up, so nothing was started: {error}")]
    Kept {
        /// Which.
        what: &'static str,
        /// The kernel's word.
        error: io::Error,
    },
}

/// What could be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The user it runs as.
    pub uid: u32,
    /// True if that is another than the one who started it.
    pub other_user: bool,
    /// Capabilities it keeps, as the kernel numbers them in a mask.
    pub capabilities: u64,
    /// True if the bounding set is empty too.
    pub bounding_empty: bool,
    /// How far Landlock refuses writes.
    pub landlock: Level,
    /// How far seccomp refuses system calls.
    pub seccomp: Level,
    /// True if memory, files and core dumps are limited.
    pub limited: bool,
    /// True if it is ended as readily as was wanted where memory is short.
    pub expendable: bool,
}

/// How far a restriction reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// All that was wanted.
    Full,
    /// What this kernel can.
    Partial,
    /// Nothing.
    None,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, other_user: _, capabilities, bounding_empty, landlock, seccomp, limited, expendable } =
            self;
        write!(
            out,
            "uid {uid}, capabilities {capabilities:#x}, bounding set {}, landlock {landlock}, seccomp {seccomp}, \
             limits {}, ended {} where memory is short",
            if *bounding_empty { "empty" } else { "kept" },
            if *limited { "set" } else { "not set" },
            if *expendable { "first" } else { "like others" },
        )
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        })
    }
}

/// A user without rights, by convention on every Linux.
const NOBODY: u32 = 65534;

/// Makes `folder`, and lets a child write in it which `confine` turns into another user. If that cannot be, because there
/// is no such user here, our group may write too.
pub fn hand_over(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if geteuid().is_root() {
        std::fs::set_permissions(folder, Permissions::from_mode(0o770))?;
        chown(folder, Some(NOBODY), None)?;
        for file in std::fs::read_dir(folder)? {
            chown(file?.path(), Some(NOBODY), None)?;
        }
    }
    Ok(())
}

/// Confines the calling thread, and so every thread it will start.
pub fn confine(confinement: &Confinement) -> Result<Report, ConfineError> {
    let Confinement {
        name,
        data_bytes_max,
        files_max,
        capabilities,
        sockets_and_threads,
        writes,
        oom_score_adj,
    } = confinement;
    let _ = set_name(name); // a wrong name harms nobody
    set_no_new_privs(true).map_err(kept("the right to gain privileges"))?;
    let limited = limit(*data_bytes_max, *files_max);
    // As long as the file is ours. To be ended more readily is anyone's right.
    let expendable = std::fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()).is_ok();
    let bounding_empty = empty_bounding_set();
    let other_user = become_nobody();
    let capabilities = keep_only(*capabilities).map_err(kept("capabilities"))?;
    // No other process of this user reads our memory, which holds strangers' files.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let landlock = refuse_writes(writes, *sockets_and_threads).unwrap_or(Level::None);
    let seccomp = refuse_calls(*sockets_and_threads).map_or(Level::None, |()| Level::Full);
    Ok(Report {
        uid: geteuid().as_raw(),
        other_user,
        capabilities: capabilities.bits(),
        bounding_empty,
        landlock,
        seccomp,
        limited,
        expendable,
    })
}

fn kept(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> ConfineError {
    move |error| ConfineError::Kept { what, error: error.into() }
}

fn limit(data_bytes_max: u64, files_max: u64) -> bool {
    let limits = [(Resource::Data, data_bytes_max), (Resource::Nofile, files_max), (Resource::Core, 0)];
    limits.into_iter().all(|(resource, most)| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).is_ok()
    })
}

/// Needs CAP_SETPCAP. Without it the set stays, and means nothing after `no_new_privs`.
fn empty_bounding_set() -> bool {
    let known = (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    known
        .map_while(|capability| Some((capability, capability_is_in_bounding_set(capability).ok()?)))
        .all(|(capability, is_in)| !is_in || remove_capability_from_bounding_set(capability).is_ok())
}

/// If root started us. Where there is no such user to become, as in some containers, we stay who we are, without
/// capabilities all the same.
fn become_nobody() -> bool {
    if !geteuid().is_root() {
        return false;
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let change = || -> rustix::io::Result<()> {
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    change().is_ok()
}

fn keep_only(wanted: CapabilitySet) -> rustix::io::Result<CapabilitySet> {
    let _ = set_keep_capabilities(false); // it ends with the next exec anyway
    clear_ambient_capability_set()?;
    let keep = wanted & capabilities(None)?.permitted;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(keep)
}

/// Reading stays: whoever handed us a file wants it read. Sockets too, for whom they are not meant.
fn refuse_writes(writes: &Writes, sockets: bool) -> Result<Level, RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let write = AccessFs::from_write(NEWEST);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write)?
        .scope(Scope::from_all(NEWEST))?;
    if !sockets {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut ruleset = ruleset.create()?;
    if let Writes::Beneath(directories) = writes {
        // A directory that is not there is refused like every other.
        ruleset = ruleset.add_rules(path_beneath_rules(directories, write))?;
    }
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Level::Full,
        RulesetStatus::PartiallyEnforced => Level::Partial,
        RulesetStatus::NotEnforced => Level::None,
    })
}

/// Calls that neither child has any use for.
const USELESS: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_open_by_handle_at,
];

/// What the namer has no use for: it speaks on the one socket it was handed, and alone.
const NETWORK_AND_PROCESSES: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_setsockopt,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// A list of what is refused, not of what is allowed: the C library's next version may use a call that this one
/// does not, and a profiler must not stop for that.
fn refuse_calls(sockets_and_threads: bool) -> Result<(), seccompiler::Error> {
    let more = if sockets_and_threads { &[] } else { NETWORK_AND_PROCESSES };
    let rules: BTreeMap<i64, _> = USELESS.iter().chain(more).map(|&call| (call, Vec::new())).collect();
    const REFUSED: u32 = libc::EPERM as u32;
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(REFUSED), arch)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}
