//! Turns what we use into what the kernel side is told: the governor's clock, eyes and hands.
//!
//! In: CPU time of the agent, its children and the kernel side. Out: knobs, every ten seconds. A change of the rate is a line of
//! the log. Not here: the decision (`govern`).

use std::sync::atomic::AtomicU64;
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

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Steering {
    governor: Governor,
    roll: Roll,
    /// When and with how much used the last step was.
    last: Option<(MonoNs, Duration)>,
    due: MonoNs,
    rate: Gauge<f64, AtomicU64>,
    stretch: Gauge<f64, AtomicU64>,
    over: Counter,
}

impl Steering {
    /// Keeps all of us below `ceiling`, CPU seconds per second.
    pub(super) fn new(ceiling: f64, roll: Roll, meters: &Meters) -> Self {
        let most = meters.gauge(
            "profiler_cpu_ceiling",
            "CPU seconds per second that the agent, its children and the kernel side are not to exceed",
        );
        most.set(ceiling);
        let stretch = meters.gauge(
            "profiler_sampling_stretch",
            "Busy ticks that one sample stands for, more than one where the rate was lowered to stay below the ceiling",
        );
        stretch.set(1.0);
        Self {
            governor: Governor::new(ceiling),
            roll,
            last: None,
            due: MonoNs::now().plus(STEP),
            rate: meters.gauge(
                "profiler_cpu_rate",
                "CPU seconds per second that the agent, its children and the kernel side used, of the last ten",
            ),
            stretch,
            over: meters.counter(
                "profiler_cpu_ceiling_exceeded",
                "Times that more than the ceiling was used for ten seconds at the lowest rate there is",
            ),
        }
    }

    /// When the next step is to be.
    pub(super) fn due(&self) -> MonoNs {
        self.due
    }

    /// A step, if it is due by `now`: what the kernel side is to be told, if that changed. `kernel` asks how much that side has used.
    pub(super) fn step(&mut self, now: MonoNs, kernel: impl FnOnce() -> Duration) -> Option<Knobs> {
        if now < self.due {
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
        self.stretch.set(knobs.stretch as f64);
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
