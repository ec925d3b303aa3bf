//! What the kernel side counted, as differences and by reason.

use std::time::Duration;

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
    /// Weight of the samples put into the ring.
    pub sent: u64,
    /// Ticks and samples that went nowhere.
    pub lost: Lost,
    /// Samples in the kernel without kernel frames.
    pub no_kernel_stack: u64,
    /// Samples that brought their stack along.
    pub stacks: u64,
    /// Samples that did not, because their process had sent many.
    pub stacks_over_rate: u64,
    /// Samples that did not, because the ring was filling.
    pub stacks_no_room: u64,
}

/// Sums over all processors since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    counters: Counters,
    /// Ticks' worth of idle time since the start, by the kernel's own accounts; `None` where they cannot be read.
    idle_accounted: Option<u64>,
}

impl Totals {
    /// `None` where the map cannot be read, which cannot be while it is open; the next reading makes up for it.
    pub(super) fn read(
        map: &PerCpuArray<MapData, Wire>,
        period_ns: u64,
        idle_at_start: Option<u64>,
    ) -> Option<Self> {
        let mut totals = Self::sum(map.get(&0, 0).ok()?.iter().map(|words| Counters::from_words(*words)));
        let idle = idle_ns().zip(idle_at_start).map(|(now, then)| now.saturating_sub(then));
        totals.idle_accounted = idle.map(|idle| idle / period_ns.max(1));
        Some(totals)
    }

    fn sum(per_cpu: impl Iterator<Item = Counters>) -> Self {
        let mut sum = Counters::default();
        for cpu in per_cpu {
            sum.runs += cpu.runs;
            sum.idle += cpu.idle;
            sum.skipped_idle += cpu.skipped_idle;
            sum.skipped_busy += cpu.skipped_busy;
            sum.sent += cpu.sent;
            sum.ring_full += cpu.ring_full;
            sum.no_scratch += cpu.no_scratch;
            sum.no_kernel_stack += cpu.no_kernel_stack;
            sum.stacks += cpu.stacks;
            sum.stacks_over_rate += cpu.stacks_over_rate;
            sum.stacks_no_room += cpu.stacks_no_room;
            sum.pending += cpu.pending;
            sum.spent_ns += cpu.spent_ns;
        }
        Self { counters: sum, idle_accounted: None }
    }

    /// Time that programs spent on samples.
    pub(super) fn spent(&self) -> Duration {
        Duration::from_nanos(self.counters.spent_ns)
    }

    /// A halted processor of a virtual machine may not tick at all, and its gap shows only when it wakes: what its idle
    /// time lacks in samples are its skipped ticks. Without the kernel's accounts the neighbours of a gap have to tell.
    fn skipped_idle(&self) -> u64 {
        let Counters { idle, skipped_idle, skipped_busy, .. } = self.counters;
        match self.idle_accounted {
            Some(accounted) => accounted.saturating_sub(idle).min(skipped_idle + skipped_busy),
            None => skipped_idle,
        }
    }

    pub(super) fn since(&self, earlier: &Self) -> Balance {
        let difference =
            |field: fn(&Counters) -> u64| field(&self.counters).saturating_sub(field(&earlier.counters));
        let skipped = difference(|counters| counters.skipped_idle + counters.skipped_busy);
        let skipped_idle = self.skipped_idle().saturating_sub(earlier.skipped_idle()).min(skipped);
        let skipped_busy = skipped - skipped_idle;
        let mut lost = Lost::default();
        lost.add(Reason::TickSkipped, Weight(skipped_busy));
        lost.add(Reason::RingFull, Weight(difference(|counters| counters.ring_full)));
        lost.add(Reason::NoScratch, Weight(difference(|counters| counters.no_scratch)));
        let idle = difference(|counters| counters.idle) + skipped_idle;
        let sent = difference(|counters| counters.sent);
        Balance {
            // A tick that waits for others to become a sample with them counts when it is one.
            ticks: idle + sent + lost.0.values().map(|weight| weight.0).sum::<u64>(),
            idle,
            skipped: skipped_idle + skipped_busy,
            sent,
            lost,
            no_kernel_stack: difference(|counters| counters.no_kernel_stack),
            stacks: difference(|counters| counters.stacks),
            stacks_over_rate: difference(|counters| counters.stacks_over_rate),
            stacks_no_room: difference(|counters| counters.stacks_no_room),
        }
    }
}

/// Idle time of all processors since boot, nanoseconds: the fourth and fifth number of `/proc/stat`'s first line.
pub(super) fn idle_ns() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    ticks.checked_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_without_samples_is_what_was_skipped_in_it() {
        let mut before = Totals::sum(std::iter::empty());
        before.idle_accounted = Some(0);
        let counters = Counters { runs: 12, idle: 10, sent: 2, skipped_busy: 50, ..Counters::default() };
        let mut after = Totals::sum([counters].into_iter());
        after.idle_accounted = Some(55);
        let balance = after.since(&before);
        assert_eq!((balance.ticks, balance.idle), (62, 55));
        assert_eq!(balance.lost.0[&Reason::TickSkipped], Weight(5));
    }

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
    fn ticks_that_wait_for_others_count_with_their_sample() {
        let before = Counters { runs: 10, idle: 4, sent: 4, pending: 2, ..Counters::default() };
        let after = Counters { runs: 15, idle: 5, sent: 8, pending: 2, ..Counters::default() };
        let balance = Totals::sum([after].into_iter()).since(&Totals::sum([before].into_iter()));
        assert_eq!((balance.ticks, balance.idle, balance.sent), (5, 1, 4));
    }

    #[test]
    fn a_reading_of_nothing_loses_nothing() {
        assert_eq!(Totals::default().since(&Totals::default()), Balance::default());
    }
}
