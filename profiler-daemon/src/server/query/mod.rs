//! Questions. Here those of the page; in `api` and `render` those that a Pyroscope answers.
//!
//! What the page asks: who used the CPU, and where in their code.
//!
//! In: a time range and perhaps a service. Out: JSON in columns, made of one merged tree, so that graph and table
//! never disagree. Ranges that end "now" end with the newest whole window, so that the last bar is not half of one.
//! Not here: HTTP.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::selector::{self, Matcher};
use super::store::{ProfileType, Selection, Store, end};
use crate::time::{WallNs, Window};

pub(super) mod api;
mod columns;
mod dot;
mod flamegraph;
mod looked;
mod merged;
mod pprof_json;
pub(super) mod render;
mod shape;

use flamegraph::Form;
pub(super) use flamegraph::flamegraph;
use shape::{Shape, View};

/// What a question may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Question {
    /// Begin of the range, milliseconds since the epoch.
    from: Option<i64>,
    /// End of the range, milliseconds since the epoch.
    until: Option<i64>,
    /// Length of a range that ends now, seconds; instead of `from` and `until`.
    last: Option<u32>,
    /// Only this service.
    service: Option<String>,
    /// Only series that fulfil this selector.
    r#where: Option<String>,
    /// What services are told apart by: the name of a label.
    group: Option<String>,
    /// What the values count, as Pyroscope writes it.
    r#type: Option<String>,
    /// Points of a time series, at most.
    points: Option<usize>,
    /// Nodes of a flame graph, at most.
    nodes: Option<usize>,
    /// Of more nodes than that none that is thinner than this part of the graph.
    parts: Option<u32>,
    /// How a flame graph is written.
    form: Option<Form>,
    /// Frames that are left out: patterns, one a line.
    hide: Option<String>,
    /// Patterns that a stack must meet, one a line.
    only: Option<String>,
    /// From which end stacks are read.
    view: Option<View>,
    /// The function whose callers or callees are asked for.
    function: Option<String>,
    /// Begin of the range that is compared with, milliseconds since the epoch.
    base_from: Option<i64>,
    /// End of the range that is compared with, milliseconds since the epoch.
    base_until: Option<i64>,
    /// Compared with series that fulfil this selector.
    base_where: Option<String>,
    /// Keys of functions, with dots between them: the stack below which lighter nodes are asked for too.
    below: Option<String>,
    /// Nothing but the way to `below` and what is below it, and no table: who asks has the rest already.
    only_below: bool,
}

/// A question whose range is known.
#[derive(Debug)]
pub(super) struct Resolved {
    from: WallNs,
    until: WallNs,
    newest: Option<Window>,
    matchers: Vec<Matcher>,
    base: Option<(std::ops::Range<WallNs>, Vec<Matcher>)>,
    shape: Shape,
    question: Question,
}

/// The range if none is asked for.
const LAST_S: u32 = 900;
/// A range may be this long: no more is kept anyway.
const RANGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// No range comes nearer to the ends of time than this, so that it and its steps can be added to its moments.
const END_OF_TIME: i64 = 4 * 24 * 3600 * 1_000 * MS;
/// Where the newest window is looked for first.
const RECENT: Duration = Duration::from_secs(300);
/// Points of a time series.
const POINTS_MAX: usize = 500;
const POINTS: usize = 120;
/// Services that get a line of their own; the rest is added up, and counted.
const SERVICES_MAX: usize = 200;
const MS: i64 = 1_000_000;

impl Resolved {
    /// Settles the range of `question`.
    pub(super) fn new(question: Question, now: WallNs, store: &Store) -> Result<Self, Refusal> {
        let matchers = question.r#where.as_deref().map_or(Ok(Vec::new()), selector::parse)?;
        let shape = Shape::new(&question)?;
        let newest = newest(store, question.profile_type(), now);
        let (from, until) = match (question.from, question.until) {
            (Some(from), Some(until)) => (from.saturating_mul(MS), until.saturating_mul(MS)),
            (None, None) => {
                let last = i64::from(question.last.unwrap_or(LAST_S)) * 1_000 * MS;
                // The millisecond that we are in is part of it: a profile without a length may be of this moment.
                let until = newest
                    .and_then(|window| whole_windows(window, now))
                    .unwrap_or_else(|| whole_ms(now.0.saturating_add(MS)));
                (until.saturating_sub(last), until)
            }
            _ => return Err(Refusal::invalid("question", "give both from and until, or last")),
        };
        check_range(from, until)?;
        let base_range = match (question.base_from, question.base_until) {
            (Some(from), Some(until)) => Some((from.saturating_mul(MS), until.saturating_mul(MS))),
            (None, None) => None,
            _ => return Err(Refusal::invalid("question", "give both base_from and base_until")),
        };
        let base = if base_range.is_some() || question.base_where.is_some() {
            let (from, until) = base_range.unwrap_or((from, until));
            check_range(from, until)?;
            let matchers =
                question.base_where.as_deref().map_or_else(|| Ok(matchers.clone()), selector::parse)?;
            Some((WallNs(from)..WallNs(until), matchers))
        } else {
            None
        };
        Ok(Self { from: WallNs(from), until: WallNs(until), newest, matchers, base, shape, question })
    }

    /// Changes when the answer does, as far as that can be known without making it.
    pub(super) fn tag(&self, boot: u64, store: &Store) -> String {
        format!("\"{boot:x}-{:x}-{:x}-{:x}\"", store.version(), self.from.0 / MS, self.until.0 / MS)
    }

    fn selection(&self) -> Selection<'_> {
        let service = self.question.service.as_deref();
        self.selected(&(self.from..self.until), service, &self.matchers)
    }

    /// What it is compared with, if it is.
    fn base_selection(&self) -> Option<Selection<'_>> {
        self.base.as_ref().map(|(range, matchers)| self.selected(range, None, matchers))
    }

    fn selected<'a>(
        &'a self,
        range: &std::ops::Range<WallNs>,
        service: Option<&'a str>,
        matchers: &'a [Matcher],
    ) -> Selection<'a> {
        // A window belongs to the range that its middle lies in.
        let half = self.newest.map_or(0, |window| span(window.duration_ns / 2));
        Selection {
            profile_type: Some(self.question.profile_type()),
            service,
            matchers,
            range: WallNs(range.start.0.saturating_sub(half))..WallNs(range.end.0.saturating_sub(half)),
        }
    }
}

/// Where the range that ends now does: a window that is awaited is not missing yet; later than that, time goes on without
/// data, a window at a time, so that those which are there still fill whole steps. `None` if they have no length.
fn whole_windows(newest: Window, now: WallNs) -> Option<i64> {
    let length = whole_ms(span(newest.duration_ns));
    let ended = whole_ms(end(newest).0);
    let gone = now.0.saturating_sub(ended).checked_div(length)?;
    let missed = if gone <= 2 { 0 } else { gone };
    Some(ended.saturating_add(missed.saturating_mul(length)))
}

fn check_range(from: i64, until: i64) -> Result<(), Refusal> {
    if from >= until || until.saturating_sub(from) > span_of(RANGE_MAX) {
        return Err(Refusal::invalid("question", "the range must be longer than nothing and at most a day"));
    }
    if !(i64::MIN + END_OF_TIME..=i64::MAX - END_OF_TIME).contains(&from) {
        return Err(Refusal::invalid("question", "the range lies where no clock comes to"));
    }
    Ok(())
}

impl Question {
    fn profile_type(&self) -> &str {
        self.r#type.as_deref().unwrap_or(ProfileType::CPU)
    }

    fn group(&self) -> &str {
        self.group.as_deref().unwrap_or("service_name")
    }
}

/// The millisecond that `ns` is in: answers speak of times in milliseconds, so that is what they are made of.
fn whole_ms(ns: i64) -> i64 {
    ns.div_euclid(MS) * MS
}

fn span(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

fn span_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The window of that type that ended last, of those of the last day; a window of the future, by a clock that is ahead,
/// is not it.
fn newest(store: &Store, profile_type: &str, now: WallNs) -> Option<Window> {
    let horizon = now.0.saturating_add(1_000 * MS);
    let mut newest: Option<Window> = None;
    // Mostly it is minutes old: what is older is looked at where there is nothing else.
    for back in [RECENT, RANGE_MAX] {
        let range = WallNs(now.0.saturating_sub(span_of(back)))..WallNs(horizon);
        let selection = Selection { profile_type: Some(profile_type), service: None, matchers: &[], range };
        store.windows(&selection, None, |window, _, _| {
            if end(window).0 <= horizon && newest.is_none_or(|newest| end(newest) < end(window)) {
                newest = Some(window);
            }
        });
        if newest.is_some() {
            break;
        }
    }
    newest
}

/// Who used how much.
#[derive(Debug, Serialize)]
struct Services<'a> {
    now_ms: i64,
    from_ms: i64,
    until_ms: i64,
    /// Length of a point, milliseconds.
    step_ms: i64,
    /// Length of the newest window: how often there is something new.
    interval_ms: Option<i64>,
    /// When the newest window ended.
    newest_ms: Option<i64>,
    /// CPUs of this machine, if all that is shown was measured on it.
    cpus: Option<usize>,
    /// The profiler of this machine started the server and pushes to it.
    agent: bool,
    /// All types in that range, and perhaps some of its neighbours.
    types: BTreeSet<String>,
    r#type: &'a str,
    /// The label that services are told apart by.
    group: &'a str,
    total: u64,
    services: Vec<Service>,
    /// The rest.
    others: Others,
}

#[derive(Debug, Serialize)]
struct Service {
    /// The value of that label, empty where there is none.
    name: String,
    total: u64,
    /// One value for each step.
    points: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Others {
    services: usize,
    total: u64,
    points: Vec<u64>,
}

/// The machine that this server runs on.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// As agents on it call it.
    pub(super) name: String,
    /// Its CPUs.
    pub(super) cpus: Option<usize>,
    /// Its profiler started the server.
    pub(super) agent: bool,
}

impl Host {
    /// This machine, whose `agent` started the server or did not.
    pub(super) fn this(agent: bool) -> Self {
        Self {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            agent,
        }
    }
}

/// Who used how much, and when: the list and the graph above it.
pub(super) fn services(asked: &Resolved, now: WallNs, host: &Host, store: &Store) -> String {
    let (from, until) = (asked.from.0, asked.until.0);
    let interval = asked.newest.map(|window| whole_ms(span(window.duration_ns))).filter(|&ns| ns > 0);
    let steps_max = i64::try_from(asked.question.points.unwrap_or(POINTS).clamp(1, POINTS_MAX)).unwrap_or(1);
    // Whole windows make a step, so that no step shows less only because a window ended elsewhere.
    let unit = interval.unwrap_or(1_000 * MS);
    let units_per_step = ceiling(ceiling(until - from, unit), steps_max);
    let step = unit.saturating_mul(units_per_step).min(until - from);
    let steps = usize::try_from(ceiling(until - from, step)).unwrap_or(1);
    // Steps are counted from the end: the newest window is whole there.
    let origin = until - step * i64::try_from(steps).unwrap_or(1);

    let selection = asked.selection();
    let mut types = BTreeSet::new();
    let any = Selection { profile_type: None, service: None, matchers: &[], range: selection.range.clone() };
    store.series(&any, |series| {
        if !types.contains(series.profile_type().as_str()) {
            types.insert(series.profile_type().as_str().to_owned());
        }
    });
    let mut by_name: HashMap<String, Service> = HashMap::new();
    let mut local = true;
    store.windows(&selection, asked.shape.passage().as_ref(), |window, series, value| {
        local &= series.label("hostname") == Some(host.name.as_str());
        let name = series.value_of(asked.question.group()).unwrap_or_default();
        if !by_name.contains_key(name) {
            let new = Service { name: name.to_owned(), total: 0, points: vec![0; steps] };
            by_name.insert(name.to_owned(), new);
        }
        let service = by_name.get_mut(name).expect("it was put there if it was not");
        service.total = service.total.saturating_add(value);
        spread(&mut service.points, origin, step, from..until, window, value);
    });
    let mut services: Vec<_> = by_name.into_values().collect();
    services.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
    let total = services.iter().fold(0_u64, |sum, service| sum.saturating_add(service.total));
    let mut others = Others { services: 0, total: 0, points: vec![0; steps] };
    for service in services.drain(SERVICES_MAX.min(services.len())..) {
        others.services += 1;
        others.total = others.total.saturating_add(service.total);
        for (sum, value) in others.points.iter_mut().zip(service.points) {
            *sum = sum.saturating_add(value);
        }
    }
    let answer = Services {
        now_ms: now.0 / MS,
        from_ms: origin / MS,
        until_ms: until / MS,
        step_ms: step / MS,
        interval_ms: interval.map(|ns| ns / MS),
        newest_ms: asked.newest.map(|window| end(window).0 / MS),
        agent: host.agent,
        cpus: host.cpus.filter(|_| local && !services.is_empty()),
        types,
        r#type: asked.question.profile_type(),
        group: asked.question.group(),
        total,
        services,
        others,
    };
    serde_json::to_string(&answer).expect("numbers and texts can be written as JSON")
}

/// How many of `part` cover `whole`; both more than zero.
fn ceiling(whole: i64, part: i64) -> i64 {
    (whole - 1) / part + 1
}

/// Spreads `value` evenly over that part of `window` which is in `range`.
fn spread(
    points: &mut [u64],
    origin: i64,
    step: i64,
    range: std::ops::Range<i64>,
    window: Window,
    value: u64,
) {
    // Steps are whole milliseconds; a window that touches the next step by less is not in it.
    let begin = whole_ms(window.start.0).clamp(range.start, range.end - 1);
    let finish = whole_ms(end(window).0).clamp(begin + 1, range.end);
    let point_of = |time: i64| usize::try_from((time - origin) / step).unwrap_or(0).min(points.len() - 1);
    let (first, last) = (point_of(begin), point_of(finish - 1));
    let whole = i128::from(finish - begin);
    let mut given = 0_u64;
    for (point, sum) in points.iter_mut().enumerate().take(last + 1).skip(first) {
        // What has been given by the end of each point, so that rounding loses nothing.
        let until = (origin + step * i64::try_from(point + 1).unwrap_or(i64::MAX)).min(finish);
        let due = if point == last {
            value
        } else {
            u64::try_from(i128::from(value) * i128::from(until - begin) / whole).unwrap_or(value)
        };
        *sum = sum.saturating_add(due - given);
        given = due;
    }
}
