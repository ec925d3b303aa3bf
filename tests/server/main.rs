//! Tier 3: the embedded server as a process: killed, restarted, on a disk that is full.

mod history;
mod serving;
