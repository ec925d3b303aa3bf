//! Messages of `querier.v1.QuerierService`, which the embedded server answers and `query` asks.
//!
//! In and out: protobuf, and the JSON of the Connect protocol: there, numbers of 64 bits are texts, and what is zero or
//! empty is left out. Not here: what is a sensible question (`server`), and what is shown of an answer (`query`).

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::pprof::Profile;

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
pub(crate) const TREE: i32 = 2;
/// `PROFILE_FORMAT_DOT`.
pub(crate) const DOT: i32 = 3;
/// `PROFILE_FORMAT_PPROF`.
pub(crate) const PPROF: i32 = 4;

/// A label.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelPair {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Asks for all types.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct ProfileTypesRequest {
    #[prost(int64, tag = "1")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct ProfileTypesResponse {
    #[prost(message, repeated, tag = "1")]
    #[serde(rename = "profileTypes", skip_serializing_if = "Vec::is_empty")]
    pub(crate) profile_types: Vec<ProfileTypeParts>,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProfileTypeParts {
    #[prost(string, tag = "1")]
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sample_type: String,
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sample_unit: String,
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) period_type: String,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) period_unit: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct LabelNamesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) matchers: Vec<String>,
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct LabelValuesRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) matchers: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
}

/// Names or values of labels.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct Names {
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<String>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct SeriesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) matchers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    #[serde(rename = "labelNames", alias = "label_names")]
    pub(crate) label_names: Vec<String>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct SeriesResponse {
    #[prost(message, repeated, tag = "2")]
    #[serde(rename = "labelsSet", skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels_set: Vec<LabelSet>,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub(crate) struct LabelSet {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<LabelPair>,
}

/// Asks for one profile of many.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct MergeRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(crate) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(crate) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
    #[prost(int64, tag = "5")]
    #[serde(with = "int64", rename = "maxNodes", alias = "max_nodes")]
    pub(crate) max_nodes: i64,
    #[prost(int32, tag = "6")]
    #[serde(deserialize_with = "format")]
    pub(crate) format: i32,
    #[prost(message, optional, tag = "7")]
    #[serde(rename = "stackTraceSelector", alias = "stack_trace_selector")]
    pub(crate) stacks: Option<StackSelector>,
    #[prost(string, repeated, tag = "8")]
    #[serde(rename = "profileIdSelector", alias = "profile_id_selector")]
    pub(crate) profiles: Vec<String>,
    #[prost(string, repeated, tag = "10")]
    #[serde(rename = "traceIdSelector", alias = "trace_id_selector")]
    pub(crate) traces: Vec<String>,
    #[prost(string, repeated, tag = "11")]
    #[serde(rename = "spanSelector", alias = "span_selector")]
    pub(crate) spans: Vec<String>,
}

/// Stacks that begin with some functions.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct StackSelector {
    #[prost(message, repeated, tag = "1")]
    #[serde(rename = "callSite", alias = "call_site")]
    pub(crate) call_site: Vec<CallSite>,
}

/// One of those functions.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct CallSite {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// The same without a format: that field means something else there.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct MergeProfileRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(crate) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(crate) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MergeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) flamegraph: Option<FlameGraph>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) tree: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) dot: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) pprof: Option<PprofResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PprofResult {
    #[prost(message, optional, tag = "1")]
    pub(crate) profile: Option<Profile>,
}

/// Asks how two merged profiles differ.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct DiffRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) left: Option<MergeRequest>,
    #[prost(message, optional, tag = "2")]
    pub(crate) right: Option<MergeRequest>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct DiffResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) flamegraph: Option<FlameGraph>,
}

/// Levels of nodes: the gap to the node before, total, self, index of the name. Where two are compared the first three
/// are there twice, left and right, and with what each side weighs; alone these are zero, so that they are not written.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct FlameGraph {
    #[prost(string, repeated, tag = "1")]
    pub(crate) names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub(crate) total: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64", rename = "maxSelf", skip_serializing_if = "is_zero")]
    pub(crate) max_self: i64,
    #[prost(int64, tag = "5")]
    #[serde(with = "int64", rename = "leftTicks", skip_serializing_if = "is_zero")]
    pub(crate) left_ticks: i64,
    #[prost(int64, tag = "6")]
    #[serde(with = "int64", rename = "rightTicks", skip_serializing_if = "is_zero")]
    pub(crate) right_ticks: i64,
}

#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub(crate) struct Level {
    #[prost(int64, repeated, tag = "1")]
    #[serde(serialize_with = "int64::serialize_all")]
    pub(crate) values: Vec<i64>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct SelectSeriesRequest {
    #[prost(string, tag = "1")]
    #[serde(rename = "profileTypeID", alias = "profile_typeID")]
    pub(crate) profile_type: String,
    #[prost(string, tag = "2")]
    #[serde(rename = "labelSelector", alias = "label_selector")]
    pub(crate) selector: String,
    #[prost(int64, tag = "3")]
    #[serde(with = "int64")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    #[serde(with = "int64")]
    pub(crate) end: i64,
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "groupBy", alias = "group_by")]
    pub(crate) group_by: Vec<String>,
    #[prost(double, tag = "6")]
    pub(crate) step: f64,
    #[prost(int64, tag = "9")]
    #[serde(with = "int64")]
    pub(crate) limit: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct SelectSeriesResponse {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) series: Vec<PointSeries>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct PointSeries {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub(crate) struct Point {
    #[prost(double, tag = "1")]
    #[serde(serialize_with = "whole")]
    pub(crate) value: f64,
    /// Milliseconds since the epoch.
    #[prost(int64, tag = "2")]
    #[serde(with = "int64")]
    pub(crate) timestamp: i64,
}
