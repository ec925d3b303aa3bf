//! Whether an answer of the namer can be believed to be one.
//!
//! In: what was asked, and the answer. Out: yes or no. The namer reads strangers' bytes: nothing is taken on its word that could
//! lead beyond what it sent. Not here: whether names and rows are true.

use profiler_common::unwind::table::{SLAB_WORDS, STARTS_WORDS, TABLE_PAGES_MAX};

use super::protocol::{Found, Outcome, Place, Rows, Subject};

/// True if it answers the question, if every address is answered, and every index leads to a text, to one that is not empty
/// for a name; and if blocks are as long as blocks can be.
pub(super) fn makes_sense(subject: Subject, outcome: &Outcome, addresses: usize) -> bool {
    let names = match (subject, outcome) {
        (_, Outcome::Refused(_)) => return true,
        (Subject::Table { from, .. }, Outcome::Rows(rows)) => return rows_make_sense(from, rows),
        (Subject::Kernel | Subject::File { .. } | Subject::PerfMap { .. }, Outcome::Names(names)) => names,
        (Subject::DebugFile { .. }, Outcome::Taken(_)) | (Subject::Copy { .. }, Outcome::Copied) => {
            return true;
        }
        (Subject::Table { .. } | Subject::DebugFile { .. } | Subject::Copy { .. }, Outcome::Names(_)) => {
            return false;
        }
        (_, Outcome::Rows(_) | Outcome::Taken(_) | Outcome::Copied) => return false,
    };
    let text = |index: u32| names.strings.get(usize::try_from(index).ok()?);
    let named =
        |place: &Place| text(place.name).is_some_and(|name| !name.is_empty()) && text(place.file).is_some();
    names.found.len() == addresses
        && names.found.iter().all(|found| match found {
            Found::Named(places) => !places.is_empty() && places.iter().all(named),
            Found::Bare(_) | Found::Nothing => true,
        })
}

/// True if blocks ascend from page `from`, and the next part begins after them.
fn rows_make_sense(from: u32, rows: &Rows) -> bool {
    let Rows { blocks, next, functions: _, frameless: _, invalid: _, reached: _ } = rows;
    let mut least = u64::from(from);
    for (page, words) in blocks {
        let page = u64::from(*page);
        if page < least
            || page >= TABLE_PAGES_MAX as u64
            || !(STARTS_WORDS..=SLAB_WORDS).contains(&words.len())
        {
            return false;
        }
        least = page + 1;
    }
    next.is_none_or(|next| u64::from(next) >= least && next > from)
}
