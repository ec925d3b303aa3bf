//! Tier 3: the embedded server as a process: killed, restarted, on a disk that is full; asked by a thousand at once; and
//! what real SDKs push to it. And other servers, that want to see certificates.

mod alike;
mod crowd;
mod doors;
mod encrypted;
mod history;
mod sdks;
mod serving;
