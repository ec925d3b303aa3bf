//! The kernel side as bytes: the object that `cargo xtask build-ebpf` built and committed.
//!
//! Out: an object that is whole, or one sentence about what is wrong with it and the command that mends it.

use std::path::PathBuf;

use super::AttachError;

/// Aligned, because the loader reads structures in place.
static COMMITTED: &[u8] = aya::include_bytes_aligned!("../../bpf/profiler.bpf.o");

/// The object to load: the committed one, or `path` for who builds another.
pub(super) fn bytes(path: Option<&PathBuf>) -> Result<std::borrow::Cow<'static, [u8]>, AttachError> {
    match path {
        None => check(COMMITTED).map(|()| COMMITTED.into()),
        Some(path) => {
            let object = std::fs::read(path).map_err(|error| AttachError::Object {
                what: format!("{} cannot be read: {error}", path.display()),
            })?;
            check(&object)?;
            Ok(object.into())
        }
    }
}

/// Whether `object` can be ours: an ELF file for the BPF machine with its section table inside.
fn check(object: &[u8]) -> Result<(), AttachError> {
    let refuse = |what: &str| Err(AttachError::Object { what: what.to_owned() });
    if object.is_empty() {
        return refuse("the eBPF object is empty");
    }
    let Some(header) = object.first_chunk::<64>() else {
        return refuse("the eBPF object is truncated: shorter than an ELF header");
    };
    if !header.starts_with(b"\x7fELF") {
        return refuse("the eBPF object is not an ELF file");
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    if header[4] != 2 || header[5] != 1 || half(18) != 247 {
        return refuse("the eBPF object is built for another machine");
    }
    let mut sections = [0; 8];
    sections.copy_from_slice(&header[40..48]);
    let end = u64::from_le_bytes(sections).saturating_add(half(58) * half(60));
    if end > object.len() as u64 {
        return refuse("the eBPF object is truncated: its section table lies beyond its end");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(object: &[u8], words: &str) {
        let error = check(object).expect_err("must be refused").to_string();
        assert!(error.contains(words) && error.contains("cargo xtask build-ebpf"), "{error}");
    }

    #[test]
    fn the_committed_object_is_whole() {
        check(COMMITTED).expect("the committed object");
    }

    #[test]
    fn an_empty_object_is_said_to_be_empty() {
        check_refused(&[], "empty");
    }

    #[test]
    fn a_few_bytes_are_truncated() {
        check_refused(&COMMITTED[..40], "truncated");
    }

    #[test]
    fn half_an_object_is_truncated() {
        check_refused(&COMMITTED[..COMMITTED.len() / 2], "truncated");
    }

    #[test]
    fn text_is_not_an_object() {
        check_refused(&[b'x'; 4096], "not an ELF file");
    }

    #[test]
    fn our_own_binary_is_foreign() {
        let own = std::fs::read("/proc/self/exe").expect("own binary");
        check_refused(&own, "another machine");
    }
}
