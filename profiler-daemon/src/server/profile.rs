//! A pprof that someone pushed, checked before it is believed.
//!
//! In: the bytes of one profile and the labels of its series. Out: stacks and values in the store, or a refusal.
//! The limits are those of a Pyroscope in its default configuration, so that what is accepted here is accepted there.
//! Not here: requests and batches (`push`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::refusal::{Code, Refusal};
use super::store::{FunctionId, Labels, ProfileType, ROOT, Segment, Series, StackId, Store, Written};
use super::wire;
use crate::pprof::{GunzipError, Message, Profile, ValueType, gunzip, is_gzip};
use crate::time::{WallNs, Window};

/// What a profile may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one profile, decompressed.
    pub profile_bytes_max: usize,
    /// Samples of one profile.
    pub samples_max: usize,
    /// Messages inside one profile (samples, locations, lines, labels, texts, …): a few bytes each on the wire,
    /// but a hundred in memory.
    pub parts_max: usize,
    /// Frames of one stack; of a deeper one the root's end is kept below a frame that says so.
    pub frames_max: usize,
    /// Frames of all stacks of one profile together: each may become a node of the store's tree.
    pub frames_sum_max: usize,
    /// Bytes of the name of a function, a file or a module; what is longer is cut.
    pub name_bytes_max: usize,
    /// Labels of a series, those of its samples included.
    pub labels_max: usize,
    /// Bytes of a label's name.
    pub label_name_bytes_max: usize,
    /// Bytes of a label's value.
    pub label_value_bytes_max: usize,
    /// How old a profile may be.
    pub age_max: Duration,
    /// How far ahead of our clock a profile may be.
    pub ahead_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            profile_bytes_max: 4 << 20,
            samples_max: 16_000,
            parts_max: 1 << 19,
            frames_max: 2048,
            frames_sum_max: 1 << 21,
            name_bytes_max: 4096,
            labels_max: 30,
            label_name_bytes_max: 1024,
            label_value_bytes_max: 2048,
            age_max: Duration::from_secs(3600),
            ahead_max: Duration::from_secs(600),
        }
    }
}

/// What became of a profile that was not refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// It was here already.
    pub(super) duplicate: bool,
    /// Samples left out because a value was negative.
    pub(super) negative: u64,
    /// Windows dropped for it.
    pub(super) evicted: super::store::Evicted,
}

/// Puts the profile in `bytes` under `labels`, which are those of the request.
pub(super) fn take(
    bytes: &[u8],
    labels: &Labels,
    limits: &Limits,
    now: WallNs,
    store: &mut Store,
) -> Result<Taken, Refusal> {
    let bytes = decompressed(bytes, limits)?;
    let profile = decode(&bytes, limits)?;
    let window = window(&profile, labels, limits, now)?;
    // Without a time of its own a profile is of now, and no two are of the same now.
    let digest = (profile.time_nanos != 0).then(|| Store::digest(labels, profile.time_nanos, &bytes));
    if digest.is_some_and(|digest| store.holds(&digest)) {
        return Ok(Taken { duplicate: true, ..Taken::default() });
    }
    let checked = Checked::new(&profile, limits)?;
    let groups = checked.groups(labels, limits)?;
    if !store.has_room_for(groups.iter().flat_map(|group| &group.series)) {
        return Err(Refusal::exhausted("series", "too many series: use fewer label values"));
    }
    if store.is_stuck() {
        return Err(Refusal::new(Code::Unavailable, "disk", "history cannot be written: not stored"));
    }
    let negative = checked.put(&groups, window, limits, store.open_segment(now));
    let evicted = store.close(digest, window, now);
    Ok(Taken { duplicate: false, negative, evicted })
}

/// The profile's bytes as they were before they were compressed, if they were.
pub(super) fn decompressed<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, Refusal> {
    let too_large = || {
        let max = limits.profile_bytes_max;
        Refusal::invalid("size", format!("uncompressed profile payload size exceeds limit of {max} bytes"))
    };
    if is_gzip(bytes) {
        return match gunzip(bytes, limits.profile_bytes_max) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(GunzipError::TooLarge { .. }) => Err(too_large()),
            Err(error @ GunzipError::Malformed(_)) => {
                Err(Refusal::invalid("malformed", format!("malformed profile: {error}")))
            }
        };
    }
    if bytes.len() > limits.profile_bytes_max { Err(too_large()) } else { Ok(Cow::Borrowed(bytes)) }
}

fn malformed(what: impl std::fmt::Display) -> Refusal {
    Refusal::invalid("malformed", format!("malformed profile: {what}"))
}

/// A pprof; its references may lead nowhere.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Profile, Refusal> {
    /// Samples and locations: the messages of a profile that hold messages.
    const NESTING: &[u64] = &[2, 4];
    let parts = wire::parts(bytes, NESTING).ok_or_else(|| malformed("not a whole protobuf message"))?;
    if parts > limits.parts_max {
        return Err(Refusal::invalid(
            "parts",
            format!("profile has {parts} parts; limit {}", limits.parts_max),
        ));
    }
    Profile::decode(bytes).map_err(malformed)
}

fn window(profile: &Profile, labels: &Labels, limits: &Limits, now: WallNs) -> Result<Window, Refusal> {
    let span = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let time = if profile.time_nanos == 0 { now.0 } else { profile.time_nanos };
    let (oldest, newest) =
        (now.0.saturating_sub(span(limits.age_max)), now.0.saturating_add(span(limits.ahead_max)));
    if time < oldest || time > newest {
        let ahead = i128::from(time) - i128::from(now.0);
        let (seconds, side) = (ahead.abs() / 1_000_000_000, if ahead < 0 { "old" } else { "ahead" });
        return Err(Refusal::invalid(
            "time",
            format!(
                "profile with labels '{}' is outside of ingestion window: it is {seconds} s {side}, accepted are \
                 {} s old to {} s ahead",
                Written(labels),
                limits.age_max.as_secs(),
                limits.ahead_max.as_secs()
            ),
        ));
    }
    let longest = u64::try_from(span(limits.age_max)).unwrap_or(0);
    let duration_ns = u64::try_from(profile.duration_nanos).unwrap_or(0).min(longest);
    Ok(Window { start: WallNs(time), duration_ns })
}

/// A profile in which every reference leads somewhere.
struct Checked<'a> {
    profile: &'a Profile,
    /// By the id of a location, its index.
    locations: FxHashMap<u64, usize>,
    functions: FxHashMap<u64, usize>,
    mappings: FxHashMap<u64, usize>,
}

/// Samples of equal labels.
struct Group {
    /// One for each sample type.
    series: Vec<Series>,
    /// Indices of samples.
    samples: Vec<usize>,
}

impl<'a> Checked<'a> {
    fn new(profile: &'a Profile, limits: &Limits) -> Result<Self, Refusal> {
        if profile.sample_type.is_empty() {
            return Err(Refusal::invalid("malformed", "empty profile: it has no sample type"));
        }
        if profile.sample.len() > limits.samples_max {
            return Err(Refusal::invalid(
                "samples",
                format!("profile has {} samples; limit {}", profile.sample.len(), limits.samples_max),
            ));
        }
        if profile.string_table.first().is_none_or(|first| !first.is_empty()) {
            return Err(malformed("the first text of the string table is not empty"));
        }
        let checked = Self {
            profile,
            locations: ids("location", profile.location.iter().map(|location| location.id))?,
            functions: ids("function", profile.function.iter().map(|function| function.id))?,
            mappings: ids("mapping", profile.mapping.iter().map(|mapping| mapping.id))?,
        };
        checked.check_texts()?;
        checked.check_locations()?;
        checked.check_samples(limits)?;
        Ok(checked)
    }

    fn text(&self, index: i64) -> &'a str {
        self.profile.text(index).expect("all texts were looked up by `check_texts`")
    }

    fn check_texts(&self) -> Result<(), Refusal> {
        let profile = self.profile;
        let types = profile.sample_type.iter().chain(&profile.period_type);
        let texts = (types.flat_map(|kind| [kind.r#type, kind.unit]))
            .chain(profile.mapping.iter().map(|mapping| mapping.filename))
            .chain(profile.function.iter().flat_map(|function| [function.name, function.filename]))
            .chain(profile.sample.iter().flat_map(|sample| &sample.label).flat_map(|l| [l.key, l.str]));
        for index in texts {
            if profile.text(index).is_none() {
                return Err(malformed(format!("text {index} is not in the string table")));
            }
        }
        match profile.sample_type.iter().map(|kind| self.text(kind.r#type)).find(|name| name.contains('-')) {
            Some(name) => Err(malformed(format!("sample type {name:?} contains '-'"))),
            None => Ok(()),
        }
    }

    fn check_locations(&self) -> Result<(), Refusal> {
        for location in &self.profile.location {
            if location.mapping_id != 0 && !self.mappings.contains_key(&location.mapping_id) {
                return Err(malformed(format!("there is no mapping {}", location.mapping_id)));
            }
            for line in &location.line {
                if !self.functions.contains_key(&line.function_id) {
                    return Err(malformed(format!("there is no function {}", line.function_id)));
                }
            }
        }
        Ok(())
    }

    fn check_samples(&self, limits: &Limits) -> Result<(), Refusal> {
        let types = self.profile.sample_type.len();
        let mut frames_sum = 0_usize;
        for sample in &self.profile.sample {
            if sample.value.len() != types {
                let values = sample.value.len();
                return Err(malformed(format!("a sample has {values} values for {types} sample types")));
            }
            let mut frames = 0_usize;
            for id in &sample.location_id {
                let Some(&location) = self.locations.get(id) else {
                    return Err(malformed(format!("there is no location {id}")));
                };
                frames = frames.saturating_add(self.profile.location[location].line.len().max(1));
            }
            frames_sum = frames_sum.saturating_add(frames.min(limits.frames_max));
        }
        if frames_sum > limits.frames_sum_max {
            return Err(Refusal::invalid(
                "frames",
                format!("profile has {frames_sum} frames; limit {}", limits.frames_sum_max),
            ));
        }
        Ok(())
    }

    /// Texts that label samples make series of their own; the labels of the request win. Numbers, and what is
    /// different for each sample by its nature, are left out, as a Pyroscope does.
    fn groups(&self, labels: &Labels, limits: &Limits) -> Result<Vec<Group>, Refusal> {
        let mut by_labels: FxHashMap<Vec<(i64, i64)>, Vec<usize>> = FxHashMap::default();
        for (index, sample) in self.profile.sample.iter().enumerate() {
            let mut key: Vec<_> = (sample.label.iter())
                .filter(|label| label.str != 0 && label.key != 0)
                .filter(|label| {
                    !matches!(self.text(label.key), "trace_id" | "span_id" | "profile_id" | "__session_id__")
                })
                .map(|label| (label.key, label.str))
                .collect();
            key.sort_unstable();
            by_labels.entry(key).or_default().push(index);
        }
        let name = labels.iter().find(|(name, _)| &**name == "__name__").map_or("", |(_, value)| value);
        let pair = |kind: &ValueType| (self.text(kind.r#type), self.text(kind.unit));
        let period = self.profile.period_type.as_ref().map_or(("", ""), pair);
        let mut groups = Vec::with_capacity(by_labels.len());
        for (key, samples) in by_labels {
            let mut labels = labels.clone();
            for (name, value) in key {
                let (name, value) = (self.text(name), self.text(value));
                if let Err(place) = labels.binary_search_by(|(known, _)| (**known).cmp(name)) {
                    labels.insert(place, (name.into(), value.into()));
                }
            }
            check_labels(&labels, limits)?;
            let labels = Arc::new(labels);
            let series = (self.profile.sample_type.iter())
                .map(|kind| Series::new(Arc::clone(&labels), ProfileType::new(name, pair(kind), period)))
                .collect();
            groups.push(Group { series, samples });
        }
        Ok(groups)
    }

    /// Puts all samples into `segment`; returns how many were left out for a negative value.
    fn put(&self, groups: &[Group], window: Window, limits: &Limits, segment: &mut Segment) -> u64 {
        let frames: Vec<Vec<FunctionId>> =
            self.profile.location.iter().map(|location| self.frames(location, limits, segment)).collect();
        let too_deep = segment.function("[stack too deep]", "", "", 0);
        let mut negative = 0;
        let mut stack = Vec::new();
        let mut pairs: Vec<Vec<(StackId, u64)>> = vec![Vec::new(); self.profile.sample_type.len()];
        for group in groups {
            // One for all groups: the labels of the request win, and they name the service.
            let tree = segment.tree(group.series.first().map_or("", |series| series.service()));
            for &index in &group.samples {
                let sample = &self.profile.sample[index];
                if sample.value.iter().any(|&value| value < 0) {
                    negative += 1;
                    continue;
                }
                if sample.value.iter().all(|&value| value == 0) {
                    continue;
                }
                stack.clear();
                let from_root =
                    sample.location_id.iter().rev().flat_map(|id| frames[self.locations[id]].iter().rev());
                stack.extend(from_root.take(limits.frames_max + 1));
                if stack.len() > limits.frames_max {
                    stack[limits.frames_max] = too_deep;
                }
                let node = stack.iter().fold(ROOT, |parent, &function| segment.call(tree, parent, function));
                for (pairs, &value) in pairs.iter_mut().zip(&sample.value) {
                    if let Ok(value @ 1..) = u64::try_from(value) {
                        pairs.push((node, value));
                    }
                }
            }
            for (series, pairs) in group.series.iter().zip(&mut pairs) {
                if !pairs.is_empty() {
                    segment.keep(series, window, pairs);
                    pairs.clear();
                }
            }
        }
        negative
    }

    /// The functions at a location, leaf first. One without a name is called by its address.
    fn frames(
        &self,
        location: &crate::pprof::Location,
        limits: &Limits,
        segment: &mut Segment,
    ) -> Vec<FunctionId> {
        let module = (self.mappings.get(&location.mapping_id))
            .map_or("", |&mapping| self.text(self.profile.mapping[mapping].filename));
        let module = shortened(module, limits.name_bytes_max);
        let nameless = |segment: &mut Segment| {
            let file = module.rsplit('/').next().unwrap_or_default();
            let file = if file.is_empty() { "unknown" } else { file };
            segment.function(&format!("{file}+{:#x}", location.address), "", &module, 0)
        };
        if location.line.is_empty() {
            return vec![nameless(segment)];
        }
        let frame = |line: &crate::pprof::Line| {
            let function = &self.profile.function[self.functions[&line.function_id]];
            let name = shortened(self.text(function.name), limits.name_bytes_max);
            if name.is_empty() {
                return nameless(segment);
            }
            let file = shortened(self.text(function.filename), limits.name_bytes_max);
            let known = if function.start_line > 0 { function.start_line } else { line.line };
            segment.function(&name, &file, &module, u32::try_from(known).unwrap_or(0))
        };
        location.line.iter().map(frame).collect()
    }
}

fn ids(what: &str, all: impl ExactSizeIterator<Item = u64>) -> Result<FxHashMap<u64, usize>, Refusal> {
    let mut index_of = FxHashMap::with_capacity_and_hasher(all.len(), rustc_hash::FxBuildHasher);
    for (index, id) in all.enumerate() {
        if id == 0 || index_of.insert(id, index).is_some() {
            return Err(malformed(format!("{what} id {id} is zero or not unique")));
        }
    }
    Ok(index_of)
}

fn shortened(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(bytes_max)]))
}

/// Sorts the labels of a request and completes them; refuses what a Pyroscope refuses.
pub(super) fn complete(
    labels: impl IntoIterator<Item = (String, String)>,
    limits: &Limits,
) -> Result<Labels, Refusal> {
    let mut labels: Labels = (labels.into_iter())
        .filter(|(name, _)| name != "__session_id__")
        .map(|(name, value)| (name.into_boxed_str(), value.into_boxed_str()))
        .collect();
    if !labels.iter().any(|(name, _)| &**name == "service_name") {
        labels.push(("service_name".into(), "unknown_service".into()));
    }
    labels.sort();
    let refuse = |why: &str| {
        let message = format!("invalid labels '{}' with error: {why}", Written(&labels));
        Err(Refusal::invalid("labels", message))
    };
    if labels.iter().any(|(name, value)| &**name == "service_name" && value.is_empty()) {
        return refuse("service name is not provided");
    }
    if !labels.iter().any(|(name, value)| &**name == "__name__" && !value.is_empty()) {
        return refuse("invalid metric name");
    }
    check_labels(&labels, limits)?;
    Ok(labels)
}

fn check_labels(labels: &Labels, limits: &Limits) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::invalid("labels", why));
    if labels.len() > limits.labels_max {
        let (count, max) = (labels.len(), limits.labels_max);
        return refuse(format!("profile series has {count} label names; limit {max}: '{}'", Written(labels)));
    }
    for (name, value) in labels {
        if name.is_empty() || name.len() > limits.label_name_bytes_max {
            let max = limits.label_name_bytes_max;
            return refuse(format!("label name is empty or longer than {max} bytes: '{name}'"));
        }
        if value.len() > limits.label_value_bytes_max {
            let max = limits.label_value_bytes_max;
            return refuse(format!("value of label '{name}' is longer than {max} bytes"));
        }
    }
    match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => refuse(format!("profile has duplicate label name: '{}'", pair[0].0)),
        None => Ok(()),
    }
}
