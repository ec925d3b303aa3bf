//! The pprof format: `perftools.profiles.Profile`, written by `encode`, read by the embedded server and by tests.
//!
//! In and out: bytes. The numbers are those of the public `profile.proto`; unknown fields are skipped.
//! Not here: what a profile of ours holds (`encode`), and what a server accepts (`server`).

use std::io::{Read, Write};
use std::ops::Range;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
pub use prost::{DecodeError, Message};
use rustc_hash::{FxHashMap, FxHashSet};

/// A profile. Every text in it is an index into `string_table`.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What the values of a sample mean, in their order.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// Stacks with their values.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Files that code ran from. The first is the main program.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Places in code.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// Texts; the first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// Expression for frames that readers may drop, with all below them.
    #[prost(int64, tag = "7")]
    pub drop_frames: i64,
    /// Expression for frames that are kept although they match `drop_frames`.
    #[prost(int64, tag = "8")]
    pub keep_frames: i64,
    /// When the window began, nanoseconds since the epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// Length of the window, nanoseconds.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What `period` counts. Always set: a Pyroscope without it panics.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// Events between two samples.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Free text.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// The sample type to show first.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// A kind of value: what is counted, and in which unit.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ValueType {
    /// For example `cpu`.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// For example `nanoseconds`.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack and what it weighs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sample {
    /// Ids of locations, leaf first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One value for each sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Further facts. A Pyroscope makes series of texts and drops numbers.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A fact about a sample: a text, or a number.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Label {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// The text, or zero.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// The number.
    #[prost(int64, tag = "3")]
    pub num: i64,
    /// Unit of the number.
    #[prost(int64, tag = "4")]
    pub num_unit: i64,
}

/// A file that code ran from.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mapping {
    /// Not zero, unique in the profile.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// First address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// First address after it.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Offset in the file of the first address, bytes.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// The file.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Its build id, hexadecimal.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// Locations in it have functions. Without it a Pyroscope takes them for nameless.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// Functions in it have files.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// Lines in it have numbers.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    /// Locations in it list what is inlined there.
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A place in code.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Location {
    /// Not zero, unique in the profile.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The mapping it is in, or zero.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Its address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// The functions that are there: inlined ones before the one they are inlined into.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
    /// Several functions share this code.
    #[prost(bool, tag = "5")]
    pub is_folded: bool,
}

/// A function at a location.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// The line in its file, or zero.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Function {
    /// Not zero, unique in the profile.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name for people.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Its name for linkers.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Its source file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
    /// The line where it starts, or zero.
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}

impl Profile {
    /// The text at `index`, if there is one.
    pub fn text(&self, index: i64) -> Option<&str> {
        usize::try_from(index).ok().and_then(|index| self.string_table.get(index)).map(String::as_str)
    }

    /// The same with only those `samples`, and nothing but what they need.
    #[must_use]
    pub fn part(&self, samples: Range<usize>) -> Self {
        let sample = self.sample.get(samples).unwrap_or_default();
        let locations: FxHashSet<u64> =
            sample.iter().flat_map(|sample| &sample.location_id).copied().collect();
        let location = self.location.iter().filter(|location| locations.contains(&location.id));
        let location: Vec<Location> = location.cloned().collect();
        let functions: FxHashSet<u64> =
            location.iter().flat_map(|location| &location.line).map(|line| line.function_id).collect();
        let mappings: FxHashSet<u64> = location.iter().map(|location| location.mapping_id).collect();
        let mut strings = Strings::default();
        let mut text = |index: i64| strings.intern(self.text(index).unwrap_or_default());
        let mut value_type = |of: &ValueType| ValueType { r#type: text(of.r#type), unit: text(of.unit) };
        let sample_type = self.sample_type.iter().map(&mut value_type).collect();
        let period_type = self.period_type.as_ref().map(&mut value_type);
        let label = |label: &Label, text: &mut dyn FnMut(i64) -> i64| Label {
            key: text(label.key),
            str: text(label.str),
            num: label.num,
            num_unit: text(label.num_unit),
        };
        let sample = sample.iter().map(|sample| Sample {
            location_id: sample.location_id.clone(),
            value: sample.value.clone(),
            label: sample.label.iter().map(|of| label(of, &mut text)).collect(),
        });
        let sample = sample.collect();
        let mapping = self.mapping.iter().filter(|mapping| mappings.contains(&mapping.id));
        let mapping = mapping.map(|mapping| Mapping {
            filename: text(mapping.filename),
            build_id: text(mapping.build_id),
            ..*mapping
        });
        let mapping = mapping.collect();
        let function = self.function.iter().filter(|function| functions.contains(&function.id));
        let function = function.map(|function| Function {
            name: text(function.name),
            system_name: text(function.system_name),
            filename: text(function.filename),
            ..*function
        });
        let function = function.collect();
        Self {
            sample_type,
            sample,
            mapping,
            location,
            function,
            drop_frames: text(self.drop_frames),
            keep_frames: text(self.keep_frames),
            time_nanos: self.time_nanos,
            duration_nanos: self.duration_nanos,
            period_type,
            period: self.period,
            comment: self.comment.iter().map(|&comment| text(comment)).collect(),
            default_sample_type: text(self.default_sample_type),
            string_table: strings.finish(),
        }
    }
}

/// A string table being filled: each text once, the empty one first.
#[derive(Clone, Debug)]
pub struct Strings {
    indices: FxHashMap<String, i64>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { indices: FxHashMap::from_iter([(String::new(), 0)]) }
    }
}

impl Strings {
    /// The index of `text`, which is added if it is new.
    pub fn intern(&mut self, text: &str) -> i64 {
        if let Some(&index) = self.indices.get(text) {
            return index;
        }
        let index = i64::try_from(self.indices.len()).expect("memory holds fewer texts than i64 counts");
        self.indices.insert(text.to_owned(), index);
        index
    }

    /// The table.
    pub fn finish(self) -> Vec<String> {
        let mut table = vec![String::new(); self.indices.len()];
        for (text, index) in self.indices {
            let index = usize::try_from(index).expect("indices count the table's own entries");
            table[index] = text;
        }
        table
    }
}

/// Why compressed bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GunzipError {
    /// More than the caller has room for: a large profile, or a bomb.
    #[error("more than {bytes_max} bytes when decompressed")]
    TooLarge {
        /// What the caller has room for.
        bytes_max: usize,
    },
    /// Cut short, or not gzip.
    #[error("not whole gzip: {0}")]
    Malformed(std::io::Error),
}

/// True if `bytes` begin as gzip does; a pprof message never begins like that.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// `bytes` as gzip, compressed for speed: profiles are small and pushed often.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 3 + 64), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail")
}

/// What `bytes`, which are gzip, hold; never more than `bytes_max`.
pub fn gunzip(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, GunzipError> {
    let mut whole = Vec::new();
    let room = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes).take(room).read_to_end(&mut whole).map_err(GunzipError::Malformed)?;
    if whole.len() > bytes_max { Err(GunzipError::TooLarge { bytes_max }) } else { Ok(whole) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_profile_survives_the_way_to_bytes_and_back() {
        let mut strings = Strings::default();
        let cpu = ValueType { r#type: strings.intern("cpu"), unit: strings.intern("nanoseconds") };
        let profile = Profile {
            sample_type: vec![cpu],
            sample: vec![Sample { location_id: vec![1], value: vec![7], label: vec![] }],
            location: vec![Location {
                id: 1,
                line: vec![Line { function_id: 1, line: 3 }],
                ..Default::default()
            }],
            function: vec![Function { id: 1, name: strings.intern("main"), ..Default::default() }],
            period_type: Some(cpu),
            string_table: strings.finish(),
            ..Default::default()
        };
        let back = Profile::decode(profile.encode_to_vec().as_slice()).unwrap();
        assert_eq!(back, profile);
        assert_eq!(back.text(back.function[0].name), Some("main"));
        assert_eq!(back.text(-1), None);
        assert_eq!(back.text(99), None);
    }

    /// Two stacks that share a function.
    fn two_stacks() -> Profile {
        let mut strings = Strings::default();
        let cpu = ValueType { r#type: strings.intern("cpu"), unit: strings.intern("nanoseconds") };
        let mut function = |id, name: &str| Function { id, name: strings.intern(name), ..Default::default() };
        let function = vec![function(1, "main"), function(2, "left"), function(3, "right")];
        let location = |id| Location {
            id,
            mapping_id: id.min(2),
            line: vec![Line { function_id: id, line: 3 }],
            ..Default::default()
        };
        let label =
            vec![Label { key: strings.intern("comm"), str: strings.intern("web"), ..Default::default() }];
        let mut mapping =
            |id, file: &str| Mapping { id, filename: strings.intern(file), ..Default::default() };
        Profile {
            sample_type: vec![cpu],
            sample: vec![
                Sample { location_id: vec![2, 1], value: vec![7], label },
                Sample { location_id: vec![3, 1], value: vec![5], label: vec![] },
            ],
            mapping: vec![mapping(1, "/bin/main"), mapping(2, "/lib/sides")],
            location: vec![location(1), location(2), location(3)],
            function,
            time_nanos: 11,
            duration_nanos: 13,
            period_type: Some(cpu),
            period: 1,
            string_table: strings.finish(),
            ..Default::default()
        }
    }

    #[test]
    fn a_part_holds_its_samples_and_what_they_need() {
        let whole = two_stacks();
        assert_eq!(whole.part(0..2).sample.len(), 2);
        let right = whole.part(1..2);
        let names: Vec<_> =
            right.function.iter().map(|function| right.text(function.name).unwrap()).collect();
        assert_eq!(names, ["main", "right"]);
        let mut texts = right.string_table.clone();
        texts.sort_unstable();
        assert_eq!(texts, ["", "/bin/main", "/lib/sides", "cpu", "main", "nanoseconds", "right"]);
        assert_eq!(
            (right.sample[0].value[0], right.sample_type, right.period_type),
            (5, vec![ValueType { r#type: 1, unit: 2 }], Some(ValueType { r#type: 1, unit: 2 }))
        );
        assert_eq!((right.time_nanos, right.duration_nanos, right.period), (11, 13, 1));
        let left = whole.part(0..1);
        assert_eq!(left.text(left.sample[0].label[0].str), Some("web"));
        assert_eq!(whole.part(2..9), Profile { sample: vec![], ..whole.part(2..2) });
    }

    #[test]
    fn the_numbers_of_the_fields_are_the_public_ones() {
        let profile = Profile { time_nanos: 1, default_sample_type: 2, ..Default::default() };
        assert_eq!(profile.encode_to_vec(), [9 << 3, 1, 14 << 3, 2]);
    }

    #[test]
    fn a_text_is_kept_once_and_the_empty_one_is_first() {
        let mut strings = Strings::default();
        assert_eq!(
            [strings.intern("a"), strings.intern(""), strings.intern("b"), strings.intern("a")],
            [1, 0, 2, 1]
        );
        assert_eq!(strings.finish(), ["", "a", "b"]);
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 1 << 15);
        assert!(matches!(gunzip(&bomb, 1 << 16), Err(GunzipError::TooLarge { bytes_max: 65_536 })));
        assert_eq!(gunzip(&bomb, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn gzip_that_is_cut_short_is_refused() {
        let mut bytes = gzip(b"a profile");
        bytes.truncate(bytes.len() - 3);
        assert!(matches!(gunzip(&bytes, 100), Err(GunzipError::Malformed(_))));
    }
}
