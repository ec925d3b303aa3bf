//! The file name of the executable.

use super::Facts;

/// What the kernel puts before the name of a file that is memory alone.
const IN_MEMORY: &[u8] = b"/memfd:";

/// Hexadecimal digits that make a number of the end of a name, if they are not all letters: `facade` is a word.
const NUMBER_DIGITS_MIN: usize = 6;

pub(super) fn service(facts: &Facts<'_>) -> Option<String> {
    let path = facts.executable?;
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let name = match path.strip_prefix(IN_MEMORY) {
        Some(name) => in_memory(name),
        None => path.rsplit(|&byte| byte == b'/').next()?,
    };
    Some(String::from_utf8_lossy(name).into_owned())
}

/// What a program that runs from memory is called: as who made the file called it, up to a colon, behind which runtimes of containers put where it
/// was copied from. A number at its end is left out, because each copy may have another, and would be a service of its own.
fn in_memory(name: &[u8]) -> &[u8] {
    let name = name.split(|&byte| byte == b':').next().unwrap_or_default();
    let is_separator = |byte: &u8| matches!(byte, b'-' | b'_' | b'.');
    let (front, end) = match name.iter().rposition(is_separator) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (&b""[..], name),
    };
    let is_number = end.iter().all(u8::is_ascii_digit)
        || (end.len() >= NUMBER_DIGITS_MIN
            && end.iter().all(u8::is_ascii_hexdigit)
            && end.iter().any(u8::is_ascii_digit));
    match (is_number, front) {
        (true, b"") => b"memfd",
        (true, front) => front,
        (false, _) => name,
    }
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
    }

    #[test]
    fn one_in_memory_has_the_name_that_its_maker_gave_it() {
        check(b"/memfd:runc (deleted)", "runc");
        check(b"/memfd:runc_cloned:/proc/self/exe (deleted)", "runc_cloned");
        check(b"/memfd:backend-facade (deleted)", "backend-facade");
    }

    #[test]
    fn a_number_that_is_another_one_for_each_copy_is_left_out() {
        check(b"/memfd:sealed-91173221a7ea (deleted)", "sealed");
        check(b"/memfd:worker.17 (deleted)", "worker");
        check(b"/memfd:91173221a7ea (deleted)", "memfd");
        check(b"/memfd: (deleted)", "memfd");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        check(b"/bin/\xffx", "\u{fffd}x");
    }
}
