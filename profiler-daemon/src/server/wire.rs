//! Messages of `push.v1.PusherService`, in protobuf and in the JSON of the Connect protocol, and a look at a
//! message before it is decoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Deserializer};

pub use crate::querier::LabelPair;

/// What is pushed: profiles of several series.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub struct PushRequest {
    /// The series.
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<RawProfileSeries>,
}

/// Profiles of one series.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub struct RawProfileSeries {
    /// Its labels.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<LabelPair>,
    /// Its profiles.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<RawSample>,
}

/// A profile.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub struct RawSample {
    /// A pprof, compressed or not.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(rename = "rawProfile", alias = "raw_profile", deserialize_with = "base64_bytes")]
    pub raw_profile: Vec<u8>,
    /// What the client calls it. Not used: equal bytes are known by themselves.
    #[prost(string, tag = "2")]
    #[serde(rename = "ID", alias = "id")]
    pub id: String,
}

fn base64_bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(input)?;
    STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}

/// How many messages, texts and packed lists are in a protobuf message and, one level deeper, in its fields
/// `nesting`. They cost two bytes each on the wire and up to a hundred in memory, so one counts before decoding.
/// `None` if the bytes are no message.
pub(super) fn parts(bytes: &[u8], nesting: &[u64]) -> Option<usize> {
    let mut rest = bytes;
    let mut count = 0_usize;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => drop(varint(&mut rest)?),
            1 => rest = rest.get(8..)?,
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let (inside, after) = rest.split_at_checked(len)?;
                rest = after;
                count += 1;
                if nesting.contains(&(key >> 3)) {
                    count += parts(inside, &[])?;
                }
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(count)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<usize>) {
        assert_eq!(parts(bytes, &[2]), expected);
    }

    #[test]
    fn parts_are_counted_one_level_deep_where_asked() {
        check(&[], Some(0));
        check(&[1 << 3 | 2, 0, 1 << 3 | 2, 0], Some(2));
        check(&[2 << 3 | 2, 4, 1 << 3 | 2, 0, 1 << 3 | 2, 0], Some(3));
        check(&[3 << 3 | 2, 4, 1 << 3 | 2, 0, 1 << 3 | 2, 0], Some(1));
        check(&[9 << 3, 0x80, 1], Some(0));
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_no_message() {
        check(&[1 << 3 | 2, 5, 0], None);
        check(&[1 << 3 | 2], None);
        check(&[1 << 3 | 7], None);
        check(&[0x80; 11], None);
    }

    #[test]
    fn json_is_read_with_either_spelling_and_unknown_fields() {
        let json = br#"{"series":[{"labels":[{"name":"a","value":"b"}],"x":1,
            "samples":[{"rawProfile":"AQI=","ID":"1"},{"raw_profile":"Aw=="}]}]}"#;
        let request: PushRequest = serde_json::from_slice(json).unwrap();
        let samples: Vec<_> = request.series[0].samples.iter().map(|s| s.raw_profile.clone()).collect();
        assert_eq!(samples, [vec![1, 2], vec![3]]);
        assert!(
            serde_json::from_slice::<PushRequest>(br#"{"series":[{"samples":[{"rawProfile":"!"}]}]}"#)
                .is_err()
        );
    }
}
