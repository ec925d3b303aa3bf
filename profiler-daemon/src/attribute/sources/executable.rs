//! The file name of the executable.

use super::Facts;

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    let path = facts.executable?;
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Comm;

    #[track_caller]
    fn check(path: &[u8], expected: &str) {
        let facts =
            Facts { kernel_thread: false, cgroup: None, executable: Some(path), comm: Comm::new(b"thread") };
        assert_eq!(service(&facts).as_deref(), Some(expected));
    }

    #[test]
    fn it_is_the_last_part_of_the_path() {
        check(b"/usr/bin/python3.13", "python3.13");
    }

    #[test]
    fn a_deleted_one_keeps_its_name() {
        check(b"/opt/app/server (deleted)", "server");
        check(b"/memfd:runc (deleted)", "memfd:runc");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        check(b"/bin/\xffx", "\u{fffd}x");
    }
}
