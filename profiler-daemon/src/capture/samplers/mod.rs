//! One descriptor per sampler, of the same name as its half on the kernel side.

pub(super) mod cpu;
