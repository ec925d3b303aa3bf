//! Namers that were told to end, and the file systems that keep them from it.
//!
//! In: a namer that is done with, and the device of the file that it was asked about last. Out: whether a question about a file of
//! some device would be waited for in vain. A process that waits for whoever serves a file system (over a network, or a process of
//! anyone's) cannot be ended by force before it has its answer. It is left alone, and as long as it is there nobody is sent after
//! it. Not here: why a namer is ended.

use std::process::Child;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, major, makedev, statx};

use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::time::MonoNs;

/// How long an end by force may take until it is called stuck: a namer that runs is gone within milliseconds.
const END_MAX: Duration = Duration::from_millis(200);
/// Time between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(2);
/// Namers that may be stuck. From then on no file is asked about that does not lie on a block device, whichever device it is: who
/// has as many dead file systems will have more.
const STUCK_MAX: usize = 4;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Ending {
    told: Vec<Told>,
    stuck: Counter,
}

#[derive(Debug)]
struct Told {
    child: Child,
    /// Where it is stuck; `None` while it is none of that.
    stuck_in: Option<u64>,
}

impl Ending {
    pub(super) fn new(meters: &Meters) -> Self {
        Self::with(meters.counter(
            "profiler_namer_stuck",
            "Namers that could not be ended, because a file system does not answer",
        ))
    }

    fn with(stuck: Counter) -> Self {
        Self { told: Vec::new(), stuck }
    }

    /// Another one, which counts with this one.
    pub(super) fn beside(&self) -> Self {
        Self::with(self.stuck.clone())
    }

    /// Ends `child` by force. If it gave no answer about a file of `device`, it may be stuck there.
    pub(super) fn end(&mut self, mut child: Child, device: Option<u64>) {
        let _ = child.kill(); // or it is gone already
        let mut stuck_in = None;
        if let Some(device) = device {
            let deadline = MonoNs::now().plus(END_MAX);
            while matches!(child.try_wait(), Ok(None)) {
                if MonoNs::now() >= deadline {
                    tracing::warn!(
                        "a file system does not answer (device {}:{}): its files have no names until it does",
                        major(device),
                        rustix::fs::minor(device),
                    );
                    self.stuck.inc();
                    stuck_in = Some(device);
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        self.told.push(Told { child, stuck_in });
        self.reap();
    }

    /// Takes note of who has ended.
    pub(super) fn reap(&mut self) {
        self.told.retain_mut(|told| matches!(told.child.try_wait(), Ok(None)));
    }

    /// True if a question about a file of `device` would be waited for in vain.
    pub(super) fn is_silent(&mut self, device: u64) -> bool {
        if self.told.is_empty() {
            return false;
        }
        self.reap();
        let stuck = self.told.iter().filter_map(|told| told.stuck_in);
        stuck.clone().any(|known| known == device) || (stuck.count() >= STUCK_MAX && major(device) == 0)
    }
}

/// The device that a file lies on, as far as the kernel knows without asking who serves it.
pub(super) fn device_of(file: impl std::os::fd::AsFd) -> Option<u64> {
    let is = statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some(makedev(is.stx_dev_major, is.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::Command;

    use super::*;

    /// Devices as the kernel numbers them: major, minor.
    const SERVED: u64 = 77;
    const DISK: u64 = 254 << 8 | 1;

    /// An `Ending` in which as many namers are stuck, each on a device of its own from `SERVED` on; and who they are. (They run: what
    /// is stuck for good cannot be had without a file system that is.)
    fn stuck(count: u64) -> Ending {
        let mut ending = Ending::new(&Meters::default());
        for number in 0..count {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            ending.told.push(Told { child, stuck_in: Some(SERVED + number) });
        }
        ending
    }

    #[track_caller]
    fn check(count: u64, device: u64, silent: bool) {
        let mut ending = stuck(count);
        let found = ending.is_silent(device);
        for told in &mut ending.told {
            told.child.kill().unwrap();
            told.child.wait().unwrap();
        }
        assert_eq!(found, silent);
        assert!(!ending.is_silent(device), "they are gone");
    }

    #[test]
    fn nobody_is_sent_where_one_is_stuck() {
        check(0, SERVED, false);
        check(1, SERVED, true);
        check(1, SERVED + 1, false);
        check(1, DISK, false);
    }

    #[test]
    fn when_many_are_stuck_only_disks_are_trusted() {
        check(STUCK_MAX as u64, SERVED + 100, true);
        check(STUCK_MAX as u64, DISK, false);
    }

    #[test]
    fn who_can_be_ended_is_not_stuck() {
        let mut ending = Ending::new(&Meters::default());
        ending.end(Command::new("sleep").arg("1000").spawn().unwrap(), Some(SERVED));
        assert!(ending.told.is_empty() && ending.stuck.get() == 0);
    }
}
