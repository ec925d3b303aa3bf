//! Questions to the kernel for the names of its own functions.

/// Addresses in one question.
pub const QUESTION_ADDRESSES: usize = 32;

/// Bytes of a name, with the zero that ends it; the rest of a longer one is cut. Of C's names the longest have some eighty.
pub const KERNEL_NAME_BYTES: usize = 248;

/// An address of the kernel's code and what it answers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelName {
    /// The address. Zero ends a question.
    pub address: u64,
    /// `name` or `name [module]`, ended by zero; the number itself where no function is.
    pub name: [u8; KERNEL_NAME_BYTES],
}
wire!(KernelName: 256 bytes, address @ 0, name @ 8);

/// A question, and its answer in the same place. Written by the daemon, then by the program, one after the other.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelNames {
    /// In the order asked.
    pub asked: [KernelName; QUESTION_ADDRESSES],
}
wire!(KernelNames: 8192 bytes, asked @ 0);
