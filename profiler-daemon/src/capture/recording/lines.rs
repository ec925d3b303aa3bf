//! The lines of a recording, and what they say: a batch and its line, both ways.
//!
//! In: batches. Out: what serde writes as a line; and back, where whatever no kernel could have said is refused.
//! Not here: files.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use profiler_common::limits::{COMM_BYTES, KERNEL_FRAMES_MAX, STACK_WORDS_MAX, USER_FRAMES_MAX};
use profiler_common::unwind::walk::Links;
use profiler_common::unwind::{End, Regs};
use serde::{Deserialize, Serialize};

use crate::model::{
    BuildId, Comm, Cpu, FileIdentity, KernelAddr, Lost, Mapping, Module, ModuleKind, Pid, ProcessChange,
    ProcessEvent, ProcessFacts, RawBatch, RawSample, RawStack, Reason, SampleKind, Task, Tid, UserAddr,
    Weight,
};
use crate::time::{MonoNs, WallNs, Window};

#[derive(Serialize, Deserialize)]
pub(super) struct HeaderLine {
    pub(super) profiler_recording: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchLine {
    start: i64,
    duration: u64,
    period: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    samples: Vec<SampleLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<(String, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleLine {
    time: u64,
    cpu: u16,
    pid: u32,
    tid: u32,
    comm: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kernel: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    user: Vec<u64>,
    ended: u16,
    weight: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stack: Option<StackLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StackLine {
    ip: u64,
    sp: u64,
    fp: u64,
    /// Since version 3.
    #[serde(default)]
    links: Links,
    words: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine {
    time: u64,
    pid: u32,
    #[serde(flatten)]
    change: ChangeLine,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeLine {
    Found {
        started: u64,
        comm: String,
        cgroup: Option<String>,
        executable: Option<String>,
        kernel_thread: bool,
        mappings: Vec<MappingLine>,
    },
    Forked {
        parent: u32,
    },
    Executed {
        comm: String,
        cgroup: Option<String>,
    },
    Renamed {
        tid: u32,
        comm: String,
    },
    Mapped(MappingLine),
    Exited {},
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingLine {
    start: u64,
    end: u64,
    offset: u64,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<ModuleLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleLine {
    id: u32,
    path: String,
    #[serde(default)]
    vdso: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    /// Device, inode, size, change time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<(u64, u64, u64, i64)>,
}

fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn to_bytes(text: &str) -> Result<Vec<u8>, String> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).map_err(|_| format!("{c:?} is more than a byte")))
        .collect()
}

fn to_comm(text: &str) -> Result<Comm, String> {
    let bytes = to_bytes(text)?;
    if bytes.len() >= COMM_BYTES {
        Err("a task's name is too long".to_owned())
    } else {
        Ok(Comm::new(&bytes))
    }
}

fn to_build_id(text: &str) -> Result<BuildId, String> {
    let digits: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()
        })
        .collect();
    digits.and_then(|bytes| BuildId::new(&bytes)).ok_or_else(|| format!("{text:?} is no build id"))
}

/// Every reason a batch can lose weight for.
const REASONS: [Reason; 4] = [Reason::RingFull, Reason::TickSkipped, Reason::NoScratch, Reason::Malformed];

impl From<&RawBatch> for BatchLine {
    fn from(batch: &RawBatch) -> Self {
        let RawBatch { window, kind, samples, events, lost } = batch;
        Self {
            start: window.start.0,
            duration: window.duration_ns,
            period: kind.period_ns(),
            events: events.iter().map(EventLine::from).collect(),
            samples: samples.iter().map(SampleLine::from).collect(),
            lost: lost.0.iter().map(|(reason, weight)| (reason.as_str().to_owned(), weight.0)).collect(),
        }
    }
}

impl From<&RawSample> for SampleLine {
    fn from(sample: &RawSample) -> Self {
        let RawSample { time, cpu, task, kernel, user, ended, stack, weight } = sample;
        Self {
            time: time.0,
            cpu: cpu.0,
            pid: task.pid.0,
            tid: task.tid.0,
            comm: to_text(task.comm.as_bytes()),
            kernel: kernel.iter().map(|address| address.0).collect(),
            user: user.iter().map(|address| address.0).collect(),
            ended: *ended as u16,
            weight: weight.0,
            stack: stack.as_deref().map(StackLine::from),
        }
    }
}

impl From<&RawStack> for StackLine {
    fn from(stack: &RawStack) -> Self {
        let RawStack { regs: Regs { ip, sp, fp }, links, words } = stack;
        Self { ip: *ip, sp: *sp, fp: *fp, links: *links, words: words.clone() }
    }
}

impl From<&ProcessEvent> for EventLine {
    fn from(event: &ProcessEvent) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let change = match &event.change {
            ProcessChange::Found(facts) => ChangeLine::Found {
                started: facts.started.0,
                comm: to_text(facts.comm.as_bytes()),
                cgroup: text(&facts.cgroup),
                executable: facts.executable.as_deref().map(to_text),
                kernel_thread: facts.kernel_thread,
                mappings: facts.mappings.iter().map(MappingLine::from).collect(),
            },
            ProcessChange::Forked { parent } => ChangeLine::Forked { parent: parent.0 },
            ProcessChange::Executed { comm, cgroup } => {
                ChangeLine::Executed { comm: to_text(comm.as_bytes()), cgroup: text(cgroup) }
            }
            ProcessChange::Renamed { tid, comm } => {
                ChangeLine::Renamed { tid: tid.0, comm: to_text(comm.as_bytes()) }
            }
            ProcessChange::Mapped(mapping) => ChangeLine::Mapped(MappingLine::from(&**mapping)),
            ProcessChange::Exited => ChangeLine::Exited {},
        };
        Self { time: event.time.0, pid: event.pid.0, change }
    }
}

impl From<&Mapping> for MappingLine {
    fn from(mapping: &Mapping) -> Self {
        Self {
            start: mapping.start.0,
            end: mapping.end.0,
            offset: mapping.file_offset,
            path: to_text(&mapping.path),
            build_id: mapping.build_id.map(|id| id.to_string()),
            module: mapping.module.as_deref().map(|module| ModuleLine {
                id: module.id,
                path: to_text(&module.path),
                vdso: module.kind == ModuleKind::Vdso,
                build_id: module.build_id.map(|id| id.to_string()),
                identity: module.identity.map(|file| (file.device, file.inode, file.size, file.ctime_ns)),
            }),
        }
    }
}

/// Modules already met in this recording, by their number.
pub(super) type Modules = HashMap<u32, Arc<Module>>;

impl BatchLine {
    pub(super) fn into_batch(self, modules: &mut Modules) -> Result<RawBatch, String> {
        let mut lost = Lost::default();
        for (text, weight) in self.lost {
            let reason = REASONS.into_iter().find(|reason| reason.as_str() == text);
            lost.add(reason.ok_or_else(|| format!("unknown reason {text:?}"))?, Weight(weight));
        }
        Ok(RawBatch {
            window: Window { start: WallNs(self.start), duration_ns: self.duration },
            kind: SampleKind::CpuTime { period_ns: self.period },
            samples: self.samples.into_iter().map(SampleLine::into_sample).collect::<Result<_, _>>()?,
            events: self
                .events
                .into_iter()
                .map(|event| event.into_event(modules))
                .collect::<Result<_, _>>()?,
            lost,
        })
    }
}

impl SampleLine {
    fn into_sample(self) -> Result<RawSample, String> {
        if self.kernel.len() > KERNEL_FRAMES_MAX || self.user.len() > USER_FRAMES_MAX {
            return Err("a stack is too deep".to_owned());
        }
        if self.stack.as_ref().is_some_and(|stack| stack.words.len() > STACK_WORDS_MAX) {
            return Err("a stack is too long".to_owned());
        }
        let stack = self.stack.map(|StackLine { ip, sp, fp, links, words }| {
            Arc::new(RawStack { regs: Regs { ip, sp, fp }, links, words })
        });
        Ok(RawSample {
            time: MonoNs(self.time),
            cpu: Cpu(self.cpu),
            task: Task { pid: Pid(self.pid), tid: Tid(self.tid), comm: to_comm(&self.comm)? },
            kernel: self.kernel.into_iter().map(KernelAddr).collect(),
            user: self.user.into_iter().map(UserAddr).collect(),
            ended: End::from_wire(self.ended).ok_or_else(|| format!("unknown end {}", self.ended))?,
            stack,
            weight: Weight(self.weight),
        })
    }
}

impl EventLine {
    fn into_event(self, modules: &mut Modules) -> Result<ProcessEvent, String> {
        let change = match self.change {
            ChangeLine::Found { started, comm, cgroup, executable, kernel_thread, mappings } => {
                ProcessChange::Found(Box::new(ProcessFacts {
                    started: MonoNs(started),
                    comm: to_comm(&comm)?,
                    cgroup: cgroup.map(Arc::from),
                    executable: executable.map(|path| to_bytes(&path)).transpose()?.map(Arc::from),
                    kernel_thread,
                    mappings: mappings
                        .into_iter()
                        .map(|mapping| mapping.into_mapping(modules))
                        .collect::<Result<_, _>>()?,
                }))
            }
            ChangeLine::Forked { parent } => ProcessChange::Forked { parent: Pid(parent) },
            ChangeLine::Executed { comm, cgroup } => {
                ProcessChange::Executed { comm: to_comm(&comm)?, cgroup: cgroup.map(Arc::from) }
            }
            ChangeLine::Renamed { tid, comm } => {
                ProcessChange::Renamed { tid: Tid(tid), comm: to_comm(&comm)? }
            }
            ChangeLine::Mapped(mapping) => ProcessChange::Mapped(Box::new(mapping.into_mapping(modules)?)),
            ChangeLine::Exited {} => ProcessChange::Exited,
        };
        Ok(ProcessEvent { time: MonoNs(self.time), pid: Pid(self.pid), change })
    }
}

impl MappingLine {
    fn into_mapping(self, modules: &mut Modules) -> Result<Mapping, String> {
        if self.end <= self.start {
            return Err(format!("a mapping ends at {:#x}, before it starts", self.end));
        }
        Ok(Mapping {
            start: UserAddr(self.start),
            end: UserAddr(self.end),
            file_offset: self.offset,
            path: to_bytes(&self.path)?.into(),
            build_id: self.build_id.as_deref().map(to_build_id).transpose()?,
            module: self.module.map(|module| module.into_module(modules)).transpose()?,
        })
    }
}

impl ModuleLine {
    fn into_module(self, modules: &mut Modules) -> Result<Arc<Module>, String> {
        if let Some(module) = modules.get(&self.id) {
            return Ok(Arc::clone(module));
        }
        let path = to_bytes(&self.path)?;
        let identity = self.identity.map(|(device, inode, size, ctime_ns)| FileIdentity {
            device,
            inode,
            size,
            ctime_ns,
        });
        let module = Arc::new(Module {
            id: self.id,
            kind: if self.vdso { ModuleKind::Vdso } else { ModuleKind::File },
            file: identity.and_then(|identity| same_file(&path, identity)).map(Into::into),
            root: None,
            path: path.into(),
            build_id: self.build_id.as_deref().map(to_build_id).transpose()?,
            identity,
        });
        modules.insert(self.id, Arc::clone(&module));
        Ok(module)
    }
}

/// The file at `path`, if it is the very one that was recorded: a replay on the same machine then has names.
fn same_file(path: &[u8], identity: FileIdentity) -> Option<File> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::OpenOptionsExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let stat = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let ctime_ns = stat.ctime().checked_mul(1_000_000_000)?.checked_add(stat.ctime_nsec())?;
    let found = FileIdentity { device: stat.dev(), inode: stat.ino(), size: stat.len(), ctime_ns };
    (found == identity).then_some(file)
}
