//! A file system served by this test, of one file: a program. Whoever opens it first may run it; then its server falls silent for
//! good for all who want to open it, as one does that hangs or whose network is gone.
//!
//! It speaks the kernel's own protocol over `/dev/fuse` (linux/fuse.h), as little of it as running a program takes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use profiler_tests::harness::gate::Missing;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Node numbers of the folder and of the program in it.
const FOLDER: u64 = 1;
const PROGRAM: u64 = 2;

/// Bytes of a question at most: those to write would need more.
const QUESTION_BYTES: usize = 64 << 10;

/// The file system, mounted. It is aborted and unmounted when dropped.
pub(crate) struct Served {
    folder: PathBuf,
    program: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// Mounts a file system at `folder` that has a copy of `program`.
    pub(crate) fn mount(folder: &Path, program: &Path) -> Result<Self, Missing> {
        let missing = |error: io::Error| Missing {
            required_by: "TEST_REQUIRE_FUSE",
            what: format!("no file system can be served by a process here (/dev/fuse): {error}"),
        };
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(missing)?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let data = std::ffi::CString::new(data).expect("no zero in it");
        mount("served", folder, "fuse", MountFlags::empty(), data.as_c_str())
            .map_err(|error| missing(error.into()))?;
        let bytes = std::fs::read(program).expect("a program");
        let name = program.file_name().expect("a name");
        let server = Some(std::thread::spawn(move || serve(device, &bytes)));
        Ok(Self { folder: folder.to_owned(), program: folder.join(name), server })
    }

    /// Where the program is.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // By force: whoever waits is told that there is nobody any more.
        let _ = unmount(&self.folder, UnmountFlags::FORCE | UnmountFlags::DETACH);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Answers until the file system is aborted. A question that is taken and not answered cannot be taken back by who asked, who waits
/// unkillably.
fn serve(mut device: File, program: &[u8]) {
    let mut question = vec![0; QUESTION_BYTES];
    let mut opened = false;
    loop {
        let length = match device.read(&mut question) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            Err(_) => continue, // what was asked was taken back meanwhile
        };
        let question = &question[..length];
        if small(question, 4) == OPEN && std::mem::replace(&mut opened, true) {
            continue;
        }
        let Some(answer) = answer(question, program) else { continue };
        let _ = device.write(&answer); // or nobody waits for it any more
    }
}

fn small(question: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(question[at..at + 4].try_into().expect("four bytes"))
}

/// The answer to a question; none where none is wanted.
fn answer(question: &[u8], program: &[u8]) -> Option<Vec<u8>> {
    let large = |at: usize| u64::from_le_bytes(question[at..at + 8].try_into().expect("eight bytes"));
    // struct fuse_in_header: length, what, number, node, …
    let (what, number, node) = (small(question, 4), large(8), large(16));
    let mut body = Vec::new();
    match what {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => init(&mut body),
        LOOKUP => {
            put(&mut body, &[PROGRAM, 0, u64::MAX >> 1, u64::MAX >> 1, 0]);
            attributes(&mut body, PROGRAM, program.len());
        }
        GETATTR => {
            put(&mut body, &[u64::MAX >> 1, 0]);
            attributes(&mut body, node, program.len());
        }
        OPEN => put(&mut body, &[0, 0]),
        READ => {
            // struct fuse_read_in behind the header: handle, offset, size, …
            let from = usize::try_from(large(48)).unwrap_or(usize::MAX).min(program.len());
            let to = from.saturating_add(small(question, 56) as usize).min(program.len());
            body.extend(&program[from..to]);
        }
        FLUSH | RELEASE => {}
        _ => return Some(framed(number, -libc::ENOSYS, &[])),
    }
    Some(framed(number, 0, &body))
}

/// struct fuse_out_header, and what follows.
fn framed(number: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("a short answer");
    let mut answer = length.to_le_bytes().to_vec();
    answer.extend(error.to_le_bytes());
    answer.extend(number.to_le_bytes());
    answer.extend(body);
    answer
}

/// struct fuse_init_out of version 7.31.
fn init(body: &mut Vec<u8>) {
    for word in [7_u32, 31, 128 << 10, 0] {
        body.extend(word.to_le_bytes());
    }
    body.extend([0; 4]); // background, congestion: as the kernel likes
    body.extend((16_u32 << 10).to_le_bytes()); // largest write
    body.extend([0; 36]);
}

/// struct fuse_attr.
fn attributes(body: &mut Vec<u8>, node: u64, size: usize) {
    let (size, mode) = match node {
        FOLDER => (0, 0o040_755_u32),
        _ => (size as u64, 0o100_755),
    };
    put(body, &[node, size, size.div_ceil(512), 0, 0, 0]);
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        body.extend(word.to_le_bytes());
    }
}

fn put(body: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| body.extend(word.to_le_bytes()));
}
