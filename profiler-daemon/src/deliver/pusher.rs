//! The uploader's work: takes what waits, sends it, and does with it what the answer asks for.
//!
//! In: parcels from `waiting`. Out: requests, one at a time. Not here: rules; they are in `connection`, `retry`
//! and the sink, and can be read and tested without a network.
//!
//! Nothing wakes it but a new payload, an answer, the end of a pause, a connection that is closed or has to be, and
//! the end of the daemon.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::answer::{Answer, Failure, FailureKind, Meaning};
use super::client::Exchange;
use super::connection::{self, Carrier, ConnectionId, Keeper, Omen, Opened};
use super::hint::HintFile;
use super::journal::Journal;
use super::outlets::{self, Outlet};
use super::pace::Pace;
use super::parcel::Parcel;
use super::pulse::Pulse;
use super::quarantine::Quarantine;
use super::retry::{Ambiguous, Backoff, Class, Step, step};
use super::sinks::{Sink, pyroscope};
use super::spool;
use super::standing::Standing;
use super::tally::{By, Ended, Phase, Tally, status_result};
use super::waiting::{Fate, Outcome, Waiting};
use super::way::Way;
use super::{Config, StartError};
use crate::meters::{Counters, Meters};
use crate::model::{Payload, Reason, Weight};
use crate::socket::{Closed, How};

/// After so many refusals in a row among the payloads of one parcel, the rest of it is refused unsent, and until
/// something is delivered no other parcel is taken apart. What makes a server refuse all of them (they waited for
/// too long, say) must not become thousands of requests.
const REFUSED_IN_A_ROW_MAX: u32 = 8;

/// The uploader without its thread: many of them can run on one runtime.
#[derive(Debug)]
pub struct Pusher {
    sink: Sink,
    waiting: Arc<Waiting>,
    closing: watch::Receiver<Option<Duration>>,
    way: Way,
    keeper: Keeper,
    hints: Option<HintFile>,
    backoff: Backoff,
    pace: Pace,
    ambiguous: Ambiguous,
    /// No request before this moment.
    pause_until: Option<Instant>,
    /// It is the server's fault.
    in_trouble: bool,
    interval: Cadence,
    pulse: Pulse,
    push_time: Duration,
    standing: Standing,
    journal: Journal,
    quarantine: Option<Quarantine>,
    tally: Tally,
    /// Parcels that were.
    delivered: u64,
    /// Number of the parcel that was split last.
    family: u32,
    /// How many of its payloads were refused since one was not.
    refused_in_a_row: u32,
    /// A whole parcel was refused, one by one, and nothing was delivered since.
    refusing: bool,
}

/// How often payloads should come, kept up to date: as configured, or a little earlier. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cadence(Arc<AtomicU64>);

impl Cadence {
    /// A cadence that stays as it is until someone changes it.
    pub fn new(interval: Duration) -> Self {
        let cadence = Self(Arc::new(AtomicU64::new(0)));
        cadence.set(interval);
        cadence
    }

    /// The interval as it should be now.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, interval: Duration) {
        self.0.store(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The other end of a [`Pusher`]: what is put in here is pushed. When it is dropped, the pusher ends at once.
#[derive(Debug)]
pub struct Outbox {
    sink: Sink,
    waiting: Arc<Waiting>,
    closing: watch::Sender<Option<Duration>>,
    interval: Cadence,
    pulse: Pulse,
    standing: Standing,
}

impl Outbox {
    /// Hands payloads over, encoded and on disk, if there is one, when this returns. Never waits for the network; for
    /// the disk, within reason. Where there is no room, the oldest go and are counted.
    pub fn send(&self, payloads: Vec<Payload>) {
        let (parcels, useless) = self.sink.pack(payloads);
        if !parcels.is_empty() {
            self.pulse.asked();
        }
        self.waiting.put(parcels, useless);
    }

    /// How the connection to the server is kept.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// How often payloads should come.
    pub fn cadence(&self) -> Cadence {
        self.interval.clone()
    }

    /// Whether the pusher serves it.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Asks the pusher to send what is there and end, within `grace`.
    pub fn close(&self, grace: Duration) {
        self.closing.send_replace(Some(grace));
    }
}

impl Pusher {
    /// A pusher to `config.server`, and its other end. `lost` is the family of all losses.
    pub fn new(config: &Config, meters: &Meters, lost: Counters) -> Result<(Self, Outbox), StartError> {
        let first = Config { sinks: Vec::new(), ..config.clone() };
        Ok(outlets::open(&first, meters, lost)?.remove(0))
    }

    /// A pusher to one of several, and its other end.
    pub(super) fn to(outlet: Outlet) -> Result<(Self, Outbox), StartError> {
        let Outlet { sink, name, config, tally, spool: spool_meters, quarantine: quarantine_meters } = outlet;
        let shown = pyroscope::without_secret(&config.server);
        let way = sink.way(&config)?;
        let waiting = Waiting::new(config.waiting_bytes_max, config.reject_older_than, tally.clone());
        let waiting = match &config.spool {
            None => waiting,
            Some(spool) => waiting
                .on_disk(spool::Config { folder: spool.folder.join(name), ..spool.clone() }, spool_meters)
                .map_err(StartError::Thread)?,
        };
        let waiting = Arc::new(match config.ambiguous {
            Ambiguous::AtLeastOnce => waiting,
            Ambiguous::AtMostOnce => waiting.at_most_once(),
        });
        let (closing, closing_seen) = watch::channel(None);
        let interval = Cadence::new(config.interval);
        let pulse = Pulse::default();
        let standing = Standing::default();
        let (hints, hint) = match &config.hint_file {
            Some(path) => {
                let (file, hint) = HintFile::open(path.clone(), shown.clone());
                (Some(file), hint)
            }
            None => (None, None),
        };
        let keeper = Keeper::new(connection::Config {
            interval: config.interval,
            guard_min: config.guard_min,
            timeout: config.keepalive_timeout,
            when_short: config.when_short,
            hint,
        });
        let quarantine = config.quarantine.clone();
        let pusher = Self {
            sink,
            waiting: Arc::clone(&waiting),
            closing: closing_seen,
            way,
            keeper,
            hints,
            backoff: Backoff::new(config.interval),
            pace: Pace::default(),
            ambiguous: config.ambiguous,
            pause_until: None,
            in_trouble: false,
            interval: interval.clone(),
            pulse: pulse.clone(),
            push_time: config.request_timeout(),
            standing: standing.clone(),
            journal: Journal::new(shown),
            quarantine: quarantine.map(|folder| Quarantine::new(folder, sink, quarantine_meters)),
            tally,
            delivered: 0,
            family: 0,
            refused_in_a_row: 0,
            refusing: false,
        };
        Ok((pusher, Outbox { sink, waiting, closing, interval, pulse, standing }))
    }

    /// Pushes until its other end is closed and nothing waits, or the grace given for that is over.
    pub async fn run(mut self) -> Outcome {
        let grace_over = grace_over(self.closing.clone());
        tokio::select! {
            () = self.work() => {}
            () = grace_over => {}
        }
        for _ in 0..self.way.close_all() {
            self.tally.closed(By::Client, Ended::Fin, Phase::Idle);
        }
        self.waiting.stop()
    }

    async fn work(&mut self) {
        loop {
            while self.pause_until.is_some() {
                // At the end a server in trouble is not waited for: the next run will find what is on disk.
                if self.in_trouble && self.closing.borrow().is_some() && self.waiting.is_safe() {
                    return;
                }
                self.rest().await;
            }
            // Looked at first: what was put in before the end is found after it.
            let closing = self.closing.borrow().is_some();
            match self.waiting.next().await {
                Some(parcel) => self.push(parcel).await,
                None if closing => return,
                None => self.rest().await,
            }
        }
    }

    /// Waits for the next thing to happen: the end of the pause, or if there is none, a new payload; meanwhile
    /// connections are closed by the other end, or have to be by us. The end of the daemon ends a pause too: this may
    /// be the last chance.
    async fn rest(&mut self) {
        match self.pause_until {
            Some(until) => self.pulse.busy(until.saturating_duration_since(Instant::now())),
            None => self.pulse.rest(),
        }
        let Self { waiting, closing, way, keeper, pause_until, .. } = self;
        tokio::select! {
            () = moment(*pause_until) => *pause_until = None,
            () = waiting.filled(), if pause_until.is_none() => {}
            () = changed(closing) => *pause_until = None,
            () = moment(keeper.deadline().map(Instant::from_std)) => {
                self.keeper.time_passed(Instant::now().into_std());
            }
            (id, closed) = way.closed() => self.closed(id, closed),
        }
        self.settle_connections();
    }

    /// A connection was closed by the other end.
    fn closed(&mut self, id: ConnectionId, closed: Closed) {
        if let Some(age) = self.keeper.closed(id, closed.at.into_std()) {
            let how = match closed.how {
                How::Fin => Ended::Fin,
                How::Rst => Ended::Rst,
            };
            self.way.close(id);
            self.tally.closed(By::Server, how, Phase::Idle);
            self.tally.close_age(age);
        }
    }

    /// Closes what the keeper wants closed, and tells what has changed.
    fn settle_connections(&mut self) {
        for id in self.keeper.take_closing() {
            if self.way.close(id) {
                self.tally.closed(By::Client, Ended::Fin, Phase::Idle);
            }
        }
        while let Some(notice) = self.keeper.notice() {
            if notice.is_trouble() {
                warn!("{notice}");
            } else {
                info!("{notice}");
            }
        }
        self.interval.set(self.keeper.interval());
        self.standing.set(self.keeper.standing());
        self.tally.keep_alive(&self.keeper);
        if let Some(hints) = &mut self.hints
            && let Err(error) = hints.keep(self.keeper.hint())
        {
            warn!("what was learned of the server's idle timeout cannot be remembered: {error}");
        }
    }

    /// Hears of connections that were closed meanwhile, and looks at the one that is to be used.
    async fn look_at_connections(&mut self) {
        if self.keeper.holds().is_some_and(|id| self.way.is_doubtful(id)) {
            // Whoever watches it, and the library, are told in this turn.
            tokio::task::yield_now().await;
        }
        while let Some((id, closed)) = self.way.closed_already() {
            self.closed(id, closed);
        }
        if self.keeper.holds().is_some_and(|id| self.way.is_doubtful(id)) {
            self.keeper.doubted();
        }
    }

    async fn push(&mut self, mut parcel: Parcel) {
        let in_hand = parcel.weight();
        self.pulse.busy(self.push_time);
        self.look_at_connections().await;
        let carrier = self.keeper.begin(Instant::now().into_std());
        self.settle_connections();
        let (id, kept) = match carrier {
            Carrier::Kept(id) => (id, true),
            Carrier::Fresh(id, why) => {
                self.way.open(id);
                self.tally.opened(why);
                (id, false)
            }
        };
        let request = self.sink.request(&parcel);
        let bytes = request.body.len();
        let Exchange { sent, first_byte, result, replaced } = self.way.post(id, request).await;
        if replaced {
            // The kept one had been closed by the server before the request was written; the client replaced it.
            self.tally.closed(By::Server, Ended::Fin, Phase::Idle);
            self.tally.opened(Opened::PeekDead);
            self.keeper.replaced();
        }
        let reused = kept && !replaced;
        let (name, class, step) = match &result {
            Ok(answer) => {
                let meaning = self.sink.meaning(answer);
                self.keeper.answered(sent.into_std(), first_byte.unwrap_or(sent).into_std(), answer.said);
                // While nothing else is taken either, a limit is everyone's, and no fault of this one's.
                let others = parcel.let_before.is_some_and(|before| before < self.delivered);
                parcel.turned_away += u32::from(match meaning {
                    Meaning::SomeBroken => true,
                    Meaning::SomeNotNow => others,
                    _ => false,
                });
                let name = match meaning {
                    Meaning::WrongServer if answer.status < 300 => "not_pyroscope",
                    _ => status_result(answer.status),
                };
                let step = step(meaning, parcel.len(), parcel.turned_away);
                (name, Class::of_status(answer.status), step)
            }
            Err(failure) => {
                let class = Class::of(failure.kind, failure.evidence, bytes);
                self.keeper.failed(omen(failure, reused));
                (failure.kind.as_str(), class, Step::Again)
            }
        };
        self.count_closed(id, &result);
        let halves = if step == Step::Halved { self.halves(&parcel) } else { Vec::new() };
        let step = match step {
            Step::ApartNow | Step::Halved if self.refusing => Step::Refused,
            Step::Halved if halves.is_empty() => Step::Refused,
            // Some of several may have been taken, and nobody says which.
            Step::Again | Step::Behind | Step::ApartLater if self.may_be_taken(class, &parcel, step) => {
                Step::GivenUp
            }
            step => step,
        };
        self.tally.attempt(name, reused);
        self.settle_connections();
        // The connection was the reason: another need not wait.
        let at_once = reused && class != Class::Ambiguous && result.is_err();
        let fate = self.fate(parcel, halves, step, class, at_once, &result);
        self.waiting.settle(fate);
        let lost = in_hand + self.refuse_the_rest();
        self.say(step, &result, lost);
    }

    /// True if sending it again might make it count twice, and that is worse than losing it.
    fn may_be_taken(&self, class: Class, parcel: &Parcel, step: Step) -> bool {
        let partly = step == Step::ApartLater && parcel.len() > 1;
        self.ambiguous == Ambiguous::AtMostOnce && (class == Class::Ambiguous || partly)
    }

    /// Counts the end of the connection that carried a request, if it has ended with it.
    fn count_closed(&mut self, id: ConnectionId, result: &Result<Answer, Failure>) {
        if self.keeper.holds() == Some(id) || !self.way.close(id) {
            return;
        }
        let (by, how) = match result {
            Ok(answer) if answer.said.closes => (By::Server, Ended::Fin),
            Ok(_) => (By::Client, Ended::Fin),
            Err(failure) => match failure.kind {
                // There was none.
                FailureKind::Connect => return,
                FailureKind::Eof => (By::Server, Ended::Fin),
                FailureKind::Reset | FailureKind::Pipe => (By::Server, Ended::Rst),
                FailureKind::Timeout => (By::Client, Ended::Timeout),
                FailureKind::Canceled | FailureKind::Garbage | FailureKind::Other => (By::Client, Ended::Fin),
            },
        };
        self.tally.closed(by, how, Phase::InFlight);
    }

    /// What becomes of the parcel, and when the next request may go.
    fn fate(
        &mut self,
        mut parcel: Parcel,
        halves: Vec<Parcel>,
        step: Step,
        class: Class,
        at_once: bool,
        result: &Result<Answer, Failure>,
    ) -> Fate {
        let asked = result.as_ref().ok().and_then(|answer| answer.retry_after);
        match step {
            Step::Done => {
                self.backoff.reset();
                self.delivered += 1;
                self.in_trouble = false;
                self.refused_in_a_row = 0;
                self.refusing = false;
                self.pause_until = self.pace.sent(parcel.raw_size(), Instant::now());
                Fate::Delivered
            }
            Step::Again => {
                if !at_once {
                    self.pause(asked);
                }
                self.tally.retry(class);
                Fate::Back(vec![parcel])
            }
            Step::Behind => {
                self.pause(asked);
                self.tally.retry(class);
                parcel.let_before = Some(self.delivered);
                Fate::Behind(Box::new(parcel))
            }
            Step::ApartLater => {
                self.pause(asked);
                Fate::Back(self.apart(parcel, class))
            }
            Step::ApartNow => Fate::Back(self.apart(parcel, class)),
            Step::Halved => {
                halves.iter().for_each(|_| self.tally.retry(class));
                Fate::Back(halves)
            }
            Step::Refused => {
                self.backoff.reset();
                if parcel.family != 0 && parcel.family == self.family {
                    self.refused_in_a_row += 1;
                }
                // What is no Pyroscope says nothing of what is inside.
                if let (Some(quarantine), Ok(answer)) = (&mut self.quarantine, result)
                    && self.sink.meaning(answer) != Meaning::WrongServer
                {
                    quarantine.keep(&parcel, answer);
                }
                Fate::Lost(Reason::Refused)
            }
            Step::GivenUp => {
                self.pause(asked);
                self.tally.given_up(class, parcel.len());
                Fate::Lost(Reason::Unknown)
            }
        }
    }

    fn apart(&mut self, parcel: Parcel, class: Class) -> Vec<Parcel> {
        self.family = self.family.wrapping_add(1).max(1);
        self.refused_in_a_row = 0;
        let parcels = parcel.split(self.family);
        parcels.iter().for_each(|_| self.tally.retry(class));
        parcels
    }

    /// The two halves of a parcel that is too large; none if it cannot be halved. They belong to its family, or begin one.
    fn halves(&mut self, parcel: &Parcel) -> Vec<Parcel> {
        if parcel.family == 0 || parcel.family != self.family {
            self.family = self.family.wrapping_add(1).max(1);
            self.refused_in_a_row = 0;
        }
        parcel.halve(self.family, |piece| self.sink.halve(piece)).unwrap_or_default()
    }

    /// Refuses what is left of the parcel that was split last, if enough of it was refused. Its weight.
    fn refuse_the_rest(&mut self) -> Weight {
        if self.refused_in_a_row < REFUSED_IN_A_ROW_MAX {
            return Weight(0);
        }
        self.refused_in_a_row = 0;
        self.refusing = true;
        self.waiting.refuse_while(|parcel| parcel.family == self.family)
    }

    fn pause(&mut self, asked: Option<Duration>) {
        self.pause_until = Some(Instant::now() + self.backoff.pause(asked));
        self.in_trouble = true;
    }

    /// Tells the log what has changed. `lost` is what was, if anything was.
    fn say(&mut self, step: Step, result: &Result<Answer, Failure>, lost: Weight) {
        let now = Instant::now().into_std();
        let waiting = self.waiting.weight();
        match (step, result) {
            (Step::Done, _) => {
                if let Some(line) = self.journal.delivered(now) {
                    info!("{line}");
                }
            }
            (Step::Refused, Ok(answer)) => {
                if let Some(line) = self.journal.refused(answer, self.sink.meaning(answer), lost) {
                    warn!("{line}");
                }
            }
            (Step::GivenUp, result) => {
                let cause = match result {
                    Ok(answer) => format!("status {}", answer.status),
                    Err(failure) => failure.cause.clone(),
                };
                if let Some(line) = self.journal.given_up(now, &cause, lost) {
                    warn!("{line}");
                }
            }
            // Whether anything of it is lost will be known when each was tried alone.
            (Step::ApartNow | Step::Halved, _) => {}
            (_, Ok(answer)) => {
                if let Some(line) = self.journal.turned_away(now, answer, waiting) {
                    warn!("{line}");
                }
            }
            (_, Err(failure)) => {
                if let Some(line) = self.journal.failed(now, failure, waiting) {
                    warn!("{line}");
                }
            }
        }
    }
}

/// What a failure says of idle connections.
fn omen(failure: &Failure, reused: bool) -> Omen {
    let acked = failure.evidence.is_some_and(|evidence| evidence.acked > 0);
    match failure.kind {
        _ if !reused => Omen::None,
        // Something in between may acknowledge what the server never sees.
        FailureKind::Eof | FailureKind::Reset | FailureKind::Pipe if acked => Omen::Doubtful,
        _ if acked => Omen::None,
        FailureKind::Eof | FailureKind::Reset | FailureKind::Pipe => Omen::Closed,
        FailureKind::Timeout => Omen::Silent,
        FailureKind::Connect | FailureKind::Canceled | FailureKind::Garbage | FailureKind::Other => {
            Omen::None
        }
    }
}

async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Completes when the end is announced. If the other end is gone there is nothing to wait for here:
/// [`grace_over`] sees it.
async fn changed(closing: &mut watch::Receiver<Option<Duration>>) {
    if closing.changed().await.is_err() {
        pending().await
    }
}

/// Completes when the end was announced and its grace is over, or when nobody is left to announce it.
async fn grace_over(mut closing: watch::Receiver<Option<Duration>>) {
    let Ok(grace) = closing.wait_for(Option::is_some).await.map(|grace| *grace) else { return };
    tokio::time::sleep(grace.unwrap_or_default()).await;
}
