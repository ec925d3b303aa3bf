//! What the kernel side counted, as differences and by reason.

use aya::maps::{MapData, PerCpuArray};
use profiler_common::knobs::Counters;

use crate::model::{Lost, Reason, Weight};

/// [`Counters`] as the words it is made of, in the order `wire!` proves: what a map of the loader can hold.
pub(super) type Wire = [u64; 8];

/// What the kernel side did since the last balance. `ticks` = `idle` + `sent` + what is in `lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Ticks of all processors by the events' own counters, or programs run where that is more.
    pub ticks: u64,
    /// Ticks of the idle task.
    pub idle: u64,
    /// Samples put into the ring.
    pub sent: u64,
    /// Ticks and samples that went nowhere.
    pub lost: Lost,
    /// Samples without user frames, because the user registers could not be read.
    pub no_kernel_stack: u64,
}

/// Sums over all processors since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    counters: Counters,
    /// Ticks that the events counted and no program saw.
    skipped: u64,
}

impl Totals {
    pub(super) fn read(map: &PerCpuArray<MapData, Wire>, period_ns: u64) -> Self {
        // Cannot fail on a map that is open; if it does, the next reading makes up for it.
        let Ok(values) = map.get(&0, 0) else { return Self::default() };
        let per_cpu = values.iter().map(
            |&[runs, event_count, idle, sent, ring_full, no_scratch, no_registers, no_kernel_stack]| {
                Counters {
                    runs,
                    event_count,
                    idle,
                    sent,
                    ring_full,
                    no_scratch,
                    no_registers,
                    no_kernel_stack,
                }
            },
        );
        Self::sum(per_cpu, period_ns)
    }

    fn sum(per_cpu: impl Iterator<Item = Counters>, period_ns: u64) -> Self {
        let mut totals = Self::default();
        for cpu in per_cpu {
            let sum = &mut totals.counters;
            let ticks = cpu.event_count / period_ns.max(1);
            totals.skipped += ticks.saturating_sub(cpu.runs);
            sum.runs += cpu.runs;
            sum.event_count += cpu.event_count;
            sum.idle += cpu.idle;
            sum.sent += cpu.sent;
            sum.ring_full += cpu.ring_full;
            sum.no_scratch += cpu.no_scratch;
            sum.no_registers += cpu.no_registers;
            sum.no_kernel_stack += cpu.no_kernel_stack;
        }
        totals
    }

    pub(super) fn since(&self, earlier: &Self) -> Balance {
        let (now, then) = (&self.counters, &earlier.counters);
        let skipped = self.skipped.saturating_sub(earlier.skipped);
        let mut lost = Lost::default();
        lost.add(Reason::TickSkipped, Weight(skipped));
        lost.add(Reason::RingFull, Weight(now.ring_full.saturating_sub(then.ring_full)));
        lost.add(Reason::NoScratch, Weight(now.no_scratch.saturating_sub(then.no_scratch)));
        Balance {
            ticks: now.runs.saturating_sub(then.runs) + skipped,
            idle: now.idle.saturating_sub(then.idle),
            sent: now.sent.saturating_sub(then.sent),
            lost,
            no_kernel_stack: now.no_kernel_stack.saturating_sub(then.no_kernel_stack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(runs: u64, event_count: u64, idle: u64, sent: u64, ring_full: u64) -> Counters {
        Counters { runs, event_count, idle, sent, ring_full, ..Counters::default() }
    }

    #[test]
    fn every_tick_is_idle_sent_or_lost() {
        let before = Totals::sum([cpu(10, 1_000, 4, 6, 0)].into_iter(), 100);
        let after = Totals::sum([cpu(20, 2_300, 5, 13, 2)].into_iter(), 100);
        let balance = after.since(&before);
        assert_eq!((balance.ticks, balance.idle, balance.sent), (13, 1, 7));
        assert_eq!(balance.lost.0[&Reason::TickSkipped], Weight(3));
        assert_eq!(balance.lost.0[&Reason::RingFull], Weight(2));
        let lost: Weight = balance.lost.0.values().copied().sum();
        assert_eq!(balance.ticks, balance.idle + balance.sent + lost.0);
    }

    #[test]
    fn a_processor_that_counted_less_than_it_ran_skipped_nothing() {
        let totals = Totals::sum([cpu(10, 950, 0, 10, 0), cpu(10, 1_200, 0, 10, 0)].into_iter(), 100);
        assert_eq!(totals.since(&Totals::default()).lost.0[&Reason::TickSkipped], Weight(2));
    }
}
