//! `GET /pyroscope/render`: a flame graph with its time line, for older clients.

use std::collections::HashMap;

use serde_json::json;

use super::MS;
use super::api::{Asked, checked_type, points};
use super::merged::ByName;
use crate::server::refusal::Refusal;
use crate::server::store::Store;
use crate::time::WallNs;

/// Where it is.
pub(in crate::server) const PATH: &str = "/pyroscope/render";
/// A point of the time line, seconds at least, and how many there are at most.
const STEP_S_MIN: i64 = 15;
const POINTS_MAX: i64 = 1000;
const NODES: usize = 8192;

/// Answers; `parameters` are those of the address.
pub(in crate::server) fn answer(
    parameters: &HashMap<String, String>,
    now: WallNs,
    store: &Store,
) -> Result<String, Refusal> {
    let parameter = |name: &str| parameters.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let refuse = |why: &str| Refusal::invalid("question", why);
    let query = parameter("query").ok_or_else(|| refuse("\"query\" is required"))?;
    let (profile_type, selector) = match query.find('{') {
        Some(at) => query.split_at(at),
        None => (query, "{}"),
    };
    let wanted = checked_type(profile_type).map_err(|_| refuse("failed to parse \"query\""))?;
    let moment = |name: &str| parameter(name).and_then(|text| time(text, now)).unwrap_or(now.0 / MS);
    let asked = Asked::new(moment("from"), moment("until"), &[selector.to_owned()])?;
    let nodes = parameter("max-nodes").or(parameter("maxNodes"));
    let nodes_max = match nodes.map(str::parse) {
        None | Some(Ok(0)) => NODES,
        Some(Ok(some)) if some <= 1 << 20 => some,
        Some(Ok(_) | Err(_)) => return Err(refuse("\"max-nodes\" must be a number up to 1048576")),
    };
    let graph = ByName::new(&store.merge(&asked.selection(wanted)), nodes_max).flame_graph();
    let step_s = ((asked.end - asked.start) / 1000 / POINTS_MAX).max(STEP_S_MIN);
    let steps = usize::try_from((asked.end - asked.start) / 1000 / step_s).unwrap_or(0);
    let mut samples = vec![0_u64; steps];
    for point in
        points(&asked, wanted, &[], step_s * 1000, store)?.into_iter().flat_map(|series| series.points)
    {
        let step = usize::try_from((point.timestamp - asked.start) / (step_s * 1000)).unwrap_or(usize::MAX);
        if let Some(sample) = samples.get_mut(step) {
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
    let mut parts = profile_type.split(':').skip(1);
    let (name, unit) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let units = match unit {
        "bytes" => "bytes",
        "count" if name.ends_with("objects") => "objects",
        _ => "samples",
    };
    let levels: Vec<_> = graph.levels.iter().map(|level| &level.values).collect();
    let answer = json!({
        "version": 1,
        "flamebearer": {
            "names": graph.names, "levels": levels, "numTicks": graph.total, "maxSelf": graph.max_self,
        },
        "metadata": { "format": "single", "spyName": "", "sampleRate": 1_000_000_000, "units": units, "name": name },
        "timeline": {
            "startTime": asked.start / 1000, "samples": samples, "durationDelta": step_s, "watermarks": null,
        },
        "groups": null,
        "heatmap": null,
    });
    Ok(answer.to_string())
}

/// Milliseconds since the epoch: of `now`, `now-1h`, or a number of seconds, milliseconds, microseconds or nanoseconds,
/// told apart by its size.
pub(in crate::server) fn time(text: &str, now: WallNs) -> Option<i64> {
    let now_ms = now.0 / MS;
    if let Some(back) = text.strip_prefix("now") {
        if back.is_empty() {
            return Some(now_ms);
        }
        let back = humantime::parse_duration(back.strip_prefix('-')?).ok()?;
        return now_ms.checked_sub(i64::try_from(back.as_millis()).ok()?);
    }
    let number: i64 = text.parse().ok()?;
    Some(match number {
        ..10_000_000_000 => number.checked_mul(1000)?,
        10_000_000_000..10_000_000_000_000 => number,
        10_000_000_000_000..10_000_000_000_000_000 => number / 1000,
        10_000_000_000_000_000.. => number / 1_000_000,
    })
}
