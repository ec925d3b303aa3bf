//! What history costs. It is measured from inside, by an ignored test of the store, because a day of pushes cannot be sent
//! through the front door: a server takes no profile that is older than an hour.

use anyhow::Result;

use crate::host;

/// Measures and prints.
pub(super) fn measure() -> Result<()> {
    host::run(host::cargo().args([
        "test",
        "--release",
        "--package",
        "profiler-daemon",
        "--lib",
        "cost::",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]))
}
