//! What the agent and the namer say to each other: one question, one answer, over a stream socket.
//!
//! In and out: messages with a length before them, and at most two files beside a question. Not here: what
//! a message makes anyone do. Either side treats the other's bytes as strange: lengths are bounded before
//! memory is taken, and the agent receives no files at all.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bounds::Reached;
use crate::time::MonoNs;

/// Addresses in one question: hundreds at once make the cost of asking small beside that of answering, and an
/// answer still small beside its bound.
pub(super) const ADDRESSES_MAX: usize = 512;
/// Bytes of a question: every address takes ten bytes at most.
pub(super) const REQUEST_BYTES_MAX: usize = ADDRESSES_MAX * 10 + 64;
/// Bytes of an answer: a few times what the longest honest one takes.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of one name or source path; the rest is cut. C++ templates reach a few thousand.
pub(super) const NAME_BYTES_MAX: usize = 4096;
/// Words of an unwind table after which an answer is long enough. With what the largest function adds, and at four bytes for
/// a word, it still fits.
pub(super) const BLOCK_WORDS_MAX: usize = 1 << 18;
/// Functions inlined into each other at one address.
pub(super) const INLINED_MAX: usize = 64;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Comes back with the answer.
    pub(super) id: u32,
    /// What the addresses belong to.
    pub(super) subject: Subject,
    /// Kernel addresses, file offsets, or addresses in a process, ascending.
    pub(super) addresses: Vec<u64>,
}

/// What a question is about. Strangers' files come as handles that only name them, and are opened by the namer: who serves a
/// file system may never answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Subject {
    /// The kernel. A `kallsyms` that was opened with the right to see addresses comes beside the first
    /// question, and beside any that wants it read again.
    Kernel,
    /// A file, which comes beside every question.
    File {
        /// The agent's number for it, never used for another.
        slot: u32,
        /// Its size when it was pinned: another size means other contents.
        size: u64,
        /// How much debug information may be read for inlined functions and lines; `None`: names only.
        debug: Option<DebugBounds>,
    },
    /// A file that may have the debug information of another, which was asked about just before; it comes beside. No addresses.
    DebugFile {
        /// The agent's number for the other file.
        slot: u32,
    },
    /// Code that was made at run time, by a perf map, which comes beside every question. The addresses are the process's.
    PerfMap {
        /// The first byte that is read; what comes before the next line feed is passed over unless it is the first of the file.
        from: u64,
        /// The first byte that is not read.
        to: u64,
    },
    /// The unwind table of a file, which comes beside every question; no addresses.
    Table {
        /// The agent's number for it, never used for another.
        slot: u32,
        /// Its size when it was pinned.
        size: u64,
        /// The page with which to begin: 0, then what the answer before said.
        from: u32,
    },
    /// A copy of a file, which comes beside the question, written to memory, which comes after it; no addresses.
    Copy {
        /// Its size when it was pinned.
        size: u64,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The question's.
    pub(super) id: u32,
    /// Anonymous memory of the namer after it, bytes.
    pub(super) memory_bytes: u64,
    /// Processor time of the namer until then, nanoseconds.
    pub(super) cpu_ns: u64,
    /// What was found.
    pub(super) outcome: Outcome,
}

/// What became of a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// Names, as far as there are any.
    Names(Names),
    /// A part of an unwind table.
    Rows(Rows),
    /// It is the file's debug information, and is read from now on.
    Taken(DebugInfo),
    /// It was copied, all of it.
    Copied,
    /// Nothing can be said about this subject.
    Refused(Refusal),
}

/// A part of an unwind table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rows {
    /// Pages of the file that have rows, ascending, and the block of each.
    #[serde(with = "super::words")]
    pub(super) blocks: Vec<(u32, Vec<u32>)>,
    /// What the next question has to begin with; none if this was the last part.
    pub(super) next: Option<u32>,
    /// Functions that have a frame.
    pub(super) functions: u64,
    /// Of these, such as keep no frame pointer and may call others.
    pub(super) frameless: u64,
    /// Rules that say something we cannot express.
    pub(super) invalid: u64,
    /// What was left out because there was too much of it, since the part before.
    pub(super) reached: Reached,
}

/// Names of the addresses asked for, in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    /// Every text once: functions share files, and addresses share functions.
    pub(super) strings: Vec<String>,
    /// One for each address.
    pub(super) found: Vec<Found>,
    /// Set by the question that opened the file: what became of its debug information.
    pub(super) debug: Option<DebugInfo>,
    /// Beside it, if there may be debug information in another file: which.
    pub(super) sought: Option<Sought>,
    /// What was left out because there was too much of it.
    pub(super) reached: Reached,
}

impl Names {
    /// One function for each address, if it is known, whose file and line are not.
    pub(super) fn without_places(functions: Vec<Option<String>>) -> Self {
        let mut names = Self { strings: vec![String::new()], ..Self::default() };
        for function in functions {
            names.found.push(match function {
                Some(function) => {
                    let name = u32::try_from(names.strings.len()).unwrap_or(u32::MAX);
                    names.strings.push(function);
                    Found::Named(vec![Place { name, file: 0, line: 0 }])
                }
                None => Found::Nothing,
            });
        }
        names
    }
}

/// What a file says of the one with its debug information.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sought {
    /// The build id of both; empty if unknown.
    pub(super) build_id: Vec<u8>,
    /// Its name; empty if unknown.
    pub(super) name: Vec<u8>,
}

/// What is at an address.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    /// Functions, innermost first.
    Named(Vec<Place>),
    /// No name, but the address as the file counts it; in the kernel, bytes from its beginning.
    Bare(u64),
    /// Nothing at all.
    Nothing,
}

/// A line of a function; indices into [`Names::strings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Its name.
    pub(super) name: u32,
    /// Source file; an empty string if unknown.
    pub(super) file: u32,
    /// Zero if unknown.
    pub(super) line: u32,
}

/// How much debug information may be read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DebugBounds {
    /// Bytes, when nothing of them is packed any more.
    pub(super) bytes_max: u64,
    /// Of these, bytes that have to be unpacked first.
    pub(super) unpacked_bytes_max: u64,
}

/// What became of a file's debug information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DebugInfo {
    /// It is read.
    Read,
    /// There is none in the file.
    Absent,
    /// More than the question allows: names only.
    TooLarge,
    /// More has to be unpacked than the question allows: names only.
    Packed,
    /// It refers to another file, shared by several.
    Elsewhere,
    /// It was not wanted.
    Unwanted,
}

/// Why nothing can be said about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Not a regular file: opening it again could block or have effects.
    NotRegular,
    /// Its size is not what it was.
    Changed,
    /// Not an ELF file, or not one that can be read.
    NotElf,
    /// More symbols than any honest file has.
    TooLarge,
    /// It cannot be opened again.
    Unopenable,
    /// The question makes no sense.
    Nonsense,
    /// No addresses in kallsyms.
    NoKallsyms,
    /// Not for this kind of processor.
    OtherMachine,
    /// Nothing in it says how to unwind.
    NoTable,
    /// It is not the debug information of that file.
    OfAnother,
}

impl Refusal {
    /// The name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotRegular => "not a regular file",
            Self::Changed => "changed",
            Self::NotElf => "not ELF",
            Self::TooLarge => "too many symbols",
            Self::Unopenable => "cannot be opened",
            Self::Nonsense => "nonsense",
            Self::NoKallsyms => "no kallsyms",
            Self::OtherMachine => "for another processor",
            Self::NoTable => "no unwind table",
            Self::OfAnother => "of another file",
        }
    }
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TalkError {
    /// The other end is gone.
    Ended,
    /// The deadline is past and nothing came.
    Late,
    /// The message is too long, makes no sense, or was not whole by the deadline.
    Rubbish,
}

impl From<Errno> for TalkError {
    /// Whatever a local socket reports, the talk is over.
    fn from(_: Errno) -> Self {
        Self::Ended
    }
}

/// Files beside a question at most.
pub(super) const FILES_MAX: usize = 2;

/// Sends `message`, with `files` beside it. Without a deadline it waits.
pub(super) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    bytes_max: usize,
    files: &[BorrowedFd<'_>],
    deadline: Option<MonoNs>,
) -> Result<(), TalkError> {
    let mut bytes = vec![0; LENGTH_BYTES];
    bytes = postcard::to_extend(message, bytes).map_err(|_| TalkError::Rubbish)?;
    let length = bytes.len() - LENGTH_BYTES;
    if length > bytes_max {
        return Err(TalkError::Rubbish);
    }
    let length = u32::try_from(length).map_err(|_| TalkError::Rubbish)?;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(TalkError::Rubbish);
    }
    let mut sent = 0;
    while sent < bytes.len() {
        wait(socket, PollFlags::OUT, deadline)?;
        let flags = if deadline.is_some() { SendFlags::DONTWAIT } else { SendFlags::empty() };
        let flags = flags | SendFlags::NOSIGNAL;
        match sendmsg(socket, &[IoSlice::new(&bytes[sent..])], &mut beside, flags) {
            Ok(more) => {
                sent += more;
                beside.clear(); // the files went with the first byte
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(gone) => return Err(gone.into()),
        }
    }
    Ok(())
}

/// Receives a message, and the files beside it where `files` says that some may come.
pub(super) fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    bytes_max: usize,
    files: bool,
    deadline: Option<MonoNs>,
) -> Result<(M, Vec<OwnedFd>), TalkError> {
    let mut length = [0; LENGTH_BYTES];
    let mut beside = Vec::new();
    fill(socket, &mut length, files.then_some(&mut beside), deadline)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| TalkError::Rubbish)?;
    if length > bytes_max {
        return Err(TalkError::Rubbish);
    }
    let mut bytes = vec![0; length];
    fill(socket, &mut bytes, None, deadline).map_err(torn)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((message, [])) => Ok((message, beside)),
        Ok(_) | Err(_) => Err(TalkError::Rubbish),
    }
}

const LENGTH_BYTES: usize = 4;

/// Fills `bytes`; files that come beside them go to `files`, or are closed.
fn fill(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    mut files: Option<&mut Vec<OwnedFd>>,
    deadline: Option<MonoNs>,
) -> Result<(), TalkError> {
    let mut filled = 0;
    while filled < bytes.len() {
        wait(socket, PollFlags::IN, deadline).map_err(|late| if filled > 0 { torn(late) } else { late })?;
        let flags = if deadline.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        // Without room for them, the kernel closes what comes.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = match files {
            Some(_) => RecvAncillaryBuffer::new(&mut space),
            None => RecvAncillaryBuffer::default(),
        };
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes[filled..])], &mut beside, flags) {
            Ok(message) if message.bytes == 0 => return Err(TalkError::Ended),
            Ok(message) => filled += message.bytes,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(gone) => return Err(gone.into()),
        }
        for message in beside.drain() {
            if let (RecvAncillaryMessage::ScmRights(came), Some(files)) = (message, files.as_deref_mut()) {
                files.extend(came);
            }
        }
    }
    Ok(())
}

/// After half a message there is no knowing where the next one begins.
fn torn(error: TalkError) -> TalkError {
    match error {
        TalkError::Late => TalkError::Rubbish,
        TalkError::Ended | TalkError::Rubbish => error,
    }
}

/// Waits until `socket` is ready or the deadline is past. Without a deadline the call that follows waits.
fn wait(socket: BorrowedFd<'_>, ready: PollFlags, deadline: Option<MonoNs>) -> Result<(), TalkError> {
    let Some(deadline) = deadline else { return Ok(()) };
    loop {
        // What is there by the deadline counts, even if we come late to look.
        let left = deadline.since(MonoNs::now());
        let timeout = Timespec::try_from(left).map_err(|_| TalkError::Rubbish)?;
        match poll(&mut [PollFd::from_borrowed_fd(socket, ready)], Some(&timeout)) {
            Ok(0) if left == Duration::ZERO => return Err(TalkError::Late),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(gone) => return Err(gone.into()),
        }
    }
}

/// True if the other end is gone, or speaks without having been asked.
pub(super) fn is_over(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    !matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0) | Err(Errno::INTR))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn soon() -> Option<MonoNs> {
        Some(MonoNs::now().plus(Duration::from_millis(50)))
    }

    /// What the agent makes of these bytes from a namer.
    #[track_caller]
    fn check(bytes: &[u8], then_gone: bool, expected: TalkError) {
        let (ours, mut theirs) = pair();
        theirs.write_all(bytes).unwrap();
        if then_gone {
            drop(theirs);
            assert_eq!(receive::<Answer>(ours.as_fd(), 100, false, soon()).unwrap_err(), expected);
        } else {
            assert_eq!(receive::<Answer>(ours.as_fd(), 100, false, soon()).unwrap_err(), expected);
            drop(theirs);
        }
    }

    #[test]
    fn a_message_and_its_files_arrive() {
        let (ours, theirs) = pair();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let request = Request { id: 7, subject: Subject::Kernel, addresses: vec![1, u64::MAX] };
        let beside = [file.as_fd(), ours.as_fd()];
        send(ours.as_fd(), &request, REQUEST_BYTES_MAX, &beside, soon()).unwrap();
        let (got, files) = receive::<Request>(theirs.as_fd(), REQUEST_BYTES_MAX, true, None).unwrap();
        assert_eq!((got.id, got.addresses, files.len()), (7, vec![1, u64::MAX], 2));
        let first = std::fs::File::from(files.into_iter().next().unwrap());
        assert!(std::io::read_to_string(first).unwrap().contains("Name:"));
    }

    #[test]
    fn the_largest_question_fits_its_bound() {
        let addresses = vec![u64::MAX; ADDRESSES_MAX];
        let debug = Some(DebugBounds { bytes_max: u64::MAX, unpacked_bytes_max: u64::MAX });
        let subject = Subject::File { slot: u32::MAX, size: u64::MAX, debug };
        let request = Request { id: u32::MAX, subject, addresses };
        assert!(postcard::to_stdvec(&request).unwrap().len() <= REQUEST_BYTES_MAX);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        check(b"", false, TalkError::Late);
    }

    #[test]
    fn half_a_message_at_the_deadline_is_rubbish() {
        check(b"\x08\0\0\0ab", false, TalkError::Rubbish);
        check(b"\x08\0", false, TalkError::Rubbish);
    }

    #[test]
    fn half_a_message_and_then_nobody_is_an_end() {
        check(b"\x08\0\0\0ab", true, TalkError::Ended);
    }

    #[test]
    fn a_length_beyond_the_bound_takes_no_memory() {
        check(b"\xff\xff\xff\xff", false, TalkError::Rubbish);
    }

    #[test]
    fn bytes_that_mean_nothing_are_rubbish() {
        check(b"\x04\0\0\0\xff\xff\xff\xff", false, TalkError::Rubbish);
    }

    #[test]
    fn bytes_after_a_message_are_rubbish() {
        let answer = Answer { id: 1, memory_bytes: 2, cpu_ns: 3, outcome: Outcome::Refused(Refusal::NotElf) };
        let mut bytes = postcard::to_stdvec(&answer).unwrap();
        bytes.push(0);
        let mut message = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        message.extend(bytes);
        check(&message, false, TalkError::Rubbish);
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        // id, memory, time, Names, then four billion strings
        check(b"\x09\0\0\0\x01\x02\x03\x00\xff\xff\xff\xff\x0f", false, TalkError::Rubbish);
    }
}
