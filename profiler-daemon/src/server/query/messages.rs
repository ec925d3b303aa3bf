//! Messages of `querier.v1.QuerierService`, in protobuf and in the JSON of the Connect protocol: there, numbers of 64 bits
//! are texts, and what is zero or empty is left out.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::pprof::Profile;
use crate::server::wire::LabelPair;

/// Whole numbers of 64 bits in JSON.
mod int64 {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(number: &i64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
        match Either::deserialize(input)? {
            Either::Number(number) => Ok(number),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }

    pub(super) fn serialize_all<S: Serializer>(numbers: &[i64], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(numbers.iter().map(i64::to_string))
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A number, without a point if it is whole.
fn whole<S: serde::Serializer>(number: &f64, out: S) -> Result<S::Ok, S::Error> {
    /// The largest whole numbers that a double tells apart.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        return out.serialize_i64(*number as i64);
    }
    out.serialize_f64(*number)
}

/// The format of a profile, by name or number; what is not known is the first.
fn format<'de, D: serde::Deserializer<'de>>(input: D) -> Result<i32, D::Error> {
    Ok(match serde_json::Value::deserialize(input)? {
        serde_json::Value::Number(number) => {
            number.as_i64().and_then(|number| number.try_into().ok()).unwrap_or(0)
        }
        serde_json::Value::String(name) => match name.as_str() {
            "PROFILE_FORMAT_TREE" => TREE,
            "PROFILE_FORMAT_DOT" => DOT,
            "PROFILE_FORMAT_PPROF" => PPROF,
            _ => 0,
        },
        _ => 0,
    })
}

/// `PROFILE_FORMAT_TREE`.
pub(super) const TREE: i32 = 2;
/// `PROFILE_FORMAT_DOT`.
pub(super) const DOT: i32 = 3;
/// `PROFILE_FORMAT_PPROF`.
pub(super) const PPROF: i32 = 4;

/// Asks for all types.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct ProfileTypesRequest {
    #[prost(int64, tag = "1")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct ProfileTypesResponse {
    #[prost(message, repeated, tag = "1")]
    #[serde(rename = "profileTypes", skip_serializing_if = "Vec::is_empty")]
    pub(super) profile_types: Vec<ProfileTypeParts>,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProfileTypeParts {
    #[prost(string, tag = "1")]
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) sample_type: String,
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) sample_unit: String,
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) period_type: String,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) period_unit: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct LabelNamesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) matchers: Vec<String>,
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct LabelValuesRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) matchers: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(super) end: i64,
}

/// Names or values of labels.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Names {
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) names: Vec<String>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct SeriesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) matchers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    #[serde(rename = "labelNames", alias = "label_names")]
    pub(super) label_names: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct SeriesResponse {
    #[prost(message, repeated, tag = "2")]
    #[serde(rename = "labelsSet", skip_serializing_if = "Vec::is_empty")]
    pub(super) labels_set: Vec<LabelSet>,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub(super) struct LabelSet {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Vec<LabelPair>,
}

/// Asks for one profile of many.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct MergeRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(super) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(super) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(super) end: i64,
    #[prost(int64, tag = "5")]
    #[serde(with = "int64", rename = "maxNodes", alias = "max_nodes")]
    pub(super) max_nodes: i64,
    #[prost(int32, tag = "6")]
    #[serde(deserialize_with = "format")]
    pub(super) format: i32,
}

/// The same without a format: that field means something else there.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct MergeProfileRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(super) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(super) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(super) end: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MergeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) flamegraph: Option<FlameGraph>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tree: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(super) pprof: Option<PprofResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PprofResult {
    #[prost(message, optional, tag = "1")]
    pub(super) profile: Option<Profile>,
}

/// Levels of quadruples: the gap to the node before, total, self, index of the name.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct FlameGraph {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub(super) total: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64", rename = "maxSelf", skip_serializing_if = "is_zero")]
    pub(super) max_self: i64,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub(super) struct Level {
    #[prost(int64, repeated, tag = "1")]
    #[serde(serialize_with = "int64::serialize_all")]
    pub(super) values: Vec<i64>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct SelectSeriesRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(super) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(super) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(super) end: i64,
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "groupBy", alias = "group_by")]
    pub(super) group_by: Vec<String>,
    #[prost(double, tag = "6")]
    pub(super) step: f64,
    #[prost(int64, tag = "9")]
    #[serde(with = "int64")]
    pub(super) limit: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct SelectSeriesResponse {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) series: Vec<PointSeries>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct PointSeries {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub(super) struct Point {
    #[prost(double, tag = "1")]
    #[serde(serialize_with = "whole")]
    pub(super) value: f64,
    /// Milliseconds since the epoch.
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(super) timestamp: i64,
}
