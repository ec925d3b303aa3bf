//! Names of the kernel's functions, asked of the kernel itself.
//!
//! In: addresses. Out: what the kernel prints for them (`%ps`: Documentation/core-api/printk-formats.rst), by a program that runs
//! when it is asked and is attached to nothing. That works whatever `kernel.kptr_restrict` says, and knows a module and a BPF program as
//! soon as they are there. Not here: which addresses are worth asking about, and what to do without.

use std::io;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramFd, RawTracePoint};
use profiler_common::kernel_names::{KernelName, KernelNames as Wire, QUESTION_ADDRESSES};

use super::{AttachError, load, sys};

/// The program's name in the object.
const PROGRAM: &str = "kernel_names";

const ENTRY_BYTES: usize = size_of::<KernelName>();
const ADDRESS_BYTES: usize = size_of::<u64>();
type Bytes = [u8; size_of::<Wire>()];

/// Who knows the names.
pub struct KernelNames {
    program: ProgramFd,
    verified_instructions: u32,
    question: Array<MapData, Bytes>,
}

impl std::fmt::Debug for KernelNames {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KernelNames").finish_non_exhaustive()
    }
}

impl KernelNames {
    /// Loads the program and takes its map.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, AttachError> {
        let missing = || AttachError::Object { what: format!("the eBPF object has no program {PROGRAM}") };
        let program = ebpf.program_mut(PROGRAM).ok_or_else(missing)?;
        let program: &mut RawTracePoint = program.try_into().map_err(AttachError::program(PROGRAM))?;
        program.load().map_err(AttachError::program(PROGRAM))?;
        let info = program.info().map_err(AttachError::program(PROGRAM))?;
        let fd = program.fd().map_err(AttachError::program(PROGRAM))?;
        let program =
            fd.try_clone().map_err(|error| AttachError::System { call: "fcntl(F_DUPFD_CLOEXEC)", error })?;
        let question =
            Array::try_from(load::map(ebpf, "NAMES")?).map_err(|error| AttachError::map(&error))?;
        Ok(Self { program, verified_instructions: info.verified_instruction_count().unwrap_or(0), question })
    }

    /// Instructions that the verifier looked at; zero where it does not tell.
    pub(super) fn verified_instructions(&self) -> u32 {
        self.verified_instructions
    }

    /// Nanoseconds spent and times it ran, while statistics were on.
    pub(super) fn run_statistics(&self) -> (u64, u64) {
        sys::run_statistics(self.program.as_fd()).unwrap_or((0, 0))
    }

    /// The function at each of `addresses`, in their order; none where none is.
    pub fn of(&mut self, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
        let mut names = Vec::with_capacity(addresses.len());
        for asked in addresses.chunks(QUESTION_ADDRESSES) {
            let mut bytes: Bytes = [0; size_of::<Wire>()];
            for (entry, address) in bytes.chunks_exact_mut(ENTRY_BYTES).zip(asked) {
                entry[..ADDRESS_BYTES].copy_from_slice(&address.to_ne_bytes());
            }
            self.question.set(0, bytes, 0).map_err(io::Error::other)?;
            sys::run(self.program.as_fd())?;
            let answer = self.question.get(&0, 0).map_err(io::Error::other)?;
            names.extend(
                answer.chunks_exact(ENTRY_BYTES).take(asked.len()).map(|entry| name(&entry[ADDRESS_BYTES..])),
            );
        }
        Ok(names)
    }
}

/// The name in `name` or `name [module]`; a number is none.
fn name(printed: &[u8]) -> Option<String> {
    let printed = printed.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(printed.split(|byte| *byte == b' ').next()?);
    (!name.is_empty() && !name.starts_with("0x")).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(printed: &[u8], expected: Option<&str>) {
        assert_eq!(name(printed).as_deref(), expected);
    }

    #[test]
    fn a_name_ends_with_a_zero() {
        check(b"schedule\0left over", Some("schedule"));
        check(b"cut", Some("cut"));
    }

    #[test]
    fn a_module_is_no_part_of_it() {
        check(b"ext4_open [ext4]\0", Some("ext4_open"));
        check(b"bpf_prog_6deef7357e7b4530_sample [bpf]\0", Some("bpf_prog_6deef7357e7b4530_sample"));
    }

    #[test]
    fn an_address_is_no_name() {
        check(b"0xffffffff81000000\0", None);
        check(b"\0", None);
        check(b"", None);
    }
}
