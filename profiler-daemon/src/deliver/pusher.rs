//! The uploader's work: takes what waits, sends it, and does with it what the answer asks for.
//!
//! In: parcels from `waiting`. Out: requests, one at a time. Not here: rules; they are in `connection`, `retry`
//! and the sink, and can be read and tested without a network.
//!
//! Nothing wakes it but a new payload, an answer, the end of a pause, the moment to close a connection, and the
//! end of the daemon.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::answer::{Answer, Failure, FailureKind, Meaning};
use super::client::{Client, Exchange};
use super::connection::{Carrier, Keeper, Notice, Opened};
use super::journal::Journal;
use super::parcel::Parcel;
use super::retry::{Backoff, Step, step};
use super::sinks::pyroscope;
use super::spool::{self, SpoolMeters};
use super::tally::{By, Tally, status_result};
use super::waiting::{Fate, Outcome, Waiting};
use super::{Config, StartError};
use crate::meters::{Counters, Meters};
use crate::model::{Payload, Weight};

/// After so many refusals in a row among the payloads of one parcel, the rest of it is refused unsent, and until
/// something is delivered no other parcel is taken apart. What makes a server refuse all of them (they waited for
/// too long, say) must not become thousands of requests.
const REFUSED_IN_A_ROW_MAX: u32 = 8;

/// The uploader without its thread: many of them can run on one runtime.
#[derive(Debug)]
pub struct Pusher {
    waiting: Arc<Waiting>,
    closing: watch::Receiver<Option<Duration>>,
    client: Client,
    keeper: Keeper,
    backoff: Backoff,
    /// No request before this moment.
    pause_until: Option<Instant>,
    journal: Journal,
    tally: Tally,
    /// Number of the parcel that was split last.
    family: u32,
    /// How many of its payloads were refused since one was not.
    refused_in_a_row: u32,
    /// A whole parcel was refused, one by one, and nothing was delivered since.
    refusing: bool,
}

/// The other end of a [`Pusher`]: what is put in here is pushed. When it is dropped, the pusher ends at once.
#[derive(Debug)]
pub struct Outbox {
    waiting: Arc<Waiting>,
    closing: watch::Sender<Option<Duration>>,
}

impl Outbox {
    /// Hands payloads over, encoded and on disk, if there is one, when this returns. Never waits for the network; for
    /// the disk, within reason. Where there is no room, the oldest go and are counted.
    pub fn send(&self, payloads: Vec<Payload>) {
        let (parcels, useless) = pack(payloads);
        self.waiting.put(parcels, useless);
    }

    /// Asks the pusher to send what is there and end, within `grace`.
    pub fn close(&self, grace: Duration) {
        self.closing.send_replace(Some(grace));
    }
}

impl Pusher {
    /// A pusher to `config.server`, and its other end. `lost` is the family of all losses.
    pub fn new(config: &Config, meters: &Meters, lost: Counters) -> Result<(Self, Outbox), StartError> {
        let address = pyroscope::push_address(&config.server)?;
        let client = Client::new(address, pyroscope::CONTENT_TYPE, config.request_timeout())?;
        let tally = Tally::new(meters, lost);
        let waiting = Waiting::new(config.waiting_bytes_max, config.reject_older_than, tally.clone());
        let waiting = match &config.spool {
            None => waiting,
            Some(spool) => {
                let [meters] = SpoolMeters::new(meters, ["pyroscope"]);
                let folder = spool.folder.join("pyroscope");
                waiting
                    .on_disk(spool::Config { folder, ..spool.clone() }, meters)
                    .map_err(StartError::Thread)?
            }
        };
        let waiting = Arc::new(waiting);
        let (closing, closing_seen) = watch::channel(None);
        let pusher = Self {
            waiting: Arc::clone(&waiting),
            closing: closing_seen,
            client,
            keeper: Keeper::new(config.interval),
            backoff: Backoff::new(config.interval),
            pause_until: None,
            journal: Journal::new(pyroscope::without_secret(&config.server)),
            tally,
            family: 0,
            refused_in_a_row: 0,
            refusing: false,
        };
        Ok((pusher, Outbox { waiting, closing }))
    }

    /// Pushes until its other end is closed and nothing waits, or the grace given for that is over.
    pub async fn run(mut self) -> Outcome {
        let grace_over = grace_over(self.closing.clone());
        tokio::select! {
            () = self.work() => {}
            () = grace_over => {}
        }
        self.close(By::Client);
        self.waiting.stop()
    }

    async fn work(&mut self) {
        loop {
            while self.pause_until.is_some() {
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
    /// the connection may have to be closed. The end of the daemon ends a pause too: this may be the last chance.
    async fn rest(&mut self) {
        let Self { waiting, closing, keeper, pause_until, .. } = self;
        tokio::select! {
            () = moment(*pause_until) => *pause_until = None,
            () = waiting.filled(), if pause_until.is_none() => {}
            () = changed(closing) => *pause_until = None,
            () = moment(keeper.retire_at().map(Instant::from_std)) => {
                self.keeper.retired();
                self.close(By::Client);
            }
        }
    }

    async fn push(&mut self, mut parcel: Parcel) {
        let in_hand = parcel.weight();
        let carrier = self.keeper.begin(Instant::now().into_std());
        if let Carrier::Fresh(why) = carrier {
            self.close(By::Client);
            self.client.open();
            self.tally.opened(why);
        }
        let Exchange { first_byte, result, opened } = self.client.post(parcel.body()).await;
        if let Some(at) = first_byte {
            self.keeper.first_byte(at.into_std());
        }
        let reused = carrier == Carrier::Kept && !opened;
        let (name, step) = match &result {
            Ok(answer) => {
                let meaning = pyroscope::meaning(answer);
                tell(self.keeper.answered(answer.said));
                parcel.turned_away += u32::from(matches!(meaning, Meaning::SomeBroken | Meaning::SomeNotNow));
                let name = match meaning {
                    Meaning::WrongServer if answer.status < 300 => "not_pyroscope",
                    _ => status_result(answer.status),
                };
                (name, step(meaning, parcel.len(), parcel.turned_away))
            }
            Err(failure) => {
                self.keeper.failed();
                (failure.kind.as_str(), Step::Again)
            }
        };
        let step = if step == Step::ApartNow && self.refusing { Step::Refused } else { step };
        self.tally.attempt(name, reused);
        self.after(carrier, opened, &result);
        let fate = self.fate(parcel, step, &result);
        self.waiting.settle(fate);
        let lost = in_hand + self.refuse_the_rest();
        self.say(step, &result, lost);
    }

    /// Closes the connection unless it is kept, and counts who did.
    fn after(&mut self, carrier: Carrier, opened: bool, result: &Result<Answer, Failure>) {
        if carrier == Carrier::Kept && opened {
            // The kept one had been closed by the server before its time; the client has replaced it. Which of
            // the two it keeps now, and since when, is not known for sure.
            self.tally.closed(By::Server);
            self.tally.opened(Opened::Gone);
            self.keeper.gone();
        }
        if !self.keeper.holds()
            && self.client.close()
            && let Some(by) = closed_by(result)
        {
            self.tally.closed(by);
        }
        self.tally.keep_alive(&self.keeper);
    }

    /// What becomes of the parcel, and when the next request may go.
    fn fate(&mut self, parcel: Parcel, step: Step, result: &Result<Answer, Failure>) -> Fate {
        let asked = result.as_ref().ok().and_then(|answer| answer.retry_after);
        match step {
            Step::Done => {
                self.backoff.reset();
                self.refused_in_a_row = 0;
                self.refusing = false;
                Fate::Delivered
            }
            Step::Again => {
                self.pause(asked);
                self.tally.retry();
                Fate::Back(vec![parcel])
            }
            Step::ApartLater => {
                self.pause(asked);
                Fate::Back(self.apart(parcel))
            }
            Step::ApartNow => Fate::Back(self.apart(parcel)),
            Step::Refused => {
                self.backoff.reset();
                if parcel.family != 0 && parcel.family == self.family {
                    self.refused_in_a_row += 1;
                }
                Fate::Refused
            }
        }
    }

    fn apart(&mut self, parcel: Parcel) -> Vec<Parcel> {
        self.family = self.family.wrapping_add(1).max(1);
        self.refused_in_a_row = 0;
        let parcels = parcel.split(self.family);
        parcels.iter().for_each(|_| self.tally.retry());
        parcels
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
                if let Some(line) = self.journal.refused(answer, pyroscope::meaning(answer), lost) {
                    warn!("{line}");
                }
            }
            // Whether anything of it is lost will be known when each was tried alone.
            (Step::ApartNow, _) => {}
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

    fn close(&mut self, by: By) {
        if self.client.close() {
            self.tally.closed(by);
        }
    }
}

/// Who closes a connection that ended so; `None` if there was none.
fn closed_by(result: &Result<Answer, Failure>) -> Option<By> {
    match result {
        Ok(answer) => Some(if answer.said.closes { By::Server } else { By::Client }),
        Err(Failure { kind, .. }) => match kind {
            FailureKind::Connect => None,
            FailureKind::Eof | FailureKind::Reset | FailureKind::Pipe => Some(By::Server),
            FailureKind::Timeout | FailureKind::Garbage | FailureKind::Other => Some(By::Client),
        },
    }
}

fn tell(notice: Option<Notice>) {
    match notice {
        Some(notice @ Notice::Mismatch(_)) => warn!("{notice}"),
        Some(notice @ Notice::Fits(_)) => info!("{notice}"),
        None => {}
    }
}

/// Encodes payloads and packs them. Also the weight of those that the sink has no use for.
fn pack(payloads: Vec<Payload>) -> (Vec<Parcel>, Weight) {
    let mut useless = Weight(0);
    let mut pieces = Vec::with_capacity(payloads.len());
    for payload in payloads {
        match pyroscope::encode(payload) {
            Ok(piece) => pieces.push(piece),
            Err(payload) => useless += payload.weight,
        }
    }
    (Parcel::pack(pieces), useless)
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
