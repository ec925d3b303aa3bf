//! The files in which processes write down what code they make at run time: perf maps, `/tmp/perf-PID.map`.
//!
//! In: processes that have executable memory without a file. Out: for each its map, open, so that it outlives its process and its
//! name. Engines write one when they are told to, from their start or in the middle of their life: so a map is looked for when such
//! memory is new, and again and again while samples meet it, at growing intervals. In the root of the process, by the number that
//! the process has in its own world. Foreign processes choose what we meet there: what is held is a regular file, of the
//! process's user or of root, found without following a link and without asking who serves the file system, who need not answer;
//! and only if it was written since the process began, for numbers are used again and old maps lie about. Not here: what is
//! in it; that is opened and read where nothing can be lost.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use super::files::stat_handle;
use crate::meters::{Counters, Meters, label};
use crate::model::{Module, ModuleKind, Pid};
use crate::procfs::Procfs;
use crate::time::{Anchor, MonoNs};

/// What opens a file without side effects: a handle that only names it.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// Time to the second look for a map; to each further one twice as long as to the one before.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(10);
/// Time between two looks at most: a tenth of a millisecond every so often.
const LOOK_AGAIN_LAST: Duration = Duration::from_secs(2);
/// How much earlier than its process a map may seem to be written: start times are ticks, and file systems have their own.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// The maps of processes that live.
#[derive(Debug)]
pub(super) struct PerfMaps {
    of: FxHashMap<Pid, Held>,
    /// Every map that may be open yet.
    open: Vec<Weak<Module>>,
    open_max: usize,
    processes_max: usize,
    looked_for: Counters,
}

#[derive(Debug)]
struct Held {
    map: Option<Arc<Module>>,
    looked: MonoNs,
    looks: u32,
}

impl Held {
    fn is_due(&self, now: MonoNs) -> bool {
        let wait = LOOK_AGAIN_FIRST.saturating_mul(1 << self.looks.min(16));
        now.since(self.looked) >= wait.min(LOOK_AGAIN_LAST)
    }
}

impl PerfMaps {
    pub(super) fn new(open_max: usize, processes_max: usize, meters: &Meters) -> Self {
        let looked_for = meters.counters(
            "profiler_perf_maps_looked_for",
            "Looks for the file in which a process writes down what code it makes, by result",
        );
        Self { of: FxHashMap::default(), open: Vec::new(), open_max, processes_max, looked_for }
    }

    /// The map of a process as far as it is known.
    pub(super) fn of(&self, pid: Pid) -> Option<&Arc<Module>> {
        self.of.get(&pid)?.map.as_ref()
    }

    /// Looks for the map of a process that makes code, unless that was done a short while ago. `fresh_id` numbers a new one.
    pub(super) fn look(
        &mut self,
        procfs: &Procfs,
        pid: Pid,
        now: MonoNs,
        fresh_id: impl FnOnce() -> Option<u32>,
    ) {
        let held = self.of.get(&pid);
        let looks = held.map_or(0, |held| held.looks);
        if held.is_some_and(|held| !held.is_due(now)) {
            return;
        }
        let mut map = held.and_then(|held| held.map.clone());
        if map.as_ref().is_none_or(|map| is_replaced(map)) {
            let found = if self.has_room() { find(procfs, pid) } else { Err(Missed::OverMax) };
            let result = match found {
                Ok((path, file)) => {
                    map = self.module(path, file, fresh_id).or(map);
                    "found"
                }
                Err(missed) => missed.as_str(),
            };
            self.looked_for.get_or_create(&label("result", result)).inc();
        }
        if self.of.len() >= self.processes_max && !self.of.contains_key(&pid) {
            // What is open stays with its process, and the rest is looked for again.
            self.of.clear();
        }
        self.of.insert(pid, Held { map, looked: now, looks: looks.saturating_add(1) });
    }

    /// The process is over, or begins anew.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.of.remove(&pid);
    }

    fn has_room(&mut self) -> bool {
        if self.open.len() >= self.open_max {
            self.open.retain(|map| map.strong_count() > 0);
        }
        self.open.len() < self.open_max
    }

    fn module(
        &mut self,
        path: String,
        file: OwnedFd,
        fresh_id: impl FnOnce() -> Option<u32>,
    ) -> Option<Arc<Module>> {
        let module = Arc::new(Module {
            id: fresh_id()?,
            kind: ModuleKind::PerfMap,
            path: path.into_bytes().into(),
            build_id: None,
            identity: None,
            file: Some(file),
            root: None,
        });
        self.open.push(Arc::downgrade(&module));
        Some(module)
    }
}

/// Why there is no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// The process is gone, or nothing is known of it.
    Gone,
    /// There is no file of that name, or a link.
    None,
    /// It is no regular file, of another user, or cannot be looked at.
    Refused,
    /// It is older than its process: of another one that had its number.
    Old,
    OverMax,
}

impl Missed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "process gone",
            Self::None => "none",
            Self::Refused => "refused",
            Self::Old => "old",
            Self::OverMax => "too many open",
        }
    }
}

/// The map of a process, open, and its path.
fn find(procfs: &Procfs, pid: Pid) -> Result<(String, OwnedFd), Missed> {
    let status = procfs.status(pid.0).map_err(|_| Missed::Gone)?;
    let started = procfs.stat(pid.0).map_err(|_| Missed::Gone)?.started;
    let root = open(procfs.path(pid.0, "root"), NAME_ONLY | OFlags::DIRECTORY, Mode::empty());
    let root = root.map_err(|_| Missed::Gone)?;
    let path = format!("/tmp/perf-{}.map", status.pid_inside);
    // Who writes it has its path in the kernel's memory, or had it lately. Where that is not enough, a file system would have to be
    // asked, and may not answer.
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let walk = || openat2(&root, Path::new(&path), NAME_ONLY | OFlags::NOFOLLOW, Mode::empty(), within);
    // A rename anywhere can disturb a walk once.
    let handle = walk().or_else(|error| if error == Errno::AGAIN { walk() } else { Err(error) });
    let handle = handle.map_err(|_| Missed::None)?;
    let is = stat_handle(&handle).ok_or(Missed::Refused)?;
    let is_owned = is.stx_uid == status.uid || is.stx_uid == 0;
    if FileType::from_raw_mode(u32::from(is.stx_mode)) != FileType::RegularFile || !is_owned {
        return Err(Missed::Refused);
    }
    let begun = Anchor::now().wall(started.minus(CLOCK_SLACK));
    if is.stx_mtime.tv_sec.saturating_mul(1_000_000_000).saturating_add(999_999_999) < begun.0 {
        return Err(Missed::Old);
    }
    Ok((path, handle))
}

/// True if a map has no name any more: another one may have taken its place.
fn is_replaced(map: &Module) -> bool {
    map.file.as_ref().is_some_and(|file| stat_handle(file).is_some_and(|is| is.stx_nlink == 0))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use rustix::fs::{CWD, mknodat};
    use rustix::process::geteuid;

    use super::*;

    /// A folder that looks like `/proc`, with process 7 that is number 3 in its own world, began a second ago and has a root of
    /// its own with a `tmp` in it.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(world.0.path().join("proc/7")).unwrap();
            fs::create_dir_all(world.0.path().join("root/tmp")).unwrap();
            symlink(world.0.path().join("root"), world.0.path().join("proc/7/root")).unwrap();
            let uid = geteuid().as_raw();
            let status = format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t7\t3\n");
            fs::write(world.0.path().join("proc/7/status"), status).unwrap();
            let since_boot = MonoNs::now().since(MonoNs(0)) + crate::time::suspended();
            let ticks = since_boot.as_millis() / 10 - 100;
            let stat = format!("7 (x) S 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {ticks} 9 8");
            fs::write(world.0.path().join("proc/7/stat"), stat).unwrap();
            world
        }

        fn map(&self) -> std::path::PathBuf {
            self.0.path().join("root/tmp/perf-3.map")
        }

        fn procfs(&self) -> Procfs {
            Procfs::new(self.0.path().join("proc"))
        }

        fn find(&self) -> Result<String, Missed> {
            let (path, file) = find(&self.procfs(), Pid(7))?;
            let text = fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            Ok(format!("{path}: {text}"))
        }
    }

    #[track_caller]
    fn check(prepare: impl FnOnce(&Path), expected: Result<&str, Missed>) {
        let world = World::new();
        prepare(&world.map());
        assert_eq!(world.find(), expected.map(ToOwned::to_owned));
    }

    #[test]
    fn it_is_found_by_the_number_that_the_process_has_in_its_world() {
        check(|map| fs::write(map, "10 10 f").unwrap(), Ok("/tmp/perf-3.map: 10 10 f"));
        check(|map| fs::write(map.with_file_name("perf-7.map"), "10 10 f").unwrap(), Err(Missed::None));
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        let procfs = World::new().procfs();
        assert_eq!(find(&procfs, Pid(7)).unwrap_err(), Missed::Gone);
    }

    #[test]
    fn a_link_is_not_followed() {
        check(|map| symlink("/etc/passwd", map).unwrap(), Err(Missed::Refused));
    }

    #[test]
    fn a_folder_that_is_a_link_does_not_leave_the_root() {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("perf-3.map"), "secret").unwrap();
        let redirect = |map: &Path| {
            fs::remove_dir(map.parent().unwrap()).unwrap();
            symlink(elsewhere.path(), map.parent().unwrap()).unwrap();
        };
        check(redirect, Err(Missed::None));
    }

    #[test]
    fn a_pipe_is_no_map_and_nobody_waits_for_it() {
        let pipe = |map: &Path| mknodat(CWD, map, FileType::Fifo, Mode::RUSR, 0).unwrap();
        check(pipe, Err(Missed::Refused));
        check(|map| fs::create_dir(map).unwrap(), Err(Missed::Refused));
    }

    #[test]
    fn a_map_of_a_stranger_is_not_read() {
        if !geteuid().is_root() {
            eprintln!("not root: that a file of another user is not read is not tested");
            return;
        }
        let stranger = |map: &Path| {
            fs::write(map, "10 10 f").unwrap();
            std::os::unix::fs::chown(map, Some(4711), None).unwrap();
        };
        check(stranger, Err(Missed::Refused));
    }

    #[test]
    fn a_map_that_is_older_than_its_process_is_of_another_one() {
        let old = |map: &Path| {
            fs::write(map, "10 10 f").unwrap();
            let before = SystemTime::now() - Duration::from_secs(10);
            fs::File::options().write(true).open(map).unwrap().set_modified(before).unwrap();
        };
        check(old, Err(Missed::Old));
    }

    fn maps(open_max: usize) -> PerfMaps {
        PerfMaps::new(open_max, 10, &Meters::default())
    }

    #[test]
    fn one_that_comes_late_is_found_and_one_that_is_replaced_is_found_anew() {
        let world = World::new();
        let mut maps = maps(10);
        let mut look = |seconds: u64| {
            maps.look(&world.procfs(), Pid(7), MonoNs(seconds * 1_000_000_000), || Some(1));
            maps.of(Pid(7)).cloned()
        };
        assert!(look(100).is_none());
        fs::write(world.map(), "10 10 f").unwrap();
        assert!(look(100).is_none(), "it was looked for a moment ago");
        let first = look(106).unwrap();
        assert_eq!((&*first.path, first.kind), (&b"/tmp/perf-3.map"[..], ModuleKind::PerfMap));
        assert!(Arc::ptr_eq(&look(112).unwrap(), &first));
        fs::remove_file(world.map()).unwrap();
        assert!(Arc::ptr_eq(&look(118).unwrap(), &first), "without a name it is still what it was");
        fs::write(world.map(), "10 10 g").unwrap();
        assert!(!Arc::ptr_eq(&look(124).unwrap(), &first));
    }

    #[test]
    fn no_more_are_opened_than_may_be_and_what_is_closed_makes_room() {
        let world = World::new();
        fs::write(world.map(), "10 10 f").unwrap();
        let mut maps = maps(1);
        maps.look(&world.procfs(), Pid(7), MonoNs(1), || Some(1));
        let held = maps.of(Pid(7)).cloned().unwrap();
        maps.forget(Pid(7));
        maps.look(&world.procfs(), Pid(7), MonoNs(1), || Some(2));
        assert!(maps.of(Pid(7)).is_none());
        maps.forget(Pid(7));
        drop(held);
        maps.look(&world.procfs(), Pid(7), MonoNs(1), || Some(3));
        assert!(maps.of(Pid(7)).is_some());
    }
}
