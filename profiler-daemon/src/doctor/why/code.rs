//! Code that no file has: compiled while the program runs, and named only where the program says how.

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::Subject;
use crate::doctor::machine::Finding;

const NAME: &str = "code";

pub(super) fn check(subject: &Subject) -> Finding {
    let Ok(maps) = std::fs::read(subject.path("maps")) else {
        return Finding::unknown(NAME, "its mappings cannot be read");
    };
    let maps = String::from_utf8_lossy(&maps);
    let (mut anonymous, mut deleted) = (0u32, 0u32);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let is_code = fields.nth(1).is_some_and(|rights| rights.contains('x'));
        let path = fields.nth(3).unwrap_or_default();
        let is_known = path.starts_with("[vdso]") || path.starts_with("[vsyscall]");
        match (is_code, path.starts_with('/')) {
            (true, false) if !is_known => anonymous += 1,
            (true, true) if line.ends_with(" (deleted)") => deleted += 1,
            _ => {}
        }
    }
    if anonymous > 0 {
        // Under the number that it has in its own namespace.
        let numbers = subject.status("NSpid").unwrap_or_default();
        let inner =
            numbers.split_whitespace().next_back().map_or_else(|| subject.pid.to_string(), str::to_owned);
        let map = format!("tmp/perf-{inner}.map");
        let found = format!("{anonymous} mappings of code that no file has");
        if !is_there(subject, &map) {
            return Finding::does_not_fit(
                NAME,
                format!("{found}, and no /{map} in its root"),
                "Tell the runtime to write one (node --perf-basic-prof, java -XX:+DumpPerfMapAtExit or an agent, DOTNET_PerfMapEnabled=1, \
                 python -X perf): code that is compiled at run time has no names without.",
            );
        }
        return Finding::fits(NAME, format!("{found}; the program keeps /{map}"));
    }
    match deleted {
        0 => Finding::fits(NAME, "all of it is in files"),
        count => Finding::fits(
            NAME,
            format!(
                "{count} files of it were deleted or replaced since; those that were held open at first sight have names"
            ),
        ),
    }
}

/// Whether the root of the process has a file of that path, as far as the kernel remembers: who serves its file system is not asked.
fn is_there(subject: &Subject, path: &str) -> bool {
    const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
    let root = open(subject.path("root"), NAME_ONLY | OFlags::DIRECTORY, Mode::empty());
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    root.is_ok_and(|root| openat2(root, path, NAME_ONLY | OFlags::NOFOLLOW, Mode::empty(), within).is_ok())
}
