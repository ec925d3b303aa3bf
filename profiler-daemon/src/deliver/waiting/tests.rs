//! What waits, in memory and on a disk that may be full, torn, taken, or gone.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::deliver::parcel::Piece;
use crate::meters::{Counters, Meters};

fn in_memory(bytes_max: usize) -> Waiting {
    let tally = Tally::new(&Meters::default(), Counters::default());
    Waiting::new(bytes_max, Duration::ZERO, tally)
}

/// A spool in a folder of its own, and what it counts.
struct Place {
    folder: TempDir,
    meters: Meters,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), meters: Meters::default() }
    }

    fn config(&self) -> spool::Config {
        spool::Config { folder: self.path(), bytes_max: 64 << 20, free_bytes_min: 0 }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("spool/pyroscope")
    }

    fn open(&mut self) -> Waiting {
        self.open_with(self.config())
    }

    fn open_with(&mut self, config: spool::Config) -> Waiting {
        self.meters = Meters::default();
        let meters = SpoolMeters::new(&self.meters, &["pyroscope".to_owned()]).remove(0);
        in_memory(1 << 20).on_disk(config, meters).unwrap()
    }

    /// A counter of the spool's.
    fn counted(&self, name: &str) -> u64 {
        let page = self.meters.render();
        let start = format!("profiler_spool_{name}{{sink=\"pyroscope\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap()
    }

    /// Parcels there.
    fn files(&self) -> usize {
        let names = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(".parcel")).count()
    }
}

/// `bytes` that do not compress, of so many pieces.
fn parcel(weight: u64, bytes: usize, pieces: usize) -> Parcel {
    let mut state = weight | 1 << 40;
    let noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    let bytes: Vec<u8> = std::iter::repeat_with(noise).take(bytes).collect();
    let piece = |at| Piece {
        bytes: bytes.clone(),
        weight: Weight(if at == 0 { weight } else { 0 }),
        time: WallNs::now(),
    };
    Parcel::pack((0..pieces).map(piece).collect()).pop().unwrap()
}

fn put(waiting: &Waiting, weight: u64, bytes: usize) {
    waiting.put(vec![parcel(weight, bytes, 1)], Weight(0));
}

/// Takes everything, and delivers it: the weights, in order.
async fn deliver(waiting: &Waiting) -> Vec<u64> {
    let mut weights = Vec::new();
    while let Some(parcel) = waiting.next().await {
        weights.push(parcel.weight().0);
        waiting.settle(Fate::Delivered);
    }
    weights
}

fn lost(outcome: &Outcome, reason: Reason) -> u64 {
    outcome.lost.0.get(&reason).map_or(0, |weight| weight.0)
}

/// What goes in comes out in its order; all of it is accounted for.
#[track_caller]
fn check(bytes_max: usize, weights: &[u64], delivered: &[u64], too_much: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let waiting = in_memory(bytes_max);
    waiting.put(weights.iter().map(|&weight| parcel(weight, 1_000, 1)).collect(), Weight(0));
    assert_eq!(runtime.block_on(deliver(&waiting)), delivered);
    assert_eq!(waiting.lock().load, Load::default());
    let outcome = waiting.stop();
    assert_eq!(outcome.delivered.0, delivered.iter().sum::<u64>());
    assert_eq!(lost(&outcome, Reason::SpoolFull), too_much);
}

#[test]
fn what_fits_comes_out_in_order() {
    check(1 << 20, &[1, 2, 3], &[1, 2, 3], 0);
}

#[test]
fn the_oldest_goes_when_there_is_no_room() {
    check(2_800, &[1, 2, 4, 8], &[4, 8], 3);
}

#[test]
fn one_that_is_larger_than_all_room_goes_at_once() {
    check(500, &[7], &[], 7);
}

#[tokio::test]
async fn what_comes_back_is_first_and_still_counts() {
    let waiting = in_memory(1 << 20);
    put(&waiting, 1, 10);
    put(&waiting, 2, 10);
    let parcel = waiting.next().await.unwrap();
    waiting.settle(Fate::Back(vec![parcel]));
    assert_eq!(waiting.weight(), Weight(3));
    assert_eq!(deliver(&waiting).await, [1, 2]);
}

#[tokio::test]
async fn what_lets_the_others_before_it_comes_after_those_too_that_come_later() {
    let waiting = in_memory(1 << 20);
    (1..=3).for_each(|weight| put(&waiting, weight, 10));
    for _ in 0..2 {
        let mut parcel = waiting.next().await.unwrap();
        parcel.let_before = Some(0);
        waiting.settle(Fate::Behind(Box::new(parcel)));
    }
    (4..=5).for_each(|weight| put(&waiting, weight, 10));
    assert_eq!(deliver(&waiting).await, [3, 4, 5, 1, 2]);
}

#[tokio::test]
async fn what_is_in_hand_counts_but_is_not_dropped() {
    let waiting = in_memory(2_800);
    put(&waiting, 1, 1_000);
    let parcel = waiting.next().await.unwrap();
    put(&waiting, 2, 1_000);
    put(&waiting, 4, 1_000);
    assert_eq!(waiting.weight(), Weight(1 + 4));
    waiting.settle(Fate::Back(vec![parcel]));
    assert_eq!(waiting.next().await.unwrap().weight(), Weight(1));
}

#[tokio::test]
async fn without_a_disk_what_is_there_at_the_end_is_lost_and_so_is_what_comes_later() {
    let waiting = in_memory(1 << 20);
    put(&waiting, 1, 10);
    put(&waiting, 2, 10);
    let _in_hand = waiting.next().await.unwrap();
    put(&waiting, 4, 10);
    assert_eq!(lost(&waiting.stop(), Reason::Stopped), 7);
    put(&waiting, 8, 10);
    assert_eq!(lost(&waiting.stop(), Reason::Stopped), 15);
    assert_eq!(waiting.lock().load, Load::default());
}

#[test]
fn what_a_sink_has_no_use_for_is_refused() {
    let waiting = in_memory(1 << 20);
    waiting.put(Vec::new(), Weight(5));
    assert_eq!(lost(&waiting.stop(), Reason::Refused), 5);
}

#[tokio::test]
async fn pieces_that_do_not_come_back_are_refused() {
    let waiting = in_memory(1 << 20);
    put(&waiting, 5, 10);
    let _ = waiting.next().await.unwrap();
    waiting.settle(Fate::Back(Vec::new()));
    assert_eq!(lost(&waiting.stop(), Reason::Refused), 5);
}

#[tokio::test]
async fn what_is_too_old_is_not_sent_and_what_lies_ahead_is() {
    let tally = Tally::new(&Meters::default(), Counters::default());
    let waiting = Waiting::new(1 << 20, Duration::from_secs(3_600), tally);
    let hour = 3_600_000_000_000;
    for (weight, ahead) in [(1, -2 * hour), (2, -hour - 1), (4, hour * 24), (8, -hour), (16, -hour / 2)] {
        let mut parcel = parcel(weight, 10, 1);
        parcel.time = WallNs(WallNs::now().0 + ahead);
        waiting.put(vec![parcel], Weight(0));
    }
    assert_eq!(deliver(&waiting).await, [4, 16]);
    assert_eq!(lost(&waiting.stop(), Reason::TooOld), 1 + 2 + 8);
}

#[tokio::test]
async fn a_disk_has_it_before_anyone_can_take_it_and_no_longer_than_needed() {
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 100);
    assert_eq!(place.files(), 1);
    let parcel = waiting.next().await.unwrap();
    assert_eq!(place.files(), 1, "it is not delivered yet");
    waiting.settle(Fate::Back(vec![parcel]));
    assert_eq!(deliver(&waiting).await, [1]);
    assert_eq!(waiting.stop(), Outcome { delivered: Weight(1), ..Outcome::default() });
    assert_eq!(place.files(), 0);
    assert_eq!(waiting.lock().load, Load::default());
}

#[tokio::test]
async fn a_killed_run_leaves_the_same_bytes_to_the_next_oldest_first() {
    let mut place = Place::new();
    let mut sent = Vec::new();
    let waiting = place.open();
    for weight in 1..=50 {
        let parcel = parcel(weight, 50_000, 1);
        sent.push(parcel.body());
        waiting.put(vec![parcel], Weight(0));
    }
    let _in_hand = waiting.next().await.unwrap();
    let memory = waiting.lock().load.memory;
    assert!(memory < (WARM_BYTES_MAX + 100_000), "{memory} bytes in memory of what is on disk");
    // A kill lets go of the lock and of nothing else.
    waiting.spool.as_ref().unwrap().end();
    let next = place.open();
    assert_eq!(place.counted("recovered_weight_total"), (1..=50).sum::<u64>());
    put(&next, 51, 10);
    for (weight, body) in (1..).zip(sent) {
        let parcel = next.next().await.unwrap();
        assert_eq!((parcel.weight(), parcel.body()), (Weight(weight), body));
        next.settle(Fate::Delivered);
    }
    assert_eq!(deliver(&next).await, [51]);
    let outcome = next.stop();
    assert_eq!((outcome.recovered, outcome.delivered), (Weight(1_275), Weight(1_275 + 51)));
    assert_eq!(place.files(), 0);
}

#[tokio::test]
async fn what_is_left_at_the_end_is_kept_for_the_next_start() {
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 10);
    put(&waiting, 2, 10);
    let _in_hand = waiting.next().await.unwrap();
    assert_eq!(waiting.stop(), Outcome { kept: Weight(3), ..Outcome::default() });
    let next = place.open();
    assert_eq!(deliver(&next).await, [1, 2]);
    let outcome = next.stop();
    assert_eq!(outcome, Outcome { recovered: Weight(3), delivered: Weight(3), ..Outcome::default() });
}

#[tokio::test]
async fn what_may_be_sent_at_most_once_is_not_on_disk_while_it_is_sent() {
    let mut place = Place::new();
    let waiting = place.open().at_most_once();
    waiting.put(vec![parcel(9, 100, 4)], Weight(0));
    put(&waiting, 5, 10);
    let whole = waiting.next().await.unwrap();
    assert_eq!(place.files(), 1);
    waiting.settle(Fate::Back(whole.split(1)));
    put(&waiting, 6, 10);
    assert_eq!(place.files(), 6, "what comes back is written again");
    assert_eq!(waiting.next().await.unwrap().weight(), Weight(9));
    assert_eq!(place.files(), 5);
    waiting.spool.as_ref().unwrap().end();
    assert_eq!(deliver(&place.open()).await, [0, 0, 0, 5, 6]);
}

#[tokio::test]
async fn a_part_that_may_be_sent_at_most_once_takes_no_other_with_it() {
    let mut place = Place::new();
    let waiting = place.open().at_most_once();
    put(&waiting, 5, 10);
    waiting.put(vec![parcel(9, 100, 4)], Weight(0));
    assert_eq!(deliver(&waiting).await, [5, 9]);
    waiting.put(vec![parcel(9, 100, 4)], Weight(0));
    let whole = waiting.next().await.unwrap();
    waiting.settle(Fate::Back(whole.split(1)));
    // The parts have no files yet.
    assert_eq!(waiting.next().await.unwrap().weight(), Weight(9));
    assert_eq!(place.files(), 3);
    waiting.settle(Fate::Delivered);
    assert_eq!(deliver(&waiting).await, [0, 0, 0]);
    assert_eq!(place.files(), 0);
    assert_eq!(waiting.lock().load, Load::default());
}

/// A parcel of four pieces that is taken apart; what `meanwhile` does; and a kill.
async fn split_and_kill(meanwhile: impl AsyncFnOnce(&Waiting)) -> (Place, Waiting) {
    let mut place = Place::new();
    let waiting = place.open();
    waiting.put(vec![parcel(9, 100, 4)], Weight(0));
    put(&waiting, 5, 10);
    let whole = waiting.next().await.unwrap();
    waiting.settle(Fate::Back(whole.split(1)));
    meanwhile(&waiting).await;
    waiting.spool.as_ref().unwrap().end();
    let next = place.open();
    (place, next)
}

#[tokio::test]
async fn a_kill_after_a_split_loses_nothing() {
    let (_place, next) = split_and_kill(async |_| {}).await;
    assert_eq!(next.next().await.unwrap().len(), 4, "the whole of it is there");
    next.settle(Fate::Delivered);
    assert_eq!(deliver(&next).await, [5]);
}

#[tokio::test]
async fn the_parts_of_a_split_are_written_and_then_the_whole_goes() {
    let (place, next) = split_and_kill(async |waiting| {
        assert_eq!(waiting.next().await.unwrap().weight(), Weight(9));
        waiting.settle(Fate::Delivered);
        put(waiting, 6, 10);
    })
    .await;
    assert_eq!(place.files(), 5);
    assert_eq!(deliver(&next).await, [0, 0, 0, 5, 6], "those that were delivered are not there again");
    assert_eq!(next.stop().delivered, Weight(11));
    assert_eq!(place.files(), 0);
}

#[tokio::test]
async fn parts_beside_their_whole_are_not_sent_twice() {
    let mut place = Place::new();
    let waiting = place.open();
    waiting.put(vec![parcel(9, 100, 4)], Weight(0));
    let whole = waiting.next().await.unwrap();
    let parent = whole.key.unwrap();
    let mut parts = whole.split(1);
    // As if it was killed between two parts.
    let key = Key { part: 1, ..parent };
    waiting.spool.as_ref().unwrap().write(parts.remove(0).to_spool(key, Some(parent)), false, WHENEVER);
    waiting.spool.as_ref().unwrap().end();
    let next = place.open();
    assert_eq!(deliver(&next).await, [9]);
    next.stop();
    assert_eq!(place.files(), 0);
}

#[tokio::test]
async fn a_full_spool_drops_the_oldest() {
    let mut place = Place::new();
    let waiting = place.open_with(spool::Config { bytes_max: 3 * 4_096, ..place.config() });
    for weight in [1, 2, 4, 8, 16] {
        put(&waiting, weight, 1_000);
    }
    assert_eq!(deliver(&waiting).await, [4, 8, 16]);
    assert_eq!(lost(&waiting.stop(), Reason::SpoolFull), 3);
}

#[tokio::test]
async fn a_disk_with_little_room_holds_no_more_than_it_did() {
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 10);
    put(&waiting, 2, 10);
    waiting.spool.as_ref().unwrap().end();
    let waiting = place.open_with(spool::Config { free_bytes_min: u64::MAX, ..place.config() });
    put(&waiting, 4, 10);
    assert_eq!(place.files(), 2);
    assert_eq!(deliver(&waiting).await, [2, 4]);
    put(&waiting, 8, 10);
    assert_eq!(deliver(&waiting).await, [8], "from memory");
    assert_eq!(lost(&waiting.stop(), Reason::SpoolFull), 1);
}

#[tokio::test]
async fn a_torn_file_costs_itself_alone() {
    let mut place = Place::new();
    let waiting = place.open();
    for weight in [1, 2, 4] {
        put(&waiting, weight, 10);
    }
    waiting.spool.as_ref().unwrap().end();
    let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut bytes = fs::read(&names[1]).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&names[1], bytes).unwrap();
    let next = place.open();
    assert_eq!(deliver(&next).await, [1, 4]);
    let outcome = next.stop();
    assert_eq!((outcome.recovered, lost(&outcome, Reason::SpoolTorn)), (Weight(7), 2));
    assert_eq!((place.counted("torn_total"), place.files()), (1, 0));
}

#[tokio::test]
async fn a_disk_that_hangs_stops_nobody() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 10);
    waiting.spool.as_ref().unwrap().end();
    let waiting = place.open();
    // Who reads from a pipe waits for who writes to it.
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = names.iter().find(|path| path.to_str().unwrap().ends_with(".parcel")).unwrap();
    fs::remove_file(file).unwrap();
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(waiting.next().await.is_none());
    let begun = std::time::Instant::now();
    put(&waiting, 2, 10);
    put(&waiting, 4, 10);
    assert_eq!(deliver(&waiting).await, [2, 4], "from memory, past what cannot be read");
    assert!(begun.elapsed() < Duration::from_secs(1), "it is waited for once");
    put(&waiting, 8, 10);
    fs::write(file, "it answers").unwrap();
    while waiting.spool.as_ref().unwrap().is_late() {
        tokio::task::yield_now().await;
    }
    put(&waiting, 16, 10);
    assert_eq!(place.files(), 2, "what was in memory is written; what was no parcel is gone");
    assert_eq!(waiting.next().await.unwrap().weight(), Weight(8));
    assert_eq!(
        waiting.stop(),
        Outcome {
            recovered: Weight(1),
            delivered: Weight(6),
            kept: Weight(24),
            lost: Lost(std::collections::BTreeMap::from([(Reason::SpoolTorn, Weight(1))])),
        }
    );
}

#[tokio::test]
async fn a_window_waits_no_longer_for_a_slow_disk_however_much_is_to_be_written() {
    let mut place = Place::new();
    let waiting = place.open();
    waiting.put_until(MonoNs(0), vec![parcel(1, 10, 1), parcel(2, 10, 1)], Weight(0));
    assert_eq!((place.files(), waiting.is_safe()), (0, false));
    put(&waiting, 4, 10);
    assert_eq!((place.files(), waiting.is_safe()), (3, true), "the next window writes the rest");
    assert_eq!(deliver(&waiting).await, [1, 2, 4]);
}

#[tokio::test]
async fn a_disk_that_hangs_at_the_start_is_found_later() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 10);
    waiting.stop();
    // The first thing that is opened is the lock.
    let lock = place.path().join("lock");
    fs::remove_file(&lock).unwrap();
    mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let waiting = place.open();
    put(&waiting, 2, 10);
    assert_eq!(waiting.next().await.unwrap().weight(), Weight(2), "from memory");
    waiting.settle(Fate::Delivered);
    let _reader = fs::File::open(&lock).unwrap();
    while waiting.spool.as_ref().unwrap().is_late() {
        tokio::task::yield_now().await;
    }
    put(&waiting, 4, 10);
    assert_eq!(deliver(&waiting).await, [1, 4]);
    assert_eq!(waiting.stop().recovered, Weight(1));
}

#[tokio::test]
async fn a_second_daemon_works_in_memory() {
    let mut place = Place::new();
    let first = place.open();
    put(&first, 1, 10);
    let second = place.open();
    put(&second, 2, 10);
    assert_eq!(deliver(&second).await, [2]);
    assert_eq!(deliver(&first).await, [1]);
}

/// Nothing can be written at first, then `heal` heals it.
async fn check_comes_back(harm: impl Fn(&Path), heal: impl Fn(&Path)) {
    let mut place = Place::new();
    let path = place.path();
    harm(&path);
    let waiting = place.open();
    put(&waiting, 1, 10);
    put(&waiting, 2, 10);
    assert!(place.counted("write_failed_total") >= 2);
    let parcel = waiting.next().await.unwrap();
    assert_eq!(parcel.weight(), Weight(1), "it goes on from memory");
    waiting.settle(Fate::Back(vec![parcel]));
    heal(&path);
    put(&waiting, 4, 10);
    assert_eq!(place.files(), 3, "those that waited are written too");
    assert_eq!(waiting.stop().kept, Weight(7));
    assert_eq!(deliver(&place.open()).await, [1, 2, 4]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_made_later() {
    check_comes_back(
        |path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "a file in its place").unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
    )
    .await;
}

#[tokio::test]
async fn a_folder_that_vanishes_is_made_anew() {
    let mut place = Place::new();
    let waiting = place.open();
    put(&waiting, 1, 10);
    fs::remove_dir_all(place.path()).unwrap();
    put(&waiting, 2, 10);
    assert_eq!((place.files(), place.counted("write_failed_total")), (1, 0));
    assert_eq!(deliver(&waiting).await, [1, 2]);
    waiting.stop();
    assert_eq!(place.files(), 0);
}

#[tokio::test]
async fn a_full_disk_stops_nothing() {
    let mut place = Place::new();
    let disk = place.folder.path().join("spool");
    fs::create_dir_all(&disk).unwrap();
    let mount = |arguments: &[&str]| {
        std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&disk)
            .output()
            .unwrap()
            .status
            .success()
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        println!("skipped: this user may not mount a disk");
        return;
    }
    let waiting = place.open();
    for weight in 1..=20 {
        put(&waiting, weight, 10_000);
    }
    let failed = place.counted("write_failed_total");
    let delivered = deliver(&waiting).await;
    put(&waiting, 21, 10_000);
    let (files, outcome) = (place.files(), waiting.stop());
    assert!(mount(&["umount"]));
    assert!(failed > 0);
    assert_eq!(delivered, (1..=20).collect::<Vec<_>>(), "{:?}", place.meters.render());
    assert_eq!((files, outcome.kept, outcome.lost), (1, Weight(21), Lost::default()));
}
