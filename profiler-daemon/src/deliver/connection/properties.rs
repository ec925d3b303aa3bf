//! What holds for the keeper whatever happens: random servers, ways to them and mishaps, in simulated time.
//!
//! `grid` goes through servers that stay as they are, corner by corner. Here they change, lie, restart, take few requests,
//! forget connections without a word, and answers are lost. What the keeper may know is written down beside it, so
//! that no reuse goes past it. `PROPTEST_CASES=100000` looks longer than CI does.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A server, and whatever is before it.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// It closes connections that were idle for so long.
    timeout: Duration,
    says: Says,
    /// Requests that it takes on a connection, if it counts them.
    requests_max: Option<u64>,
    /// Something in between forgets connections that were idle for so long, and tells nobody.
    forgotten_after: Option<Duration>,
}

/// What a server says of its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    Timeout,
    Other(Duration),
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A push comes, so much later than it is due.
    Push(Duration),
    /// A push comes, and its answer is lost, or comes late.
    Mishap(Mishap),
    /// Nothing comes for so long.
    Pause(Duration),
    /// The server closes every connection, as it does when it is told to, or short of memory.
    ClosesAll,
    /// The server is another one from now on; the connections of the old one are closed.
    Becomes(Server),
}

#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// The server reads the request and closes the connection.
    Eof,
    /// Nothing comes back, though the request was acknowledged.
    Timeout,
    /// The client found the connection closed when it was about to write, and opened another.
    Replaced,
    /// The answer says that it is the last one.
    LastAnswer,
    /// The answer takes so much longer.
    Slow(Duration),
}

/// A connection as the server has it.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// When we began its last request.
    begun: Instant,
    /// When the server will close it.
    closes: Instant,
    /// When it is forgotten in between.
    forgotten: Option<Instant>,
    requests: Option<u64>,
    /// What the last answer on it said.
    said: Option<Duration>,
}

/// What can be known of the server by now.
#[derive(Debug, Default)]
struct Known {
    /// A connection of this age was seen to be there.
    alive: Duration,
    /// Ages at which the server closed connections.
    closes: Vec<Duration>,
    /// The last of them, while no longer age was survived, and how many pushes ago it was.
    fresh_close: Option<(Duration, u32)>,
}

impl Known {
    fn alive(&mut self, age: Duration) {
        self.alive = self.alive.max(age);
        self.fresh_close = self.fresh_close.filter(|&(close, _)| close >= age);
    }

    fn closed(&mut self, age: Duration) {
        self.closes.push(age);
        self.fresh_close = Some((age, 0));
    }
}

struct World {
    keeper: Keeper,
    config: Config,
    server: Server,
    /// Of the way there; the way back is as long.
    way: Duration,
    /// Every so many pushes either way is so much longer, for that push.
    stall: (usize, Duration),
    /// Either way of the push that is under way.
    push_way: Duration,
    now: Instant,
    due: Instant,
    lines: BTreeMap<ConnectionId, Line>,
    opened: u64,
    known: Known,
    /// Pushes whose first attempt went over a kept connection and met its end there.
    raced: u32,
    /// Pushes of late: true for one that was reused.
    pushes: Vec<bool>,
}

impl World {
    fn new(config: Config, server: Server, way: Duration) -> Self {
        let now = Instant::now();
        Self {
            keeper: Keeper::new(config),
            config,
            server,
            way,
            stall: (1, Duration::ZERO),
            push_way: way,
            now,
            due: now,
            lines: BTreeMap::new(),
            opened: 0,
            known: Known::default(),
            raced: 0,
            pushes: Vec::new(),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Push(late) => self.push(late, None),
            Event::Mishap(mishap) => self.push(Duration::ZERO, Some(mishap)),
            Event::Pause(pause) => self.due += pause,
            Event::ClosesAll => self.close_all(),
            Event::Becomes(server) => {
                self.close_all();
                self.server = server;
            }
        }
    }

    fn close_all(&mut self) {
        self.lines.values_mut().for_each(|line| line.closes = line.closes.min(self.now));
    }

    /// Lets time pass: FINs arrive, and what the keeper wants closed is closed.
    fn run(&mut self, until: Instant) {
        loop {
            let fin = self.lines.iter().map(|(&id, line)| (line.closes + self.way, id)).min();
            let fin = fin.filter(|&(seen, _)| seen <= until);
            let due = self.keeper.deadline().filter(|&due| due <= until);
            match (fin, due) {
                (Some((seen, id)), due) if due.is_none_or(|due| seen <= due) => {
                    self.lines.remove(&id);
                    if let Some(age) = self.keeper.closed(id, seen) {
                        self.known.closed(age);
                    }
                }
                (_, Some(due)) => {
                    self.keeper.time_passed(due);
                    self.close(due.max(self.now));
                }
                (_, None) => break,
            }
            self.check_bounds();
        }
        self.now = self.now.max(until);
    }

    /// Closes what the keeper wants to be closed at `at`.
    fn close(&mut self, at: Instant) {
        for id in self.keeper.take_closing() {
            if let Some(line) = self.lines.remove(&id) {
                // It may have been a sentinel that has lasted long enough.
                self.known.alive(at.saturating_duration_since(line.begun));
            }
        }
    }

    fn check_bounds(&self) {
        assert!(self.lines.len() <= 1 + SENTINELS_MAX, "{} connections", self.lines.len());
        assert!(self.keeper.connections() <= 1 + SENTINELS_MAX);
        if let Some(held) = self.keeper.holds() {
            assert!(self.lines.contains_key(&held), "what is held is open, as far as can be known");
        }
    }

    fn push(&mut self, late: Duration, mut mishap: Option<Mishap>) {
        self.run(self.due.max(self.now) + late);
        self.due = self.now + self.keeper.interval();
        let (every, stall) = self.stall;
        let stalls = self.pushes.len().is_multiple_of(every);
        self.push_way = self.way + if stalls { stall } else { Duration::ZERO };
        let mut first = true;
        while !self.attempt(mishap.take(), first) {
            first = false;
        }
    }

    /// One attempt: true if it was answered.
    fn attempt(&mut self, mishap: Option<Mishap>, first: bool) -> bool {
        // Only what a sentinel shows is known; that the held connection is there now says nothing of the next moment.
        let held = self.keeper.holds();
        let alive = self.known.alive;
        let (write, carrier) = (self.now, self.keeper.begin(self.now));
        for id in self.keeper.take_closing() {
            if let Some(line) = self.lines.remove(&id)
                && held != Some(id)
            {
                self.known.alive(write - line.begun);
            }
        }
        let (id, age, sent) = match carrier {
            Carrier::Kept(id) => {
                assert_eq!(held, Some(id));
                let age = write - self.lines[&id].begun;
                self.check_known(id, age, alive.max(self.known.alive));
                (id, Some(age), write)
            }
            Carrier::Fresh(id, _) => {
                assert_eq!(id, ConnectionId(self.opened), "a name is given once");
                self.opened += 1;
                (id, None, write + self.push_way * 2)
            }
        };
        if first {
            self.pushes.push(age.is_some());
            self.known.fresh_close = self.known.fresh_close.map(|(close, pushes)| (close, pushes + 1));
        }
        let (id, age) = match (mishap, age) {
            (Some(Mishap::Replaced), Some(age)) => {
                // Only a connection that was closed can be found closed.
                self.lines.remove(&id);
                self.keeper.replaced();
                self.known.closed(age);
                (id, None)
            }
            (_, age) => (id, age),
        };
        let arrives = sent + self.push_way;
        if let (Some(line), Some(age)) = (self.lines.remove(&id), age) {
            if line.forgotten.is_some_and(|forgotten| arrives >= forgotten) {
                self.fail(Omen::Silent, REQUEST_TIMEOUT);
                self.raced += 1;
                return false;
            }
            if arrives >= line.closes {
                self.known.closed(age);
                self.fail(Omen::Closed, self.way * 2);
                self.raced += 1;
                return false;
            }
            if !matches!(mishap, Some(Mishap::Eof | Mishap::Timeout)) {
                self.known.alive(age);
            }
            self.lines.insert(id, line);
        }
        match mishap {
            Some(Mishap::Eof) => self.fail(Omen::None, self.way * 4),
            Some(Mishap::Timeout) => self.fail(Omen::None, REQUEST_TIMEOUT),
            Some(Mishap::Replaced) | None => self.answer(id, sent, Duration::ZERO, false),
            Some(Mishap::LastAnswer) => self.answer(id, sent, Duration::ZERO, true),
            Some(Mishap::Slow(more)) => self.answer(id, sent, more, false),
        }
        !matches!(mishap, Some(Mishap::Eof | Mishap::Timeout))
    }

    fn fail(&mut self, omen: Omen, after: Duration) {
        let until = self.now + after;
        // What becomes of the others is seen meanwhile.
        self.run(until);
        self.keeper.failed(omen);
        self.close(until);
    }

    fn answer(&mut self, id: ConnectionId, sent: Instant, took: Duration, closes: bool) {
        let Server { timeout, says, requests_max, forgotten_after } = self.server;
        let had = self.lines.get(&id).and_then(|line| line.requests).or(requests_max);
        let requests = had.map(|had| had.saturating_sub(1));
        let arrives = sent + self.push_way;
        let answered = arrives + took;
        let said = match says {
            Says::Nothing => None,
            Says::Timeout => Some(timeout),
            Says::Other(timeout) => Some(timeout),
        };
        let ends = closes || requests == Some(0);
        let line = Line {
            begun: sent,
            closes: if ends { answered } else { answered + timeout },
            forgotten: forgotten_after.map(|after| answered + after),
            requests,
            said,
        };
        // It is busy until then, and no FIN of its can come.
        self.lines.remove(&id);
        self.run(answered + self.push_way);
        self.lines.insert(id, line);
        let keep_alive = KeepAlive { timeout: said, requests };
        self.keeper.answered(sent, self.now, Said { keep_alive, closes });
        self.close(self.now);
        self.check_bounds();
    }

    /// A connection of `age` is reused: what is known must allow it.
    fn check_known(&self, id: ConnectionId, age: Duration, alive: Duration) {
        let guard = |timeout: Duration| self.config.guard_min.max(timeout / 50);
        if let Some(timeout) = self.config.timeout {
            assert!(age + guard(timeout) <= timeout, "reused at {age:?}, {timeout:?} was configured");
            return;
        }
        let said = self.lines[&id].said;
        if let Some(timeout) = said {
            assert!(age + guard(timeout) <= timeout, "reused at {age:?}, the server says {timeout:?}");
        } else {
            let later = self.known.closes.iter().filter(|&&close| age + guard(close) <= close).count();
            assert!(
                alive >= age || later >= CLOSES_NEEDED,
                "reused at {age:?}; longest alive {alive:?}, {later} closes later"
            );
        }
        if let Some((close, pushes)) = self.known.fresh_close
            && pushes < 3
        {
            assert!(
                age + guard(close) < close || age > close,
                "reused at {age:?} when the server has just closed one at {close:?}"
            );
        }
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Closes that have to be seen before a shorter age is taken for safe, where nothing else is known.
const CLOSES_NEEDED: usize = 3;

fn milliseconds(range: Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// Timeouts around the interval, where it matters, and anywhere.
fn timeout(interval: Duration) -> impl Strategy<Value = Duration> {
    let near = (0.9..1.15_f64).prop_map(move |share| interval.mul_f64(share));
    let anywhere = (0.2..5.0_f64).prop_map(move |share| interval.mul_f64(share));
    let round = Just(interval);
    prop_oneof![5 => near, 3 => anywhere, 1 => round]
}

fn server(interval: Duration) -> impl Strategy<Value = Server> {
    let says = prop_oneof![
        3 => Just(Says::Nothing),
        2 => Just(Says::Timeout),
        1 => timeout(interval).prop_map(Says::Other)
    ];
    let requests_max = prop_oneof![4 => Just(None), 1 => (1..20_u64).prop_map(Some)];
    let forgotten_after = prop_oneof![6 => Just(None), 1 => timeout(interval).prop_map(Some)];
    (timeout(interval), says, requests_max, forgotten_after).prop_map(
        |(timeout, says, requests_max, forgotten_after)| Server {
            timeout,
            says,
            requests_max,
            forgotten_after,
        },
    )
}

fn event(interval: Duration) -> impl Strategy<Value = Event> {
    let mishap = prop_oneof![
        Just(Mishap::Eof),
        Just(Mishap::Timeout),
        Just(Mishap::Replaced),
        Just(Mishap::LastAnswer),
        milliseconds(0..3_000).prop_map(Mishap::Slow)
    ];
    prop_oneof![
        40 => milliseconds(0..60).prop_map(Event::Push),
        4 => mishap.prop_map(Event::Mishap),
        2 => (0.0..8.0_f64).prop_map(move |share| Event::Pause(interval.mul_f64(share))),
        1 => Just(Event::ClosesAll),
        1 => server(interval).prop_map(Event::Becomes)
    ]
}

fn config(interval: Duration) -> impl Strategy<Value = Config> {
    let configured = prop_oneof![5 => Just(None), 1 => timeout(interval).prop_map(Some)];
    let when_short = prop_oneof![Just(WhenShort::Retire), Just(WhenShort::Trim)];
    (configured, when_short)
        .prop_map(move |(timeout, when_short)| Config { timeout, ..untold(interval, when_short) })
}

/// Nobody has told the keeper anything of the server.
fn untold(interval: Duration, when_short: WhenShort) -> Config {
    Config { interval, guard_min: Duration::from_millis(50), timeout: None, when_short, hint: None }
}

fn settings() -> ProptestConfig {
    // What fails is printed as values that can be pasted into a test; no files of it are kept.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// What a server that stays as it is, on a way that does too, has to do with pushes that come as they should.
fn steady(config: Config, server: Server, way: Duration, lates: &[Duration]) -> World {
    let mut world = World::new(config, server, way);
    lates.iter().for_each(|&late| world.push(late, None));
    world
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn nothing_is_reused_past_what_is_known_and_sockets_are_bounded(
        (config, server, events) in milliseconds(500..20_000).prop_flat_map(|interval| {
            (config(interval), server(interval), vec(event(interval), 1..200))
        }),
        way in milliseconds(0..100),
    ) {
        let mut world = World::new(config, server, way);
        events.into_iter().for_each(|event| world.happen(event));
    }

    #[test]
    fn a_server_that_stays_as_it_is_never_meets_a_push_with_its_fin(
        (interval, timeout) in milliseconds(500..20_000).prop_flat_map(|interval| (Just(interval), timeout(interval))),
        says in prop_oneof![Just(Says::Nothing), Just(Says::Timeout)],
        requests_max in prop_oneof![4 => Just(None), 1 => (1..20_u64).prop_map(Some)],
        when_short in prop_oneof![Just(WhenShort::Retire), Just(WhenShort::Trim)],
        way in milliseconds(0..150),
        lates in vec(milliseconds(0..60), 100),
        stall in (1..15_usize, milliseconds(0..500)),
        pauses in vec((0..100_usize, 0.0..6.0_f64), 0..5),
    ) {
        let config = untold(interval, when_short);
        let server = Server { timeout, says, requests_max, forgotten_after: None };
        let mut world = World::new(config, server, way);
        // One that comes for the first time cannot be foreseen; this one comes with the first push, and again.
        world.stall = stall;
        for (push, late) in lates.into_iter().enumerate() {
            let paused = pauses.iter().filter(|&&(at, _)| at == push);
            paused.for_each(|&(_, share)| world.happen(Event::Pause(interval.mul_f64(share))));
            world.push(late, None);
        }
        prop_assert_eq!(world.raced, 0);
    }

    #[test]
    fn where_the_interval_fits_every_push_is_reused_after_a_few(
        interval in milliseconds(1_000..20_000),
        room in 0..400_u64,
        silent in any::<bool>(),
        way in milliseconds(0..100),
        jitter in 0..50_u64,
        lates in vec(0.0..1.0_f64, 80),
    ) {
        // The guard of such a timeout; what is learned is a way late, and expected as much earlier as it was seen to
        // spread.
        let jitter = Duration::from_millis(jitter);
        let guard = Duration::from_millis(50).max(interval / 45) + way * 5 + jitter * 2;
        let timeout = interval + guard + Duration::from_millis(room * 10);
        let says = if silent { Says::Nothing } else { Says::Timeout };
        let server = Server { timeout, says, requests_max: None, forgotten_after: None };
        let config = untold(interval, WhenShort::Retire);
        let lates: Vec<_> = lates.into_iter().map(|share| jitter.mul_f64(share)).collect();
        let world = steady(config, server, way, &lates);
        prop_assert_eq!(world.raced, 0);
        let learned = if silent { 8 } else { 1 };
        prop_assert!(world.pushes[learned..].iter().all(|&reused| reused), "{:?}", world.pushes);
    }

    #[test]
    fn each_change_of_a_server_costs_one_first_attempt_at_most(
        (interval, servers) in milliseconds(500..20_000).prop_flat_map(|interval| {
            (Just(interval), vec((server(interval), 1..100_usize), 1..6))
        }),
        way in milliseconds(0..100),
        lates in vec(milliseconds(0..20), 100),
    ) {
        let config = untold(interval, WhenShort::Retire);
        let mut world = World::new(config, servers[0].0, way);
        for (change, (server, pushes)) in (1..).zip(servers) {
            // It is configured anew without a restart: connections that are there stay.
            world.server = Server { forgotten_after: None, ..server };
            lates.iter().cycle().take(pushes).for_each(|&late| world.push(late, None));
            prop_assert!(world.raced <= change, "{} of {} after {change} servers", world.raced, world.pushes.len());
        }
    }

    #[test]
    fn a_way_that_forgets_connections_costs_one_request_and_is_remembered(
        (interval, forgotten_after) in milliseconds(500..20_000).prop_flat_map(|interval| (Just(interval), timeout(interval))),
        says in prop_oneof![Just(Says::Nothing), Just(Says::Timeout)],
        way in milliseconds(0..100),
        lates in vec(milliseconds(0..20), 300),
    ) {
        let config = untold(interval, WhenShort::Retire);
        let (timeout, requests_max) = (interval * 10, None);
        let server = Server { timeout, says, requests_max, forgotten_after: Some(forgotten_after) };
        let world = steady(config, server, way, &lates);
        prop_assert!(world.raced <= 1, "{} requests were swallowed", world.raced);
    }
}
