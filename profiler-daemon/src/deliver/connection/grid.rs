//! Whole grids of servers, in simulated time: no request meets a FIN, and what fits is reused.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A path and a server that closes `timeout` after it received the last request, exactly.
#[derive(Clone, Copy)]
struct Server {
    timeout: Duration,
    advertises: bool,
    /// Of the way there; the way back is as long.
    one_way: Duration,
    /// How much one way may be longer at times.
    stall: Duration,
}

/// Deterministic numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bound.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Connections that are open, each with when the server closes it.
struct Open {
    fins: Vec<(ConnectionId, Instant)>,
    one_way: Duration,
}

impl Open {
    /// Lets time pass until `until`: FINs arrive, the keeper closes.
    fn run(&mut self, keeper: &mut Keeper, until: Instant) {
        loop {
            let fin = self.fins.iter().copied().min_by_key(|&(_, fin)| fin);
            let fin = fin.map(|(id, fin)| (id, fin + self.one_way)).filter(|&(_, seen)| seen <= until);
            let due = keeper.deadline().filter(|&due| due <= until);
            match (fin, due) {
                (Some((id, seen)), due) if due.is_none_or(|due| seen <= due) => {
                    keeper.closed(id, seen);
                    self.fins.retain(|&(open, _)| open != id);
                }
                (_, Some(due)) => keeper.time_passed(due),
                (_, None) => return,
            }
            self.close(keeper);
        }
    }

    fn close(&mut self, keeper: &mut Keeper) {
        let closing = keeper.take_closing();
        self.fins.retain(|(id, _)| !closing.contains(id));
        assert!(self.fins.len() <= 1 + SENTINELS_MAX);
    }
}

/// What happened to pushes after the first eight.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    reused: u32,
    fresh: u32,
}

impl Outcome {
    fn share(self) -> f64 {
        f64::from(self.reused) / f64::from(self.reused + self.fresh)
    }
}

/// Pushes every interval, give or take `jitter`. Panics if a request arrives when the server has closed, or closes,
/// its connection.
#[track_caller]
fn simulate(server: Server, config: Config, jitter: Duration, pushes: u32) -> Outcome {
    let Server { timeout, advertises, one_way, stall } = server;
    let mut dice = Dice(u64::from(config.interval.subsec_nanos()) ^ 0x5eed);
    let mut keeper = Keeper::new(config);
    let mut open = Open { fins: Vec::new(), one_way };
    let said = KeepAlive { timeout: advertises.then_some(timeout), requests: None };
    let (mut due, mut outcome) = (Instant::now(), Outcome::default());
    for push in 0..pushes {
        let write = due + dice.below(jitter);
        due += keeper.interval();
        open.run(&mut keeper, write);
        let carrier = keeper.begin(write);
        open.close(&mut keeper);
        let way = one_way + if push % 20 == 3 { stall } else { Duration::ZERO };
        let (id, sent) = match carrier {
            Carrier::Kept(id) => {
                outcome.reused += u32::from(push >= 8);
                let fin = open.fins.iter().find(|(open, _)| *open == id).unwrap().1;
                let arrives = write + way;
                assert!(arrives < fin, "push {push} arrives {:?} after the FIN", arrives - fin);
                (id, write)
            }
            Carrier::Fresh(id, _) => {
                outcome.fresh += u32::from(push >= 8);
                // SYN and its answer come first.
                (id, write + way * 2)
            }
        };
        open.fins.retain(|(open, _)| *open != id);
        open.fins.push((id, sent + way + timeout));
        keeper.answered(sent, sent + way * 2, Said { keep_alive: said, closes: false });
        open.close(&mut keeper);
    }
    outcome
}

const fn retire(interval: Duration) -> Config {
    Config { interval, guard_min: ms(50), timeout: None, when_short: WhenShort::Retire, hint: None }
}

const RATIOS: [f64; 24] = [
    0.4, 0.8, 0.9, 0.96, 0.98, 0.99, 0.998, 0.9999, 1.0, 1.0001, 1.002, 1.005, 1.01, 1.02, 1.021, 1.025,
    1.03, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 12.0,
];

#[test]
fn no_request_meets_the_servers_fin_and_what_fits_is_reused() {
    let interval = ms(10_000);
    for ratio in RATIOS {
        for jitter in [0, 1, 10, 50].map(ms) {
            for one_way in [0, 1, 5, 20, 50, 150].map(ms) {
                for advertises in [true, false] {
                    let timeout = interval.mul_f64(ratio);
                    let server = Server { timeout, advertises, one_way, stall: Duration::ZERO };
                    let share = simulate(server, retire(interval), jitter, 300).share();
                    // What is learned is a way late, and expected as much earlier as it was seen to spread.
                    let guard = ms(50).max(timeout / 50) + one_way * 4 + jitter + timeout / 1_000;
                    if interval + guard <= timeout {
                        assert!(
                            share >= 1.0,
                            "T/N {ratio}, jitter {jitter:?}, {one_way:?}, {advertises}: {share}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn trimmed_pushes_are_reused_where_the_interval_is_up_to_eight_percent_longer_than_the_timeout() {
    let interval = ms(10_000);
    for ratio in RATIOS.into_iter().filter(|ratio| *ratio >= 1.0 / 1.08) {
        for jitter in [0, 1, 10].map(ms) {
            for one_way in [0, 1, 5].map(ms) {
                for advertises in [true, false] {
                    let server = Server {
                        timeout: interval.mul_f64(ratio),
                        advertises,
                        one_way,
                        stall: Duration::ZERO,
                    };
                    let config = Config { when_short: WhenShort::Trim, ..retire(interval) };
                    let share = simulate(server, config, jitter, 400).share();
                    assert!(
                        share >= 0.98,
                        "T/N {ratio}, jitter {jitter:?}, {one_way:?}, {advertises}: {share}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_path_that_stalls_does_not_cost_a_push() {
    // No longer than 2 % of the timeout: what was never seen before, only the fixed part of the guard covers.
    for stall in [30, 60, 190].map(ms) {
        for ratio in [1.0, 1.005, 1.01, 1.02, 1.03, 1.05, 1.1, 1.3] {
            for advertises in [true, false] {
                let timeout = ms(10_000).mul_f64(ratio);
                let server = Server { timeout, advertises, one_way: ms(10), stall };
                simulate(server, retire(ms(10_000)), ms(5), 1_000);
            }
        }
    }
}

#[test]
fn short_intervals_against_short_timeouts() {
    for timeout_ms in (900..2_200).step_by(7) {
        for jitter in [0, 1, 20].map(ms) {
            for advertises in [true, false] {
                let server =
                    Server { timeout: ms(timeout_ms), advertises, one_way: ms(1), stall: Duration::ZERO };
                let share = simulate(server, retire(ms(1_000)), jitter, 300).share();
                if timeout_ms >= 1_120 {
                    assert!(
                        share >= 0.99,
                        "timeout {timeout_ms} ms, jitter {jitter:?}, {advertises}: {share}"
                    );
                }
            }
        }
    }
}
