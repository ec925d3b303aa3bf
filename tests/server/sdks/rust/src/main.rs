//! A program with the crate `pyroscope` as its documentation has it.

use std::error::Error;
use std::time::{Duration, Instant};

use pyroscope::backend::{BackendConfig, PprofConfig, pprof_backend};
use pyroscope::pyroscope::PyroscopeAgentBuilder;

#[inline(never)]
fn pay(until: Instant) -> u64 {
    let mut sum = 0;
    while Instant::now() < until {
        sum = (0..10_000_u64).fold(sum, |sum, number| sum ^ number.wrapping_mul(sum | 1));
    }
    sum
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("PYROSCOPE_SERVER")?;
    let backend = pprof_backend(PprofConfig::default(), BackendConfig::default());
    let agent = PyroscopeAgentBuilder::new(&server, "rust.purchases", 100, "pyroscope-rs", "2.1.5", backend)
        .tags(vec![("region", "here")])
        .build()?
        .start()?;
    println!("{}", pay(Instant::now() + Duration::from_secs(12)));
    agent.stop()?.shutdown();
    Ok(())
}
