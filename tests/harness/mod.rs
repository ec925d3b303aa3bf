//! The harness of the tests that need real things: programs whose stacks and shares are known, the daemon's binary, and
//! what it wrote.
//!
//! Not here: any test.

pub mod agent;
pub mod daemon;
pub mod gate;
pub mod go_server;
pub mod ports;
pub mod profile;
pub mod pyroscope;
pub mod shares;
pub mod weather;
pub mod workloads;
