//! History against a naive account of what was pushed: the same totals and trees, in memory, in files, after a restart,
//! and beside a file that was damaged.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod cost;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SECOND: i64 = 1_000_000_000;
/// A minute that begins at a whole one, as the wall counts.
const NOW: WallNs = WallNs(1_800_000_000 * SECOND);

/// One pushed profile: who, when (seconds before `NOW`), and stacks of single letters, root first.
#[derive(Clone, Debug)]
struct Pushed {
    service: &'static str,
    ago_s: i64,
    stacks: Vec<(String, u64)>,
}

impl Pushed {
    fn window(&self) -> Window {
        Window { start: WallNs(NOW.0 - self.ago_s * SECOND), duration_ns: 10_000_000_000 }
    }
}

fn bounds(folder: Option<&Path>) -> Bounds {
    Bounds {
        folder: folder.map(Path::to_owned),
        keep: Duration::from_secs(7 * 24 * 3600),
        memory_bytes_max: 64 << 20,
        disk_bytes_max: 1 << 30,
        disk_free_bytes_min: 0,
        series_max: 1000,
        age_max: Duration::from_secs(3600),
    }
}

fn push(store: &mut Store, pushed: &Pushed) {
    let labels: Labels = vec![("service_name".into(), pushed.service.into())];
    let digest = Store::digest(&labels, pushed.window().start.0, format!("{:?}", pushed.stacks).as_bytes());
    if store.holds(&digest) {
        return;
    }
    keep(store.open_segment(NOW), pushed);
    store.close(Some(digest), pushed.window(), NOW);
}

fn keep(segment: &mut Segment, pushed: &Pushed) {
    let labels: Labels = vec![("service_name".into(), pushed.service.into())];
    let cpu = ProfileType::new("process_cpu", ("cpu", "nanoseconds"), ("cpu", "nanoseconds"));
    let series = Series::new(labels.into(), cpu);
    let tree = segment.tree(pushed.service);
    let mut pairs = Vec::new();
    for (stack, value) in &pushed.stacks {
        let mut node = ROOT;
        for name in stack.chars() {
            let function = segment.function(&name.to_string(), "", "lib", 7);
            node = segment.call(tree, node, function);
        }
        pairs.push((node, *value));
    }
    segment.keep(&series, pushed.window(), &mut pairs);
}

/// Does what is to be written, until there is nothing more.
fn save(store: &mut Store, journal: &Journal, now: WallNs) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while let Some(work) = store.next_work(now) {
        let done = runtime.block_on(journal.run(work));
        let (_, went_well) = store.done(done);
        assert!(went_well);
    }
}

/// So much later the head is full.
fn next_hour() -> WallNs {
    WallNs(NOW.0 + 3_601 * SECOND)
}

type Account = BTreeMap<(String, bool), u64>;

/// What each stack weighs alone and in total: the naive way.
fn naive(all: &[Pushed], selection: &Selection<'_>) -> Account {
    let mut account = Account::new();
    let wanted = |pushed: &&Pushed| {
        selection.wants_window(pushed.window()) && selection.service.is_none_or(|name| name == pushed.service)
    };
    for (stack, value) in all.iter().filter(wanted).flat_map(|pushed| &pushed.stacks) {
        *account.entry((stack.clone(), true)).or_default() += value;
        for length in 0..=stack.len() {
            *account.entry((stack[..length].to_owned(), false)).or_default() += value;
        }
    }
    account
}

/// The same of a tree; looks at the way that every node is inside its parent.
fn account(tree: &Tree) -> Account {
    let mut account = Account::new();
    let mut stacks: Vec<String> = Vec::new();
    let mut children = vec![0_u64; tree.nodes.len()];
    for (index, node) in tree.nodes.iter().enumerate() {
        let mut stack = if index == 0 { String::new() } else { stacks[node.parent as usize].clone() };
        if index > 0 {
            stack.push_str(&tree.functions[node.function as usize].name);
            children[node.parent as usize] += node.total;
        }
        stacks.push(stack.clone());
        if node.total > 0 {
            assert_eq!(account.insert((stack.clone(), false), node.total), None, "{stack} is there twice");
        }
        if node.own > 0 {
            account.insert((stack, true), node.own);
        }
    }
    for (node, children) in tree.nodes.iter().zip(children) {
        assert_eq!(node.own + children, node.total);
    }
    account
}

/// Windows weigh the same in stacks through `a` and `b` as those stacks do.
#[track_caller]
fn check_passage(store: &Store, all: &[Pushed], selection: &Selection<'_>) {
    let marks = |function: &TreeFunction| match &*function.name {
        "a" => 1,
        "b" => 2,
        _ => 0,
    };
    let passage = Passage { marks: Box::new(marks), all: 3 };
    let mut through = 0;
    store.windows(selection, Some(&passage), |window, _, value| {
        assert!(selection.wants_window(window) && value > 0);
        through += value;
    });
    let passes = |stack: &str| stack.contains('a') && stack.contains('b');
    let stacks = naive(all, selection).into_iter().filter(|((stack, own), _)| *own && passes(stack));
    assert_eq!(through, stacks.map(|(_, value)| value).sum::<u64>(), "{selection:?}");
}

#[track_caller]
fn check(store: &Store, all: &[Pushed]) {
    for (from, until) in [(0, 8000), (0, 60), (25, 95), (100, 3000), (3000, 8000)] {
        for service in [None, Some("a"), Some("b"), Some("nobody")] {
            let range = WallNs(NOW.0 - until * SECOND)..WallNs(NOW.0 - from * SECOND + 1);
            let selection = Selection { profile_type: None, service, matchers: &[], range };
            let expected = naive(all, &selection);
            assert_eq!(account(&store.merge(&selection)), expected, "{selection:?}");
            let mut total = 0;
            store.windows(&selection, None, |window, series, value| {
                assert!(selection.wants_window(window) && selection.wants_series(series));
                total += value;
            });
            assert_eq!(total, expected.get(&(String::new(), false)).copied().unwrap_or(0), "{selection:?}");
            check_passage(store, all, &selection);
        }
    }
}

fn any_push() -> impl Strategy<Value = Pushed> {
    // Few names that call one another, or many that are called by few.
    let stack = prop_oneof!["[p-t]{1,5}", "[pq][a-z]{0,2}"];
    let stacks = prop::collection::btree_map(stack, (1..50_u64).prop_map(|n| n * 10_101_010), 1..12);
    (prop::sample::select(vec!["a", "b", "c"]), 0..7000_i64, stacks)
        .prop_map(|(service, ago_s, stacks)| Pushed { service, ago_s, stacks: stacks.into_iter().collect() })
}

/// One of each labels, time and bytes: others count once.
fn distinct(all: Vec<Pushed>) -> Vec<Pushed> {
    let mut seen = std::collections::HashSet::new();
    all.into_iter().filter(|pushed| seen.insert(format!("{pushed:?}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_says_what_was_pushed(all in prop::collection::vec(any_push(), 1..60)) {
        let all = distinct(all);
        let (mut store, journal) = Store::open(bounds(None), NOW).unwrap();
        prop_assert!(journal.is_none());
        all.iter().for_each(|pushed| push(&mut store, pushed));
        check(&store, &all);
    }

    #[test]
    fn merging_is_associative_and_commutative(
        all in prop::collection::vec(any_push(), 1..60),
        ends in prop::collection::vec(1..60_usize, 0..4),
    ) {
        // The same pushes, in segments that end here or there, and merged from either end.
        let all = distinct(all);
        let everything = Selection { profile_type: None, service: None, matchers: &[], range: ALWAYS };
        let mut segments = vec![Segment::default()];
        for (index, pushed) in all.iter().enumerate() {
            if ends.contains(&index) {
                segments.push(Segment::default());
            }
            keep(segments.last_mut().unwrap(), pushed);
        }
        let merged = |segments: &mut dyn Iterator<Item = &Segment>| {
            let mut tree = Tree::default();
            segments.for_each(|segment| segment.merge(&everything, &mut tree).unwrap());
            account(&tree)
        };
        let expected = naive(&all, &everything);
        prop_assert_eq!(&merged(&mut segments.iter()), &expected);
        prop_assert_eq!(&merged(&mut segments.iter().rev()), &expected);
    }

    #[test]
    fn files_say_what_was_pushed_also_after_a_restart(
        all in prop::collection::vec(any_push(), 1..60),
        closed in 0..60_usize,
    ) {
        let all = distinct(all);
        let folder = TempDir::new().unwrap();
        let (mut store, journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
        let journal = journal.unwrap();
        for (index, pushed) in all.iter().enumerate() {
            push(&mut store, pushed);
            if index % 3 == 0 {
                save(&mut store, &journal, if index == closed { next_hour() } else { NOW });
            }
        }
        save(&mut store, &journal, NOW);
        check(&store, &all);
        drop((store, journal));
        let (mut store, _journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
        check(&store, &all);
        // What comes again is known, in a partition as in the journal.
        all.iter().for_each(|pushed| push(&mut store, pushed));
        let young: Vec<_> = all.iter().filter(|pushed| pushed.ago_s < 3600).collect();
        let before = store.version();
        young.into_iter().for_each(|pushed| push(&mut store, pushed));
        prop_assert_eq!(store.version(), before);
    }
}

fn some() -> Vec<Pushed> {
    (0..200)
        .map(|index| Pushed {
            service: if index % 2 == 0 { "a" } else { "b" },
            ago_s: index * 10,
            stacks: vec![(format!("p{}", index % 7), 20_202_020), ("pq".to_owned(), 10_101_010)],
        })
        .map(|pushed| Pushed {
            stacks: pushed
                .stacks
                .into_iter()
                .map(|(stack, value)| (stack.replace('0', "r"), value))
                .collect(),
            ..pushed
        })
        .collect()
}

fn written(folder: &TempDir, all: &[Pushed]) -> Store {
    let (mut store, journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    all.iter().for_each(|pushed| push(&mut store, pushed));
    save(&mut store, &journal.unwrap(), next_hour());
    store
}

fn file(folder: &TempDir, extension: &str) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    files.find(|path| path.extension().is_some_and(|known| known == extension))
}

#[test]
fn a_segment_that_ends_becomes_a_partition_and_its_journal_goes() {
    let folder = TempDir::new().unwrap();
    let store = written(&folder, &some());
    check(&store, &some());
    assert!(file(&folder, "partition").is_some());
    assert_eq!(file(&folder, "journal"), None);
}

/// Opens what is in `folder` after `bytes` were put in place of a file's.
fn with_bytes(folder: &TempDir, path: &Path, bytes: &[u8]) -> Store {
    std::fs::write(path, bytes).unwrap();
    Store::open(bounds(Some(folder.path())), NOW).unwrap().0
}

/// A file that was changed is set aside, or says what it said before: never something else.
#[track_caller]
fn check_damage(folder: &TempDir, path: &Path, bytes: &[u8]) -> bool {
    let mut store = with_bytes(folder, path, bytes);
    push(&mut store, &Pushed { service: "late", ago_s: 1, stacks: vec![("x".to_owned(), 5)] });
    let everything = WallNs(i64::MIN)..WallNs(i64::MAX);
    let selection =
        |service| Selection { profile_type: None, service, matchers: &[], range: everything.clone() };
    let mut total = 0;
    store.windows(&selection(None), None, |_, _, value| total += value);
    let tree = account(&store.merge(&selection(None)));
    assert_eq!(store.merge(&selection(Some("late"))).total(), 5);
    let met = store.evict(NOW).files_damaged > 0;
    if let Some(aside) = file(folder, "set-aside") {
        std::fs::remove_file(aside).unwrap();
    }
    let mut all = some();
    all.push(Pushed { service: "late", ago_s: 1, stacks: vec![("x".to_owned(), 5)] });
    if !met {
        assert_eq!(tree, naive(&all, &selection(None)));
        assert_eq!(total, tree[&(String::new(), false)]);
    }
    met
}

#[test]
fn a_damaged_partition_is_set_aside_and_the_rest_is_answered() {
    let folder = TempDir::new().unwrap();
    drop(written(&folder, &some()));
    let path = file(&folder, "partition").unwrap();
    let sound = std::fs::read(&path).unwrap();
    assert!(!check_damage(&folder, &path, &sound));
    let mut met = 0;
    for place in (0..sound.len()).step_by(sound.len() / 60) {
        let mut bytes = sound.clone();
        let end = (place + 97).min(bytes.len());
        bytes[place..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        met += u32::from(check_damage(&folder, &path, &bytes));
    }
    assert!(met > 0, "damage was met");
}

#[test]
fn one_bit_that_flips_in_a_partition_never_changes_what_it_says() {
    let folder = TempDir::new().unwrap();
    drop(written(&folder, &some()));
    let path = file(&folder, "partition").unwrap();
    let sound = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..sound.len()).filter(|&place| sound[place] != 0).collect();
    let mut met = 0;
    for &place in used.iter().step_by(used.len() / 150) {
        let mut bytes = sound.clone();
        bytes[place] ^= 1 << (place % 8);
        met += u32::from(check_damage(&folder, &path, &bytes));
    }
    assert!(met > 5, "only {met} were met");
}

#[test]
fn a_damaged_journal_is_set_aside_and_history_goes_on() {
    let folder = TempDir::new().unwrap();
    let (mut store, journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    let journal = journal.unwrap();
    some().iter().for_each(|pushed| push(&mut store, pushed));
    save(&mut store, &journal, NOW);
    drop((store, journal));
    let path = file(&folder, "journal").unwrap();
    std::fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let (mut store, journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    assert_eq!(store.evict(NOW).files_damaged, 1);
    assert!(file(&folder, "set-aside").is_some());
    some().iter().for_each(|pushed| push(&mut store, pushed));
    save(&mut store, &journal.unwrap(), NOW);
    check(&store, &some());
}

#[test]
fn what_could_not_be_written_is_taken_back_and_counts_when_it_comes_again() {
    let folder = TempDir::new().unwrap();
    let (mut store, journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    let journal = journal.unwrap();
    let (first, second) = (&some()[..50], &some()[50..]);
    first.iter().for_each(|pushed| push(&mut store, pushed));
    save(&mut store, &journal, NOW);
    second.iter().for_each(|pushed| push(&mut store, pushed));
    let change = store.version();
    assert!(store.next_work(NOW).is_some());
    assert_eq!(store.safety().of(change), None);
    store.done(journal::Done::Failed { error: "no space".to_owned(), full: true });
    assert_eq!(store.safety().of(change), Some(Err("no space".to_owned())));
    check(&store, first);
    some().iter().for_each(|pushed| push(&mut store, pushed));
    let change = store.version();
    save(&mut store, &journal, NOW);
    assert_eq!(store.safety().of(change), Some(Ok(())));
    check(&store, &some());
    drop((store, journal));
    let (store, _journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    check(&store, &some());
}

#[test]
fn the_oldest_partitions_go_when_there_are_too_many_bytes_or_they_are_too_old() {
    let folder = TempDir::new().unwrap();
    let mut store = written(&folder, &some());
    assert_eq!(store.evict(NOW), Evicted::default());
    let much_later = WallNs(NOW.0 + 8 * 24 * 3600 * SECOND);
    assert_eq!(store.evict(much_later).files_by_age, 1);
    assert_eq!(file(&folder, "partition"), None);
    drop(store);
    drop(written(&folder, &some()));
    let small = Bounds { disk_bytes_max: 10, ..bounds(Some(folder.path())) };
    let (mut store, _journal) = Store::open(small, NOW).unwrap();
    assert_eq!(store.evict(NOW).files_by_bytes, 1);
    assert_eq!(file(&folder, "partition"), None);
}

#[test]
fn a_file_of_another_version_is_set_aside() {
    let folder = TempDir::new().unwrap();
    drop(written(&folder, &some()));
    let path = file(&folder, "partition").unwrap();
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(partition::ABOUT).unwrap().insert(partition::VERSION, 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let (mut store, _journal) = Store::open(bounds(Some(folder.path())), NOW).unwrap();
    check(&store, &[]);
    assert_eq!(store.evict(NOW).files_damaged, 1);
}
