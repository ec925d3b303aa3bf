//! How good the stacks of each service are: figures on `/metrics`, and lines of text.
//!
//! In: the profiles of a window, or of a recording. Out: counters by service, as many as are bounded; or text for who
//! recorded, or who asks about a service. What whole, cut and unnamed mean is said in `model`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Label, Meters, label};
use crate::model::{Profile, Quality, Reason, Weight};
use crate::time::WallNs;

/// Services with counters of their own; the weight of the others is summed. A node of a cluster runs 110 pods unless told
/// otherwise, and each costs whoever keeps our metrics some series.
const SERVICES_MAX: usize = 128;

/// After so long without a sample a service gives its place to one that has none. Where containers come and go, the first ones
/// of the day would hold all places else.
const SILENT_MAX: Duration = Duration::from_secs(3600);

/// The service that those without a place are summed under.
const OTHERS: &str = "other";

/// How a stack ends that was not cut.
const WHOLE: &str = "whole";

/// Services of a recording that are listed; it is a summary.
const LISTED_MAX: usize = 5;

/// A service with counters.
#[derive(Debug)]
struct Place {
    /// Start of the last window with samples of it.
    heard: WallNs,
    /// Of all its stacks since it has counters. Why they were cut are labels of these.
    quality: Quality,
}

/// The services with counters. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Qualities(Arc<Mutex<FxHashMap<String, Place>>>);

impl Qualities {
    /// In words, how many samples there were of `service` and how good their stacks were; nothing if there was none lately.
    pub(super) fn of(&self, service: &str) -> Option<String> {
        let places = self.lock();
        let quality = &places.get(service)?.quality;
        Some(format!("{} samples: {}", quality.weight().0, line(quality)))
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<String, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts weight by service.
#[derive(Debug)]
pub(super) struct QualityMeters {
    places: Qualities,
    stacks: Counters,
    unnamed: Counters,
    over_max: Counter,
}

impl QualityMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            places: Qualities::default(),
            stacks: meters.counters(
                "profiler_stacks",
                "Samples, by service and by how their stacks end: whole, or the reason why they were cut",
            ),
            unnamed: meters.counters(
                "profiler_stacks_unnamed",
                "Samples with a stack, whole or cut, in which a frame has no name",
            ),
            over_max: meters.counter(
                "profiler_stacks_services_over_max",
                "Services of a window that were counted among the others because there were too many",
            ),
        }
    }

    /// For who asks about a service.
    pub(super) fn qualities(&self) -> Qualities {
        self.places.clone()
    }

    /// Counts the stacks of a window.
    pub(super) fn count(&mut self, profiles: &[Profile]) {
        for profile in profiles {
            let quality = Quality::of(profile);
            let service = self.counted_as(service(profile), profile.window.start, &quality);
            let Quality { whole, cut, unnamed } = quality;
            self.stacks.get_or_create(&of_end(service, WHOLE)).inc_by(whole.0);
            for (reason, weight) in cut {
                self.stacks.get_or_create(&of_end(service, reason.as_str())).inc_by(weight.0);
            }
            self.unnamed.get_or_create(&of_service(service)).inc_by(unnamed.0);
        }
    }

    /// What `service` is called in metrics.
    fn counted_as<'a>(&mut self, service: &'a str, now: WallNs, quality: &Quality) -> &'a str {
        if service == OTHERS {
            return OTHERS;
        }
        let places = self.places.clone();
        let mut places = places.lock();
        if !places.contains_key(service)
            && places.len() >= SERVICES_MAX
            && !self.forget_silent(&mut places, now)
        {
            self.over_max.inc();
            return OTHERS;
        }
        let fresh = || Place { heard: now, quality: Quality::default() };
        let place = places.entry(service.to_owned()).or_insert_with(fresh);
        place.heard = now;
        place.quality.merge(quality);
        service
    }

    /// Ends the counters of the service that has been silent for longest, if that is long enough.
    fn forget_silent(&self, places: &mut FxHashMap<String, Place>, now: WallNs) -> bool {
        let longest = places.iter().min_by_key(|(_, place)| place.heard.0);
        let Some((service, Place { heard, .. })) = longest else { return false };
        if u128::try_from(now.0.saturating_sub(heard.0)).unwrap_or(0) < SILENT_MAX.as_nanos() {
            return false;
        }
        let service = service.clone();
        let cut = places.remove(&service).map(|place| place.quality.cut).unwrap_or_default();
        for end in cut.into_keys().map(Reason::as_str).chain([WHOLE]) {
            self.stacks.remove(&of_end(&service, end));
        }
        self.unnamed.remove(&of_service(&service));
        true
    }
}

fn service(profile: &Profile) -> &str {
    profile.labels.get("service_name").unwrap_or("unknown")
}

/// As it is called in the profiles that are pushed, so that both can be looked up together.
fn of_service(service: &str) -> Label {
    label("service_name", service)
}

fn of_end(service: &str, end: &str) -> Label {
    let mut label = of_service(service);
    label.push(("end", end.to_owned()));
    label
}

/// A line on all stacks of a recording and one on each of its heaviest services, if it has more than one.
pub(super) fn summary(profiles: &[Profile]) -> String {
    let mut all = Quality::default();
    let mut services: BTreeMap<&str, Quality> = BTreeMap::new();
    for profile in profiles {
        let quality = Quality::of(profile);
        all.merge(&quality);
        services.entry(service(profile)).or_default().merge(&quality);
    }
    let mut text = format!("stacks: {}", line(&all));
    if services.len() < 2 {
        return text;
    }
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by_key(|(_, quality)| std::cmp::Reverse(quality.weight()));
    for (service, quality) in services.iter().take(LISTED_MAX) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {service}: {}", line(quality));
    }
    if let Some(more) = services.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        let _ = write!(text, "\n  and {more} more services");
    }
    text
}

/// `99.20 % whole; cut 0.50 % no frame pointer, 0.30 % stack too deep; 2.00 % with an unnamed frame`.
fn line(quality: &Quality) -> String {
    let weight = quality.weight();
    let Quality { whole, cut, unnamed } = quality;
    let mut text = format!("{} whole", percent(*whole, weight));
    let mut cut: Vec<_> = cut.iter().collect();
    cut.sort_by_key(|(_, weight)| std::cmp::Reverse(**weight));
    for (number, (reason, cut)) in cut.into_iter().enumerate() {
        let before = if number == 0 { "; cut" } else { "," };
        let _ = write!(text, "{before} {} {reason}", percent(*cut, weight));
    }
    let _ = write!(text, "; {} with an unnamed frame", percent(*unnamed, weight));
    text
}

/// `part` of `whole`; what is not nothing or all is not called so.
fn percent(part: Weight, whole: Weight) -> String {
    let percent = part.0 as f64 * 100.0 / whole.0 as f64;
    match part {
        Weight(0) => "0 %".to_owned(),
        part if part == whole => "100 %".to_owned(),
        _ if percent < 0.01 => "< 0.01 %".to_owned(),
        _ if percent > 99.99 => "> 99.99 %".to_owned(),
        _ => format!("{percent:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Function, FunctionIndex, Known, Labels, SampleKind, Stack};
    use crate::time::Window;

    const FUNCTIONS: [(&str, Known); 4] = [
        ("main", Known::Name),
        ("a.so+0x1", Known::Place),
        ("[no frame pointer]", Known::Nothing(Reason::NoFramePointer)),
        ("[stack too deep]", Known::Nothing(Reason::StackTooDeep)),
    ];

    /// A profile of `service` in the window that starts at `second`: each of [`FUNCTIONS`] is a root with `main` below it.
    fn profile(service: &str, second: i64, weights: [u64; 4]) -> Profile {
        let function = |&(name, known): &(&str, Known)| {
            let (file, module) = ("".into(), "".into());
            Arc::new(Function { name: name.into(), file, line: 0, module, kernel: false, known })
        };
        let stacks = (0..).zip(weights).filter(|(_, weight)| *weight > 0).map(|(root, weight)| Stack {
            functions: vec![FunctionIndex(0), FunctionIndex(root)],
            weight: Weight(weight),
            tag: None,
        });
        Profile {
            window: Window { start: WallNs(second * 1_000_000_000), duration_ns: 1 },
            kind: SampleKind::CpuTime { period_ns: 1 },
            labels: Arc::new(Labels::new([("service_name".into(), service.into())])),
            functions: FUNCTIONS.iter().map(function).collect(),
            stacks: stacks.collect(),
        }
    }

    /// The lines about stacks on the page after `windows`, without `profiler_stacks_`, sorted.
    fn counted(windows: &[Vec<Profile>]) -> Vec<String> {
        let meters = Meters::default();
        let mut quality = QualityMeters::new(&meters);
        windows.iter().for_each(|profiles| quality.count(profiles));
        let page = meters.render();
        let mut lines: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("profiler_stacks_"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    #[track_caller]
    fn check(windows: &[Vec<Profile>], expected: &[&str]) {
        assert_eq!(counted(windows), expected);
    }

    #[test]
    fn weight_is_counted_by_service_and_reason() {
        check(
            &[
                vec![profile("a", 0, [5, 1, 2, 1]), profile("b", 0, [3, 0, 0, 0])],
                vec![profile("a", 10, [1, 0, 2, 0])],
            ],
            &[
                "services_over_max_total 0",
                r#"total{service_name="a",end="no frame pointer"} 4"#,
                r#"total{service_name="a",end="stack too deep"} 1"#,
                r#"total{service_name="a",end="whole"} 7"#,
                r#"total{service_name="b",end="whole"} 3"#,
                r#"unnamed_total{service_name="a"} 1"#,
                r#"unnamed_total{service_name="b"} 0"#,
            ],
        );
    }

    #[test]
    fn a_hostile_name_forges_no_line() {
        let lines = counted(&[vec![profile("a\"} 9\nb{c=\"", 0, [1, 0, 0, 0])]]);
        assert_eq!(
            lines.last().map(String::as_str),
            Some(r#"unnamed_total{service_name="a\"} 9\nb{c=\""} 0"#)
        );
        assert_eq!(lines.len(), 3);
    }

    fn crowd(first: usize, second: i64) -> Vec<Profile> {
        (first..first + SERVICES_MAX)
            .map(|number| profile(&format!("s{number}"), second, [1, 0, 1, 0]))
            .collect()
    }

    fn has(lines: &[String], wanted: &str) -> bool {
        lines.iter().any(|line| line == wanted)
    }

    #[test]
    fn services_beyond_the_bound_are_summed_and_counted() {
        let late = vec![
            profile("late", 10, [2, 0, 0, 0]),
            profile("later", 10, [3, 0, 4, 0]),
            profile("s0", 10, [1, 0, 0, 0]),
        ];
        let lines = counted(&[crowd(0, 0), late]);
        assert!(has(&lines, r#"total{service_name="other",end="whole"} 5"#), "{lines:#?}");
        assert!(has(&lines, r#"total{service_name="other",end="no frame pointer"} 4"#));
        assert!(has(&lines, "services_over_max_total 2"));
        assert!(has(&lines, r#"total{service_name="s0",end="whole"} 2"#));
        assert_eq!(lines.iter().filter(|line| line.starts_with("unnamed_total")).count(), SERVICES_MAX + 1);
    }

    #[test]
    fn who_was_silent_for_an_hour_gives_its_place() {
        let mut loud = crowd(0, 3600);
        loud.remove(0);
        let lines = counted(&[crowd(0, 0), loud, vec![profile("new", 3600, [7, 0, 0, 0])]]);
        assert!(has(&lines, r#"total{service_name="new",end="whole"} 7"#), "{lines:#?}");
        assert!(has(&lines, "services_over_max_total 0"));
        assert!(!lines.iter().any(|line| line.contains(r#""s0""#)), "all its counters are gone");
        assert_eq!(lines.len(), 3 * SERVICES_MAX, "the new one has no cut stack");
    }

    #[test]
    fn a_thousand_services_at_once_are_as_many_counters_as_one_crowd() {
        let windows: Vec<_> = (0..8).map(|number| crowd(number * SERVICES_MAX, 0)).collect();
        assert_eq!(counted(&windows).len(), 3 * (SERVICES_MAX + 1) + 1);
    }

    #[track_caller]
    fn check_summary(profiles: &[Profile], expected: &str) {
        assert_eq!(summary(profiles), expected);
    }

    #[test]
    fn a_recording_of_one_service_has_one_line() {
        check_summary(
            &[profile("a", 0, [75, 0, 20, 4]), profile("a", 0, [0, 1, 0, 0])],
            "stacks: 76.00 % whole; cut 20.00 % no frame pointer, 4.00 % stack too deep; 1.00 % with an unnamed frame",
        );
    }

    #[test]
    fn the_heaviest_services_are_listed() {
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        let profiles: Vec<_> =
            (1..).zip(many).map(|(weight, service)| profile(service, 0, [weight, 0, 0, 0])).collect();
        let services: Vec<_> = summary(&profiles)
            .lines()
            .skip(1)
            .map(|line| line.trim().split(':').next().unwrap_or("").to_owned())
            .collect();
        assert_eq!(services, ["g", "f", "e", "d", "c", "and 2 more services"]);
    }

    #[test]
    fn what_is_nearly_all_is_not_all() {
        check_summary(
            &[profile("a", 0, [1_000_000, 0, 1, 0])],
            "stacks: > 99.99 % whole; cut < 0.01 % no frame pointer; 0 % with an unnamed frame",
        );
        check_summary(&[profile("a", 0, [1, 0, 0, 0])], "stacks: 100 % whole; 0 % with an unnamed frame");
    }
}
