//! Bytes ready to leave the house.

use std::sync::Arc;

use super::{Labels, Weight};
use crate::time::Window;

/// What the body of a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// An uncompressed `perftools.profiles.Profile` message of type `process_cpu`.
    Pprof,
    /// Folded text.
    Folded,
}

/// One encoded profile. It is sent with the same bytes however often it has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The window.
    pub window: Window,
    /// The series.
    pub labels: Arc<Labels>,
    /// What the body is.
    pub format: Format,
    /// The bytes.
    pub body: Vec<u8>,
    /// Weight inside, so that the books balance wherever the payload ends.
    pub weight: Weight,
}
