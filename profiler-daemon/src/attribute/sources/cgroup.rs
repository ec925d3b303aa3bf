//! The paths in `/proc/PID/cgroup`, with the one that tells most first.

/// The paths of a process: that of the unified hierarchy (v2), then that of systemd's own (v1), then those of the
/// controllers (v1). A process may be in the root of one and deep inside another, so sources try them all.
pub(super) fn paths(cgroup: &str) -> impl Iterator<Item = &str> {
    let lines = || cgroup.lines().filter_map(split);
    let is_unified = |controllers: &str| controllers.is_empty();
    let is_systemd = |controllers: &str| controllers == "name=systemd";
    let unified = lines().filter(move |&(controllers, _)| is_unified(controllers));
    let systemd = lines().filter(move |&(controllers, _)| is_systemd(controllers));
    let others =
        lines().filter(move |&(controllers, _)| !is_unified(controllers) && !is_systemd(controllers));
    unified.chain(systemd).chain(others).map(|(_, path)| path)
}

/// The parts of a path, innermost first. systemd puts an underscore before a part that the kernel would take for
/// a file of its own.
pub(super) fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit('/').filter(|part| !part.is_empty()).map(|part| part.strip_prefix('_').unwrap_or(part))
}

/// `12:cpu,cpuacct:/path` gives the controllers and the path, which may contain colons.
fn split(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroup: &str, expected: &[&str]) {
        assert_eq!(paths(cgroup).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_unified_path_comes_first() {
        check("12:cpu,cpuacct:/c\n1:name=systemd:/b\n0::/a\n", &["/a", "/b", "/c"]);
    }

    #[test]
    fn a_path_may_contain_colons() {
        check("0::/a:b:c\n", &["/a:b:c"]);
    }

    #[test]
    fn what_makes_no_sense_is_skipped() {
        check("\nnonsense\n1:\n0::/a", &["/a"]);
    }

    #[test]
    fn parts_come_innermost_first() {
        assert_eq!(parts("/a.slice/_b//c/").collect::<Vec<_>>(), ["c", "b", "a.slice"]);
    }
}
