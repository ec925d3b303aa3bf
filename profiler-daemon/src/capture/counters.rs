//! What the kernel side counted, as differences and by reason.

use aya::maps::{MapData, PerCpuArray};
use profiler_common::knobs::Counters;

use crate::model::{Lost, Reason, Weight};

/// [`Counters`] as the words it is made of: what a map of the loader can hold.
pub(super) type Wire = [u64; Counters::WORDS];

/// What the kernel side did since the last balance: `ticks` = `idle` + `sent` + what is in `lost`, but for malformed
/// records, which were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Ticks of all processors, skipped ones included.
    pub ticks: u64,
    /// Ticks that found the processor idle, skipped ones included.
    pub idle: u64,
    /// Ticks that ran no program, whatever the processor did meanwhile.
    pub skipped: u64,
    /// Samples put into the ring.
    pub sent: u64,
    /// Ticks and samples that went nowhere.
    pub lost: Lost,
    /// Samples in the kernel without kernel frames.
    pub no_kernel_stack: u64,
}

/// Sums over all processors since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals(Counters);

impl Totals {
    /// `None` where the map cannot be read, which cannot be while it is open; the next reading makes up for it.
    pub(super) fn read(map: &PerCpuArray<MapData, Wire>) -> Option<Self> {
        Some(Self::sum(map.get(&0, 0).ok()?.iter().map(|words| Counters::from_words(*words))))
    }

    fn sum(per_cpu: impl Iterator<Item = Counters>) -> Self {
        let mut sum = Counters::default();
        for cpu in per_cpu {
            sum.runs += cpu.runs;
            sum.event_count += cpu.event_count;
            sum.idle += cpu.idle;
            sum.skipped_idle += cpu.skipped_idle;
            sum.skipped_busy += cpu.skipped_busy;
            sum.sent += cpu.sent;
            sum.ring_full += cpu.ring_full;
            sum.no_scratch += cpu.no_scratch;
            sum.no_kernel_stack += cpu.no_kernel_stack;
        }
        Self(sum)
    }

    pub(super) fn since(&self, earlier: &Self) -> Balance {
        let difference = |field: fn(&Counters) -> u64| field(&self.0).saturating_sub(field(&earlier.0));
        let skipped_idle = difference(|counters| counters.skipped_idle);
        let skipped_busy = difference(|counters| counters.skipped_busy);
        let mut lost = Lost::default();
        lost.add(Reason::TickSkipped, Weight(skipped_busy));
        lost.add(Reason::RingFull, Weight(difference(|counters| counters.ring_full)));
        lost.add(Reason::NoScratch, Weight(difference(|counters| counters.no_scratch)));
        Balance {
            ticks: difference(|counters| counters.runs) + skipped_idle + skipped_busy,
            idle: difference(|counters| counters.idle) + skipped_idle,
            skipped: skipped_idle + skipped_busy,
            sent: difference(|counters| counters.sent),
            lost,
            no_kernel_stack: difference(|counters| counters.no_kernel_stack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_is_idle_sent_or_lost() {
        let before = Counters { runs: 10, idle: 4, sent: 6, ..Counters::default() };
        let after = Counters {
            runs: 20,
            idle: 5,
            skipped_idle: 40,
            skipped_busy: 3,
            sent: 13,
            ring_full: 2,
            ..Counters::default()
        };
        let balance =
            Totals::sum([after, after].into_iter()).since(&Totals::sum([before, before].into_iter()));
        assert_eq!((balance.ticks, balance.idle, balance.skipped, balance.sent), (106, 82, 86, 14));
        assert_eq!(balance.lost.0[&Reason::TickSkipped], Weight(6));
        assert_eq!(balance.lost.0[&Reason::RingFull], Weight(4));
        let lost: Weight = balance.lost.0.values().copied().sum();
        assert_eq!(balance.ticks, balance.idle + balance.sent + lost.0);
    }

    #[test]
    fn a_reading_of_nothing_loses_nothing() {
        assert_eq!(Totals::default().since(&Totals::default()), Balance::default());
    }
}
