//! The systemd service that a process belongs to.
//!
//! A process belongs to the innermost unit around it, slices aside. If that is a service, its name without
//! `.service` is the answer, as operators say it; an instance of a template keeps its `@instance`. If it is a
//! scope, or a container below a service, the service only started it: `user@1000.service` is not what a desktop
//! runs, and `containerd.service` not what a cluster does. But a service that is itself a container of Podman's
//! (a quadlet) only divides itself.

use super::cgroup::{parts, paths};
use super::{Facts, container};

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    paths(facts.cgroup?).find_map(service_of)
}

/// The labels of a process of a unit: the service, by its whole name, the innermost slice, and the user whose slice it is in. A scope is none of them: each
/// login and each program of a desktop has its own, and each would be a series of its own.
pub(super) fn labels(facts: &Facts<'_>) -> Vec<(&'static str, String)> {
    let Some(path) = facts.cgroup.and_then(|cgroup| paths(cgroup).find(|path| path.contains(".slice")))
    else {
        return Vec::new();
    };
    let mut labels = Vec::new();
    labels.extend(service_of(path).map(|name| ("systemd_unit", format!("{name}.service"))));
    // A pod's slice is the pod's, and has its number in its name.
    let slice = parts(path).filter(|part| !part.contains(':') && !part.starts_with("kubepods-"));
    let slice = slice.filter_map(|part| part.strip_suffix(".slice")).next();
    labels.extend(slice.map(|name| ("systemd_slice", format!("{}.slice", unescape(name)))));
    let user = parts(path).find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice"));
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    labels.extend(user.filter(is_number).map(|number| (super::USER, number.to_owned())));
    labels
}

fn service_of(path: &str) -> Option<String> {
    for part in parts(path).filter(|part| !part.starts_with("libpod-payload-")) {
        if let Some(name) = part.strip_suffix(".service") {
            return Some(unescape(name)).filter(|name| !name.is_empty());
        }
        if part.ends_with(".scope") || container::id_of(part).is_some() {
            return None;
        }
    }
    None
}

/// systemd writes `\x2d` for a byte that would mean something else in the name of a unit.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(r"\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest.get(at + 2..at + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, skipped) = code.map_or((b'\\', 1), |byte| (byte, 4));
        bytes.push(byte);
        rest = &rest[at + skipped..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(service_of(path).as_deref(), expected);
    }

    #[test]
    fn a_service_is_called_as_operators_call_it() {
        check("/system.slice/nginx.service", Some("nginx"));
    }

    #[test]
    fn an_instance_of_a_template_keeps_its_name() {
        check("/system.slice/system-postgresql.slice/postgresql@15-main.service", Some("postgresql@15-main"));
    }

    #[test]
    fn an_escaped_name_is_unescaped() {
        check(r"/system.slice/a\x2db\x20c.service", Some("a-b c"));
        check(r"/system.slice/a\xzz\x2.service", Some(r"a\xzz\x2"));
        check(r"/system.slice/a\x.service", Some(r"a\x"));
        check(r"/system.slice/\x€€.service", Some(r"\x€€"));
    }

    #[test]
    fn what_a_service_divides_itself_into_is_still_the_service() {
        check("/system.slice/foo.service/workers/7", Some("foo"));
    }

    #[test]
    fn the_innermost_service_is_the_one() {
        check("/system.slice/outer.service/x.slice/inner.service", Some("inner"));
        check("/lxc.payload.web/system.slice/nginx.service", Some("nginx"));
        check("/user.slice/user-1000.slice/user@1000.service/app.slice/pipewire.service", Some("pipewire"));
    }

    #[test]
    fn a_scope_or_a_slice_is_no_service() {
        check("/user.slice/user-1000.slice/session-3.scope", None);
        check("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", None);
        check("/init.scope", None);
        check("/system.slice", None);
        check("/", None);
    }

    #[test]
    fn a_container_below_a_service_is_not_the_service() {
        let id = "0123456789abcdef".repeat(4);
        check(
            &format!("/system.slice/containerd.service/kubepods-besteffort.slice:cri-containerd:{id}"),
            None,
        );
        check(&format!("/system.slice/foo.service/docker/{id}"), None);
    }

    #[test]
    fn a_service_that_is_itself_a_container_is_the_service() {
        let id = "0123456789abcdef".repeat(4);
        check(&format!("/system.slice/web.service/libpod-payload-{id}"), Some("web"));
        check(&format!("/machine.slice/libpod-{id}.scope/container"), None);
    }

    #[track_caller]
    fn check_labels(cgroup: &str, expected: &[(&str, &str)]) {
        let comm = crate::model::Comm::new(b"x");
        let facts = Facts { kernel_thread: false, cgroup: Some(cgroup), executable: None, comm };
        let labels = labels(&facts);
        assert_eq!(labels.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_unit_and_its_slice_are_labels() {
        let nginx = [("systemd_unit", "nginx.service"), ("systemd_slice", "system.slice")];
        check_labels("0::/system.slice/nginx.service", &nginx);
        check_labels("3:cpu:/\n1:name=systemd:/system.slice/nginx.service\n", &nginx);
        let login = "0::/user.slice/user-1000.slice/session-3.scope";
        check_labels(login, &[("systemd_slice", "user-1000.slice"), ("user", "1000")]);
        check_labels(
            "0::/kubepods.slice/kubepods-pod1.slice/x.scope",
            &[("systemd_slice", "kubepods.slice")],
        );
        check_labels("0::/init.scope", &[]);
        check_labels("0::/", &[]);
    }

    #[test]
    fn a_service_without_a_name_is_none() {
        check("/system.slice/.service", None);
    }
}
