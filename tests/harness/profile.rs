//! A profile as tests look at it, whatever format it came in.

use std::collections::HashMap;

use profiler_daemon::pprof::{self, Message};

/// Bytes of a decompressed profile at most.
const PPROF_BYTES_MAX: usize = 256 << 20;

/// One stack and what it weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Name of the thread.
    pub comm: String,
    /// Its process; zero in folded text.
    pub pid: u32,
    /// The series; empty in folded text.
    pub service_name: String,
    /// Root first.
    pub frames: Vec<Frame>,
    /// Samples.
    pub samples: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function's name.
    pub name: String,
    /// The file it is in; empty in folded text.
    pub module: String,
    /// Code of the kernel.
    pub kernel: bool,
}

impl Stack {
    /// Frames that are not the kernel's.
    pub fn user(&self) -> impl DoubleEndedIterator<Item = &Frame> {
        self.frames.iter().filter(|frame| !frame.kernel)
    }

    /// Why it is cut, as its root says; `None` if it is not.
    pub fn cut(&self) -> Option<&str> {
        let root = &self.frames.first()?.name;
        root.strip_prefix('[')?.strip_suffix(']')
    }

    /// Whether the thread was in user code.
    pub fn in_user_code(&self) -> bool {
        self.frames.last().is_some_and(|leaf| !leaf.kernel)
    }
}

/// A profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its stacks.
    pub stacks: Vec<Stack>,
    /// Nanoseconds that one sample stands for; zero in folded text.
    pub period_ns: u64,
}

impl Profile {
    /// All samples.
    pub fn samples(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.samples).sum()
    }

    /// The part of it that belongs to threads called `comm`, or `comm-` and a number.
    #[must_use]
    pub fn of(&self, comm: &str) -> Self {
        let is_own = |stack: &&Stack| {
            let rest = stack.comm.strip_prefix(comm);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let stacks = self.stacks.iter().filter(is_own).cloned().collect();
        Self { stacks, period_ns: self.period_ns }
    }
}

impl Profile {
    /// Gives names to frames that have none but `file+0xaddress`, where `name` knows one.
    ///
    /// # Panics
    ///
    /// When an address is none.
    pub fn name_addresses(&mut self, file: &str, name: impl Fn(u64) -> Option<String>) {
        for frame in self.stacks.iter_mut().flat_map(|stack| &mut stack.frames) {
            let Some((path, digits)) = frame.name.rsplit_once("+0x") else { continue };
            if path.rsplit('/').next() == Some(file)
                && let Some(name) = name(u64::from_str_radix(digits, 16).expect("an address"))
            {
                frame.name = name;
            }
        }
    }
}

/// Reads folded text: `comm;root;…;leaf count` a line.
///
/// # Panics
///
/// When it is not that.
pub fn from_folded(text: &str) -> Profile {
    let stack = |line: &str| {
        let (stack, count) =
            line.rsplit_once(' ').unwrap_or_else(|| panic!("a line without a count: {line}"));
        let mut parts = stack.split(';').map(str::to_owned);
        Stack {
            comm: parts.next().unwrap_or_default(),
            pid: 0,
            service_name: String::new(),
            frames: parts
                .map(|part| match part.strip_suffix("_[k]") {
                    Some(name) => Frame { name: name.to_owned(), module: String::new(), kernel: true },
                    None => Frame { name: part, module: String::new(), kernel: false },
                })
                .collect(),
            samples: count.parse().unwrap_or_else(|_| panic!("a count that is no number: {line}")),
        }
    };
    Profile { stacks: text.lines().map(stack).collect(), period_ns: 0 }
}

/// Start and length of the window of a pprof, nanoseconds.
///
/// # Panics
///
/// When it is not that.
pub fn window(bytes: &[u8]) -> (i64, i64) {
    let message = message(bytes);
    (message.time_nanos, message.duration_nanos)
}

/// A pprof, gzipped or not.
fn message(bytes: &[u8]) -> pprof::Profile {
    let gunzipped = bytes.starts_with(b"\x1f\x8b").then(|| pprof::gunzip(bytes, PPROF_BYTES_MAX));
    let bytes = gunzipped.map_or_else(|| bytes.to_vec(), |bytes| bytes.expect("whole gzip"));
    pprof::Profile::decode(bytes.as_slice()).expect("whole pprof")
}

/// Reads pprof, gzipped or not.
///
/// # Panics
///
/// When it is not that, or refers to what it does not hold.
pub fn from_pprof(bytes: &[u8]) -> Profile {
    let message = message(bytes);
    let functions: HashMap<u64, &pprof::Function> = message.function.iter().map(|f| (f.id, f)).collect();
    let mappings: HashMap<u64, &pprof::Mapping> = message.mapping.iter().map(|m| (m.id, m)).collect();
    let locations: HashMap<u64, &pprof::Location> = message.location.iter().map(|l| (l.id, l)).collect();
    let text = |index: i64| message.text(index).expect("a text of the table").to_owned();
    let period_ns = u64::try_from(message.period).expect("a period");

    let stack = |sample: &pprof::Sample| {
        let label = |key: &str| {
            let found = sample.label.iter().find(|label| message.text(label.key) == Some(key));
            found.map_or(String::new(), |label| text(label.str))
        };
        let number = |key: &str| {
            let found = sample.label.iter().find(|label| message.text(label.key) == Some(key));
            found.map_or(0, |label| u32::try_from(label.num).expect("a small number"))
        };
        let mut frames = Vec::new();
        for id in sample.location_id.iter().rev() {
            let location = locations.get(id).expect("a location of the table");
            let module = mappings.get(&location.mapping_id).map_or(String::new(), |m| text(m.filename));
            // Inlined functions come before the one they are inlined into.
            for line in location.line.iter().rev() {
                let name = text(functions.get(&line.function_id).expect("a function of the table").name);
                frames.push(Frame { name, kernel: module == "[kernel]", module: module.clone() });
            }
        }
        let ns = u64::try_from(sample.value[0]).expect("a weight");
        Stack {
            comm: label("comm"),
            pid: number("pid"),
            service_name: label("service_name"),
            frames,
            samples: ns / period_ns.max(1),
        }
    };
    Profile { stacks: message.sample.iter().map(stack).collect(), period_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_an_address_alone_gets_its_name() {
        let mut profile = from_folded("a;/bin/a+0x10;b+0x10;a+0x20 1");
        profile.name_addresses("a", |address| (address < 0x20).then(|| format!("at {address}")));
        let user: Vec<_> = profile.stacks[0].user().map(|frame| frame.name.as_str()).collect();
        assert_eq!(user, ["at 16", "b+0x10", "a+0x20"]);
    }

    #[test]
    fn folded_text_tells_kernel_from_user() {
        let profile = from_folded("a b;main;read;do_read_[k] 3\nc 4\n");
        assert_eq!(profile.samples(), 7);
        assert_eq!(profile.stacks[0].comm, "a b");
        let user: Vec<_> = profile.stacks[0].user().map(|frame| frame.name.as_str()).collect();
        assert_eq!(user, ["main", "read"]);
        assert!(!profile.stacks[0].in_user_code());
        assert!(profile.stacks[1].frames.is_empty());
    }
}
