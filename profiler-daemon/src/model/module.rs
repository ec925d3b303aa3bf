//! A file that code runs from, pinned so that it outlives its processes.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A GNU build id: up to twenty bytes that a linker made of a file's contents. Anyone can forge one, so it is
/// a file's second name; the first is its [`FileIdentity`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId {
    bytes: [u8; 20],
    len: u8,
}

impl BuildId {
    /// The build id of these bytes; `None` if there are none or more than twenty.
    pub fn new(id: &[u8]) -> Option<Self> {
        if id.is_empty() || id.len() > 20 {
            return None;
        }
        let mut bytes = [0; 20];
        bytes[..id.len()].copy_from_slice(id);
        Some(Self { bytes, len: u8::try_from(id.len()).ok()? })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for BuildId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// What makes a file this file, by `stat`: a file that was replaced or rewritten is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size, bytes.
    pub size: u64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
}

/// What kind of code a module holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleKind {
    /// An ELF file.
    File,
    /// The kernel's shared object in every process.
    Vdso,
    /// Code that a process made at run time. The file is what the process wrote down about it, and an offset is an address in that
    /// process: it means nothing in another.
    PerfMap,
}

/// A file that code runs from. Equality is of what is known about it, not of the open file.
pub struct Module {
    /// Unique for the life of the daemon; the same file is the same module.
    pub id: u32,
    /// What kind of code.
    pub kind: ModuleKind,
    /// Its path as the kernel printed it, in the mount namespace where it was first seen. Any bytes.
    pub path: Arc<[u8]>,
    /// Its build id, if the kernel read one.
    pub build_id: Option<BuildId>,
    /// What makes it this file; `None` if it was gone before it could be opened.
    pub identity: Option<FileIdentity>,
    /// The file, held from first sight by a handle that only names it: opening it to read is the namer's. `None` in a replay, and
    /// where it could not be found.
    pub file: Option<OwnedFd>,
    /// The root of the process that mapped it first, as a handle that only names it: other files that belong to it are looked for there.
    pub root: Option<Arc<OwnedFd>>,
}

/// The file with the debug information of another, by what that one says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugFile {
    /// The build id that both have.
    pub build_id: Option<BuildId>,
    /// Its name, without a folder.
    pub name: Option<Box<[u8]>>,
}

impl DebugFile {
    /// From what a file says, any bytes; a name that is more than a name is none.
    pub fn new(build_id: &[u8], name: &[u8]) -> Self {
        const NAME_BYTES_MAX: usize = 255;
        let is_name = !matches!(name, b"" | b"." | b"..")
            && name.len() <= NAME_BYTES_MAX
            && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
        Self { build_id: BuildId::new(build_id), name: is_name.then(|| Box::from(name)) }
    }
}

impl Module {
    /// The last part of its path, printable: what a frame without a name shows.
    pub fn display_name(&self) -> String {
        let path = self.path.strip_suffix(b" (deleted)").unwrap_or(&self.path);
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        String::from_utf8_lossy(name)
            .chars()
            .map(|c| if c.is_control() || c == ';' { '?' } else { c })
            .collect()
    }
}

impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        let Self { id, kind, path, build_id, identity, file: _, root: _ } = self;
        (*id, *kind, path, *build_id, *identity)
            == (other.id, other.kind, &other.path, other.build_id, other.identity)
    }
}

impl Eq for Module {}

impl fmt::Debug for Module {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "module {} {}", self.id, self.display_name())
    }
}
