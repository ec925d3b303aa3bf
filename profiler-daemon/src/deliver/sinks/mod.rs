//! Where payloads can go: one file per kind of server.
//!
//! In: payloads, and the status of an answer. Out: bytes, an address, and what the answer means there. Not here:
//! connections, retries, queues; those are the same for every server.

pub(in crate::deliver) mod pyroscope;
