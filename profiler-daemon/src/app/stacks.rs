//! Samples whose walk did without a table, and what their stacks say once it is there.
//!
//! In: samples that brought their stack along, each with its process as it was at that moment. Out: the same samples, walked by
//! the tables of the files that they go through; or as they came, where a table does not come in time. Meanwhile they wait here, for
//! some milliseconds mostly: a sample that waits over the end of a window is counted in the next. Not here: how a stack is walked
//! (`capture`), and who makes tables.

use std::sync::Arc;
use std::time::Duration;

use crate::capture::{Tables, Walked};
use crate::meters::{Counters, Meters, label};
use crate::model::{Module, NoTable, RawSample, RawStack, Table};
use crate::processes::Process;
use crate::time::MonoNs;

/// How long a stack waits for a table: the largest libraries take two or three seconds, and at the start, when all that runs is
/// new, there is a queue.
const WAIT: Duration = Duration::from_secs(5);

/// Words of stacks that wait at most, 8 MiB: a second of eight processors at 99 Hz that run nothing but new code.
const WORDS_MAX: usize = 1 << 20;

/// What answers for a table: it is here, it will never be, or (`None`) it comes.
pub(super) type Answer = Option<Result<Table, NoTable>>;

/// A sample that can go on: walked, or as it came.
pub(super) type Walk = (RawSample, Process);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Stacks {
    waiting: Vec<Waiting>,
    words: usize,
    results: Counters,
}

#[derive(Debug)]
struct Waiting {
    sample: RawSample,
    stack: Arc<RawStack>,
    process: Process,
    /// The module whose table it waits for.
    module: Option<u32>,
    until: MonoNs,
}

impl Stacks {
    /// None wait.
    pub(super) fn new(meters: &Meters) -> Self {
        Self {
            waiting: Vec::new(),
            words: 0,
            results: meters.counters(
                "profiler_stacks_brought",
                "Samples that brought their stack along, by what came of it: walked by a table that came later, no better without \
                 one, late, no room; and samples that might have and did not: over rate, ring filling",
            ),
        }
    }

    /// Counts `samples` that came to `result`.
    pub(super) fn count(&self, result: &'static str, samples: u64) {
        self.results.get_or_create(&label("result", result)).inc_by(samples);
    }

    /// Whether any wait.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps `sample` until it can be walked; gives it back, as it came, if that is not to be.
    pub(super) fn keep(&mut self, mut sample: RawSample, process: Option<&Process>) -> Option<RawSample> {
        let (Some(stack), Some(process)) = (sample.stack.take(), process) else { return Some(sample) };
        if self.words + stack.words.len() > WORDS_MAX {
            self.count("no room", 1);
            return Some(sample);
        }
        self.words += stack.words.len();
        let until = MonoNs::now().plus(WAIT);
        self.waiting.push(Waiting { sample, stack, process: process.clone(), module: None, until });
        None
    }

    /// Walks what can be walked by now. Tables that are still wanted are asked of `ask`, each once.
    pub(super) fn walk(
        &mut self,
        tables: &mut Tables,
        mut ask: impl FnMut(Arc<Module>) -> Answer,
    ) -> Vec<Walk> {
        let now = MonoNs::now();
        let mut done = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            let waits = waiting.module.is_some_and(|module| tables.is_coming(module));
            let result = if waits { None } else { waiting.walk(tables, &mut ask) };
            match result {
                None if now < waiting.until => self.waiting.push(waiting),
                result => done.push(self.end(waiting, result.unwrap_or("late"))),
            }
        }
        done
    }

    /// Waits no longer for anything.
    pub(super) fn give_up(&mut self) -> Vec<Walk> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|waiting| self.end(waiting, "late")).collect()
    }

    fn end(&mut self, waiting: Waiting, result: &'static str) -> Walk {
        self.words -= waiting.stack.words.len();
        self.count(result, 1);
        (waiting.sample, waiting.process)
    }
}

impl Waiting {
    /// What came of the walk; `None` if a table is to come.
    fn walk(
        &mut self,
        tables: &mut Tables,
        ask: &mut impl FnMut(Arc<Module>) -> Answer,
    ) -> Option<&'static str> {
        loop {
            match tables.walk(self.process.mappings(), &self.stack) {
                Walked::To { user, ended } => {
                    self.sample.user = user;
                    self.sample.ended = ended;
                    return Some("walked");
                }
                Walked::Same => return Some("no better"),
                Walked::Wants(module) => {
                    let id = module.id;
                    self.module = Some(id);
                    if !tables.take(&module) {
                        return None;
                    }
                    // Whatever `fill` is told, the module is not wanted after that: this ends.
                    match ask(module) {
                        None => return None,
                        Some(table) => tables.fill(id, table.as_ref().map_err(|no_table| *no_table)),
                    }
                }
            }
        }
    }
}
