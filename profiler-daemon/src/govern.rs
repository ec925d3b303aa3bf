//! Stays inside the CPU budget: meters → knobs.
//!
//! In: how much CPU time all of us used in a while. Out: how many ticks one sample is to stand for. A pure step function: nothing
//! here reads a clock or turns a knob. Too much is answered at once and in proportion, room is taken back slowly and by half at
//! most, so that a load that comes and goes is not followed up and down. Not here: memory, whose bounds are fixed.

use std::time::Duration;

use profiler_common::limits::STRETCH_MAX;

use crate::model::Knobs;

/// Steps with room in a row before more is sampled again.
const CALM_STEPS: u32 = 3;

/// How much of the ceiling may be filled by what is expected of a higher rate.
const ROOM: f64 = 0.7;

/// What was used between two steps.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// CPU time of the agent, its children and the kernel side.
    pub used: Duration,
    /// Time that passed.
    pub passed: Duration,
}

impl Reading {
    /// CPU seconds per second.
    pub fn rate(&self) -> f64 {
        let passed = self.passed.as_secs_f64();
        if passed > 0.0 { self.used.as_secs_f64() / passed } else { 0.0 }
    }
}

/// The state between two steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Governor {
    /// CPU seconds per second that are not to be exceeded.
    ceiling: f64,
    stretch: u64,
    /// Steps with room in a row.
    calm: u32,
}

impl Governor {
    /// One that samples every tick until that costs more than `ceiling`, CPU seconds per second.
    pub fn new(ceiling: f64) -> Self {
        Self { ceiling, stretch: 1, calm: 0 }
    }

    /// CPU seconds per second that are not to be exceeded.
    pub fn ceiling(&self) -> f64 {
        self.ceiling
    }

    /// The same under another ceiling: an infinite one cannot be exceeded, so that nothing is left out any more.
    #[must_use]
    pub fn under(self, ceiling: f64) -> Self {
        let stretch = if ceiling.is_finite() { self.stretch } else { 1 };
        Self { ceiling, stretch, calm: 0 }
    }

    /// What the kernel side is to be told.
    pub fn knobs(&self) -> Knobs {
        Knobs { stretch: self.stretch }
    }

    /// True if less is not possible.
    pub fn is_at_its_end(&self) -> bool {
        self.stretch == STRETCH_MAX
    }

    /// Whether `reading` is above the ceiling.
    pub fn is_exceeded_by(&self, reading: Reading) -> bool {
        reading.rate() > self.ceiling
    }

    /// The state after `reading`.
    ///
    /// All that was used is taken to be the samples' doing. That is pessimistic on the way back, for some of it is not: so the ceiling
    /// is kept, at the price of a rate that may stay lower than it had to.
    #[must_use]
    pub fn step(self, reading: Reading) -> Self {
        let rate = reading.rate();
        if self.is_exceeded_by(reading) {
            let wanted = self.stretch as f64 * rate / self.ceiling;
            // By four at most: one reading may be an accident.
            let most = self.stretch.saturating_mul(4).min(STRETCH_MAX);
            let stretch = (self.stretch + 1..most).find(|stretch| *stretch as f64 >= wanted).unwrap_or(most);
            return Self { stretch, calm: 0, ..self };
        }
        if self.stretch == 1 {
            return self;
        }
        // What would have been used, had every sample stood for so few ticks.
        let fits = |stretch: u64| rate * self.stretch as f64 / stretch as f64 <= ROOM * self.ceiling;
        let Some(stretch) = (self.stretch.div_ceil(2)..self.stretch).find(|stretch| fits(*stretch)) else {
            return Self { calm: 0, ..self };
        };
        match self.calm + 1 {
            CALM_STEPS => Self { stretch, calm: 0, ..self },
            calm => Self { calm, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    /// The state after `steps` with a load that costs `fixed` whatever is sampled, and `samples` when every tick is.
    fn after(mut governor: Governor, steps: u32, fixed: f64, samples: f64) -> Governor {
        for _ in 0..steps {
            let used = fixed + samples / governor.stretch as f64;
            governor = governor.step(Reading { used: STEP.mul_f64(used), passed: STEP });
        }
        governor
    }

    #[track_caller]
    fn check(steps: u32, fixed: f64, samples: f64, stretch: u64) {
        assert_eq!(after(Governor::new(0.01), steps, fixed, samples).stretch, stretch);
    }

    #[test]
    fn what_fits_is_left_alone() {
        check(100, 0.001, 0.009, 1);
        check(100, 0.0, 0.0, 1);
    }

    #[test]
    fn too_much_is_answered_at_once_and_in_proportion() {
        check(1, 0.0, 0.025, 3);
        check(1, 0.0, 0.9, 4);
        check(2, 0.0, 0.12, 12);
        check(100, 0.5, 0.0, STRETCH_MAX);
    }

    #[test]
    fn room_is_taken_back_after_some_calm_and_by_half() {
        let busy = after(Governor::new(0.01), 1, 0.0, 0.04);
        assert_eq!(busy.stretch, 4);
        assert_eq!(after(busy, 2, 0.0, 0.001).stretch, 4);
        assert_eq!(after(busy, 3, 0.0, 0.001).stretch, 2);
        assert_eq!(after(busy, 6, 0.0, 0.001).stretch, 1);
    }

    #[test]
    fn a_step_in_no_time_changes_nothing() {
        let governor = Governor::new(0.01);
        assert_eq!(governor.step(Reading { used: STEP, passed: Duration::ZERO }), governor);
    }

    proptest! {
        #[test]
        fn the_stretch_stays_in_its_bounds(used in prop::collection::vec(0.0..1e6_f64, 1..50), ceiling in 1e-4..10.0_f64) {
            let mut governor = Governor::new(ceiling);
            for used in used {
                governor = governor.step(Reading { used: STEP.mul_f64(used), passed: STEP });
                prop_assert!((1..=STRETCH_MAX).contains(&governor.stretch));
            }
        }

        #[test]
        fn a_steady_load_ends_under_the_ceiling_if_any_rate_does(fixed in 0.0..0.005_f64, samples in 0.0..0.3_f64) {
            let governor = after(Governor::new(0.01), 20, fixed, samples);
            for steps in 0..20 {
                let stretch = after(governor, steps, fixed, samples).stretch;
                prop_assert!(fixed + samples / stretch as f64 <= 0.01, "{stretch}");
            }
        }

        #[test]
        fn more_use_never_means_more_samples(stretch in 1..=STRETCH_MAX, calm in 0..CALM_STEPS, used in 0.0..1.0_f64, more in 0.0..1.0_f64) {
            let governor = Governor { ceiling: 0.01, stretch, calm };
            let step = |used: f64| governor.step(Reading { used: STEP.mul_f64(used), passed: STEP }).stretch;
            prop_assert!(step(used + more) >= step(used));
        }

        #[test]
        fn when_the_load_is_gone_every_tick_is_sampled_again(stretch in 1..=STRETCH_MAX) {
            let governor = Governor { ceiling: 0.01, stretch, calm: 0 };
            prop_assert_eq!(after(governor, 6 * CALM_STEPS, 0.001, 0.001).stretch, 1);
        }
    }
}
