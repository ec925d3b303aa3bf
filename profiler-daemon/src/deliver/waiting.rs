//! What waits to be sent: the queue between the workshop and the uploader, and the place of what has to be sent
//! again.
//!
//! In: parcels, from both sides. Out: the next parcel; what became of every weight. Not here: when it is sent, and
//! how a disk is written (`spool`).
//!
//! With a spool, a parcel is on disk before the uploader can see it: it is written by the thread that hands it over,
//! which is not the one that waits for the server. So whatever was handed over survives a kill, also in the middle
//! of a slow push. Its body stays in memory while few wait, so that in good times nothing is read back; of a backlog
//! only an index does. A parcel that could not be written waits in memory, and is written when a later one can be.
//!
//! Full means that the oldest goes, and is counted: of two profiles the newer one is worth more to someone who
//! looks at a screen, and the older one is closer to being refused for its age.

mod entry;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::entry::{Body, Entry, File, Load};
use super::parcel::Parcel;
use super::spool::{self, Found, Key, Spool, SpoolMeters, WasRead, Written, room};
use super::tally::Tally;
use crate::model::{Lost, Reason, Weight};
use crate::time::{MonoNs, WallNs};

/// Most memory for bodies that are on disk too, bytes: some windows, so that what is sent at once, or after a short
/// trouble, need not be read back.
const WARM_BYTES_MAX: usize = 1 << 20;
/// For what is not held up by a slow disk.
const WHENEVER: MonoNs = MonoNs(u64::MAX);

/// What became of everything that was put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Weight that an earlier run had left, and that was put in by that.
    pub recovered: Weight,
    /// Weight that the server has taken.
    pub delivered: Weight,
    /// Weight that is left in the spool for the next start.
    pub kept: Weight,
    /// Weight that it will never have, by reason.
    pub lost: Lost,
}

/// Parcels that wait, oldest first.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes_max: usize,
    older_than: Duration,
    /// What the uploader takes in hand is not on disk any more.
    once: bool,
    tally: Tally,
    spool: Option<Spool>,
    bell: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    /// What the uploader has in its hands; it cannot be dropped, but it counts.
    hand: Option<Entry>,
    /// All of the above.
    load: Load,
    /// The key that was given last.
    last: Key,
    /// Nothing can be put in any more.
    stopped: bool,
    outcome: Outcome,
}

/// What becomes of the parcel that was in hand.
#[derive(Debug)]
pub(super) enum Fate {
    /// The server has it.
    Delivered,
    /// It is given up.
    Lost(Reason),
    /// It is sent again, in one piece or in several. What is not among them is refused.
    Back(Vec<Parcel>),
    /// It is sent again when no others wait.
    Behind(Box<Parcel>),
}

/// What is done when a parcel is looked for.
enum Look {
    Parcel(Box<Parcel>),
    Read(Key),
    Nothing,
}

impl Waiting {
    /// Room in memory for `bytes_max`, and one parcel that is in hand; what is older than `older_than` is not worth
    /// sending (zero: all is).
    pub(super) fn new(bytes_max: usize, older_than: Duration, tally: Tally) -> Self {
        let (once, spool, bell, state) = (false, None, Notify::new(), Mutex::default());
        Self { bytes_max, older_than, once, tally, spool, bell, state }
    }

    /// Nothing is sent twice, not even after a kill: what may have been sent is kept no longer.
    pub(super) fn at_most_once(mut self) -> Self {
        self.once = true;
        self
    }

    /// The same on disk: first comes what an earlier run has left there.
    pub(super) fn on_disk(mut self, config: spool::Config, meters: SpoolMeters) -> io::Result<Self> {
        let Some((spool, found)) = Spool::open(config, meters)? else { return Ok(self) };
        self.spool = Some(spool);
        self.recover(&mut self.lock(), found);
        Ok(self)
    }

    /// Takes parcels in, and the weight of what could not be made one. The oldest go if there is no room; after the
    /// end, these do.
    pub(super) fn put(&self, parcels: Vec<Parcel>, useless: Weight) {
        self.put_until(MonoNs::now().plus(spool::ANSWER_MAX), parcels, useless);
    }

    /// The same; what is not written by `until` is written when a later one can be.
    fn put_until(&self, until: MonoNs, parcels: Vec<Parcel>, useless: Weight) {
        for parcel in parcels {
            let key = self.lock().next_key();
            let file = self.write(&parcel, key, None, until);
            let entry = Entry::new(parcel, key, file);
            let mut state = self.lock();
            state.load.add(&entry);
            if state.stopped {
                self.end(&mut state, &entry);
            } else {
                // What lets others before it is at the end.
                let at = state.queue.iter().rposition(|entry| !entry.lets_before()).map_or(0, |at| at + 1);
                state.queue.insert(at, entry);
                self.make_room(&mut state);
            }
        }
        let mut state = self.lock();
        self.lost(&mut state, Reason::Refused, useless);
        drop(state);
        self.write_the_rest(until);
        self.bell.notify_one();
    }

    /// Waits until something is put in.
    pub(super) async fn filled(&self) {
        self.bell.notified().await;
    }

    /// The oldest parcel, which is in hand then until [`Self::settle`] is called. While the disk does not answer, the
    /// oldest in memory.
    pub(super) async fn next(&self) -> Option<Parcel> {
        let mut readable = true;
        loop {
            let key = match self.look(readable) {
                Look::Parcel(parcel) => {
                    if self.once {
                        self.forget_hand().await;
                    }
                    return Some(*parcel);
                }
                Look::Nothing => return None,
                Look::Read(key) => key,
            };
            let Some(spool) = &self.spool else { return None };
            let read = spool.read(key).await;
            let mut state = self.lock();
            let Some(at) = state.queue.iter().position(|entry| entry.key == key) else { continue };
            match read {
                WasRead::Parcel(parcel) => {
                    state.change(at, |entry| entry.warm(Parcel::from_spool(parcel)));
                }
                WasRead::Lost => self.lose(&mut state, Reason::SpoolTorn, at),
                WasRead::NotNow => readable = false,
            }
        }
    }

    fn look(&self, readable: bool) -> Look {
        let mut state = self.lock();
        self.age(&mut state);
        let readable = readable && self.spool.as_ref().is_some_and(|spool| !spool.is_late());
        let is_here = |entry: &Entry| matches!(entry.body, Body::Memory(_));
        let Some(at) = state.queue.iter().position(|entry| readable || is_here(entry)) else {
            return Look::Nothing;
        };
        if !is_here(&state.queue[at]) {
            return Look::Read(state.queue[at].key);
        }
        let mut entry = state.queue.remove(at).expect("it was found there");
        state.load.take(&entry);
        let body = std::mem::replace(&mut entry.body, Body::Hand(0));
        let Body::Memory(parcel) = body else { unreachable!("it is here") };
        entry.body = Body::Hand(parcel.size());
        state.load.add(&entry);
        state.hand = Some(entry);
        Look::Parcel(Box::new(parcel))
    }

    /// Takes what is in hand off the disk. Parts of the same whole get files of their own before.
    async fn forget_hand(&self) {
        self.write_the_rest(WHENEVER);
        let key = {
            let mut state = self.lock();
            let State { queue, hand, load, .. } = &mut *state;
            let Some(hand) = hand else { return };
            load.take(hand);
            let file = hand.file.take();
            load.add(hand);
            let Some(key) = file.map(|file| file.key) else { return };
            let parts =
                queue.iter_mut().filter(|entry| entry.file.as_ref().is_some_and(|file| file.key == key));
            // Those that could not be written have only their memory left.
            parts.for_each(|entry| entry.file = None);
            key
        };
        if let Some(spool) = &self.spool {
            spool.remove_now(key).await;
        }
    }

    /// The parcel in hand is no longer. What is still to be sent of it comes back, in order.
    pub(super) fn settle(&self, fate: Fate) {
        let mut state = self.lock();
        // Not there if it was the end meanwhile.
        let Some(hand) = state.hand.take() else { return };
        state.load.take(&hand);
        match fate {
            Fate::Delivered => {
                state.outcome.delivered += hand.weight;
                self.tally.delivered(hand.weight);
            }
            Fate::Lost(reason) => self.lost(&mut state, reason, hand.weight),
            Fate::Behind(parcel) => {
                let entry = Entry::new(*parcel, hand.key, hand.file.clone());
                state.load.add(&entry);
                state.queue.push_back(entry);
                self.make_room(&mut state);
            }
            Fate::Back(parcels) => {
                let mut rest = hand.weight;
                let entry = |parcel: Parcel| {
                    let key = parcel.key.unwrap_or_else(|| state.part_of(hand.key));
                    Entry::new(parcel, key, hand.file.clone())
                };
                let entries: Vec<Entry> = parcels.into_iter().map(entry).collect();
                for entry in entries.into_iter().rev() {
                    rest.0 = rest.0.saturating_sub(entry.weight.0);
                    state.load.add(&entry);
                    state.queue.push_front(entry);
                }
                self.lost(&mut state, Reason::Refused, rest);
                self.make_room(&mut state);
            }
        }
        self.release(hand.file);
        self.show(&state);
    }

    /// Gives up the oldest parcels for as long as `unwanted` holds for them. Their weight.
    pub(super) fn refuse_while(&self, unwanted: impl Fn(&Parcel) -> bool) -> Weight {
        let mut state = self.lock();
        let before = state.load.weight;
        while let Some(Entry { body: Body::Memory(parcel), .. }) = state.queue.front()
            && unwanted(parcel)
        {
            self.lose(&mut state, Reason::Refused, 0);
        }
        Weight(before.0 - state.load.weight.0)
    }

    /// Weight that waits, what is in hand included.
    pub(super) fn weight(&self) -> Weight {
        self.lock().load.weight
    }

    /// Whether all that waits is on disk.
    pub(super) fn is_safe(&self) -> bool {
        self.spool.is_some() && self.lock().load.unwritten == 0
    }

    /// The end: what is here, or comes later, is kept on disk, or is lost.
    pub(super) fn stop(&self) -> Outcome {
        self.write_the_rest(WHENEVER);
        let mut state = self.lock();
        state.stopped = true;
        while let Some(entry) = state.hand.take().or_else(|| state.queue.pop_front()) {
            self.end(&mut state, &entry);
        }
        self.show(&state);
        let outcome = state.outcome.clone();
        drop(state);
        if let Some(spool) = &self.spool {
            spool.end();
        }
        outcome
    }

    /// Parcels of an earlier life: they are older than anything that is not among them.
    fn recover(&self, state: &mut State, found: Vec<Found>) {
        let Some(spool) = &self.spool else { return };
        let known: Vec<Key> = found.iter().map(|found| found.head.key).collect();
        for found in found {
            let Found { head: spool::Head { key, parent, weight, .. }, .. } = found;
            if parent.is_some_and(|parent| known.binary_search(&parent).is_ok()) {
                // Its parent holds all of it.
                spool.remove(key);
                continue;
            }
            state.last.order = state.last.order.max(key.order);
            state.last.part = state.last.part.max(key.part);
            // All but those at the end are in the order of their keys.
            let at = state.queue.partition_point(|entry| !entry.lets_before() && entry.key < key);
            let last = state.queue.iter().rev().take_while(|entry| entry.lets_before());
            let mut same = state.queue.get(at).into_iter().chain(&state.hand).chain(last);
            if same.any(|entry| entry.key == key) {
                continue;
            }
            let entry = Entry::found(found);
            spool.meters().recovered(weight);
            state.outcome.recovered += weight;
            state.load.add(&entry);
            state.queue.insert(at, entry);
        }
        self.make_room(state);
    }

    /// Writes a parcel, if there is a disk, and says which file holds it.
    fn write(&self, parcel: &Parcel, key: Key, parent: Option<Key>, until: MonoNs) -> Option<Arc<File>> {
        let spool = self.spool.as_ref()?;
        let spooled = parcel.to_spool(key, parent);
        let mut written = spool.write(spooled.clone(), false, until);
        if written == Written::NoRoom && self.give_way(room(parcel.size() as u64)) {
            written = spool.write(spooled, true, until);
        }
        match written {
            Written::Done { room, found } => {
                if !found.is_empty() {
                    self.recover(&mut self.lock(), found);
                }
                Some(Arc::new(File { key, room }))
            }
            Written::NoRoom | Written::Not => None,
        }
    }

    /// Drops the oldest files until so much of the disk is free again. False if there is not so much.
    fn give_way(&self, room: u64) -> bool {
        let mut state = self.lock();
        let Some(target) = state.load.disk.checked_sub(room) else { return false };
        while state.load.disk > target
            && let Some(at) = state.queue.iter().position(Entry::is_written)
        {
            self.lose(&mut state, Reason::SpoolFull, at);
        }
        state.load.disk <= target
    }

    /// Writes what is in memory only, oldest first, for as long as that can be done, and no longer than `until`.
    fn write_the_rest(&self, until: MonoNs) {
        if self.spool.is_none() {
            return;
        }
        loop {
            let state = self.lock();
            if state.load.unwritten == 0 {
                return;
            }
            let unwritten = |entry: &&Entry| !entry.is_written() && matches!(entry.body, Body::Memory(_));
            let Some(entry) = state.queue.iter().find(unwritten) else { return };
            let Body::Memory(parcel) = &entry.body else { return };
            let (parcel, key, parent) = (parcel.clone(), entry.key, entry.file.as_ref().map(|file| file.key));
            drop(state);
            let Some(file) = self.write(&parcel, key, parent, until) else { return };
            let mut state = self.lock();
            let State { queue, hand, load, .. } = &mut *state;
            let entry = queue.iter_mut().chain(hand).find(|entry| entry.key == key);
            let before = match entry {
                Some(entry) => {
                    load.take(entry);
                    let before = entry.file.replace(file);
                    load.add(entry);
                    before
                }
                // It was settled meanwhile.
                None => Some(file),
            };
            self.release(before);
            self.make_room(&mut state);
        }
    }

    /// A file that is not needed here any more goes, if it is needed nowhere.
    fn release(&self, file: Option<Arc<File>>) {
        if let (Some(file), Some(spool)) = (file.and_then(Arc::into_inner), &self.spool) {
            spool.remove(file.key);
        }
    }

    /// What has become too old while it waited goes. A window that seems to lie ahead is not old, whatever the clock
    /// did.
    fn age(&self, state: &mut State) {
        if self.older_than.is_zero() {
            return;
        }
        let age_max = i64::try_from(self.older_than.as_nanos()).unwrap_or(i64::MAX);
        let oldest = WallNs::now().0.saturating_sub(age_max);
        while state.queue.front().is_some_and(|entry| entry.time.0 < oldest) {
            self.lose(state, Reason::TooOld, 0);
        }
    }

    fn make_room(&self, state: &mut State) {
        while state.load.unwritten > self.bytes_max
            && let Some(at) = state.queue.iter().position(|entry| !entry.is_written())
        {
            self.lose(state, Reason::SpoolFull, at);
        }
        let disk_max = self.spool.as_ref().map_or(0, Spool::bytes_max);
        while state.load.disk > disk_max
            && let Some(at) = state.queue.iter().position(Entry::is_written)
        {
            self.lose(state, Reason::SpoolFull, at);
        }
        let is_warm = |entry: &Entry| entry.is_written() && matches!(entry.body, Body::Memory(_));
        // Those that will be sent last. Anything behind them is cold already, or not written.
        while state.load.memory - state.load.unwritten > self.warm_max(state)
            && let Some(at) = state.queue.iter().rposition(is_warm)
        {
            state.change(at, Entry::cool);
        }
        self.show(state);
    }

    /// Memory for what is on disk too: the bodies, and the index, which cannot be spared.
    fn warm_max(&self, state: &State) -> usize {
        WARM_BYTES_MAX.min(self.bytes_max) + (state.queue.len() + 1) * size_of::<Entry>()
    }

    /// The entry `at` will not be delivered.
    fn lose(&self, state: &mut State, reason: Reason, at: usize) {
        let Some(entry) = state.queue.remove(at) else { return };
        state.load.take(&entry);
        self.release(entry.file);
        self.lost(state, reason, entry.weight);
        self.show(state);
    }

    fn lost(&self, state: &mut State, reason: Reason, weight: Weight) {
        if weight.0 > 0 {
            state.outcome.lost.add(reason, weight);
            self.tally.lost(reason, weight);
        }
    }

    /// An entry at the end of everything.
    fn end(&self, state: &mut State, entry: &Entry) {
        state.load.take(entry);
        match entry.file {
            Some(_) => state.outcome.kept += entry.weight,
            None => self.lost(state, Reason::Stopped, entry.weight),
        }
    }

    fn show(&self, state: &State) {
        self.tally.waiting(state.load.weight, state.load.memory);
        if let Some(spool) = &self.spool {
            spool.meters().bytes(state.load.disk);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A key for what comes now: greater than all that were given.
    fn next_key(&mut self) -> Key {
        let now = WallNs::now().0.max(1).cast_unsigned();
        self.last.order = now.max(self.last.order.saturating_add(1));
        Key { part: 0, ..self.last }
    }

    /// A key for a part of what has the key `whole`: in its place, and unlike any other.
    fn part_of(&mut self, whole: Key) -> Key {
        self.last.part = self.last.part.wrapping_add(1).max(1);
        Key { part: self.last.part, ..whole }
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Entry)) {
        let Self { queue, load, .. } = self;
        load.take(&queue[at]);
        change(&mut queue[at]);
        load.add(&queue[at]);
    }
}

#[cfg(test)]
mod tests;
