//! Where payloads can go: one file per kind of place.
//!
//! In: payloads, and the status of an answer. Out: bytes, an address, and what the answer means there. Not here:
//! connections, retries, queues; those are the same for every server.

mod directory;
mod ingest;
pub(in crate::deliver) mod pyroscope;

use std::path::PathBuf;

use bytes::Bytes;

pub(super) use self::directory::Folder;
use super::answer::{Answer, Meaning};
use super::client::Client;
use super::parcel::{Parcel, Piece};
use super::way::Way;
use super::{Config, StartError};
use crate::model::{Payload, Weight};

/// A place to push to beside the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkConfig {
    /// A Pyroscope.
    Pyroscope {
        /// Its address, as [`super::Config::server`].
        server: String,
    },
    /// A Pyroscope that is older than 1.0, or is to be pushed to as if it were.
    Ingest {
        /// Its address, as [`super::Config::server`].
        server: String,
    },
    /// A folder of pprof files, which is nobody's but the operator's: what is in it is never removed.
    Directory {
        /// Where it is. It is made if it is missing.
        folder: PathBuf,
    },
}

impl SinkConfig {
    /// As people write it, without what stands before an `@`.
    pub fn shown(&self) -> String {
        match self {
            Self::Pyroscope { server } => format!("pyroscope={}", pyroscope::without_secret(server)),
            Self::Ingest { server } => format!("ingest={}", pyroscope::without_secret(server)),
            Self::Directory { folder } => format!("directory={}", folder.display()),
        }
    }

    /// One as people write it: its kind and its address, such as `pyroscope=http://other:4040`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.trim().split_once('=')?;
        let (kind, address) = (kind.trim(), address.trim().to_owned());
        match kind {
            _ if address.is_empty() => None,
            "pyroscope" => Some(Self::Pyroscope { server: address }),
            "ingest" => Some(Self::Ingest { server: address }),
            "directory" => Some(Self::Directory { folder: address.into() }),
            _ => None,
        }
    }
}

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// `push.v1`.
    Pyroscope,
    /// `/ingest`.
    Ingest,
    /// Files.
    Directory,
}

/// What a request has beside what all of them have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// What stands in the address behind the `?`.
    pub(super) query: Vec<(&'static str, String)>,
    /// The body is encoded so for the way; else it is as it should be stored.
    pub(super) gzip: bool,
    /// The body.
    pub(super) body: Bytes,
}

/// A profile as it was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// The labels of its series, `__name__` included.
    pub(super) labels: Vec<(String, String)>,
    /// The profile.
    pub(super) pprof: Bytes,
}

impl Sink {
    /// Its name in metrics, and that of its folder.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pyroscope => "pyroscope",
            Self::Ingest => "ingest",
            Self::Directory => "directory",
        }
    }

    /// What carries requests to `config.server`, which is a path for a folder.
    pub(super) fn way(self, config: &Config) -> Result<Way, StartError> {
        let server = &config.server;
        let (address, content_type) = match self {
            Self::Pyroscope => (pyroscope::push_address(server)?, pyroscope::CONTENT_TYPE),
            Self::Ingest => (ingest::push_address(server)?, ingest::CONTENT_TYPE),
            Self::Directory => {
                let free_bytes_min = config.spool.as_ref().map_or(0, |spool| spool.free_bytes_min);
                let folder = Folder::new(server.into(), free_bytes_min, config.request_timeout());
                return Ok(Way::Folder(folder));
            }
        };
        let client = Client::new(
            address,
            content_type,
            config.request_timeout(),
            config.http2,
            config.access.clone(),
        )?;
        Ok(Way::Http(Box::new(client)))
    }

    /// Encodes payloads and packs them. Also the weight of those that it has no use for.
    pub(super) fn pack(self, payloads: Vec<Payload>) -> (Vec<Parcel>, Weight) {
        let mut useless = Weight(0);
        let mut pieces = Vec::with_capacity(payloads.len());
        for payload in payloads {
            match pyroscope::encode(payload) {
                Ok(piece) => pieces.push(piece),
                Err(payload) => useless += payload.weight,
            }
        }
        let parcels = match self {
            Self::Pyroscope | Self::Directory => Parcel::pack(pieces),
            Self::Ingest => pieces.into_iter().flat_map(|piece| Parcel::pack(vec![piece])).collect(),
        };
        (parcels, useless)
    }

    /// The request that carries `parcel`.
    pub(super) fn request(self, parcel: &Parcel) -> Outgoing {
        let as_it_is = || Outgoing { query: Vec::new(), gzip: true, body: parcel.body() };
        match self {
            Self::Pyroscope | Self::Directory => as_it_is(),
            Self::Ingest => {
                let profiles = parcel.unpack().map_or(Vec::new(), |bytes| self.decode(&bytes));
                // What is no single profile nobody here has packed: let the server refuse it.
                let [profile] = profiles.as_slice() else { return as_it_is() };
                ingest::request(profile).unwrap_or_else(as_it_is)
            }
        }
    }

    /// The profiles in what was encoded; none if it was not.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<Pushed> {
        match self {
            Self::Pyroscope | Self::Ingest | Self::Directory => pyroscope::decode(bytes),
        }
    }

    /// Two pieces instead of one that is too large; `None` if there is nothing to divide.
    pub(super) fn halve(self, piece: &Piece) -> Option<[Piece; 2]> {
        match self {
            Self::Pyroscope | Self::Ingest | Self::Directory => pyroscope::halve(piece),
        }
    }

    /// What an answer means.
    pub(super) fn meaning(self, answer: &Answer) -> Meaning {
        match self {
            Self::Pyroscope | Self::Directory => pyroscope::meaning(answer),
            Self::Ingest => ingest::meaning(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, server: Option<&str>) {
        let expected = server.map(|server| SinkConfig::Pyroscope { server: server.to_owned() });
        assert_eq!(SinkConfig::parse(text), expected);
        let expected = server.map(|server| SinkConfig::Ingest { server: server.to_owned() });
        assert_eq!(SinkConfig::parse(&text.replace("pyroscope", "ingest")), expected);
        let expected = server.map(|folder| SinkConfig::Directory { folder: folder.into() });
        assert_eq!(SinkConfig::parse(&text.replace("pyroscope", "directory")), expected);
    }

    #[test]
    fn a_sink_is_a_kind_and_an_address() {
        check("pyroscope=http://h:4040", Some("http://h:4040"));
        check(" pyroscope = http://h/?a=b ", Some("http://h/?a=b"));
        for text in ["", "pyroscope", "pyroscope=", "http://h", "parca=http://h"] {
            check(text, None);
        }
    }
}
