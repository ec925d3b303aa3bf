//! The container that a process runs in, by the short id that its engine shows.
//!
//! Engines put the 64 hexadecimal digits of a container's id into the last parts of its cgroup, in several dresses;
//! LXC puts its name there.

use super::Facts;
use super::cgroup::{parts, paths};

/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// Digits that engines show.
const SHORT_ID_DIGITS: usize = 12;

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    paths(facts.cgroup?).find_map(|path| parts(path).find_map(id_of)).map(str::to_string)
}

/// The short id or the name of the container that a part of a cgroup's path stands for:
/// `docker-ID.scope`, `cri-containerd-ID.scope`, `libpod-ID.scope`, `crio-ID.scope`; `ID` below `docker` or
/// `kubepods`; `x.slice:cri-containerd:ID`; `lxc.payload.NAME`.
pub(super) fn id_of(part: &str) -> Option<&str> {
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name).filter(|name| !name.is_empty());
    }
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit(['-', ':']).next()?;
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| &id[..SHORT_ID_DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// `ID` in `path` stands for the id.
    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        let path = path.replace("ID", ID);
        assert_eq!(parts(&path).find_map(id_of), expected, "{path}");
    }

    #[test]
    fn engines_with_systemd_make_scopes() {
        check("/system.slice/docker-ID.scope", Some("0123456789ab"));
        check("/machine.slice/libpod-ID.scope", Some("0123456789ab"));
        check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope", Some("0123456789ab"));
        check("/kubepods.slice/kubepods-pod1.slice/crio-ID.scope", Some("0123456789ab"));
    }

    #[test]
    fn engines_without_systemd_make_folders() {
        check("/docker/ID", Some("0123456789ab"));
        check("/kubepods/burstable/pod1234-5678/ID", Some("0123456789ab"));
        check(
            "/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:ID",
            Some("0123456789ab"),
        );
    }

    #[test]
    fn what_a_container_divides_itself_into_is_still_the_container() {
        check("/system.slice/docker-ID.scope/init", Some("0123456789ab"));
        check("/machine.slice/libpod-ID.scope/container", Some("0123456789ab"));
    }

    #[test]
    fn lxc_says_its_name() {
        check("/lxc.payload.web", Some("web"));
        check("/lxc.payload.", None);
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        check("/docker/0123456789abcdef", None);
        check("/docker/IDa", None);
        check("/docker/0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", None);
        check("/system.slice/app-1234.scope", None);
        check("/", None);
    }
}
