//! `GET /pyroscope/render` and `/pyroscope/render-diff`: a flame graph with its time line or a graph of calls, or two laid
//! over one another, for older clients.

use std::collections::{BTreeMap, HashMap};

use http::StatusCode;
use serde_json::{Value, json};

use super::MS;
use super::api::{NODES, NODES_MAX, OneType, check_type, points};
use super::dot::{FUNCTIONS, dot};
use super::merged::ByName;
use crate::querier::{FlameGraph, Point, PointSeries};
use crate::server::refusal::Refusal;
use crate::server::store::Store;
use crate::server::web::{self, Answer};
use crate::time::{WallNs, moment_ms};

/// Where they are.
const RENDER: &str = "/pyroscope/render";
const DIFFERENCE: &str = "/pyroscope/render-diff";
/// How many points a time line has at most, but for the rounding of their distance.
const POINTS_MAX: i64 = 1500;
/// Distances of points that come nearest to what a range asks for: up to so many milliseconds it is so many seconds. No range
/// asks for more than the last.
const STEPS: [(i64, i64); 4] = [(17_500, 15), (25_000, 20), (45_000, 30), (i64::MAX, 60)];
/// Points of all time lines of an answer.
const POINTS_SUM_MAX: usize = 1 << 20;

/// True if there is something at `path`.
pub(in crate::server) fn knows(path: &str) -> bool {
    matches!(path, RENDER | DIFFERENCE)
}

/// Answers at `path`, one of those that are known; `parameters` are those of the address.
pub(in crate::server) fn answer(
    path: &str,
    parameters: &HashMap<String, String>,
    now: WallNs,
    store: &Store,
) -> Result<Answer, Refusal> {
    let parameters = Parameters { all: parameters, now };
    if path == RENDER && parameters.text("format") == Some("dot") {
        return Ok(web::text(StatusCode::OK, "text/plain; charset=utf-8", picture(&parameters, store)?));
    }
    let answer =
        if path == DIFFERENCE { difference(&parameters, store)? } else { render(&parameters, store)? };
    Ok(web::json(StatusCode::OK, answer.to_string()))
}

fn picture(parameters: &Parameters<'_>, store: &Store) -> Result<String, Refusal> {
    let one = parameters.question(["query", "from", "until"])?;
    let functions_max = parameters.nodes_max(FUNCTIONS)?;
    Ok(dot(&one.merge(store), one.profile_type, functions_max))
}

fn refuse(why: impl Into<String>) -> Refusal {
    Refusal::invalid("question", why)
}

/// What stands in the address.
struct Parameters<'a> {
    all: &'a HashMap<String, String>,
    now: WallNs,
}

impl<'a> Parameters<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.all.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The question that the parameters of these names ask: what, from when, until when.
    fn question(&self, [query, from, until]: [&str; 3]) -> Result<OneType<'a>, Refusal> {
        let text = self.text(query).ok_or_else(|| refuse(format!("{query:?} is required")))?;
        let (profile_type, selector) = match text.find('{') {
            Some(at) => text.split_at(at),
            None => (text, "{}"),
        };
        check_type(profile_type).map_err(|_| refuse(format!("failed to parse {query:?}")))?;
        let moment = |name: &str| {
            self.text(name).and_then(|text| moment_ms(text, self.now)).unwrap_or(self.now.0 / MS)
        };
        OneType::new(profile_type, selector, moment(from), moment(until))
    }

    /// How many nodes are asked for, or `otherwise`.
    fn nodes_max(&self, otherwise: usize) -> Result<usize, Refusal> {
        match self.text("max-nodes").or(self.text("maxNodes")).map(str::parse) {
            None | Some(Ok(0)) => Ok(otherwise),
            Some(Ok(some)) if some <= NODES_MAX => Ok(some),
            Some(Ok(_) | Err(_)) => Err(refuse(format!("\"max-nodes\" must be a number up to {NODES_MAX}"))),
        }
    }
}

fn render(parameters: &Parameters<'_>, store: &Store) -> Result<Value, Refusal> {
    let one = parameters.question(["query", "from", "until"])?;
    let graph = ByName::new([&one.merge(store)], parameters.nodes_max(NODES)?).flame_graph();
    let group_by: Vec<String> = parameters.text("groupBy").map(str::to_owned).into_iter().collect();
    let line = TimeLine::of(&one);
    let series = points(&one, &group_by, line.step_s * 1000, store)?;
    if series.len().saturating_mul(line.steps) > POINTS_SUM_MAX {
        return Err(refuse(format!("more than {POINTS_SUM_MAX} points: ask for fewer groups")));
    }
    let mut answer = flamebearer(&graph, "single", one.profile_type);
    // Empty where there are several groups, as a Pyroscope has it: who asks for groups draws those.
    answer["timeline"] = match series.as_slice() {
        [whole] => line.value(&whole.points),
        _ => line.value(&[]),
    };
    if !group_by.is_empty() {
        // What does not have the label is a group too.
        let name = |one: &PointSeries| one.labels.first().map_or("*", |label| &label.value).to_owned();
        let groups: BTreeMap<_, _> = series.iter().map(|one| (name(one), line.value(&one.points))).collect();
        answer["groups"] = json!(groups);
    }
    Ok(answer)
}

fn difference(parameters: &Parameters<'_>, store: &Store) -> Result<Value, Refusal> {
    let left = parameters.question(["leftQuery", "leftFrom", "leftUntil"])?;
    let right = parameters.question(["rightQuery", "rightFrom", "rightUntil"])?;
    if left.profile_type != right.profile_type {
        return Err(refuse("profile types must match"));
    }
    let nodes_max = parameters.nodes_max(NODES)?;
    let graph = ByName::new([&left.merge(store), &right.merge(store)], nodes_max).difference();
    let mut answer = flamebearer(&graph, "double", left.profile_type);
    answer["leftTicks"] = graph.left_ticks.into();
    answer["rightTicks"] = graph.right_ticks.into();
    Ok(answer)
}

/// What all answers have in common.
fn flamebearer(graph: &FlameGraph, format: &str, profile_type: &str) -> Value {
    let mut parts = profile_type.split(':').skip(1);
    let (name, unit) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let units = match unit {
        "bytes" => "bytes",
        "count" if name.ends_with("objects") => "objects",
        _ => "samples",
    };
    let levels: Vec<_> = graph.levels.iter().map(|level| &level.values).collect();
    json!({
        "version": 1,
        "flamebearer": {
            "names": graph.names, "levels": levels, "numTicks": graph.total, "maxSelf": graph.max_self,
        },
        "metadata": { "format": format, "spyName": "", "sampleRate": 1_000_000_000, "units": units, "name": name },
        "timeline": null,
        "groups": null,
        "heatmap": null,
    })
}

/// The steps of a time line.
struct TimeLine {
    start_ms: i64,
    step_s: i64,
    steps: usize,
}

impl TimeLine {
    /// That of what is asked about: begin and end are those of whole steps since the epoch.
    fn of(one: &OneType<'_>) -> Self {
        let least_ms = (one.asked.end - one.asked.start) / POINTS_MAX;
        let step_s =
            STEPS.iter().find(|(up_to_ms, _)| least_ms <= *up_to_ms).map_or(60, |&(_, step_s)| step_s);
        let whole = |ms: i64| ms.div_euclid(step_s * 1000) * step_s * 1000;
        let (start_ms, end_ms) = (whole(one.asked.start), whole(one.asked.end));
        let steps = usize::try_from((end_ms - start_ms) / (step_s * 1000)).unwrap_or(0);
        Self { start_ms, step_s, steps }
    }

    /// It, with a value for each step.
    fn value(&self, points: &[Point]) -> Value {
        let mut samples = vec![0_u64; self.steps];
        for point in points {
            let step = (point.timestamp - self.start_ms) / (self.step_s * 1000);
            if let Some(sample) = usize::try_from(step).ok().and_then(|step| samples.get_mut(step)) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it was whole and positive"
                )]
                {
                    *sample = point.value as u64;
                }
            }
        }
        json!({
            "startTime": self.start_ms / 1000, "samples": samples, "durationDelta": self.step_s, "watermarks": null,
        })
    }
}
