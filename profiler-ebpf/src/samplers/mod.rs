//! One file per sampler, of the same name as its half in the daemon's `capture/samplers/`.

pub mod cpu;
