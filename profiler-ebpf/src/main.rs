//! The kernel side of profiler-daemon: every program's entry point in one list.
//!
//! In: perf events. Out: one record per sample in the ring, and counters for what did not get there. Not here:
//! what a program does (`samplers/`), where its data lies (`maps.rs`), how a stack is walked (`profiler-common`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::macros::{perf_event, raw_tracepoint};
use aya_ebpf::programs::{PerfEventContext, RawTracePointContext};

mod bench;
mod config;
mod maps;
mod names;
mod regs;
mod samplers;
mod stack;
mod walk;

/// A tick of a processor's clock: who runs, and where.
#[perf_event]
pub fn cpu(context: PerfEventContext) -> u32 {
    samplers::cpu::sample(&context);
    0
}

/// The next part of a sample's walk, on a kernel without `bpf_loop`.
#[perf_event]
pub fn cpu_on(context: PerfEventContext) -> u32 {
    samplers::cpu::walk_on(&context);
    0
}

/// Names functions of the kernel. Runs when the daemon asks, and is attached to nothing.
#[raw_tracepoint]
pub fn kernel_names(_context: RawTracePointContext) -> i32 {
    names::answer();
    0
}

/// For the benchmark: what a program costs that does nothing.
#[perf_event]
pub fn bench_empty(_context: PerfEventContext) -> u32 {
    0
}

/// For the benchmark: the user stack by the kernel's own helper.
#[perf_event]
pub fn bench_get_stack(context: PerfEventContext) -> u32 {
    bench::get_stack(&context);
    0
}

/// For the benchmark: the user stack by our walk, and nothing else.
#[perf_event]
pub fn bench_walk(context: PerfEventContext) -> u32 {
    bench::user_walk(&context);
    0
}

/// The next part of that walk, on a kernel without `bpf_loop`.
#[perf_event]
pub fn bench_walk_on(context: PerfEventContext) -> u32 {
    bench::user_walk_on(&context);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
