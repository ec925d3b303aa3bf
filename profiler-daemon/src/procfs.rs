//! What `/proc` says, parsed.
//!
//! In: the root of a proc file system (a folder, in tests) and a process id. Out: plain values, or why there
//! are none. Not here: what they mean. Processes vanish between two reads and choose their own names, so every
//! byte is foreign: each read has a bound, and nothing is taken for UTF-8 that need not be.

mod asked;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::time::{MonoNs, suspended};

/// Bytes of `stat` and of the host name at most: the kernel prints a few hundred.
const SMALL_BYTES_MAX: u64 = 4 << 10;
/// Bytes of `cgroup` at most: a dozen hierarchies with a path of at most 4 KiB each.
const CGROUP_BYTES_MAX: u64 = 64 << 10;
/// Bytes of `mountinfo` that are read at most: ten thousand mounts.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;
/// Lines of `maps` that are read at most, whatever they map: four times the kernel's default limit.
const MAPS_LINES_MAX: usize = 1 << 18;
/// Bytes of one line of `maps` that are kept at most: a path of 4 KiB, each byte of it escaped.
const MAPS_LINE_BYTES_MAX: u64 = 17 << 10;
/// The unit of start times in `stat`: `USER_HZ`, one hundred on every architecture we run on.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;
/// `PF_KTHREAD` of the kernel's task flags.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The process is not there any more.
    #[error("the process is gone")]
    Gone,
    /// The kernel refused, or failed.
    #[error("{path}: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The contents are not what the kernel prints.
    #[error("{path} makes no sense")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A proc file system.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

/// What we use of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The name of its main thread: any bytes.
    pub comm: Vec<u8>,
    /// The process that started it.
    pub parent: u32,
    /// True for a task without user memory.
    pub kernel_thread: bool,
    /// True for a process that has ended and waits for its parent to take notice; other threads than the main
    /// one may still run.
    pub zombie: bool,
    /// When it started, on the monotonic clock, to the tick of ten milliseconds.
    pub started: MonoNs,
}

/// What we use of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The user whose the files are that it makes.
    pub uid: u32,
    /// Its number in its own pid namespace.
    pub pid_inside: u32,
}

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapsLine {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// True if code may run there.
    pub executable: bool,
    /// Offset in the file of the first address, bytes.
    pub file_offset: u64,
    /// The inode behind it; zero if none is.
    pub inode: u64,
    /// The path, with `\012` read back as a line feed; empty for nameless memory. Any bytes.
    pub path: Vec<u8>,
}

/// The executable lines of `/proc/PID/maps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// In address order.
    pub executable: Vec<MapsLine>,
    /// True if there were more than were asked for.
    pub truncated: bool,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl Procfs {
    /// The proc file system at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of `name` of a process.
    pub fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(format!("{pid}/{name}"))
    }

    /// The processes that are there, in no order that matters.
    pub fn pids(&self) -> Result<Vec<u32>, Unread> {
        let entries = std::fs::read_dir(&self.root).map_err(|source| unread(&self.root, source))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// True while the process is in the table of processes, be it as a zombie.
    pub fn is_there(&self, pid: u32) -> bool {
        self.path(pid, "").symlink_metadata().is_ok()
    }

    /// What `/proc/PID/stat` says.
    pub fn stat(&self, pid: u32) -> Result<Stat, Unread> {
        let path = self.path(pid, "stat");
        let text = read(&path, SMALL_BYTES_MAX)?;
        parse_stat(&text, suspended()).ok_or(Unread::Malformed { path })
    }

    /// What `/proc/PID/status` says.
    pub fn status(&self, pid: u32) -> Result<Status, Unread> {
        let path = self.path(pid, "status");
        let text = read(&path, SMALL_BYTES_MAX)?;
        parse_status(&text).ok_or(Unread::Malformed { path })
    }

    /// The executable mappings of a process, the first `mappings_max` of them.
    pub fn executable_maps(&self, pid: u32, mappings_max: usize) -> Result<Maps, Unread> {
        let path = self.path(pid, "maps");
        let file = File::open(&path).map_err(|source| unread(&path, source))?;
        if let Some(maps) = asked::executable_maps(&file, mappings_max) {
            return Ok(maps);
        }
        parse_maps(BufReader::with_capacity(16 << 10, file), mappings_max)
            .map_err(|source| unread(&path, source))
    }

    /// Contents of `/proc/PID/cgroup`.
    pub fn cgroup(&self, pid: u32) -> Result<String, Unread> {
        let text = read(&self.path(pid, "cgroup"), CGROUP_BYTES_MAX)?;
        Ok(String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into()))
    }

    /// Whether what a process has mounted under a number is, or may be, served by someone else: over a network, or by a process, who
    /// need not answer. What is not one of its mounts may be.
    pub fn is_served(&self, pid: u32, mount: u64) -> bool {
        let file = File::open(self.path(pid, "mountinfo")).ok();
        let kind = file.and_then(|file| parse_mountinfo(BufReader::new(file.take(MOUNTS_BYTES_MAX)), mount));
        kind.is_none_or(|kind| is_served(&kind))
    }

    /// Where `/proc/PID/exe` leads; a kernel thread has none, which reads like a process that is gone.
    pub fn executable(&self, pid: u32) -> Result<Vec<u8>, Unread> {
        let path = self.path(pid, "exe");
        match std::fs::read_link(&path) {
            Ok(target) => Ok(target.into_os_string().into_vec()),
            Err(source) => Err(unread(&path, source)),
        }
    }

    /// The name of this machine.
    pub fn hostname(&self) -> Result<String, Unread> {
        let path = self.root.join("sys/kernel/hostname");
        let name = read(&path, SMALL_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(name.trim_ascii()).into_owned())
    }
}

/// `stat` names its second field between parentheses, and the name may contain any bytes, parentheses and
/// line feeds among them: the last closing one ends it.
fn parse_stat(text: &[u8], suspended: Duration) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // The first word after the name is field 3, the state.
    let mut fields = rest.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let flags: u64 = fields.nth(4)?.parse().ok()?;
    let start_ticks: u64 = fields.nth(12)?.parse().ok()?;
    let since_boot = Duration::from_nanos(start_ticks.saturating_mul(NANOSECONDS_PER_TICK));
    Some(Stat {
        comm,
        parent,
        kernel_thread: flags & KERNEL_THREAD_FLAG != 0,
        zombie,
        started: MonoNs::default().plus(since_boot.saturating_sub(suspended)),
    })
}

/// A line a field, `Name:\tvalues`; the kernel escapes line feeds in the name of the process.
fn parse_status(text: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(text);
    let last = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_ascii_whitespace().last()?.parse().ok()
    };
    // Real, effective, saved, and of the file system; and from our namespace inwards.
    Some(Status { uid: last("Uid:")?, pid_inside: last("NSpid:")? })
}

/// True for a kind of file system that is served by someone else.
fn is_served(kind: &str) -> bool {
    const SERVED: [&str; 11] =
        ["fuse", "fuseblk", "virtiofs", "nfs", "nfs4", "9p", "cifs", "smb3", "ceph", "afs", "lustre"];
    SERVED.contains(&kind.split('.').next().unwrap_or_default())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, a mount a line; spaces in paths are escaped.
fn parse_mountinfo(text: impl BufRead, mount: u64) -> Option<String> {
    text.split(b'\n').map_while(Result::ok).find_map(|line| {
        let line = String::from_utf8_lossy(&line);
        let (before, after) = line.split_once(" - ")?;
        let number: u64 = before.split(' ').next()?.parse().ok()?;
        (number == mount).then(|| after.split(' ').next().unwrap_or_default().to_owned())
    })
}

fn parse_maps(mut text: impl BufRead, mappings_max: usize) -> io::Result<Maps> {
    let mut maps = Maps::default();
    let mut line = Vec::new();
    for _ in 0..MAPS_LINES_MAX {
        line.clear();
        if text.by_ref().take(MAPS_LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(maps);
        }
        if line.last() != Some(&b'\n') {
            // Too long, so that the rest of it must not be taken for a line; or the last one.
            text.skip_until(b'\n')?;
        }
        // A line that makes no sense tells nothing about the next one.
        let Some(parsed) = parse_maps_line(line.strip_suffix(b"\n").unwrap_or(&line)) else { continue };
        if !parsed.executable {
            continue;
        }
        if maps.executable.len() == mappings_max {
            maps.truncated = true;
            return Ok(maps);
        }
        maps.executable.push(parsed);
    }
    maps.truncated = true;
    Ok(maps)
}

fn parse_maps_line(line: &[u8]) -> Option<MapsLine> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        std::str::from_utf8(word).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let permissions = word()?;
    let file_offset = word()?;
    let _device = word()?;
    let inode = word()?;
    // The path is set off by spaces, and no path of the kernel's begins with one.
    let path = rest.trim_ascii_start();
    Some(MapsLine {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        executable: permissions.as_bytes().get(2) == Some(&b'x'),
        file_offset: u64::from_str_radix(file_offset, 16).ok()?,
        inode: inode.parse().ok()?,
        path: unescape_line_feeds(path),
    })
}

/// The kernel escapes nothing but the line feed, not even the backslash.
fn unescape_line_feeds(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(br"\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(first);
            rest = after;
        }
    }
    plain
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unread> {
    let mut text = Vec::with_capacity(512);
    File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut text))
        .map_err(|source| unread(path, source))?;
    Ok(text)
}

fn unread(path: &Path, source: io::Error) -> Unread {
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT | Errno::SRCH) => Unread::Gone,
        _ => Unread::Refused { path: path.into(), source },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check_stat(comm: &[u8], flags: u64, expected_kernel_thread: bool) {
        let mut text = b"42 (".to_vec();
        text.extend_from_slice(comm);
        text.extend_from_slice(
            format!(") S 7 42 42 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 1234 999 88").as_bytes(),
        );
        let stat = parse_stat(&text, Duration::from_secs(2)).unwrap();
        assert_eq!(stat.comm, comm);
        assert_eq!((stat.parent, stat.zombie, stat.kernel_thread), (7, false, expected_kernel_thread));
        assert_eq!(stat.started, MonoNs(12_340_000_000 - 2_000_000_000));
    }

    #[track_caller]
    fn check_line(line: &str, expected: Option<(u64, u64, bool, u64, &[u8])>) {
        let parsed = parse_maps_line(line.as_bytes());
        let seen = parsed.as_ref().map(|l| (l.start, l.end, l.executable, l.file_offset, l.path.as_slice()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_plain_name_is_read() {
        check_stat(b"bash", 0x40_0000, false);
    }

    #[test]
    fn a_name_may_hold_parentheses_spaces_line_feeds_and_any_bytes() {
        check_stat(b") S 1 (\n\xff", 0, false);
    }

    #[test]
    fn an_empty_name_is_a_name() {
        check_stat(b"", 0, false);
    }

    #[test]
    fn a_kernel_thread_says_so_in_its_flags() {
        check_stat(b"kworker/0:1-events", 69_238_880, true);
    }

    #[test]
    fn a_stat_that_breaks_off_is_no_stat() {
        for text in [&b""[..], b"42", b"42 (bash", b"42 )bash(", b"42 (bash) S 7 42", b"42 (a) S x"] {
            assert_eq!(parse_stat(text, Duration::ZERO), None);
        }
    }

    #[track_caller]
    fn check_status(text: &str, expected: Option<Status>) {
        assert_eq!(parse_status(text.as_bytes()), expected);
    }

    #[test]
    fn a_process_in_a_namespace_has_the_last_number() {
        let text = "Name:\tUid: 7\nUid:\t1000\t1000\t1000\t1001\nNSpid:\t4711\t12\t1\n";
        check_status(text, Some(Status { uid: 1001, pid_inside: 1 }));
    }

    #[test]
    fn a_status_that_breaks_off_is_no_status() {
        check_status("Name:\tx\nUid:\t1\t1\t1\t1\n", None);
        check_status("Uid:\t\nNSpid:\t1\n", None);
    }

    #[test]
    fn what_is_served_is_known_by_its_kind() {
        for kind in ["fuse", "fuse.sshfs", "nfs4", "9p"] {
            assert!(is_served(kind), "{kind}");
        }
        for kind in ["ext4", "overlay", "tmpfs", "btrfs"] {
            assert!(!is_served(kind), "{kind}");
        }
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let text = "22 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                    36 22 0:31 / /mnt\\040a rw,nosuid - fuse.sshfs host:/ rw\nnonsense\n";
        assert_eq!(parse_mountinfo(text.as_bytes(), 36).as_deref(), Some("fuse.sshfs"));
        assert_eq!(parse_mountinfo(text.as_bytes(), 22).as_deref(), Some("ext4"));
        assert_eq!(parse_mountinfo(text.as_bytes(), 2), None);
    }

    #[test]
    fn a_file_mapping_is_read() {
        check_line(
            "7f00-7f80 r-xp 00001000 08:01 123                        /usr/lib/libc.so.6",
            Some((0x7f00, 0x7f80, true, 0x1000, b"/usr/lib/libc.so.6")),
        );
    }

    #[test]
    fn a_path_keeps_its_spaces_and_its_deletedness() {
        check_line("1-2 r--p 0 0:1 5 /a b/c  d (deleted)", Some((1, 2, false, 0, b"/a b/c  d (deleted)")));
    }

    #[test]
    fn a_line_feed_in_a_path_is_unescaped_and_nothing_else() {
        check_line(r"1-2 r-xp 0 0:1 5 /a\012b\011", Some((1, 2, true, 0, b"/a\nb\\011")));
    }

    #[test]
    fn nameless_memory_has_an_empty_path() {
        check_line("1-2 rwxp 0 00:00 0 ", Some((1, 2, true, 0, b"")));
        check_line("1-2 rwxp 0 00:00 0", Some((1, 2, true, 0, b"")));
    }

    #[test]
    fn a_line_that_breaks_off_is_no_line() {
        for line in ["", "1", "1-2", "1-2 r-xp", "1-2 r-xp 0 0:1", "x-2 r-xp 0 0:1 5 /a"] {
            check_line(line, None);
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_keeps_its_bytes() {
        assert_eq!(parse_maps_line(b"1-2 r-xp 0 0:1 5 /a\xff").unwrap().path, b"/a\xff");
    }

    #[test]
    fn only_so_many_mappings_are_read() {
        let text: String = (0..10).map(|i| format!("{i}0-{i}1 r-xp 0 0:1 5 /a\n")).collect();
        let maps = parse_maps(text.as_bytes(), 4).unwrap();
        assert_eq!((maps.executable.len(), maps.truncated), (4, true));
        let maps = parse_maps(text.as_bytes(), 10).unwrap();
        assert_eq!((maps.executable.len(), maps.truncated), (10, false));
    }

    #[test]
    fn the_rest_of_a_line_that_is_too_long_is_no_line() {
        let filler = "a".repeat(usize::try_from(MAPS_LINE_BYTES_MAX).unwrap() - "1-2 r-xp 0 0:1 5 /".len());
        let text = format!("1-2 r-xp 0 0:1 5 /{filler}3-4 r-xp 0 0:1 5 /forged\n5-6 r-xp 0 0:1 5 /b\n");
        let maps = parse_maps(text.as_bytes(), 10).unwrap();
        assert_eq!(maps.executable.iter().map(|line| line.start).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn our_own_process_is_there() {
        let procfs = Procfs::default();
        let pid = std::process::id();
        let stat = procfs.stat(pid).unwrap();
        assert!(!stat.kernel_thread && !stat.zombie);
        assert!(stat.started <= MonoNs::now());
        assert!(MonoNs::now().since(stat.started) < Duration::from_secs(3600));
        assert!(procfs.pids().unwrap().contains(&pid));
        assert!(procfs.is_there(pid));
        assert!(!procfs.executable_maps(pid, 100).unwrap().executable.is_empty());
        assert!(procfs.cgroup(pid).unwrap().contains('/'));
        assert!(procfs.executable(pid).unwrap().starts_with(b"/"));
        assert!(!procfs.hostname().unwrap().is_empty());
    }

    #[test]
    fn a_process_that_is_gone_is_gone() {
        let procfs = Procfs::default();
        assert!(matches!(procfs.stat(u32::MAX), Err(Unread::Gone)));
        assert!(matches!(procfs.executable_maps(u32::MAX, 1), Err(Unread::Gone)));
        assert!(!procfs.is_there(u32::MAX));
    }
}
