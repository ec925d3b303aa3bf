//! The contract across the wall between the kernel side and the daemon.
//!
//! In: nothing. Out: types whose every byte both sides agree on, the bounds both obey, and the stack walk,
//! which is one piece of code for the kernel and for the tests. No dependencies, no allocation.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(test)]
extern crate std;

#[macro_use]
mod wire;
pub mod kernel_names;
pub mod knobs;
pub mod limits;
pub mod sample;
pub mod unwind;
