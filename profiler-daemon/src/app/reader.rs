//! The reader thread: woken by the kernel, pins what is perishable, and never waits for a name.
//!
//! In: the attached kernel side. Out: one batch of traces per window, to be handed over. While the workshop is late the window is left
//! open; when that is full the reader waits, and the rings take the slack. A recording is written elsewhere (`recorder.rs`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::Failure;
use super::books::{Books, Room};
use super::builder::{Builder, Built};
use super::handover::Handover;
use super::healing::Healing;
use super::intake::Intake;
use super::recorder::Recorder;
use super::steering::Steering;
use crate::capture::Kernel;
use crate::deliver::Cadence;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::{Counters, Meters, label};
use crate::model::{Frame, Pid, ProcessEvent, RawSample, SampleKind, TraceBatch, Weight};
use crate::time::{Anchor, MonoNs, WindowClock};

/// How long a record may take from its time stamp to its ring: what is younger waits for the next turn, so that
/// whatever explains a sample has arrived before it is read. A program needs microseconds; a virtual processor that is
/// taken away in between, milliseconds.
const WATERMARK: Duration = Duration::from_millis(5);

/// Wakes closer together than this are made one: a new program maps its libraries within a millisecond, and a
/// process that lives five is still pinned in time.
const COALESCE: Duration = Duration::from_millis(1);

/// How long one turn reads `/proc` after records were lost: on a machine of many processes all of it takes longer than a window.
const HEAL_TURN: Duration = Duration::from_millis(50);

/// How long the end waits for tables that samples with stacks wait for.
const LAST_TABLES: Duration = Duration::from_secs(2);

/// Events that wait for the next turn at most; more bring it on.
const EVENTS_WAITING_MAX: usize = 1 << 12;

/// When windows end.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Length of the first window: short, so that a newcomer sees data at once.
    pub(super) first: Duration,
    /// Length of the others, which who pushes them may shorten a little.
    pub(super) cadence: Cadence,
    /// When to stop by itself.
    pub(super) total: Option<Duration>,
}

/// The moment of the last window's end, for who asks whether the reader is alive; before the first, of its own making.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat(Arc<AtomicU64>);

impl Default for Heartbeat {
    fn default() -> Self {
        Self::last(MonoNs::now())
    }
}

impl Heartbeat {
    /// The last beat was then.
    pub(super) fn last(beat: MonoNs) -> Self {
        Self(Arc::new(AtomicU64::new(beat.0)))
    }

    /// Time since the last beat.
    pub(super) fn age(&self) -> Duration {
        MonoNs::now().since(MonoNs(self.0.load(Ordering::Relaxed)))
    }

    /// A window was closed, or is waited for with nothing to be blamed.
    pub(super) fn beat(&self) {
        self.0.store(MonoNs::now().0, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct ReaderMeters {
    wakeups: Counters,
    records_lost: Counter,
    records_malformed: Counter,
    processors_changed: Counter,
    wall_clock_set: Counter,
    prolonged: Counter,
    no_kernel_stack: Counter,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Reader {
    kernel: Kernel,
    intake: Intake,
    builder: Option<Builder>,
    steering: Option<Steering>,
    healing: Healing,
    kind: SampleKind,
    clock: WindowClock,
    books: Books,
    heartbeat: Heartbeat,
    meters: ReaderMeters,
    recorder: Option<Recorder>,
    events: VecDeque<ProcessEvent>,
    samples: VecDeque<RawSample>,
    fresh_events: Vec<ProcessEvent>,
    fresh_samples: Vec<RawSample>,
}

impl Reader {
    pub(super) fn new(
        kernel: Kernel,
        intake: Intake,
        kind: SampleKind,
        books: Books,
        heartbeat: Heartbeat,
        recorder: Option<Recorder>,
        meters: &Meters,
    ) -> Self {
        let mut reader = Self {
            kernel,
            intake,
            builder: None,
            steering: None,
            healing: Healing::default(),
            kind,
            clock: WindowClock::default(),
            books,
            heartbeat,
            meters: ReaderMeters {
                wakeups: meters
                    .counters("profiler_reader_wakeups", "Times the reader was woken, and by what"),
                records_lost: meters.counter(
                    "profiler_process_records_lost",
                    "Records about processes that the kernel lost; healed by reading /proc again",
                ),
                records_malformed: meters.counter(
                    "profiler_process_records_malformed",
                    "Records about processes that made no sense",
                ),
                processors_changed: meters
                    .counter("profiler_processors_changed", "Processors that came or went"),
                wall_clock_set: meters.counter(
                    "profiler_wall_clock_set",
                    "Windows in which the wall clock was set, or the machine was suspended",
                ),
                prolonged: meters.counter(
                    "profiler_windows_prolonged",
                    "Times a window was left open beyond its end, because the workshop had not taken those before it",
                ),
                no_kernel_stack: meters.counter(
                    "profiler_samples_without_kernel_stack",
                    "Samples in the kernel whose stack the kernel could not walk",
                ),
            },
            recorder,
            events: VecDeque::new(),
            samples: VecDeque::new(),
            fresh_events: Vec::new(),
            fresh_samples: Vec::new(),
        };
        // What ran before us: read once, after the stream of changes has begun.
        let snapshot = reader.intake.tracker.snapshot();
        reader.keep(snapshot);
        reader.follow();
        reader
    }

    /// Has unwind tables built by `builder`; without one, stacks are walked by frame pointer.
    pub(super) fn with(mut self, builder: Builder) -> Result<Self, Failure> {
        self.kernel.listen(builder.call())?;
        self.builder = Some(builder);
        Ok(self)
    }

    /// Has the rate lowered by `steering` where profiling costs too much.
    pub(super) fn steered(mut self, steering: Steering) -> Self {
        self.steering = Some(steering);
        self
    }

    /// Reads until the stop descriptor becomes readable or the plan ends, then hands over what is left. Ends early
    /// when nobody takes batches any more.
    pub(super) fn run(mut self, plan: &Plan, q1: &SyncSender<TraceBatch>) -> Result<(), Failure> {
        let mut handover = Handover::by(q1);
        let start = self.kernel.since();
        let stop_at = plan.total.map(|total| start.plus(total));
        let mut opened = start;
        let mut closes = start.plus(plan.first);
        let mut last_wake = start;
        self.heartbeat.beat();
        loop {
            let mut deadline = closes.plus(WATERMARK);
            if let Some(stop) = stop_at {
                deadline = deadline.min(stop);
            }
            // What a stack waits for may be asked for as soon as its sample can be read: its process may be gone by then, but not
            // its files.
            let stack_due = self.samples.iter().find(|sample| sample.stack.is_some());
            let stack_due = stack_due.map(|sample| sample.time.plus(WATERMARK));
            if let Some(due) = stack_due {
                deadline = deadline.min(due);
            }
            if let Some(steering) = &self.steering {
                deadline = deadline.min(steering.due());
            }
            deadline = deadline.min(self.healing.due(self.intake.tracker.is_healing()));
            let woken = self.kernel.wait(deadline).map_err(Failure::other("waiting for the kernel"))?;
            for (name, yes) in [
                ("processes", woken.processes),
                ("samples", woken.samples),
                ("tables", woken.called),
                ("stop", woken.stop),
            ] {
                if yes {
                    self.meters.wakeups.get_or_create(&label("by", name)).inc();
                }
            }
            let now = MonoNs::now();
            let stop = woken.stop || stop_at.is_some_and(|stop| now >= stop);
            if woken.processes && !stop && now.since(last_wake) < COALESCE {
                std::thread::sleep(COALESCE);
            }
            last_wake = MonoNs::now();
            self.steer(now);
            if woken.called {
                self.fill();
                self.walk();
            }
            if stop {
                self.kernel.detach();
            }
            let due = now >= closes.plus(WATERMARK);
            if due || stop {
                self.meters.wakeups.get_or_create(&label("by", "window")).inc();
            }
            let stack_due = stack_due.is_some_and(|due| now >= due);
            if due || stop || stack_due || woken.samples || self.events.len() > EVENTS_WAITING_MAX {
                let before = MonoNs::now();
                let wanting = self.take_samples();
                self.take_events();
                self.ask(wanting);
                let settled = if stop { MonoNs(u64::MAX) } else { before.minus(WATERMARK) };
                loop {
                    let until = settled.min(if stop { settled } else { closes });
                    let is_full = self.take_until(until);
                    self.walk();
                    if is_full {
                        // Too many distinct stacks for one batch: what there is goes ahead as a window of its own.
                        let end = self.samples.front().map_or(before, |sample| sample.time).max(opened);
                        handover.wait()?;
                        self.close(opened, end, &mut handover)?;
                        opened = end;
                    } else {
                        break;
                    }
                }
                if stop {
                    self.walk_last();
                    return self.finish(opened, before, handover);
                }
                if settled >= closes {
                    if handover.is_free()? {
                        self.close(opened, closes, &mut handover)?;
                        opened = closes;
                    } else {
                        self.meters.prolonged.inc();
                    }
                    self.meters.processors_changed.inc_by(self.kernel.follow_processors() as u64);
                    closes = closes.plus(plan.cadence.interval());
                    if closes < settled {
                        closes = settled.plus(plan.cadence.interval()); // we were kept from running for a whole window
                    }
                    self.take_until(settled);
                    self.walk();
                }
            } else {
                self.take_events();
            }
        }
    }

    /// Turns the knobs if that is due.
    fn steer(&mut self, now: MonoNs) {
        let Some(steering) = &mut self.steering else { return };
        if let Some(knobs) = steering.step(now, || self.kernel.spent())
            && let Err(error) = self.kernel.turn(knobs)
        {
            tracing::warn!("the sampling rate cannot be changed: {error}");
        }
    }

    /// Takes what happened to processes from the rings and pins it.
    fn take_events(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh_events);
        let drained = self.kernel.events(&mut fresh);
        self.meters.records_malformed.inc_by(drained.malformed);
        for event in &mut fresh {
            self.intake.tracker.pin(event);
        }
        self.keep(fresh.drain(..));
        self.fresh_events = fresh;
        if drained.lost > 0 {
            self.meters.records_lost.inc_by(drained.lost);
            self.healing.owe();
        }
        self.heal();
        self.follow();
    }

    /// Reads what was lost, a part of it in each turn.
    fn heal(&mut self) {
        let began = MonoNs::now();
        let mut healed = Vec::new();
        if self.healing.begins(began, self.intake.tracker.is_healing()) {
            healed = self.intake.tracker.heal();
        }
        if self.intake.tracker.is_healing() {
            healed.extend(self.intake.tracker.heal_until(began.plus(HEAL_TURN)));
            self.healing.spent(began, MonoNs::now());
        }
        self.keep(healed);
    }

    /// Tells the kernel side whose mappings have changed.
    fn follow(&mut self) {
        let present = self.intake.tracker.present();
        let changed = present.take_changed();
        let Some(tables) = self.kernel.tables() else { return };
        for pid in changed {
            tables.follow(pid, present.mappings(pid));
        }
    }

    /// Asks for the tables that walks of these processes had use for.
    fn ask(&mut self, mut wanting: Vec<Pid>) {
        let (Some(tables), Some(builder)) = (self.kernel.tables(), &self.builder) else { return };
        wanting.sort_unstable();
        wanting.dedup();
        for pid in wanting {
            for module in tables.take_wanted(pid) {
                let id = module.id;
                if let Err(no_table) = builder.ask(module) {
                    tables.fill(id, Err(no_table));
                }
            }
        }
    }

    /// Hands tables that were built to the kernel side.
    fn fill(&mut self) {
        let (Some(tables), Some(builder)) = (self.kernel.tables(), &self.builder) else { return };
        for Built { module, table } in builder.built() {
            tables.fill(module, table.as_ref().map_err(|no_table| *no_table));
        }
    }

    /// Walks the stacks whose tables are there, and asks for those that are wanted.
    fn walk(&mut self) {
        if self.intake.stacks.is_empty() {
            return;
        }
        let walks = match (self.kernel.tables(), &self.builder) {
            (Some(tables), Some(builder)) => {
                self.intake.stacks.walk(tables, |module| builder.ask(module).err().map(Err))
            }
            (None, _) | (_, None) => self.intake.stacks.give_up(),
        };
        self.intake.gather(walks);
    }

    /// The same at the end: what is asked for is waited for, but not for long.
    fn walk_last(&mut self) {
        let deadline = MonoNs::now().plus(LAST_TABLES);
        self.walk();
        while !self.intake.stacks.is_empty()
            && let (Some(tables), Some(builder)) = (self.kernel.tables(), &self.builder)
            && let Some(Built { module, table }) = builder.wait(deadline)
        {
            tables.fill(module, table.as_ref().map_err(|no_table| *no_table));
            self.walk();
        }
        let walks = self.intake.stacks.give_up();
        self.intake.gather(walks);
    }

    /// Queues `events` in time order. What is older than the newest in the queue is little and recent: only that part
    /// is sorted again.
    fn keep(&mut self, events: impl IntoIterator<Item = ProcessEvent>) {
        let before = self.events.len();
        self.events.extend(events);
        let oldest = self.events.iter().skip(before).map(|event| event.time).min();
        if let Some(oldest) = oldest {
            let queue = self.events.make_contiguous();
            let from = queue[..before].partition_point(|event| event.time <= oldest);
            queue[from..].sort_by_key(|event| event.time);
        }
    }

    /// Takes the samples from the ring; the processes whose walks want tables.
    fn take_samples(&mut self) -> Vec<Pid> {
        let mut fresh = std::mem::take(&mut self.fresh_samples);
        let mut wanting = Vec::new();
        self.kernel.samples(&mut fresh, &mut wanting);
        self.samples.extend(fresh.drain(..));
        self.fresh_samples = fresh;
        // Two drains may meet in the middle of a moment: a processor's record can overtake another's.
        self.samples.make_contiguous().sort_by_key(|sample| sample.time);
        wanting
    }

    /// True if the gatherer is full.
    fn take_until(&mut self, until: MonoNs) -> bool {
        if let Some(recorder) = &mut self.recorder {
            let without_stack = recorder.take(until, &self.events, &self.samples);
            self.intake.stacks.count("not recorded", without_stack);
        }
        let taken = self.intake.take_until(until, &mut self.events, &mut self.samples);
        self.books.elsewhere(taken.elsewhere);
        if taken.full
            && let Some(recorder) = &mut self.recorder
        {
            recorder.give_back(until, &self.events, &self.samples);
        }
        taken.full
    }

    /// Hands the window from `opened` to `closed` over.
    fn close(
        &mut self,
        opened: MonoNs,
        closed: MonoNs,
        handover: &mut Handover<'_, TraceBatch>,
    ) -> Result<(), Failure> {
        let window = self.clock.window(opened, closed, Anchor::now());
        if let Some(ahead_ns) = self.clock.take_set_ns() {
            self.meters.wall_clock_set.inc();
            tracing::info!(
                "the wall clock was set by {:+.1} s, or the machine was suspended: windows go by it from now on",
                ahead_ns as f64 / 1e9
            );
        }
        let balance = self.kernel.balance();
        self.books.captured(&balance);
        self.books.elsewhere(self.intake.attributor.take_unwanted());
        self.meters.no_kernel_stack.inc_by(balance.no_kernel_stack);
        self.intake.stacks.count("over rate", balance.stacks_over_rate);
        self.intake.stacks.count("ring filling", balance.stacks_no_room);
        if let Some(recorder) = &mut self.recorder {
            recorder.close(window, self.kind, balance.lost.clone());
        }
        let batch = self.intake.attributor.take(window, self.kind, balance.lost);
        if let Some(tables) = self.kernel.tables() {
            tables.used(modules(&batch).into_iter());
        }
        let weight: Weight = batch.traces.iter().map(|trace| trace.weight).sum();
        self.books.pass(Room::Reader, Some(Room::Workshop), weight);
        self.heartbeat.beat();
        handover.give(batch)
    }

    fn finish(
        mut self,
        opened: MonoNs,
        closed: MonoNs,
        mut handover: Handover<'_, TraceBatch>,
    ) -> Result<(), Failure> {
        handover.wait()?;
        self.close(opened, closed, &mut handover)?;
        handover.wait()
    }
}

/// The files that the stacks of `batch` go through.
fn modules(batch: &TraceBatch) -> FxHashSet<u32> {
    let frames = batch.traces.iter().flat_map(|trace| &trace.frames);
    let modules = frames.filter_map(|frame| match frame {
        Frame::User { module, .. } => Some(module.id),
        Frame::Kernel(_) | Frame::Missing(_) => None,
    });
    modules.collect()
}
