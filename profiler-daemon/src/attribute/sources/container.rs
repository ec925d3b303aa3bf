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

/// The labels of a process in a container: which, and of which engine if that shows.
pub(super) fn labels(facts: &Facts<'_>) -> Vec<(&'static str, String)> {
    let found = facts.cgroup.and_then(|cgroup| {
        paths(cgroup)
            .find_map(|path| parts(path).find_map(|part| Some((id_of(part)?, runtime_of(path, part)))))
    });
    let Some((id, runtime)) = found else { return Vec::new() };
    let mut labels = vec![("container_id", id.to_owned())];
    labels.extend(runtime.map(|runtime| ("container_runtime", runtime.to_owned())));
    labels
}

/// What each engine puts before an id, and what it is called.
const DRESSES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd", "containerd"),
    ("libpod-", "podman"),
    ("crio-", "cri-o"),
    ("lxc.payload.", "lxc"),
    ("nerdctl-", "containerd"),
];

/// The engine whose dress `part` of `path` wears. A bare id below `docker` is Docker's; elsewhere it may be anyone's.
fn runtime_of(path: &str, part: &str) -> Option<&'static str> {
    // `x.slice:cri-containerd:ID` wears it in the middle.
    let dressed = DRESSES.iter().find(|(dress, _)| part.split(':').any(|piece| piece.starts_with(dress)));
    let bare = || path.contains("/docker/").then_some("docker");
    dressed.map(|(_, runtime)| *runtime).or_else(bare)
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

    #[track_caller]
    fn check_labels(cgroup: &str, expected: &[(&str, &str)]) {
        let cgroup = cgroup.replace("ID", ID);
        let comm = crate::model::Comm::new(b"x");
        let facts = Facts { kernel_thread: false, cgroup: Some(&cgroup), executable: None, comm };
        let labels = labels(&facts);
        assert_eq!(labels.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn engines_are_known_by_their_dress() {
        let id = ("container_id", "0123456789ab");
        for (cgroup, runtime) in [
            ("0::/system.slice/docker-ID.scope", "docker"),
            ("12:memory:/docker/ID\n1:name=systemd:/docker/ID\n", "docker"),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "podman",
            ),
            ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope", "containerd"),
            (
                "11:pids:/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:ID\n",
                "containerd",
            ),
            (
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-ID.scope",
                "cri-o",
            ),
        ] {
            check_labels(cgroup, &[id, ("container_runtime", runtime)]);
        }
        check_labels(
            "0::/lxc.payload.web/init.scope",
            &[("container_id", "web"), ("container_runtime", "lxc")],
        );
        check_labels("4:cpu:/kubepods/burstable/pod1234-5678/ID\n", &[id]);
        check_labels("0::/system.slice/nginx.service", &[]);
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
