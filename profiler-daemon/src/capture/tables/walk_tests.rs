//! Walks over stacks written by hand, by a table of two rules.

use profiler_common::unwind::Regs;
use profiler_common::unwind::table::{Cfa, GRANULES, Packed, Rule, STARTS_WORDS, Saved};

use super::super::memory::Memory;
use super::*;
use crate::meters::Meters;
use crate::model::{Mapping, ModuleKind, NoTable, Pid, ProcessChange, ProcessEvent, Table};
use crate::processes::{Config, Process, Tracker};
use crate::procfs::Procfs;

/// Where the file is mapped.
const CODE: u64 = 0x40_0000;
/// Where the stack ends: as every stack does, with a page.
const TOP: u64 = 0x7000_0000;
/// From here on in the file, a function with one word of its own; before, the one where everything starts.
const LEAF: u64 = 0x80;

/// A file with a table, or without one yet.
fn module() -> Arc<Module> {
    let file = std::fs::File::open("/dev/null").expect("/dev/null can be opened");
    let path = b"/bin/new".as_slice().into();
    Arc::new(Module {
        id: 1,
        kind: ModuleKind::File,
        path,
        build_id: None,
        identity: None,
        file: Some(file.into()),
        root: None,
    })
}

fn process(module: &Arc<Module>) -> Process {
    let meters = Meters::default();
    let mut tracker = Tracker::new(Config::default(), Procfs::new("/nowhere"), &meters);
    let mapping = Mapping {
        start: UserAddr(CODE),
        end: UserAddr(CODE + 0x1000),
        file_offset: 0,
        path: Arc::clone(&module.path),
        build_id: None,
        module: Some(Arc::clone(module)),
    };
    let change = ProcessChange::Mapped(Box::new(mapping));
    tracker.apply(ProcessEvent { time: MonoNs(1), pid: Pid(7), change });
    tracker.process(Pid(7)).expect("it was heard of").clone()
}

fn table() -> Table {
    let leaf = Rule::Frame { cfa: Cfa::Rsp(16), rbp: Saved::Not };
    let rules = [(0, Rule::Stop), (LEAF, leaf)];
    let mut block = vec![0_u32; STARTS_WORDS];
    for granule in 1..=GRANULES {
        block[granule / 2] |= 2 << (granule % 2 * 16); // all rows are of the first granule
    }
    for (from, rule) in rules {
        let Packed::Row(row) = rule.pack() else { panic!("a common rule") };
        block.push(row | u32::try_from(from).expect("a byte"));
    }
    Table { first_page: 0, blocks: vec![block], keeps_frames: false }
}

fn to(user: &[u64], ended: End) -> Walked {
    Walked::To { user: user.iter().copied().map(UserAddr).collect(), ended }
}

fn stack(words: &[u64]) -> RawStack {
    let sp = TOP - words.len() as u64 * 8;
    RawStack { regs: Regs { ip: CODE + LEAF, sp, fp: 0 }, links: [0; 2], words: words.to_vec() }
}

/// What a walk over `words` comes to, after the file's table was said to be `said`.
#[track_caller]
fn check(said: Option<Result<&Table, NoTable>>, words: &[u64], expected: &Walked) {
    let mut tables = Tables::offline(&Meters::default());
    let module = module();
    if let Some(said) = said {
        tables.fill(module.id, said);
    }
    let walked = tables.walk(process(&module).mappings(), &stack(words));
    let is_expected = match (&walked, expected) {
        (Walked::Wants(wanted), Walked::Wants(expected)) => wanted.id == expected.id,
        (walked, expected) => walked == expected,
    };
    assert!(is_expected, "{walked:?}");
}

#[test]
fn a_table_that_came_leads_to_the_root() {
    check(Some(Ok(&table())), &[0, CODE + 0x20, 0, 0], &to(&[CODE + LEAF, CODE + 0x20], End::Root));
}

#[test]
fn a_table_that_may_come_is_wanted() {
    check(None, &[0, CODE + 0x20, 0, 0], &Walked::Wants(module()));
}

#[test]
fn without_a_table_nothing_is_better_than_it_was() {
    check(Some(Err(NoTable::Never)), &[0, CODE + 0x20, 0, 0], &Walked::Same);
    check(Some(Err(NoTable::NotNow)), &[0, CODE + 0x20, 0, 0], &Walked::Same);
}

#[test]
fn a_stack_that_ends_is_unreadable_there() {
    check(Some(Ok(&table())), &[0, CODE + LEAF + 1], &to(&[CODE + LEAF, CODE + LEAF + 1], End::Fault));
}

#[test]
fn a_stack_longer_than_what_was_brought_is_cut() {
    let calls = [0, CODE + LEAF + 1].repeat(STACK_WORDS_MAX / 2);
    let frames =
        std::iter::once(CODE + LEAF).chain(std::iter::repeat_n(CODE + LEAF + 1, USER_FRAMES_MAX - 1));
    check(Some(Ok(&table())), &calls, &to(&frames.collect::<Vec<_>>(), End::Truncated));
    let mut large = vec![0; STACK_WORDS_MAX];
    large[1] = CODE + LEAF + 1;
    large[3] = 0x10; // no address
    check(Some(Ok(&table())), &large, &to(&[CODE + LEAF, CODE + LEAF + 1], End::NoFrame));
}

#[test]
fn a_budget_too_small_for_anything_leaves_the_walk_as_it_was_and_is_counted() {
    let meters = Meters::default();
    let mut tables = Tables::with(Memory::Own(Vec::new()), None, 0, &meters);
    let module = module();
    tables.fill(module.id, Ok(&table()));
    let walked = tables.walk(process(&module).mappings(), &stack(&[0, CODE + 0x20, 0, 0]));
    assert_eq!(walked, Walked::Same);
    assert!(!tables.take(&module), "it is not asked for again at once");
    assert!(meters.render().contains(r#"profiler_unwind_tables_total{result="no room"} 1"#));
}

#[test]
fn a_table_is_asked_for_once() {
    let mut tables = Tables::offline(&Meters::default());
    let module = module();
    assert!(tables.take(&module));
    assert!(!tables.take(&module));
    assert!(tables.is_coming(module.id));
    tables.fill(module.id, Ok(&table()));
    assert!(!tables.is_coming(module.id));
}

#[test]
fn a_stack_pointer_between_two_words_is_read_from_the_lower_one() {
    let mut window = [0; profiler_common::limits::WINDOW_WORDS];
    let stack = RawStack { regs: Regs { ip: 1, sp: TOP - 12, fp: 0 }, links: [0; 2], words: vec![5, 6] };
    assert!(read(&stack, &mut window, TOP - 16, 16));
    assert_eq!(window[..2], [5, 6]);
    assert!(!read(&stack, &mut window, TOP - 8, 16));
    assert!(!read(&stack, &mut window, TOP - 24, 8));
}
