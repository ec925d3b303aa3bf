//! What waits to be sent: the queue between the workshop and the uploader, and the place of what has to be sent
//! again.
//!
//! In: payloads from one side, parcels from the other. Out: the next parcel; what became of every weight. Not
//! here: when it is sent.
//!
//! Neither side waits for the other: putting in takes a lock that is held for as long as it takes to move some
//! pointers. Full means that the oldest goes, and is counted: of two profiles the newer one is worth more to
//! someone who looks at a screen, and the older one is closer to being refused for its age.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::parcel::Parcel;
use super::tally::Tally;
use crate::model::{Lost, Payload, Reason, Weight};

/// What is kept beside the body of a payload, bytes, roughly.
const PAYLOAD_OVERHEAD_BYTES: usize = 128;

/// What became of everything that was put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Weight that the server has taken.
    pub delivered: Weight,
    /// Weight that it will never have, by reason.
    pub lost: Lost,
}

/// Payloads and parcels that wait, oldest first.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes_max: usize,
    tally: Tally,
    bell: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Packed already: older than anything loose.
    parcels: VecDeque<Parcel>,
    /// As they came.
    loose: VecDeque<Payload>,
    /// What the uploader has in its hands; it cannot be dropped, but it counts.
    held: Load,
    /// All of the above.
    load: Load,
    /// Nothing can be put in any more.
    stopped: bool,
    outcome: Outcome,
}

/// Weight, and the memory that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    weight: Weight,
    bytes: usize,
}

impl Load {
    fn of(payload: &Payload) -> Self {
        Self { weight: payload.weight, bytes: payload.body.len() + PAYLOAD_OVERHEAD_BYTES }
    }

    fn of_parcel(parcel: &Parcel) -> Self {
        Self { weight: parcel.weight(), bytes: parcel.size() }
    }

    fn add(&mut self, other: Self) {
        self.weight += other.weight;
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: Self) {
        self.weight.0 -= other.weight.0;
        self.bytes -= other.bytes;
    }
}

impl Waiting {
    /// Room for `bytes_max`, and one parcel that is in hand.
    pub(super) fn new(bytes_max: usize, tally: Tally) -> Self {
        Self { bytes_max, tally, bell: Notify::new(), state: Mutex::default() }
    }

    /// Takes `payloads` in. The oldest go if there is no room; after the end, these do.
    pub(super) fn put(&self, payloads: Vec<Payload>) {
        let mut state = self.lock();
        for payload in payloads {
            state.load.add(Load::of(&payload));
            state.loose.push_back(payload);
        }
        if state.stopped {
            self.lose_all(&mut state);
        } else {
            self.make_room(&mut state);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Waits until something is put in.
    pub(super) async fn filled(&self) {
        self.bell.notified().await;
    }

    /// The oldest parcel, which is in hand then until [`Self::settle`] is called for it. `pack` makes parcels of
    /// payloads, and says what it could not use.
    pub(super) fn next(&self, pack: impl FnOnce(Vec<Payload>) -> (Vec<Parcel>, Weight)) -> Option<Parcel> {
        let mut state = self.lock();
        let loose = Vec::from(std::mem::take(&mut state.loose));
        if !loose.is_empty() {
            let mut moved = Load::default();
            loose.iter().for_each(|payload| moved.add(Load::of(payload)));
            state.held.add(moved);
            drop(state);
            // Compression takes milliseconds: not under the lock.
            let (parcels, useless) = pack(loose);
            state = self.lock();
            state.held.take(moved);
            state.load.take(moved);
            state.load.add(Load { weight: useless, bytes: 0 });
            self.lose(&mut state, Reason::Refused, Load { weight: useless, bytes: 0 });
            for parcel in parcels {
                state.load.add(Load::of_parcel(&parcel));
                state.parcels.push_back(parcel);
            }
            self.make_room(&mut state);
        }
        let parcel = state.parcels.pop_front()?;
        state.held.add(Load::of_parcel(&parcel));
        Some(parcel)
    }

    /// The parcel in hand, which had `weight` and took `bytes`, is no longer. What is still to be sent of it
    /// comes back in `parcels`, in order.
    pub(super) fn settle(&self, (weight, bytes): (Weight, usize), fate: Fate) {
        let load = Load { weight, bytes };
        let mut state = self.lock();
        state.held.take(load);
        match fate {
            Fate::Delivered => {
                state.load.take(load);
                state.outcome.delivered += weight;
                self.tally.delivered(weight);
                self.tally.waiting(state.load.weight, state.load.bytes);
            }
            Fate::Lost(reason) => self.lose(&mut state, reason, load),
            Fate::Back(parcels) => {
                state.load.take(load);
                for parcel in parcels.into_iter().rev() {
                    state.load.add(Load::of_parcel(&parcel));
                    state.parcels.push_front(parcel);
                }
                self.make_room(&mut state);
            }
        }
    }

    /// Gives up the oldest parcels for as long as `unwanted` holds for them. Their weight.
    pub(super) fn refuse_while(&self, unwanted: impl Fn(&Parcel) -> bool) -> Weight {
        let mut state = self.lock();
        let mut weight = Weight(0);
        while let Some(parcel) = state.parcels.pop_front_if(|parcel| unwanted(parcel)) {
            weight += parcel.weight();
            self.lose(&mut state, Reason::Refused, Load::of_parcel(&parcel));
        }
        weight
    }

    /// Weight that waits, what is in hand included.
    pub(super) fn weight(&self) -> Weight {
        self.lock().load.weight
    }

    /// The end: whatever is still here, or comes later, is lost.
    pub(super) fn stop(&self) -> Outcome {
        let mut state = self.lock();
        state.stopped = true;
        self.lose_all(&mut state);
        state.outcome.clone()
    }

    fn make_room(&self, state: &mut State) {
        while state.load.bytes > self.bytes_max {
            let oldest = match state.parcels.pop_front() {
                Some(parcel) => Load::of_parcel(&parcel),
                None => match state.loose.pop_front() {
                    Some(payload) => Load::of(&payload),
                    None => break,
                },
            };
            self.lose(state, Reason::SpoolFull, oldest);
        }
        self.tally.waiting(state.load.weight, state.load.bytes);
    }

    fn lose_all(&self, state: &mut State) {
        let all = state.load;
        state.parcels.clear();
        state.loose.clear();
        state.held = Load::default();
        self.lose(state, Reason::Stopped, all);
    }

    fn lose(&self, state: &mut State, reason: Reason, load: Load) {
        state.load.take(load);
        if load.weight.0 > 0 {
            state.outcome.lost.add(reason, load.weight);
            self.tally.lost(reason, load.weight);
        }
        self.tally.waiting(state.load.weight, state.load.bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a parcel that was in hand.
#[derive(Debug)]
pub(super) enum Fate {
    /// The server has it.
    Delivered,
    /// It is given up.
    Lost(Reason),
    /// It is sent again, in one piece or in several.
    Back(Vec<Parcel>),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use super::*;
    use crate::deliver::parcel::Piece;
    use crate::meters::{Counters, Meters};
    use crate::model::{Format, Labels};
    use crate::time::{WallNs, Window};

    fn waiting(bytes_max: usize) -> Waiting {
        Waiting::new(bytes_max, Tally::new(&Meters::default(), Counters::default()))
    }

    fn payload(weight: u64, bytes: usize) -> Payload {
        Payload {
            window: Window { start: WallNs(0), duration_ns: 1 },
            labels: Arc::new(Labels::default()),
            format: Format::Pprof,
            body: vec![0; bytes],
            weight: Weight(weight),
        }
    }

    /// Each payload in a parcel of its own.
    fn pack(payloads: Vec<Payload>) -> (Vec<Parcel>, Weight) {
        let piece = |payload: Payload| vec![Piece { bytes: payload.body, weight: payload.weight }];
        (payloads.into_iter().flat_map(|payload| Parcel::pack(piece(payload))).collect(), Weight(0))
    }

    fn load(parcel: &Parcel) -> (Weight, usize) {
        (parcel.weight(), parcel.size())
    }

    fn lost(outcome: &Outcome, reason: Reason) -> u64 {
        outcome.lost.0.get(&reason).map_or(0, |weight| weight.0)
    }

    /// What goes in comes out in its order; all of it is accounted for.
    #[track_caller]
    fn check(bytes_max: usize, weights: &[u64], delivered: &[u64], too_much: u64) {
        let waiting = waiting(bytes_max);
        waiting.put(weights.iter().map(|&weight| payload(weight, 1_000)).collect());
        let mut out = Vec::new();
        while let Some(parcel) = waiting.next(pack) {
            out.push(parcel.weight().0);
            waiting.settle(load(&parcel), Fate::Delivered);
        }
        assert_eq!(out, delivered);
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
        check(2_500, &[1, 2, 4, 8], &[4, 8], 3);
    }

    #[test]
    fn one_that_is_larger_than_all_room_goes_at_once() {
        check(500, &[7], &[], 7);
    }

    #[test]
    fn what_comes_back_is_first_and_still_counts() {
        let waiting = waiting(1 << 20);
        waiting.put(vec![payload(1, 10), payload(2, 10)]);
        let parcel = waiting.next(pack).unwrap();
        let in_hand = load(&parcel);
        waiting.settle(in_hand, Fate::Back(vec![parcel]));
        assert_eq!((waiting.weight(), waiting.lock().held), (Weight(3), Load::default()));
        assert_eq!(waiting.next(pack).unwrap().weight(), Weight(1));
    }

    #[test]
    fn what_is_in_hand_counts_but_is_not_dropped() {
        let waiting = waiting(2_500);
        waiting.put(vec![payload(1, 1_000)]);
        let parcel = waiting.next(pack).unwrap();
        waiting.put(vec![payload(2, 1_100), payload(4, 1_100)]);
        assert_eq!(waiting.weight(), Weight(1 + 4));
        let in_hand = load(&parcel);
        waiting.settle(in_hand, Fate::Back(vec![parcel]));
        assert_eq!(waiting.next(pack).unwrap().weight(), Weight(1));
    }

    #[test]
    fn what_is_still_there_at_the_end_is_lost_and_so_is_what_comes_later() {
        let waiting = waiting(1 << 20);
        waiting.put(vec![payload(1, 10), payload(2, 10)]);
        let _in_hand = waiting.next(pack).unwrap();
        waiting.put(vec![payload(4, 10)]);
        assert_eq!(lost(&waiting.stop(), Reason::Stopped), 7);
        waiting.put(vec![payload(8, 10)]);
        assert_eq!(lost(&waiting.stop(), Reason::Stopped), 15);
        assert_eq!(waiting.lock().load, Load::default());
    }

    #[test]
    fn what_a_sink_has_no_use_for_is_refused() {
        let waiting = waiting(1 << 20);
        waiting.put(vec![payload(5, 10)]);
        assert!(waiting.next(|_| (Vec::new(), Weight(5))).is_none());
        assert_eq!(lost(&waiting.stop(), Reason::Refused), 5);
    }
}
