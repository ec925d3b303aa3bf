//! How many instructions each program's verification takes on each kernel, as noted in `tests/verified.txt`.

use std::collections::BTreeMap;

/// The same file that the tests compare the running kernel with.
const NOTED: &str = include_str!("../../../tests/verified.txt");
/// How far a number may be from the one that was noted, percent.
const PERCENT_OFF_MAX: f64 = 10.0;

/// By `series program way`.
pub(super) struct Noted(BTreeMap<&'static str, u32>);

impl Noted {
    /// What is noted.
    pub(super) fn read() -> Self {
        Self(NOTED.lines().filter_map(read_line).collect())
    }

    /// What is to be said of `found` on a kernel of `release`, and whether it is about what was noted, if anything was.
    pub(super) fn judge(&self, release: &str, program: &str, way: &str, found: u32) -> (String, bool) {
        let series: Vec<_> = release.split('.').take(2).collect();
        let key = format!("{} {program} {way}", series.join("."));
        match self.0.get(key.as_str()) {
            None => (format!("to be noted: {key} {found}"), true),
            Some(&noted) => {
                let off = (f64::from(found) / f64::from(noted) - 1.0) * 100.0;
                (format!("{noted} noted"), off.abs() <= PERCENT_OFF_MAX)
            }
        }
    }
}

/// Reads `series program way instructions`.
fn read_line(line: &'static str) -> Option<(&'static str, u32)> {
    let (key, number) = line.rsplit_once(' ')?;
    Some((key, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_from_what_was_noted_is_not_well() {
        let noted = Noted(BTreeMap::from([read_line("6.1 cpu loop 1000").expect("a line")]));
        assert!(noted.judge("6.1.0-50-cloud-amd64", "cpu", "loop", 1050).1);
        assert!(!noted.judge("6.1.0-50-cloud-amd64", "cpu", "loop", 1200).1);
        assert!(!noted.judge("6.1.0", "cpu", "loop", 800).1);
        assert_eq!(noted.judge("6.12.1", "cpu", "loop", 7).0, "to be noted: 6.12 cpu loop 7");
    }

    #[test]
    fn the_file_is_read_whole() {
        let lines = NOTED.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(lines.count(), Noted::read().0.len());
    }
}
