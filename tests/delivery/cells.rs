//! The grid: which cells there are, and what each has to show.
//!
//! In: nothing. Out: cells, each with its setting, its scale in time, and what is right there. Not here: running them.
//!
//! Time is scaled: an interval is about a second. Where a server can say its timeout only in whole seconds, the
//! interval is chosen to fit.

use std::fmt;
use std::time::Duration;

use crate::experiment::{Experiment, Orders};
use crate::pairs;
use crate::relay::{Break, Mischief};
use crate::servers::{LONG, Program, Protocol, Setting};

/// The interval, where nothing else decides it.
const INTERVAL: Duration = Duration::from_secs(1);
/// The interval of the world outside, and what every server written in Go in ten minutes has for a timeout.
const INTERVAL_REAL: Duration = Duration::from_secs(10);
/// The longest interval by timeout at which `trim` keeps connections.
const TRIMMED_MAX: f64 = 1.08;

/// The least guard, to scale and in the world outside.
const GUARD: Duration = Duration::from_millis(15);
const GUARD_REAL: Duration = Duration::from_millis(50);
/// A second more than a request may take.
const STALL: Duration = Duration::from_secs(4);

/// What the `Keep-Alive` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Header {
    /// The truth.
    True,
    /// Nothing.
    Silent,
    /// A minute, whatever the truth is.
    Lies,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    None,
    /// An RST instead of an answer.
    Reset,
    /// The answer is lost after the server has processed the request: by an RST, or by a FIN.
    AnswerReset,
    AnswerLost,
    /// Half an answer.
    AnswerHalf,
    /// The request is held up in its middle, for longer than its sender waits.
    Stall,
    /// Idle connections are forgotten in silence.
    BlackHole,
    /// A limit of rate, for some time.
    Storm,
    /// The server is killed while it reads a request, and started again.
    Restart,
    /// Nobody listens for 30 intervals.
    Outage,
}

impl Fault {
    /// The wire breaks something, and can say how often.
    pub(crate) fn is_of_the_wire(self) -> bool {
        !matches!(self, Self::None | Self::Storm)
    }
}

/// What to do where pushes come too seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Policy {
    Retire,
    Trim,
}

const HEADERS: [Header; 3] = [Header::True, Header::Silent, Header::Lies];
const PROTOCOLS: [Protocol; 3] = [Protocol::Http1, Protocol::Tls, Protocol::Http2];
const RTT_MS: [u64; 5] = [0, 2, 10, 40, 100];
const POLICIES: [Policy; 2] = [Policy::Retire, Policy::Trim];
/// Idle timeout by interval, and milliseconds beside it.
const RATIOS: [(f64, i64); 16] = [
    (0.2, 0),
    (0.4, 0),
    (0.8, 0),
    (0.9, 0),
    (0.96, 0),
    (0.98, 0),
    (1.0, -2),
    (1.0, -1),
    (1.0, 0),
    (1.0, 1),
    (1.0, 2),
    (1.02, 0),
    (1.1, 0),
    (1.5, 0),
    (2.0, 0),
    (5.0, 0),
];
/// Where something goes wrong besides.
const RATIOS_OF_FAULTS: [(f64, i64); 6] = [(0.4, 0), (0.98, 0), (1.0, 0), (1.1, 0), (2.0, 0), (5.0, 0)];
const FAULTS: [Fault; 9] = [
    Fault::Reset,
    Fault::AnswerReset,
    Fault::AnswerLost,
    Fault::AnswerHalf,
    Fault::Stall,
    Fault::BlackHole,
    Fault::Storm,
    Fault::Restart,
    Fault::Outage,
];

/// One experiment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) program: Program,
    /// How often profiles come, where the server's timeout need not be in whole seconds.
    unit: Duration,
    /// Idle timeout by interval.
    pub(crate) ratio: f64,
    /// Milliseconds beside it.
    pub(crate) beside_ms: i64,
    pub(crate) header: Header,
    pub(crate) protocol: Protocol,
    pub(crate) rtt_ms: u64,
    pub(crate) fault: Fault,
    pub(crate) policy: Policy,
    /// What may have arrived is not sent again.
    pub(crate) at_most_once: bool,
}

/// All cells, the longest first.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = select(&RATIOS, &[Fault::None]);
    cells.extend(select(&RATIOS_OF_FAULTS, &FAULTS));
    let plain = Cell {
        program: Program::GoRead,
        unit: INTERVAL,
        ratio: 1.0,
        beside_ms: 0,
        header: Header::Silent,
        protocol: Protocol::Http1,
        rtt_ms: 0,
        fault: Fault::None,
        policy: Policy::Retire,
        at_most_once: false,
    };
    cells.extend(POLICIES.map(|policy| Cell { unit: INTERVAL_REAL, policy, ..plain }));
    // A guard of 15 ms is too large a share of a second to show it to scale.
    let limit = Cell {
        unit: INTERVAL_REAL.mul_f64(TRIMMED_MAX),
        ratio: TRIMMED_MAX.recip(),
        policy: Policy::Trim,
        ..plain
    };
    cells.push(limit);
    cells.push(Cell { program: Program::Nginx, header: Header::True, rtt_ms: 2, ..limit });
    let once = [Fault::Reset, Fault::AnswerReset, Fault::AnswerLost, Fault::AnswerHalf];
    cells.extend(once.map(|fault| Cell { ratio: 2.0, fault, at_most_once: true, ..plain }));
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.interval() * cell.pushes(1)));
    cells
}

fn select(ratios: &[(f64, i64)], faults: &[Fault]) -> Vec<Cell> {
    let cell = |row: &[usize]| Cell {
        program: Program::ALL[row[0]],
        unit: INTERVAL,
        ratio: ratios[row[1]].0,
        beside_ms: ratios[row[1]].1,
        header: HEADERS[row[2]],
        protocol: PROTOCOLS[row[3]],
        rtt_ms: RTT_MS[row[4]],
        fault: faults[row[5]],
        policy: POLICIES[row[6]],
        at_most_once: false,
    };
    let sizes = [
        Program::ALL.len(),
        ratios.len(),
        HEADERS.len(),
        PROTOCOLS.len(),
        RTT_MS.len(),
        faults.len(),
        POLICIES.len(),
    ];
    pairs::rows(&sizes, |row| cell(row).is_possible()).iter().map(|row| cell(row)).collect()
}

impl Cell {
    fn is_possible(&self) -> bool {
        let Self { program, header, protocol, fault, ratio, .. } = *self;
        let speaks = match program {
            // It speaks nothing else; whoever wants that puts another before it.
            Program::Embedded => protocol == Protocol::Http1,
            Program::EmbeddedBehind => protocol != Protocol::Http1,
            _ => true,
        };
        let says = match (program, protocol) {
            // There is no such header in HTTP/2.
            (_, Protocol::Http2) => header == Header::Silent,
            // They always tell the truth.
            (Program::Apache | Program::ApacheBefore | Program::Embedded, _) => header == Header::True,
            (Program::NginxBefore | Program::HaProxyBefore | Program::EmbeddedBehind, _) => {
                header == Header::Silent
            }
            _ => true,
        };
        let breaks = match fault {
            // For 30 intervals of a length that a test can wait for.
            Fault::Outage => self.interval() <= INTERVAL * 3 / 2,
            // Only a connection that would be kept otherwise falls into the hole.
            Fault::BlackHole => ratio > 1.0,
            _ => true,
        };
        speaks && says && breaks
    }

    /// The scale in time is that of the idle timeout, because that is in whole seconds.
    fn is_in_seconds(&self) -> bool {
        !self.is_real()
            && (matches!(self.program, Program::Node)
                || matches!((self.header, self.program.is_proxy()), (Header::True, false)))
    }

    /// How long the server in question keeps idle connections.
    pub(crate) fn idle_timeout(&self) -> Duration {
        if self.is_in_seconds() {
            // Node cannot close earlier than after a second.
            let least = if self.program == Program::Node { 2 } else { 1 };
            return Duration::from_secs(if self.ratio >= 5.0 {
                5
            } else {
                least.max(if self.ratio >= 1.5 { 2 } else { 1 })
            });
        }
        let ms = self.unit.mul_f64(self.ratio).as_millis();
        Duration::from_millis(u64::try_from(ms).unwrap_or(0).saturating_add_signed(self.beside_ms))
    }

    /// How often profiles come.
    pub(crate) fn interval(&self) -> Duration {
        if !self.is_in_seconds() {
            return self.unit;
        }
        let interval = self.idle_timeout().div_f64(self.ratio);
        match u64::try_from(self.beside_ms) {
            Ok(ms) => interval.saturating_sub(Duration::from_millis(ms)),
            Err(_) => interval + Duration::from_millis(self.beside_ms.unsigned_abs()),
        }
    }

    /// At the scale of the world outside, and therefore with few pushes.
    fn is_real(&self) -> bool {
        self.unit >= INTERVAL_REAL
    }

    /// Pushes may just be moved far enough to keep the connection.
    pub(crate) fn is_at_limit(&self) -> bool {
        self.unit > INTERVAL_REAL
    }

    /// Over how long the agents' moments of pushing are spread. What a proxy keeps it keeps for all who push through
    /// it: only where they come at once, each connection is idle for an interval.
    fn spread(&self) -> Duration {
        if self.program.is_proxy() { Duration::from_millis(4) } else { self.interval() }
    }

    /// How many profiles each agent gets, where `times` as many are wanted as usual.
    fn pushes(&self, times: u32) -> u32 {
        let usual = match self.fault {
            Fault::Outage => 40,
            _ if self.is_real() => return 10,
            // As many as take half a minute.
            _ => (30_000 / u32::try_from(self.interval().as_millis()).unwrap_or(u32::MAX)).clamp(6, 14),
        };
        if self.fault == Fault::Outage { usual } else { usual * times }
    }

    /// What the server says, seconds.
    pub(crate) fn says(&self) -> Option<u64> {
        match self.header {
            Header::True if self.program.is_proxy() => Some(LONG.as_secs()),
            Header::True => Some(self.idle_timeout().as_secs()),
            Header::Silent => None,
            Header::Lies => Some(60),
        }
    }

    /// The experiment with so many agents where nothing else decides it, each of which pushes `times` as often as
    /// usual.
    pub(crate) fn experiment(&self, agents: u32, times: u32) -> Experiment {
        let agents = if self.is_real() { 16 } else { agents };
        let client = match self.policy {
            Policy::Retire => "retire",
            Policy::Trim => "trim",
        };
        Experiment {
            setting: self.setting(agents),
            rtt: Duration::from_millis(self.rtt_ms),
            mischief: self.mischief(agents),
            restarts: self.fault == Fault::Restart,
            orders: Orders {
                client: client.to_owned(),
                interval: self.interval(),
                spread: self.spread(),
                sweep: Duration::ZERO,
                agents,
                pushes: self.pushes(times),
                guard: if self.is_real() { GUARD_REAL } else { GUARD },
                http2: self.protocol == Protocol::Http2,
                at_most_once: self.at_most_once,
            },
        }
    }

    fn setting(&self, agents: u32) -> Setting {
        let refused = match self.fault {
            Fault::Storm => u64::from(agents) * 3..u64::from(agents) * 5,
            _ => 0..0,
        };
        Setting {
            says: self.says(),
            refused,
            ..Setting::new(self.program, self.protocol, self.idle_timeout())
        }
    }

    fn mischief(&self, agents: u32) -> Mischief {
        let agents = u64::from(agents);
        // Not a multiple of the agents, so that each is hit.
        let often = |what| Mischief::Often(what, agents * 2 + 1);
        match self.fault {
            Fault::None | Fault::Storm => Mischief::None,
            Fault::Reset => often(Break::Reset),
            Fault::AnswerReset => often(Break::AnswerReset),
            Fault::AnswerLost => often(Break::AnswerLost),
            Fault::AnswerHalf => often(Break::AnswerHalf),
            Fault::Stall => often(Break::Stall(STALL)),
            Fault::BlackHole => Mischief::BlackHole(self.interval().mul_f64(0.7)),
            Fault::Restart => Mischief::Cut(agents * 5, Duration::from_millis(300)),
            Fault::Outage => Mischief::Cut(agents * 5, self.interval() * 30),
        }
    }

    /// The server closes earlier than it says, and not later than it is asked.
    pub(crate) fn lies(&self) -> bool {
        self.header == Header::Lies && self.ratio < 1.5
    }

    /// How long the server keeps our connection in truth.
    pub(crate) fn keeps(&self) -> Duration {
        if self.program.is_proxy() { LONG } else { self.idle_timeout() }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            unit: _,
            ratio,
            beside_ms,
            header,
            protocol,
            rtt_ms,
            fault,
            policy,
            at_most_once,
        } = self;
        let beside = if *beside_ms == 0 { String::new() } else { format!("{beside_ms:+}ms") };
        let once = if *at_most_once { " once" } else { "" };
        let unit = if self.is_real() { " real" } else { "" };
        write!(
            out,
            "{program:?}{unit} {ratio}{beside} {header:?} {protocol:?} rtt={rtt_ms} {fault:?} {policy:?}{once}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_and_interval_are_as_far_apart_as_the_cell_says() {
        for cell in all() {
            let beside = cell.idle_timeout().as_secs_f64() - cell.interval().as_secs_f64() * cell.ratio;
            let wanted = f64::from(i32::try_from(cell.beside_ms).unwrap_or(0)) / 1_000.0;
            assert!((beside - wanted).abs() < 0.000_1, "{cell}: {beside}");
        }
    }

    #[test]
    fn a_header_that_tells_the_truth_can_be_written() {
        for cell in all().iter().filter(|cell| cell.header == Header::True && !cell.program.is_proxy()) {
            assert_eq!(cell.idle_timeout().subsec_nanos(), 0, "{cell}");
        }
    }
}
