//! The executable mappings of one process at one moment.
//!
//! In: mappings as they were made. Out: which file an address lies in, and where in it. A later mapping replaces
//! what it covers, splitting what it covers in part. Forks share a table until one of them changes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::{FileOffset, Mapping, Module, Reason, UserAddr};

/// How many mappings all tables hold together, each table counted once however many processes share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

impl Total {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn remove(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What lies at an address; the first address is the key.
#[derive(Clone, Debug)]
struct Span {
    end: u64,
    file_offset: u64,
    /// `None` is memory without a file.
    module: Option<Arc<Module>>,
}

impl Span {
    /// What is left of it when it begins at `start` instead of `old_start`.
    fn beginning_at(&self, old_start: u64, start: u64) -> Self {
        Self { file_offset: self.offset_of(old_start, start), ..self.clone() }
    }

    /// Where in the file `address` lies, for a span that begins at `start`.
    fn offset_of(&self, start: u64, address: u64) -> u64 {
        match self.module {
            Some(_) => self.file_offset.wrapping_add(address - start),
            None => 0,
        }
    }

    fn is_of(&self, module: Option<&Arc<Module>>) -> bool {
        match (&self.module, module) {
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// What became of a mapping that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It was there already.
    Known,
    /// The table changed.
    Changed,
    /// There was no room: what it covered is gone all the same, so that nothing is named wrongly.
    Full,
}

/// One stretch of executable memory.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Offset in the file of the first address, bytes.
    pub file_offset: u64,
    /// The file; `None` is memory without one.
    pub module: Option<&'a Arc<Module>>,
}

/// Spans that do not overlap.
#[derive(Debug, Default)]
pub struct Mappings {
    spans: BTreeMap<u64, Span>,
    has_anonymous: bool,
    total: Total,
}

impl Clone for Mappings {
    fn clone(&self) -> Self {
        self.total.add(self.spans.len());
        Self { spans: self.spans.clone(), has_anonymous: self.has_anonymous, total: self.total.clone() }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        self.total.remove(self.spans.len());
    }
}

impl Mappings {
    pub(super) fn new(total: &Total) -> Self {
        Self { spans: BTreeMap::new(), has_anonymous: false, total: total.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is, or was, executable memory without a file: code that was made at run time.
    pub(super) fn has_anonymous(&self) -> bool {
        self.has_anonymous
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Mapped<'_>> {
        self.spans.iter().map(|(&start, span)| {
            let Span { end, file_offset, module } = span;
            Mapped { start, end: *end, file_offset: *file_offset, module: module.as_ref() }
        })
    }

    /// Those of them that `addresses` lie in, or the byte before each.
    pub(super) fn only(&self, addresses: impl Iterator<Item = u64>) -> Self {
        let mut only = Self::new(&self.total);
        only.has_anonymous = self.has_anonymous;
        let range = match (self.spans.first_key_value(), self.spans.last_key_value()) {
            (Some((&first, _)), Some((_, last))) => first..=last.end,
            _ => return only,
        };
        for address in addresses.filter(|address| range.contains(address)) {
            for at in [address, address.wrapping_sub(1)] {
                if let Some((start, span)) = self.span_at(at) {
                    only.spans.entry(start).or_insert_with(|| span.clone());
                }
            }
        }
        self.total.add(only.spans.len());
        only
    }

    /// Adds `mapping` to a table that others may share; `spans_max` bounds this table, `total_max` all of them.
    pub(super) fn add(
        shared: &mut Arc<Self>,
        mapping: &Mapping,
        spans_max: usize,
        total_max: usize,
    ) -> Added {
        let (start, end) = (mapping.start.0, mapping.end.0);
        if end <= start || shared.covers(mapping) {
            return Added::Known;
        }
        let copied = if Arc::strong_count(shared) > 1 { shared.len() } else { 0 };
        if copied > 0 && shared.total.get() + copied >= total_max {
            // No room for a copy of our own: better to know nothing of this process than something wrong.
            *shared = Arc::new(Self::new(&shared.total));
            return Added::Full;
        }
        let table = Arc::make_mut(shared);
        let before = table.spans.len();
        let is_full = before >= spans_max || table.total.get() >= total_max;
        table.clear_range(start, end, is_full);
        if !is_full {
            let module = mapping.module.clone();
            let file_offset = if module.is_some() { mapping.file_offset } else { 0 };
            table.insert(start, Span { end, file_offset, module });
        }
        let after = table.spans.len();
        table.total.add(after.saturating_sub(before));
        table.total.remove(before.saturating_sub(after));
        if is_full { Added::Full } else { Added::Changed }
    }

    /// The file that `address` lies in, and where in it.
    pub(super) fn settle(&self, address: UserAddr) -> Result<(&Arc<Module>, FileOffset), Reason> {
        let (start, span) = self.span_at(address.0).ok_or(Reason::NoMapping)?;
        let module = span.module.as_ref().ok_or(Reason::AnonymousMapping)?;
        Ok((module, FileOffset(span.offset_of(start, address.0))))
    }

    fn span_at(&self, address: u64) -> Option<(u64, &Span)> {
        let (&start, span) = self.spans.range(..=address).next_back()?;
        (address < span.end).then_some((start, span))
    }

    /// True if `mapping` says nothing new: engines that compile at run time change the permissions of the same
    /// memory over and over.
    fn covers(&self, mapping: &Mapping) -> bool {
        self.span_at(mapping.start.0).is_some_and(|(start, span)| {
            span.end >= mapping.end.0
                && span.is_of(mapping.module.as_ref())
                && (span.module.is_none() || span.offset_of(start, mapping.start.0) == mapping.file_offset)
        })
    }

    /// Removes whatever lies in `start..end`. A span that reaches out at both ends becomes two, or only the
    /// first of them if the table `is_full`.
    fn clear_range(&mut self, start: u64, end: u64, is_full: bool) {
        if let Some((&first, span)) = self.spans.range_mut(..start).next_back()
            && span.end > start
        {
            let tail = (span.end > end).then(|| span.beginning_at(first, end));
            span.end = start;
            if let Some(tail) = tail
                && !is_full
            {
                self.spans.insert(end, tail);
            }
        }
        while let Some((&inside, _)) = self.spans.range(start..end).next() {
            if let Some(span) = self.spans.remove(&inside)
                && span.end > end
            {
                self.spans.insert(end, span.beginning_at(inside, end));
            }
        }
    }

    /// Inserts a span where nothing is, and joins it with neighbours that it continues.
    fn insert(&mut self, mut start: u64, mut span: Span) {
        /// What lies above is the kernel's, and mapped in every process.
        const USER_END: u64 = 1 << 63;
        self.has_anonymous |= span.module.is_none() && start < USER_END;
        if let Some((&left, before)) = self.spans.range(..start).next_back()
            && before.end == start
            && before.is_of(span.module.as_ref())
            && before.offset_of(left, start) == span.file_offset
        {
            span.file_offset = before.file_offset;
            start = left;
        }
        if let Some(after) = self.spans.get(&span.end)
            && after.is_of(span.module.as_ref())
            && span.offset_of(start, span.end) == after.file_offset
        {
            let right = span.end;
            span.end = after.end;
            self.spans.remove(&right);
        }
        self.spans.insert(start, span);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::ModuleKind;

    fn module(name: &str) -> Option<Arc<Module>> {
        thread_local!(static MADE: std::cell::RefCell<Vec<Arc<Module>>> = const { std::cell::RefCell::new(vec![]) });
        MADE.with_borrow_mut(|made| {
            if !made.iter().any(|module| *module.path == *name.as_bytes()) {
                made.push(Arc::new(Module {
                    id: u32::try_from(made.len()).unwrap(),
                    kind: ModuleKind::File,
                    path: name.as_bytes().into(),
                    build_id: None,
                    identity: None,
                    file: None,
                    root: None,
                }));
            }
            made.iter().find(|module| *module.path == *name.as_bytes()).cloned()
        })
    }

    /// `name` maps `start..end` at `offset`; "-" is memory without a file.
    fn mapping(&(name, start, end, file_offset): &(&str, u64, u64, u64)) -> Mapping {
        Mapping {
            start: UserAddr(start),
            end: UserAddr(end),
            file_offset,
            path: name.as_bytes().into(),
            build_id: None,
            module: if name == "-" { None } else { module(name) },
        }
    }

    fn table(made: &[(&str, u64, u64, u64)], spans_max: usize) -> Arc<Mappings> {
        let mut table = Arc::new(Mappings::default());
        for made in made {
            Mappings::add(&mut table, &mapping(made), spans_max, 1000);
        }
        assert_eq!(table.total.get(), table.len(), "the count is exact");
        table
    }

    /// After these mappings were made, each address settles to this.
    #[track_caller]
    fn check(made: &[(&str, u64, u64, u64)], expected: &[(u64, &str, u64)]) {
        let table = table(made, 1000);
        for &(address, name, offset) in expected {
            let seen = match table.settle(UserAddr(address)) {
                Ok((module, FileOffset(offset))) => {
                    (String::from_utf8_lossy(&module.path).into_owned(), offset)
                }
                Err(reason) => (reason.to_string(), 0),
            };
            assert_eq!(seen, (name.to_string(), offset), "at {address}");
        }
    }

    #[test]
    fn an_address_settles_inside_its_mapping_only() {
        check(
            &[("a", 10, 20, 100)],
            &[(9, "no mapping", 0), (10, "a", 100), (19, "a", 109), (20, "no mapping", 0)],
        );
    }

    #[test]
    fn memory_without_a_file_gives_its_reason() {
        check(&[("-", 10, 20, 7)], &[(15, "anonymous code", 0)]);
    }

    #[test]
    fn a_mapping_in_the_middle_splits_the_old_one() {
        check(
            &[("a", 10, 40, 100), ("b", 20, 30, 0)],
            &[(19, "a", 109), (20, "b", 0), (29, "b", 9), (30, "a", 120), (39, "a", 129)],
        );
    }

    #[test]
    fn a_mapping_replaces_what_it_covers_and_cuts_what_reaches_in() {
        check(
            &[("a", 0, 15, 0), ("b", 20, 25, 0), ("c", 28, 40, 0), ("d", 10, 30, 50)],
            &[(9, "a", 9), (10, "d", 50), (22, "d", 62), (29, "d", 69), (30, "c", 2)],
        );
    }

    #[test]
    fn the_same_range_again_is_another_file() {
        check(&[("a", 10, 20, 0), ("b", 10, 20, 5)], &[(10, "b", 5), (19, "b", 14)]);
    }

    #[test]
    fn an_empty_or_inverted_mapping_is_none() {
        check(&[("a", 10, 10, 0), ("a", 20, 10, 0)], &[(10, "no mapping", 0), (15, "no mapping", 0)]);
    }

    #[test]
    fn the_end_of_the_address_space_is_no_special_case() {
        check(
            &[("a", u64::MAX - 9, u64::MAX, u64::MAX)],
            &[(u64::MAX - 9, "a", u64::MAX), (u64::MAX - 8, "a", 0)],
        );
    }

    #[test]
    fn neighbours_that_continue_each_other_are_one() {
        let made =
            [("a", 10, 20, 0), ("a", 30, 40, 20), ("a", 20, 30, 10), ("-", 50, 60, 50), ("-", 40, 50, 40)];
        assert_eq!(table(&made, 1000).len(), 2);
        check(&made, &[(10, "a", 0), (25, "a", 15), (39, "a", 29), (40, "anonymous code", 0)]);
    }

    #[test]
    fn neighbours_at_other_offsets_stay_apart() {
        assert_eq!(table(&[("a", 10, 20, 0), ("a", 20, 30, 0)], 1000).len(), 2);
    }

    #[test]
    fn what_is_known_changes_nothing() {
        let mut shared = table(&[("a", 10, 40, 0)], 1000);
        let _fork = Arc::clone(&shared);
        assert_eq!(Mappings::add(&mut shared, &mapping(&("a", 20, 30, 10)), 1000, 1000), Added::Known);
        assert_eq!(Arc::strong_count(&shared), 2, "nothing was copied");
        assert_eq!(Mappings::add(&mut shared, &mapping(&("a", 20, 30, 11)), 1000, 1000), Added::Changed);
        assert_eq!(Arc::strong_count(&shared), 1);
        assert_eq!((shared.len(), shared.total.get()), (3, 4));
    }

    #[test]
    fn of_many_those_that_addresses_lie_in() {
        let all = table(&[("a", 10, 20, 0), ("b", 20, 30, 0), ("c", 30, 40, 0), ("-", 50, 60, 0)], 1000);
        let only = all.only([0, 20, 35, 36, 45, 61, u64::MAX].into_iter());
        assert_eq!(only.iter().map(|mapped| mapped.start).collect::<Vec<_>>(), [10, 20, 30]);
        assert_eq!(only.settle(UserAddr(35)).map(|(_, offset)| offset), Ok(FileOffset(5)));
        assert!(only.has_anonymous());
        assert_eq!(all.total.get(), 4 + 3);
        drop(only);
        assert_eq!(all.total.get(), 4);
    }

    #[test]
    fn a_full_table_forgets_rather_than_lies() {
        let mut full = table(&[("a", 10, 40, 0), ("b", 50, 60, 0)], 2);
        assert_eq!(Mappings::add(&mut full, &mapping(&("c", 20, 30, 0)), 2, 1000), Added::Full);
        assert_eq!(full.len(), 2);
        assert_eq!(full.settle(UserAddr(25)), Err(Reason::NoMapping));
        assert_eq!(full.settle(UserAddr(35)), Err(Reason::NoMapping));
        assert!(full.settle(UserAddr(15)).is_ok());
    }

    #[test]
    fn a_full_total_copies_no_table() {
        let mut shared = table(&[("a", 10, 20, 0), ("b", 20, 30, 0)], 1000);
        let _fork = Arc::clone(&shared);
        assert_eq!(Mappings::add(&mut shared, &mapping(&("c", 20, 30, 0)), 1000, 3), Added::Full);
        assert_eq!((shared.len(), shared.total.get()), (0, 2));
    }

    #[test]
    fn a_hundred_thousand_mappings_from_the_top_down_are_cheap() {
        let begun = Instant::now();
        let mut table = Arc::new(Mappings::default());
        for i in (0..100_000).rev() {
            Mappings::add(&mut table, &mapping(&("a", i * 20, i * 20 + 10, 0)), 65_536, 1 << 20);
        }
        assert_eq!(table.len(), 65_536);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
