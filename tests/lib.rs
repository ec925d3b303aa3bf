//! What the tests share: the harness.

pub mod harness;
