//! Unwind tables of files, part by part from the namer.
//!
//! In: a module. Out: its table as one value, or that there is none. Not here: who wants it, and where it is put; and how the
//! namer makes it. A table is made once for each file, so what it costs is waited for here: half a second for the largest library
//! known, and never longer than one batch may ask; where tables are kept on disk, only the first time.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use profiler_common::unwind::table::TABLE_PAGES_MAX;

use super::cache::VDSO;
use super::namer::{TABLE_WORDS_MAX, TableBuilder, keeps_frames};
use super::protocol::Rows;
use super::{Symbolizer, vdso};
use crate::meters::{Counters, Meters, label};
use crate::model::{FileIdentity, Module, NoTable, Table};

/// What the table of one file takes at most, bytes: its words, and where each page of them is.
pub const TABLE_BYTES_MAX: u64 = (TABLE_WORDS_MAX * 4 + TABLE_PAGES_MAX * size_of::<Vec<u32>>()) as u64;

impl Symbolizer {
    /// The unwind table of `module`.
    pub fn table(&mut self, module: &Module) -> Result<Table, NoTable> {
        self.client.begin();
        let slot = self.cache.slot(module);
        let made = if slot == VDSO {
            if self.vdso.is_none() {
                self.vdso = vdso::image().ok();
            }
            let image =
                self.vdso.as_ref().and_then(|(file, identity)| Some((file.try_clone().ok()?, *identity)));
            image.ok_or(NoTable::NotNow).and_then(|(file, identity)| {
                gather(|from| self.client.ask_rows(slot, identity, file.as_fd(), from), &self.rows)
            })
        } else {
            match (&module.file, module.identity) {
                (Some(file), Some(identity)) => self.table_in(slot, file.as_fd(), identity),
                (None, _) | (_, None) => Err(NoTable::Never),
            }
        };
        let counted = match &made {
            Ok(_) => "made",
            Err(NoTable::Never) => "none",
            Err(NoTable::NotNow) => "unavailable",
        };
        self.rows.tables.get_or_create(&label("tables", counted)).inc();
        made
    }

    /// The table of a file: from disk, or else from the namer and then kept on disk.
    fn table_in(
        &mut self,
        slot: u32,
        file: BorrowedFd<'_>,
        identity: FileIdentity,
    ) -> Result<Table, NoTable> {
        let Self { shelf, client, .. } = &mut *self;
        let copied = shelf
            .as_ref()
            .and_then(|shelf| shelf.copy(identity.size, |memory| client.ask_copy(identity, file, memory)));
        if let (Some(shelf), Some(copied)) = (&self.shelf, &copied)
            && let Some(table) = shelf.find(copied)
        {
            return Ok(table);
        }
        // What is named on disk by the copy has to be made of the copy.
        let file = copied.as_ref().map_or(file, |copied| copied.file.as_fd());
        let table = gather(|from| self.client.ask_rows(slot, identity, file, from), &self.rows)?;
        if let (Some(shelf), Some(copied)) = (&mut self.shelf, &copied) {
            shelf.keep(copied, &table);
        }
        Ok(table)
    }
}

/// The unwind table of `file`, made in this process and not in the namer, which is where strangers' files are read: for files
/// that are trusted.
pub fn table_of(file: &File) -> Result<Table, NoTable> {
    let mut builder = TableBuilder::new(file).map_err(|_| NoTable::Never)?;
    gather(|_| Some(Ok::<_, ()>(builder.part(file))), &RowsMeters::new(&Meters::default()))
}

/// Asks for part after part.
fn gather<R>(
    mut ask: impl FnMut(u32) -> Option<Result<Rows, R>>,
    meters: &RowsMeters,
) -> Result<Table, NoTable> {
    let (mut functions, mut frameless) = (0u64, 0u64);
    let mut first_page = 0;
    let mut made: Vec<Vec<u32>> = Vec::new();
    let mut from = Some(0);
    while let Some(page) = from {
        let part = ask(page).ok_or(NoTable::NotNow)?.map_err(|_| NoTable::Never)?;
        functions = functions.saturating_add(part.functions);
        frameless = frameless.saturating_add(part.frameless);
        meters.lost.get_or_create(&label("reason", "invalid")).inc_by(part.invalid);
        for (page, words) in part.blocks {
            if made.is_empty() {
                first_page = page;
            }
            let place = usize::try_from(page - first_page).unwrap_or(usize::MAX).min(TABLE_PAGES_MAX);
            made.resize(place, Vec::new());
            made.push(words);
        }
        from = part.next;
    }
    if made.is_empty() {
        return Err(NoTable::Never);
    }
    Ok(Table { first_page, blocks: made, keeps_frames: keeps_frames(functions, frameless) })
}

#[derive(Clone, Debug)]
pub(super) struct RowsMeters {
    tables: Counters,
    lost: Counters,
}

impl RowsMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            tables: meters.counters(
                "profiler_unwind_tables_asked",
                "Unwind tables of files: made, none in the file, or unavailable for now",
            ),
            lost: meters
                .counters("profiler_unwind_rules_lost", "Rules of unwind tables that cannot be expressed"),
        }
    }
}
