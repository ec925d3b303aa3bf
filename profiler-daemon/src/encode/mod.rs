//! Writes profiles down, split to fit what a server accepts.
//!
//! In: profiles. Out: payloads, whose weights add up to the profiles'. Pure.

pub mod folded;
pub mod pprof;
pub mod speedscope;
pub mod svg;

/// What a server accepts in one profile. The defaults are a Grafana Pyroscope's, with room to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Samples of one profile at most: 16 000 are accepted.
    pub samples_max: usize,
    /// Bytes of one uncompressed profile at most: the burst of 2 MiB counts a whole request, so that half of it
    /// leaves room for the other series.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { samples_max: 16_000, bytes_max: 1 << 20 }
    }
}
