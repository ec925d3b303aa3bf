//! Answers of the namer, each text in them once and fit to be shown.

use std::ffi::OsStr;

use blazesym::symbolize::{CodeInfo, Sym};
use rustc_hash::FxHashMap;

use super::super::protocol::{ANSWER_BYTES_MAX, Found, INLINED_MAX, NAME_BYTES_MAX, Names, Place};
use super::super::text::clean;

/// Writes an answer in which every text occurs once.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) names: Names,
    known: FxHashMap<String, u32>,
    bytes: usize,
}

impl Writer {
    /// False when an answer of hostile length has to end; what follows has no name then.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < ANSWER_BYTES_MAX - (INLINED_MAX + 1) * 2 * NAME_BYTES_MAX - (64 << 10)
    }

    /// Adds `text`, made fit to be shown. Returns its index.
    pub(super) fn text(&mut self, text: &str) -> u32 {
        let text = clean(text, NAME_BYTES_MAX);
        if let Some(&index) = self.known.get(&*text) {
            return index;
        }
        let index = u32::try_from(self.names.strings.len()).unwrap_or(u32::MAX);
        self.bytes += text.len() + 8;
        self.names.strings.push(text.clone().into_owned());
        self.known.insert(text.into_owned(), index);
        index
    }

    /// The function of `symbol`, what was inlined there before it.
    pub(super) fn named(&mut self, symbol: &Sym<'_>) -> Found {
        // The innermost ones, should there be more than a sane compiler makes.
        let inlined =
            symbol.inlined.iter().rev().filter(|inlined| !inlined.name.is_empty()).take(INLINED_MAX);
        let mut places: Vec<Place> =
            inlined.map(|inlined| self.coded(&inlined.name, inlined.code_info.as_ref())).collect();
        places.push(self.coded(&symbol.name, symbol.code_info.as_deref()));
        Found::Named(places)
    }

    fn coded(&mut self, name: &str, code: Option<&CodeInfo<'_>>) -> Place {
        match code {
            Some(code) => {
                let path: &OsStr = &code.to_path().into_owned().into_os_string();
                self.place(name, &path.to_string_lossy(), code.line.unwrap_or(0))
            }
            None => self.place(name, "", 0),
        }
    }

    /// A line of a function; `name` is not empty.
    pub(super) fn place(&mut self, name: &str, file: &str, line: u32) -> Place {
        self.bytes += size_of::<Place>();
        Place { name: self.text(name), file: self.text(file), line }
    }
}
