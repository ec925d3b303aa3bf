//! What history costs: `cargo xtask bench store`, which runs this with optimization and prints what it says.

use rustix::time::{ClockId, clock_gettime};

use super::*;
use redb::ReadableTableMetadata;

const SERVICES: usize = 40;
const STACKS: u64 = 2_500;
const STACKS_IN_WINDOW: usize = 60;
const WINDOWS_IN_HOUR: i64 = 360;

/// CPU time of all threads.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

fn cost<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let before = cpu();
    let result = what();
    (result, (cpu() - before).as_secs_f64() * 1e3)
}

/// Stack number `stack` of a service: what all have in common, five branches, and an end of its own.
fn node(segment: &mut Segment, tree: segment::TreeId, service: usize, stack: u64) -> StackId {
    let mut node = ROOT;
    let mut branch = stack;
    for depth in 0..15_u64 {
        let name = match depth {
            0..8 => format!("service_{service}::runtime::layer_{depth}"),
            8..13 => {
                let digit = branch % 5;
                branch /= 5;
                format!("service_{service}::module_{depth}::handler_{digit}::call")
            }
            _ => format!("service_{service}::leaf_{}::work", (stack * 7 + depth) % 900),
        };
        let function = segment.function(&name, "src/lib.rs", "/usr/bin/service", 1);
        node = segment.call(tree, node, function);
    }
    node
}

/// Puts an hour of all services into the store, as 360 pushes.
fn hour(store: &mut Store, begin: i64, mut after_each: impl FnMut(&mut Store)) -> u64 {
    let mut random = 1_u64;
    let mut nodes: Vec<Vec<StackId>> = Vec::new();
    let mut rows = 0;
    for index in 0..WINDOWS_IN_HOUR {
        let window = Window { start: WallNs(begin + index * 10 * SECOND), duration_ns: 10_000_000_000 };
        for service in 0..SERVICES {
            let name = format!("service-{service}");
            let labels: Labels =
                vec![("hostname".into(), "h".into()), ("service_name".into(), name.clone().into())];
            let digest = Store::digest(&labels, window.start.0, b"");
            let cpu = ProfileType::new("process_cpu", ("cpu", "nanoseconds"), ("cpu", "nanoseconds"));
            let series = Series::new(labels.into(), cpu);
            let segment = store.open_segment(window.start);
            let tree = segment.tree(&name);
            if index == 0 {
                nodes.push((0..STACKS).map(|stack| node(segment, tree, service, stack)).collect());
            }
            let mut pairs = Vec::new();
            for _ in 0..STACKS_IN_WINDOW {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let stack = usize::try_from(random >> 40).unwrap() % nodes[service].len();
                pairs.push((nodes[service][stack], 10_101_010 * (1 + (random >> 33) % 8 / 7)));
            }
            segment.keep(&series, window, &mut pairs);
            rows += pairs.len() as u64;
            store.close(Some(digest), window, window.start);
        }
        after_each(store);
    }
    rows
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

#[test]
#[ignore = "a measurement"]
fn a_day_of_forty_services() {
    let folder = TempDir::new().unwrap();
    let before = resident_bytes();
    let day_ago = NOW.0 - 24 * 3600 * SECOND;
    let (mut store, journal) = Store::open(bounds(Some(folder.path())), WallNs(day_ago)).unwrap();
    let journal = journal.unwrap();

    let (rows, ms) = cost(|| hour(&mut store, day_ago, |store| save(store, &journal, WallNs(day_ago))));
    println!(
        "an hour, {} series each 10 s, {rows} rows: {:.3} % of a core without reading the pprofs",
        SERVICES,
        ms / 36_000.0
    );
    let journal_bytes = std::fs::metadata(file(&folder, "journal").unwrap()).unwrap().len();
    println!(
        "its journal: {} kB; memory: {} kB by our account, {:.0} kB resident",
        journal_bytes / 1000,
        store.bytes() / 1000,
        (resident_bytes() - before) / 1e3
    );
    let all = WallNs(day_ago)..WallNs(day_ago + 3600 * SECOND);
    let selection = Selection { profile_type: None, service: None, matchers: &[], range: all };
    let (tree, ms) = cost(|| store.merge(&selection));
    println!("merge of all of it, in memory: {ms:.1} ms, {} nodes (budget 50 ms)", tree.nodes.len());

    let ((), ms) = cost(|| save(&mut store, &journal, WallNs(day_ago + 3_601 * SECOND)));
    println!("making a partition of it: {ms:.0} ms");
    let path = file(&folder, "partition").unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    let database = redb::Database::builder().open_read_only(&path).unwrap();
    let minutes =
        redb::ReadableDatabase::begin_read(&database).unwrap().open_table(partition::MINUTES).unwrap();
    let stored = minutes.stats().unwrap().stored_bytes();
    println!(
        "bytes per row: {:.2} (budget 3), the whole file with names and stacks {:.2}",
        stored as f64 / rows as f64,
        bytes as f64 / rows as f64
    );
    drop((minutes, database));
    let (tree, ms) = cost(|| store.merge(&selection));
    println!("merge of all of it, from the file: {ms:.1} ms, {} nodes (budget 50 ms)", tree.nodes.len());

    for number in 1..24 {
        let begin = day_ago + number * 3600 * SECOND;
        hour(&mut store, begin, |_| {});
        save(&mut store, &journal, WallNs(begin + 3_601 * SECOND));
    }
    let day = WallNs(day_ago)..NOW;
    let one = Selection { profile_type: None, service: Some("service-7"), matchers: &[], range: day.clone() };
    let (tree, ms) = cost(|| store.merge(&one));
    println!("merge of a day of one service: {ms:.1} ms, {} nodes (budget 200 ms)", tree.nodes.len());
    let mut windows = 0_u64;
    let ((), ms) = cost(|| store.windows(&one, None, |_, _, _| windows += 1));
    println!("time series of a day of one service: {ms:.1} ms, {windows} windows");
    let everything = Selection { profile_type: None, service: None, matchers: &[], range: day };
    let ((), ms) = cost(|| store.windows(&everything, None, |_, _, _| windows += 1));
    println!("time series of a day of all services: {ms:.1} ms");
    println!("{} partitions, {} MB", 24, store.disk_bytes() / 1_000_000);
    drop((store, journal));
    let (opened, ms) = cost(|| Store::open(bounds(Some(folder.path())), NOW).unwrap());
    println!("opening that history: {ms:.1} ms");
    drop(opened);
}
