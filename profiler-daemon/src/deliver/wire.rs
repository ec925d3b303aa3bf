//! The messages of Pyroscope's `push.v1`, as much of them as we send.
//!
//! In and out: plain values that prost can encode. Not here: HTTP, or what the fields are filled with.

use bytes::Bytes;

/// `push.v1.PushRequest`. Two of them one after the other are one with the series of both, which is how
/// protobuf merges; so series are encoded one by one and joined, or taken apart, as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PushRequest {
    /// What is pushed.
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<RawProfileSeries>,
}

/// `push.v1.RawProfileSeries`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawProfileSeries {
    /// What makes it this series; `__name__` is one of them.
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    /// Its profiles.
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<RawSample>,
}

/// `types.v1.LabelPair`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct LabelPair {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// `push.v1.RawSample`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct RawSample {
    /// The pprof, gzipped or not.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) raw_profile: Bytes,
    /// A UUID, by which a profile is told from another.
    #[prost(string, tag = "2")]
    pub(super) id: String,
}
