//! What the kernel calls its own functions, asked of the kernel.
//!
//! In: addresses in a map. Out: their names, beside them. It prints one as it does in a crash, by looking for it, in about a
//! microsecond; the list of all that `/proc/kallsyms` is takes it thirty milliseconds to print, and is old when a module comes.

use aya_ebpf::helpers::generated::bpf_snprintf;

use crate::maps::NAMES;

/// The symbol that an address belongs to, without the distance from it.
#[unsafe(no_mangle)]
static SYMBOL_FORMAT: [u8; 4] = *b"%ps\0";

/// Answers the question in [`NAMES`].
#[inline(always)]
pub fn answer() {
    let Some(question) = NAMES.get_ptr_mut(0) else { return };
    // SAFETY: the daemon touches the value before and after it runs this, not meanwhile.
    let question = unsafe { &mut *question };
    for asked in &mut question.asked {
        if asked.address == 0 {
            return;
        }
        // SAFETY: room and length are those of the name; the format asks for the one word that is there.
        unsafe {
            bpf_snprintf(
                asked.name.as_mut_ptr().cast(),
                asked.name.len() as u32,
                SYMBOL_FORMAT.as_ptr().cast(),
                (&raw const asked.address).cast_mut().cast(),
                8,
            )
        };
    }
}
