//! Turns what we use into what the kernel side is told: the governor's clock, eyes and hands.
//!
//! In: CPU time of the agent, its children and the kernel side. Out: knobs, every ten seconds while there is a ceiling, which a reload
//! may change. A change of the rate is a line of the log. Not here: the decision (`govern`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::usage::Roll;
use crate::govern::{Governor, Reading};
use crate::meters::Meters;
use crate::meters::prometheus_client::metrics::counter::Counter;
use crate::meters::prometheus_client::metrics::gauge::Gauge;
use crate::model::Knobs;
use crate::time::MonoNs;

/// Between two steps: CPU time is known to 10 ms, which is a thousandth of that.
const STEP: Duration = Duration::from_secs(10);

/// CPU seconds per second that are not to be exceeded, or nothing. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Ceiling(Arc<AtomicU64>);

impl Ceiling {
    pub(super) fn new(ceiling: Option<f64>) -> Self {
        let this = Self(Arc::default());
        this.set(ceiling);
        this
    }

    /// From the next step on.
    pub(super) fn set(&self, ceiling: Option<f64>) {
        self.0.store(ceiling.unwrap_or(f64::INFINITY).to_bits(), Ordering::Relaxed);
    }

    /// Without one, what cannot be exceeded.
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Steering {
    ceiling: Ceiling,
    governor: Governor,
    roll: Roll,
    /// When and with how much used the last step was.
    last: Option<(MonoNs, Duration)>,
    due: MonoNs,
    most: Gauge<f64, AtomicU64>,
    rate: Gauge<f64, AtomicU64>,
    stretch: Gauge<f64, AtomicU64>,
    over: Counter,
}

impl Steering {
    /// Keeps all of us below `ceiling`.
    pub(super) fn new(ceiling: Ceiling, roll: Roll, meters: &Meters) -> Self {
        let stretch = meters.gauge(
            "profiler_sampling_stretch",
            "Busy ticks that one sample stands for, more than one where the rate was lowered to stay below the ceiling",
        );
        stretch.set(1.0);
        let most = meters.gauge(
            "profiler_cpu_ceiling",
            "CPU seconds per second that the agent, its children and the kernel side are not to exceed, zero if there is no limit",
        );
        let this = Self {
            governor: Governor::new(ceiling.get()),
            ceiling,
            roll,
            last: None,
            due: MonoNs::now().plus(STEP),
            most,
            rate: meters.gauge(
                "profiler_cpu_rate",
                "CPU seconds per second that the agent, its children and the kernel side used, of the last ten, if there is a ceiling",
            ),
            stretch,
            over: meters.counter(
                "profiler_cpu_ceiling_exceeded",
                "Times that more than the ceiling was used for ten seconds at the lowest rate there is",
            ),
        };
        this.show();
        this
    }

    /// When the next step is to be; never, while nothing can be exceeded.
    pub(super) fn due(&self) -> MonoNs {
        if self.ceiling.get().is_finite() { self.due } else { MonoNs(u64::MAX) }
    }

    fn show(&self) {
        let ceiling = self.governor.ceiling();
        self.most.set(if ceiling.is_finite() { ceiling } else { 0.0 });
        self.stretch.set(self.governor.knobs().stretch as f64);
    }

    /// Goes by another ceiling from now on: what the kernel side is to be told, if that changes.
    fn go_by(&mut self, ceiling: f64) -> Option<Knobs> {
        let before = self.governor.knobs();
        self.governor = self.governor.under(ceiling);
        self.last = None;
        self.rate.set(0.0);
        self.show();
        (self.governor.knobs() != before).then(|| self.governor.knobs())
    }

    /// A step, if it is due by `now`: what the kernel side is to be told, if that changed. `kernel` asks how much that side has used.
    pub(super) fn step(&mut self, now: MonoNs, kernel: impl FnOnce() -> Duration) -> Option<Knobs> {
        let ceiling = self.ceiling.get();
        if ceiling != self.governor.ceiling() {
            self.due = now;
            if let Some(knobs) = self.go_by(ceiling) {
                return Some(knobs);
            }
        }
        if now < self.due() {
            return None;
        }
        self.due = now.plus(STEP);
        let used = self.roll.cpu() + kernel();
        let (since, before) = self.last.replace((now, used))?;
        let reading = Reading { used: used.saturating_sub(before), passed: now.since(since) };
        self.rate.set(reading.rate());
        let older = self.governor;
        self.governor = older.step(reading);
        let knobs = self.governor.knobs();
        self.show();
        if older.is_at_its_end() && self.governor.is_exceeded_by(reading) {
            self.over.inc();
        }
        if older.knobs() == knobs {
            return None;
        }
        tracing::info!(
            "profiling used {:.2} % of a processor: one sample now stands for {} ticks instead of {}, with the weight of all",
            reading.rate() * 100.0,
            knobs.stretch,
            older.knobs().stretch
        );
        Some(knobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(meters: &Meters, lines: &[&str]) {
        let page = meters.render();
        for line in lines {
            assert!(page.contains(&format!("{line}\n")), "{line} is not in:\n{page}");
        }
    }

    #[test]
    fn another_ceiling_holds_from_the_next_step_on_and_none_gives_the_whole_rate_back() {
        let (meters, ceiling) = (Meters::default(), Ceiling::new(None));
        let mut steering = Steering::new(ceiling.clone(), Roll::default(), &meters);
        assert_eq!(steering.due(), MonoNs(u64::MAX));
        let mut now = MonoNs::now().plus(STEP);
        assert_eq!(steering.step(now, || panic!("nobody asks")), None);
        check(&meters, &["profiler_cpu_ceiling 0.0", "profiler_sampling_stretch 1.0"]);

        ceiling.set(Some(0.01));
        let mut spent = Duration::ZERO;
        // The first step only looks; in the next a whole processor was used.
        assert_eq!(steering.step(now, || spent), None);
        (now, spent) = (now.plus(STEP), STEP);
        assert_eq!(steering.step(now, || spent), Some(Knobs { stretch: 4 }));
        check(&meters, &["profiler_cpu_ceiling 0.01", "profiler_sampling_stretch 4.0"]);

        ceiling.set(None);
        assert_eq!(steering.step(now, || spent), Some(Knobs { stretch: 1 }));
        check(
            &meters,
            &["profiler_cpu_ceiling 0.0", "profiler_cpu_rate 0.0", "profiler_sampling_stretch 1.0"],
        );
    }
}
