//! The one read-only struct the daemon fills before loading. It is frozen by then, so that the verifier sees
//! constants and drops what they switch off.

use aya_ebpf::Global;
use profiler_common::knobs::{SETTINGS_MAGIC, Settings};

/// Patched by the loader, by this name.
#[unsafe(no_mangle)]
pub static SETTINGS: Global<Settings> = Global::new(Settings {
    magic: SETTINGS_MAGIC,
    period_ns: 1,
    wakeup_bytes: 1 << 16,
    stacks_bytes: 1 << 16,
    bpf_loop: 0,
    tables: 0,
});
