//! Tier 6: the agent is killed at random moments, some of them in the middle of a push, while the server is down half of
//! the time. Every window that was over at a kill, but for the time it takes to name it, is in the receiver's answers with
//! all that was captured in it, exactly once where that counts identical bytes once; a kill costs one repeated body at
//! most.
//!
//! `TEST_CRASH_KILLS` says how often (25 unless it does), `TEST_CRASH_SEED` which moments.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use profiler_tests::harness::agent::Agent;
use profiler_tests::harness::gate;
use profiler_tests::harness::pyroscope::{Mood, Pushed, Pyroscope};
use profiler_tests::harness::weather::Weather;
use profiler_tests::harness::workloads::{self, Running};
use profiler_tests::need;
use rustix::process::Signal;

/// How often windows end.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon after its end a window is named, encoded and on disk, where the machine has time: a program with many symbols
/// takes most of it when it is seen for the first time. Where it has none the daemon gives names some seconds, which is longer
/// than it lives here.
const NAMED_MAX: Duration = Duration::from_secs(1);
/// A machine has time if a thread that wants to wake was never later than this.
const CALM: Duration = Duration::from_millis(10);
/// How much later than it was captured a sample may be read: it is told with the next window.
const READ_LATE_MAX: Duration = Duration::from_millis(100);
/// Ticks of a processor's clock in a second.
const FREQUENCY: u32 = 99;
/// Ticks that a time may hold more than its length says, one at either end.
const TICKS_BESIDE: u64 = 2;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// Well half of the time, else in trouble of some kind.
    fn mood(&mut self) -> Mood {
        match self.below(6) {
            0 => Mood::Says(503, "down"),
            1 => Mood::Silent,
            2 => Mood::Half,
            _ => Mood::Takes,
        }
    }
}

/// One run of the agent.
struct Life {
    /// When it was started, nanoseconds since the epoch.
    begun: i64,
    /// When it had said that it samples.
    sampling: i64,
    /// When it had told how much it had captured, just before it was killed.
    asked: i64,
    /// When it was killed.
    killed: i64,
    /// Samples that it had captured until it was asked, and not lost.
    captured: u64,
    /// Samples of them that had been named and handed over.
    handed_over: u64,
    /// The machine had time for all of it.
    calm: bool,
}

impl Life {
    /// Ends it.
    fn kill((begun, sampling): (i64, i64), mut agent: Agent, calm: bool) -> Self {
        let (_, page) = agent.ask("/metrics");
        let asked = now();
        let value = |name: &str| -> u64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            let whole = line.map_or("0", |line| line.split('.').next().unwrap_or_default());
            whole.trim().parse().expect("a number")
        };
        let killed = now();
        agent.process().signal(Signal::KILL);
        let ended = agent.end(Duration::from_secs(5));
        assert!(!ended.said.contains("panicked") && !ended.said.contains("torn"), "{}", ended.said);
        let left = value("profiler_delivered_weight_total ") + value("profiler_waiting_weight ");
        let recovered = value("profiler_spool_recovered_weight_total{sink=\"pyroscope\"} ");
        let lost = sum(&page, "profiler_samples_lost_total{");
        let captured = value("profiler_samples_captured_total ").saturating_sub(lost);
        let handed_over = left.saturating_sub(recovered);
        Self { begun, sampling, asked, killed, captured, handed_over, calm }
    }
}

/// The sum of a count over its labels.
fn sum(page: &str, name: &str) -> u64 {
    let values =
        page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is past 1970");
    i64::try_from(since.as_nanos()).expect("a clock before 2262")
}

/// How much later `to` is than `from`, both nanoseconds since the epoch; nothing if it is not.
fn between(from: i64, to: i64) -> Duration {
    Duration::from_nanos(u64::try_from(to - from).unwrap_or_default())
}

/// The most samples that can be captured in such a time.
fn samples_max(time: Duration) -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 1_000);
    processors * (ms * u64::from(FREQUENCY) / 1_000 + TICKS_BESIDE)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn what_was_captured_survives_every_kill_and_arrives_once() {
    need!(gate::bpf());
    let kills = number("TEST_CRASH_KILLS").unwrap_or(25);
    let seed = number("TEST_CRASH_SEED").unwrap_or(now().cast_unsigned());
    println!("{kills} kills, TEST_CRASH_SEED={seed}");
    let mut dice = Dice(seed);
    let weather = Weather::watch();
    let _work = Running::start(Command::new(workloads::shop_c("wl-crash")).arg("100000"));
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().to_str().expect("a path in plain letters");
    let server = Pyroscope::start(Mood::Takes);
    let start = || {
        let url = server.url();
        let (interval, frequency) = (format!("{}s", INTERVAL.as_secs()), FREQUENCY.to_string());
        let begun = now();
        let agent = Agent::start(&[
            "--server",
            &url,
            "--interval",
            &interval,
            "--frequency",
            &frequency,
            "--data-dir",
            folder,
        ]);
        ((begun, now()), agent)
    };

    let mut lives = Vec::new();
    let mut in_push = 0;
    for _ in 0..kills {
        server.set(dice.mood());
        let begun = Instant::now();
        let (since, agent) = start();
        let mut rest = dice.ms(0, 5_000);
        while !rest.is_zero() {
            let step = rest.min(dice.ms(200, 1_500));
            std::thread::sleep(step);
            rest -= step;
            server.set(dice.mood());
        }
        if dice.below(3) == 0 {
            // Whatever it pushes now it will wait for when it is killed; the server has it, or has not.
            server.set(if dice.below(2) == 0 { Mood::Mute } else { Mood::Silent });
            std::thread::sleep(dice.ms(1_000, 1_900));
            in_push += 1;
        }
        lives.push(Life::kill(since, agent, weather.worst_since(begun) <= CALM));
    }

    server.set(Mood::Takes);
    let ((begun, sampling), agent) = start();
    // What is pushed now was captured now: all that waited is there, as the oldest goes first.
    server.wait_for("a window of the last run", begun, |_| true);
    let books = agent.stop().books();
    assert_eq!((books.kept, books.lost_by_us), (0, 0), "{books:?}");
    let captured = books.captured - (books.lost - books.lost_by_us);
    let ended = now();
    let handed_over = captured;
    lives.push(Life { begun, sampling, asked: ended, killed: ended, captured, handed_over, calm: true });
    check(&server.pushed(), &lives, kills, in_push);
}

/// Looks at what a receiver has in the end.
#[track_caller]
fn check(pushed: &[Pushed], lives: &[Life], kills: u64, in_push: u64) {
    let mut faults = Vec::new();
    // What a receiver that counts identical bytes once has.
    let mut known: HashMap<(&str, i64), HashSet<u64>> = HashMap::new();
    let mut repeated = HashSet::new();
    for Pushed { service, start_ns, digest, request, .. } in pushed {
        if !known.entry((service, *start_ns)).or_default().insert(*digest) {
            repeated.insert(*request);
        }
    }
    for ((service, start), digests) in &known {
        if digests.len() > 1 {
            faults.push(format!("{service} at {start}: {} profiles that are not the same", digests.len()));
        }
    }
    if repeated.len() as u64 > kills {
        faults.push(format!("{} repeated bodies, more than kills", repeated.len()));
    }

    let mut distinct = HashSet::new();
    let once = pushed.iter().filter(|pushed| distinct.insert((&pushed.service, pushed.start_ns)));
    let once: Vec<&Pushed> = once.collect();
    let (mut samples, mut windows, mut unfinished, mut untold) = (0, 0, Vec::new(), Vec::new());
    for (number, life) in lives.iter().enumerate() {
        let Life { begun, sampling, asked, killed, captured, handed_over, calm } = life;
        let own: Vec<&Pushed> =
            once.iter().copied().filter(|pushed| (begun..killed).contains(&&pushed.start_ns)).collect();
        let arrived: u64 = own.iter().map(|pushed| pushed.profile.samples()).sum();
        if arrived < *handed_over {
            faults.push(format!(
                "life {number}: {arrived} samples arrived of {handed_over} that were handed over"
            ));
        }
        samples += arrived;
        // Something works all the time, so each window has profiles.
        let told: BTreeMap<i64, i64> = own.iter().map(|pushed| (pushed.start_ns, pushed.length_ns)).collect();
        windows += told.len();
        for ((start, length), next) in told.iter().zip(told.keys().skip(1)) {
            if start + length != *next {
                faults.push(format!("life {number}: {} ms are missing", (next - start - length) / 1_000_000));
            }
        }
        // From the first moment that is told to the last there is no hole. Nor is anything missing before or behind but
        // the window that was not finished.
        let first = told.first_key_value().map_or(*sampling, |(start, _)| *start);
        let told = told.last_key_value().map_or(*sampling, |(start, length)| start + length);
        if first > *sampling {
            faults.push(format!("life {number}: the first {:?} are missing", between(*sampling, first)));
        }
        let behind = between(told, *killed);
        if *calm && behind > INTERVAL + NAMED_MAX {
            faults.push(format!("life {number}: the last {behind:?} before its end are missing"));
        }
        untold.push(behind);
        // All that did not arrive was captured in that time, or read in it.
        let missing = captured.saturating_sub(arrived);
        unfinished.push(missing);
        if *calm && missing > samples_max(between(told, *asked) + READ_LATE_MAX) {
            faults.push(format!("life {number}: {missing} samples are missing, of its last {behind:?}"));
        }
    }
    if samples != once.iter().map(|pushed| pushed.profile.samples()).sum::<u64>() {
        faults.push("there are samples of no life".to_owned());
    }
    unfinished.sort_unstable();
    untold.sort_unstable();
    let calm = lives.iter().filter(|life| life.calm).count();
    println!(
        "the machine had time for {calm} of {} lives; what the others left untold is not judged",
        lives.len()
    );
    println!(
        "{kills} kills, {in_push} of them in mid-push: {} profiles in {windows} windows arrived, {} of them distinct, {} \
         bodies repeated; {samples} samples, at a kill {} were not named yet (the median; {} at most), those of the last \
         {:?} ({:?} at most)",
        pushed.len(),
        once.len(),
        repeated.len(),
        unfinished[unfinished.len() / 2],
        unfinished[unfinished.len() - 1],
        untold[untold.len() / 2],
        untold[untold.len() - 1],
    );
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
