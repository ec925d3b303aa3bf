//! `querier.v1.QuerierService`: what Grafana, `profilecli` and Pyroscope's own page ask.
//!
//! In: a method and its message, in protobuf or JSON. Out: the answer a Pyroscope gives, in the same codec. Ranges include
//! both their ends, points of a time series stand at the end of their step, counted from the asked start.
//! Not here: the page's own questions (`super`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dot::{FUNCTIONS, dot};
use super::merged::{ByName, pprof};
use super::{MS, RANGE_MAX, pprof_json, span_of};
use crate::querier::{
    DOT, DiffRequest, DiffResponse, LabelNamesRequest, LabelPair, LabelSet, LabelValuesRequest,
    MergeProfileRequest, MergeRequest, MergeResponse, Names, PPROF, Point, PointSeries, PprofResult,
    ProfileTypeParts, ProfileTypesRequest, ProfileTypesResponse, SelectSeriesRequest, SelectSeriesResponse,
    SeriesRequest, SeriesResponse, TREE,
};
use crate::server::connect::Codec;
use crate::server::refusal::{Code, Refusal};
use crate::server::selector::{Matcher, parse};
use crate::server::store::{Selection, Series, Store, Tree};
use crate::server::web::{Answer, json, text};
use crate::time::WallNs;

/// Where its methods are.
pub(in crate::server) const PATH: &str = "/querier.v1.QuerierService/";

/// Its methods.
const METHODS: &[&str] = &[
    "ProfileTypes",
    "LabelNames",
    "LabelValues",
    "Series",
    "SelectMergeStacktraces",
    "SelectMergeProfile",
    "SelectSeries",
    "Diff",
];

/// Nodes of a flame graph where none are asked for, and at most.
pub(super) const NODES: usize = 8192;
pub(super) const NODES_MAX: usize = 1 << 20;
/// Points of all time series of an answer.
const POINTS_MAX: usize = 1 << 20;
/// What is asked about when no range is given, where that is allowed.
const LAST_MS: i64 = 3_600_000;

/// True if there is such a method.
pub(in crate::server) fn knows(method: &str) -> bool {
    METHODS.contains(&method)
}

/// Answers `method`, one of those that are known. `dotted`: names of labels with dots may be told.
pub(in crate::server) fn answer(
    method: &str,
    codec: Codec,
    body: &[u8],
    dotted: bool,
    now: WallNs,
    store: &Store,
) -> Result<Answer, Refusal> {
    match method {
        "ProfileTypes" => written(codec, &profile_types(&read(codec, body)?, now, store)?),
        "LabelNames" => written(codec, &label_names(&read(codec, body)?, dotted, store)?),
        "LabelValues" => written(codec, &label_values(&read(codec, body)?, store)?),
        "Series" => written(codec, &series(&read(codec, body)?, dotted, store)?),
        "SelectSeries" => written(codec, &select_series(&read(codec, body)?, store)?),
        "Diff" => written(codec, &diff(&read(codec, body)?, store)?),
        "SelectMergeStacktraces" => {
            let response = merge(&read(codec, body)?, store)?;
            Ok(match codec {
                Codec::Proto => proto(&response),
                Codec::Json => json(StatusCode::OK, merge_json(&response).to_string()),
            })
        }
        "SelectMergeProfile" => {
            let MergeProfileRequest { profile_type, selector, start, end } = read(codec, body)?;
            let tree = OneType::new(&profile_type, &selector, start, end)?.merge(store);
            let profile = (tree.total() > 0).then(|| pprof(&tree, &profile_type, end.saturating_mul(MS)));
            let profile = profile.unwrap_or_default();
            Ok(match codec {
                Codec::Proto => proto(&profile),
                Codec::Json => json(StatusCode::OK, pprof_json::value(&profile).to_string()),
            })
        }
        _ => Err(Refusal::new(Code::Unimplemented, "method", format!("no method {method:?}"))),
    }
}

fn read<T: Message + Default + DeserializeOwned>(codec: Codec, body: &[u8]) -> Result<T, Refusal> {
    let unreadable =
        |error: &dyn std::fmt::Display| Refusal::invalid("malformed", format!("unmarshal message: {error}"));
    match codec {
        Codec::Proto => T::decode(body).map_err(|error| unreadable(&error)),
        // A client without wishes may send nothing.
        Codec::Json if body.is_empty() => Ok(T::default()),
        Codec::Json => serde_json::from_slice(body).map_err(|error| unreadable(&error)),
    }
}

fn proto(message: &impl Message) -> Answer {
    text(StatusCode::OK, "application/proto", Bytes::from(message.encode_to_vec()))
}

fn written(codec: Codec, message: &(impl Message + Serialize)) -> Result<Answer, Refusal> {
    Ok(match codec {
        Codec::Proto => proto(message),
        Codec::Json => json(
            StatusCode::OK,
            serde_json::to_string(message).expect("numbers and texts can be written as JSON"),
        ),
    })
}

/// A range and conditions that make sense.
#[derive(Debug)]
pub(super) struct Asked {
    /// Milliseconds since the epoch.
    pub(super) start: i64,
    /// Milliseconds since the epoch; part of the range.
    pub(super) end: i64,
    matchers: Vec<Matcher>,
}

impl Asked {
    pub(super) fn new(start: i64, end: i64, selectors: &[String]) -> Result<Self, Refusal> {
        let refuse = |why: String| Err(Refusal::invalid("question", why));
        if start == 0 || end == 0 {
            return refuse("missing time range in the query".to_owned());
        }
        if start > end {
            return refuse("query start time is after end time".to_owned());
        }
        let asked_ms = end.saturating_sub(start);
        if asked_ms > span_of(RANGE_MAX) / MS {
            return refuse(format!(
                "the query time range exceeds the limit (max_query_length, actual: {}h{}m{}s, limit: 1d)",
                asked_ms / 3_600_000,
                asked_ms / 60_000 % 60,
                asked_ms / 1000 % 60
            ));
        }
        let mut matchers = Vec::new();
        for selector in selectors {
            matchers.extend(parse(selector)?);
        }
        Ok(Self { start, end, matchers })
    }

    fn selection<'a>(&'a self, profile_type: Option<&'a str>) -> Selection<'a> {
        // The whole millisecond at its end is part of it: what was pushed in this very moment is seen.
        let (from, until) = (self.start.saturating_mul(MS), self.end.saturating_add(1).saturating_mul(MS));
        Selection {
            profile_type,
            service: None,
            matchers: &self.matchers,
            range: WallNs(from)..WallNs(until),
        }
    }
}

/// What is asked about one type of profiles, so that they can be added up.
#[derive(Debug)]
pub(super) struct OneType<'a> {
    pub(super) asked: Asked,
    pub(super) profile_type: &'a str,
}

impl<'a> OneType<'a> {
    pub(super) fn new(profile_type: &'a str, selector: &str, start: i64, end: i64) -> Result<Self, Refusal> {
        check_type(profile_type)?;
        let asked = Asked::new(start, end, &[selector.to_owned()])?;
        Ok(Self { asked, profile_type })
    }

    /// What `request` asks. A selection that is not made here is refused: to leave it out would answer another question.
    fn of(request: &'a MergeRequest) -> Result<Self, Refusal> {
        let MergeRequest { profile_type, selector, start, end, stacks, profiles, traces, spans, .. } =
            request;
        let calls = stacks.as_ref().is_some_and(|stacks| !stacks.call_site.is_empty());
        let ids = [profiles, traces, spans].iter().any(|ids| !ids.is_empty());
        if calls || ids {
            let why = "stacks are not selected by call site here, nor profiles by their id, trace or span";
            return Err(Refusal::new(Code::Unimplemented, "selection", why));
        }
        Self::new(profile_type, selector, *start, *end)
    }

    fn selection(&self) -> Selection<'_> {
        self.asked.selection(Some(self.profile_type))
    }

    /// All of it.
    pub(super) fn merge(&self, store: &Store) -> Tree {
        store.merge(&self.selection())
    }
}

pub(super) fn check_type(profile_type: &str) -> Result<(), Refusal> {
    let parts = profile_type.split(':').count();
    if parts == 5 || (parts == 6 && profile_type.ends_with(":delta")) {
        return Ok(());
    }
    let why = format!(
        "profile-type selection must be of the form <name>:<sample-type>:<sample-unit>:<period-type>:<period-unit>\
         (:delta), got({parts}): {profile_type:?}"
    );
    Err(Refusal::invalid("question", why))
}

fn profile_types(
    &ProfileTypesRequest { start, end }: &ProfileTypesRequest,
    now: WallNs,
    store: &Store,
) -> Result<ProfileTypesResponse, Refusal> {
    let (start, end) = match (start, end) {
        (0, 0) => (now.0 / MS - LAST_MS, now.0 / MS),
        range => range,
    };
    let asked = Asked::new(start, end, &[])?;
    let mut types = BTreeSet::new();
    store.series(&asked.selection(None), |series| {
        if !types.contains(series.profile_type().as_str()) {
            types.insert(series.profile_type().as_str().to_owned());
        }
    });
    let parts = |id: String| {
        let mut parts = id.split(':').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let (name, sample_type, sample_unit) = (part(), part(), part());
        let (period_type, period_unit) = (part(), part());
        ProfileTypeParts { id, name, sample_type, sample_unit, period_type, period_unit }
    };
    Ok(ProfileTypesResponse { profile_types: types.into_iter().map(parts).collect() })
}

/// Names with dots are told to who says that they are understood.
fn may_be_told(name: &str, dotted: bool) -> bool {
    dotted || name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn label_names(
    LabelNamesRequest { matchers, start, end }: &LabelNamesRequest,
    dotted: bool,
    store: &Store,
) -> Result<Names, Refusal> {
    let asked = Asked::new(*start, *end, matchers)?;
    let mut names = BTreeSet::new();
    store.series(&asked.selection(None), |series| {
        for (name, _) in series.all_labels() {
            if may_be_told(name, dotted) && !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    });
    Ok(Names { names: names.into_iter().collect() })
}

fn label_values(
    LabelValuesRequest { name, matchers, start, end }: &LabelValuesRequest,
    store: &Store,
) -> Result<Names, Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid("question", "name is required"));
    }
    let asked = Asked::new(*start, *end, matchers)?;
    let mut values = BTreeSet::new();
    store.series(&asked.selection(None), |series| {
        if let Some(value) = series.value_of(name).filter(|value| !values.contains(*value)) {
            values.insert(value.to_owned());
        }
    });
    Ok(Names { names: values.into_iter().collect() })
}

fn pair(name: &str, value: &str) -> LabelPair {
    LabelPair { name: name.to_owned(), value: value.to_owned() }
}

fn series(
    SeriesRequest { matchers, label_names, start, end }: &SeriesRequest,
    dotted: bool,
    store: &Store,
) -> Result<SeriesResponse, Refusal> {
    let asked = Asked::new(*start, *end, matchers)?;
    let mut sets: BTreeSet<Vec<(String, String)>> = BTreeSet::new();
    store.series(&asked.selection(None), |series| {
        let mut labels: Vec<(String, String)> = (series.all_labels())
            .filter(|(name, _)| {
                if label_names.is_empty() {
                    may_be_told(name, dotted)
                } else {
                    label_names.iter().any(|asked| asked == name)
                }
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        labels.sort();
        if !labels.is_empty() {
            sets.insert(labels);
        }
    });
    let set = |labels: Vec<(String, String)>| LabelSet {
        labels: labels.iter().map(|(name, value)| pair(name, value)).collect(),
    };
    Ok(SeriesResponse { labels_set: sets.into_iter().map(set).collect() })
}

/// How many nodes a graph may have.
fn nodes_max(asked: i64) -> Result<usize, Refusal> {
    let why = match asked {
        0 => return Ok(NODES),
        ..0 => format!("max flamegraph nodes limit must be set (max allowed {NODES_MAX})"),
        more => match usize::try_from(more) {
            Ok(some) if some <= NODES_MAX => return Ok(some),
            _ => format!("max flamegraph nodes limit {more} is greater than allowed {NODES_MAX}"),
        },
    };
    Err(Refusal::invalid("question", why))
}

fn merge(request: &MergeRequest, store: &Store) -> Result<MergeResponse, Refusal> {
    let MergeRequest { profile_type, end, max_nodes, format, .. } = request;
    let nodes_max = nodes_max(*max_nodes)?;
    let tree = OneType::of(request)?.merge(store);
    let mut response = MergeResponse::default();
    match *format {
        TREE => response.tree = ByName::new([&tree], nodes_max).bytes(),
        DOT => {
            let functions_max = if *max_nodes == 0 { FUNCTIONS } else { nodes_max };
            response.dot = dot(&tree, profile_type, functions_max);
        }
        PPROF => {
            let profile = Some(pprof(&tree, profile_type, end.saturating_mul(MS)));
            response.pprof = Some(PprofResult { profile });
        }
        _ => response.flamegraph = Some(ByName::new([&tree], nodes_max).flame_graph()),
    }
    Ok(response)
}

/// Two merged profiles laid over one another.
fn diff(DiffRequest { left, right }: &DiffRequest, store: &Store) -> Result<DiffResponse, Refusal> {
    let (Some(left), Some(right)) = (left, right) else {
        return Err(Refusal::invalid("question", "both \"left\" and \"right\" are required"));
    };
    let nodes_max = nodes_max(left.max_nodes.max(right.max_nodes))?;
    let sides = [OneType::of(left)?, OneType::of(right)?];
    let [left, right] = sides.map(|side| side.merge(store));
    Ok(DiffResponse { flamegraph: Some(ByName::new([&left, &right], nodes_max).difference()) })
}

fn merge_json(response: &MergeResponse) -> serde_json::Value {
    use base64::Engine;
    let MergeResponse { flamegraph, tree, dot, pprof } = response;
    let mut answer = serde_json::Map::new();
    if let Some(graph) = flamegraph {
        answer.insert("flamegraph".to_owned(), serde_json::json!(graph));
    }
    if !tree.is_empty() {
        answer.insert("tree".to_owned(), base64::engine::general_purpose::STANDARD.encode(tree).into());
    }
    if !dot.is_empty() {
        answer.insert("dot".to_owned(), dot.as_str().into());
    }
    if let Some(profile) = pprof.as_ref().and_then(|pprof| pprof.profile.as_ref()) {
        answer.insert("pprof".to_owned(), serde_json::json!({ "profile": pprof_json::value(profile) }));
    }
    answer.into()
}

fn select_series(request: &SelectSeriesRequest, store: &Store) -> Result<SelectSeriesResponse, Refusal> {
    let SelectSeriesRequest { profile_type, selector, start, end, group_by, step, limit } = request;
    let step_ms = (step * 1000.0).round();
    if !(1.0..1e12).contains(&step_ms) {
        return Err(Refusal::invalid("question", "step must be >= 1ms"));
    }
    let asked = OneType::new(profile_type, selector, *start, *end)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was looked at")]
    let mut all = points(&asked, group_by, step_ms as i64, store)?;
    if let Ok(limit @ 1..) = usize::try_from(*limit) {
        let weight = |series: &PointSeries| series.points.iter().map(|point| point.value).sum::<f64>();
        all.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        all.truncate(limit);
    }
    Ok(SelectSeriesResponse { series: all })
}

/// Time series of what is asked about, one for each value of the labels `group_by`. A window belongs to the step that
/// ends with it or after it.
pub(super) fn points(
    one: &OneType<'_>,
    group_by: &[String],
    step_ms: i64,
    store: &Store,
) -> Result<Vec<PointSeries>, Refusal> {
    let mut groups: BTreeMap<Vec<(String, String)>, BTreeMap<i64, u64>> = BTreeMap::new();
    let mut points = 0;
    let mut last: Option<(Series, Vec<(String, String)>)> = None;
    let asked = &one.asked;
    store.windows(&one.selection(), None, |window, series, value| {
        if last.as_ref().is_none_or(|(known, _)| known != series) {
            let mut labels: Vec<(String, String)> = (group_by.iter())
                .filter_map(|name| Some((name.clone(), series.value_of(name)?.to_owned())))
                .collect();
            labels.sort();
            last = Some((series.clone(), labels));
        }
        let Some((_, labels)) = &last else { return };
        let since = (window.start.0 / MS).saturating_sub(asked.start);
        // Rounded up: the step that this moment is the end of, or is in.
        let step = since.max(0).saturating_add(step_ms - 1) / step_ms;
        if points > POINTS_MAX {
            return;
        }
        if !groups.contains_key(labels) {
            groups.insert(labels.clone(), BTreeMap::new());
        }
        let group = groups.get_mut(labels).expect("it was put there if it was not");
        let sum = group.entry(step).or_insert_with(|| {
            points += 1;
            0
        });
        *sum = sum.saturating_add(value);
    });
    if points > POINTS_MAX {
        let why = format!("more than {POINTS_MAX} points: ask for a longer step, or fewer groups");
        return Err(Refusal::invalid("question", why));
    }
    let at = |step: i64| asked.start.saturating_add(step.saturating_mul(step_ms));
    let one = |(labels, steps): (Vec<(String, String)>, BTreeMap<i64, u64>)| PointSeries {
        labels: labels.iter().map(|(name, value)| pair(name, value)).collect(),
        points: (steps.into_iter())
            .map(|(step, value)| Point { value: value as f64, timestamp: at(step) })
            .collect(),
    };
    Ok(groups.into_iter().map(one).collect())
}
