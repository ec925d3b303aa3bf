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

/// Words of stacks that wait at most, 16 MiB: a second of two processors at 99 Hz that run nothing but new code with deep stacks.
const WORDS_MAX: usize = 1 << 21;

/// The memory that they take, bytes.
pub(super) const BYTES_MAX: u64 = WORDS_MAX as u64 * 8;

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
                "Samples that brought their stack along, by what came of it: walked again by a table, no better without one, late; and \
                 samples that might have and did not, by why",
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
        let Some(stack) = sample.stack.take() else { return Some(sample) };
        let Some(process) = process else {
            self.count("no process", 1);
            return Some(sample);
        };
        if self.words + stack.words.len() > WORDS_MAX {
            self.count("no room", 1);
            return Some(sample);
        }
        self.words += stack.words.len();
        let until = MonoNs::now().plus(WAIT);
        let process = process.narrowed(addresses(&sample, &stack));
        self.waiting.push(Waiting { sample, stack, process, module: None, until });
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

/// All that a walk may take for an address of code, and all that the sample has.
fn addresses(sample: &RawSample, stack: &RawStack) -> impl Iterator<Item = u64> {
    let of_stack = stack.words.iter().chain(&stack.links).copied();
    of_stack.chain([stack.regs.ip]).chain(sample.user.iter().map(|address| address.0))
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
                    // Whatever `fill` is told, the module is not wanted after that: each file is asked for once, and this ends.
                    match ask(module) {
                        None => return None,
                        Some(table) => tables.fill(id, table.as_ref().map_err(|no_table| *no_table)),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::unwind::{End, Regs};

    use super::*;
    use crate::model::{
        Comm, Cpu, Mapping, ModuleKind, Pid, ProcessChange, ProcessEvent, Task, Tid, UserAddr, Weight,
    };
    use crate::processes::{Config, Tracker};
    use crate::procfs::Procfs;
    use crate::symbolize;

    const CODE: u64 = 0x40_0000;
    const TASK: Task = Task { pid: Pid(7), tid: Tid(7), comm: Comm([0; 16]) };

    /// A process that runs our own binary, which has a table. Its stack is empty, so that a walk by that ends at once.
    fn process() -> Process {
        let file = std::fs::File::open("/proc/self/exe").expect("a test has a binary");
        let path: Arc<[u8]> = b"/bin/new".as_slice().into();
        let module = Module {
            id: 1,
            kind: ModuleKind::File,
            path: Arc::clone(&path),
            build_id: None,
            identity: None,
            file: Some(file.into()),
            root: None,
        };
        let mapping = Mapping {
            start: UserAddr(CODE),
            end: UserAddr(CODE + (1 << 32)),
            file_offset: 0,
            path,
            build_id: None,
            module: Some(Arc::new(module)),
        };
        let mut tracker = Tracker::new(Config::default(), Procfs::new("/nowhere"), &Meters::default());
        let change = ProcessChange::Mapped(Box::new(mapping));
        tracker.apply(ProcessEvent { time: MonoNs(1), pid: TASK.pid, change });
        tracker.process(TASK.pid).expect("it was heard of").clone()
    }

    fn sample(words: usize) -> RawSample {
        let regs = Regs { ip: CODE, sp: 0x7000_0000, fp: 0 };
        RawSample {
            time: MonoNs(1),
            cpu: Cpu(0),
            task: TASK,
            kernel: Vec::new(),
            user: vec![UserAddr(1), UserAddr(2)],
            ended: End::NoFrame,
            stack: Some(Arc::new(RawStack { regs, links: [0; 2], words: vec![0; words] })),
            weight: Weight(1),
        }
    }

    fn made() -> Result<Table, NoTable> {
        let file = std::fs::File::open("/proc/self/exe").expect("a test has a binary");
        symbolize::table_of(&file)
    }

    /// Keeps a sample and walks as often as there are `answers`, each of which is what a table that is asked for at that time comes
    /// to. By how it ends, the sample is let go with this turn, or with none.
    #[track_caller]
    fn check(answers: Vec<Answer>, turn: Option<usize>, ended: End) {
        let mut stacks = Stacks::new(&Meters::default());
        let mut tables = Tables::offline(&Meters::default());
        assert!(stacks.keep(sample(4), Some(&process())).is_none());
        let mut gone = None;
        for (at, answer) in answers.into_iter().enumerate() {
            let mut answer = Some(answer);
            let walks = stacks.walk(&mut tables, |_| answer.take().expect("it is asked once"));
            gone = gone.or(walks.into_iter().next().map(|walk| (at, walk)));
        }
        assert_eq!(stacks.is_empty(), turn.is_some());
        let given_up = stacks.give_up().into_iter().next();
        assert_eq!((stacks.words, gone.as_ref().map(|(at, _)| *at)), (0, turn));
        let (sample, _) = gone.map(|(_, walk)| walk).or(given_up).expect("no sample is lost");
        assert_eq!(sample.ended, ended);
    }

    #[test]
    fn what_is_there_at_once_is_walked_at_once() {
        check(vec![Some(made())], Some(0), End::Root);
    }

    #[test]
    fn what_comes_is_waited_for_and_not_asked_for_again() {
        check(vec![None, None, None], None, End::NoFrame);
    }

    #[test]
    fn what_will_never_be_leaves_the_sample_as_it_came() {
        check(vec![Some(Err(NoTable::Never))], Some(0), End::NoFrame);
        check(vec![Some(Err(NoTable::NotNow))], Some(0), End::NoFrame);
    }

    #[test]
    fn a_sample_without_a_stack_or_a_process_goes_on() {
        let mut stacks = Stacks::new(&Meters::default());
        let bare = RawSample { stack: None, ..sample(1) };
        assert_eq!(stacks.keep(bare.clone(), Some(&process())), Some(bare.clone()));
        let unknown = stacks.keep(sample(1), None).expect("it goes on");
        assert_eq!(unknown.user, bare.user);
    }

    #[test]
    fn more_words_than_there_is_room_for_are_refused() {
        let mut stacks = Stacks::new(&Meters::default());
        let process = process();
        assert!(stacks.keep(sample(WORDS_MAX), Some(&process)).is_none());
        let refused = stacks.keep(sample(1), Some(&process)).expect("it goes on");
        assert_eq!((refused.stack, refused.user.len()), (None, 2));
        assert_eq!(stacks.give_up().len(), 1);
        assert!(stacks.keep(sample(1), Some(&process)).is_none());
    }
}
