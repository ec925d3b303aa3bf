//! Pairwise selection: few rows in which any two values meet that can meet at all.
//!
//! In: how many values each column has, and which rows are possible. Out: rows. Not here: what a value means.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Rows that are looked at for each one that is taken.
const CANDIDATES: usize = 128;

/// A value of one column beside a value of a later one.
type Pair = (usize, usize, usize, usize);

/// Rows, the same at each call, that hold every pair which any possible row holds.
pub(crate) fn rows(sizes: &[usize], possible: impl Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    let mut row = vec![0; sizes.len()];
    loop {
        if possible(&row) {
            all.push(row.clone());
        }
        let Some(column) = (0..sizes.len()).rev().find(|&column| row[column] + 1 < sizes[column]) else {
            break;
        };
        row[column] += 1;
        row[column + 1..].fill(0);
    }
    let mut missing: BTreeSet<Pair> = all.iter().flat_map(|row| pairs(row)).collect();
    let mut taken = Vec::new();
    while let Some(&(first, one, second, other)) = missing.first() {
        let fitting: Vec<_> = all.iter().filter(|row| row[first] == one && row[second] == other).collect();
        // Spread over all that fit, beginning elsewhere each time.
        let step = fitting.len().div_ceil(CANDIDATES).max(1);
        let best = fitting
            .iter()
            .skip(taken.len() % step)
            .step_by(step)
            .max_by_key(|row| {
                let new = pairs(row).filter(|pair| missing.contains(pair)).count();
                // Of several that are as good, any: or the last value of a column would be in most rows.
                (new, BuildHasherDefault::<DefaultHasher>::default().hash_one((row, taken.len())))
            })
            .expect("a pair that is missing is possible");
        for pair in pairs(best) {
            missing.remove(&pair);
        }
        taken.push((*best).clone());
    }
    taken
}

fn pairs(row: &[usize]) -> impl Iterator<Item = Pair> {
    (0..row.len()).flat_map(move |first| {
        (first + 1..row.len()).map(move |second| (first, row[first], second, row[second]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every possible pair is in a row, every row is possible, and there are no more than `rows_max`.
    #[track_caller]
    fn check(sizes: &[usize], possible: fn(&[usize]) -> bool, rows_max: usize) {
        let rows = rows(sizes, possible);
        assert!(rows.iter().all(|row| possible(row)));
        assert!(rows.len() <= rows_max, "{} rows", rows.len());
        let held: BTreeSet<Pair> = rows.iter().flat_map(|row| pairs(row)).collect();
        let all = super::rows(sizes, possible).len();
        assert_eq!(all, rows.len(), "the same each time");
        for (first, &ones) in sizes.iter().enumerate() {
            for (second, &others) in sizes.iter().enumerate().skip(first + 1) {
                for one in 0..ones {
                    for other in 0..others {
                        let pair = (first, one, second, other);
                        assert!(
                            held.contains(&pair) || !can_be(sizes, possible, pair),
                            "{pair:?} is missing"
                        );
                    }
                }
            }
        }
    }

    fn can_be(sizes: &[usize], possible: fn(&[usize]) -> bool, (first, one, second, other): Pair) -> bool {
        let count: usize = sizes.iter().product();
        (0..count).any(|mut number| {
            let mut row = Vec::new();
            for size in sizes {
                row.push(number % size);
                number /= size;
            }
            row[first] == one && row[second] == other && possible(&row)
        })
    }

    #[test]
    fn any_two_values_meet() {
        check(&[4, 3, 2, 2], |_| true, 16);
    }

    #[test]
    fn what_cannot_be_is_left_out() {
        check(&[4, 3, 3], |row| row[0] != row[1], 16);
    }

    #[test]
    fn one_column_has_no_pairs() {
        check(&[5], |_| true, 0);
    }
}
