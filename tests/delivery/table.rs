//! What others do: the same pushes to the same servers by clients as one would write them, beside ours.
//!
//! In: nothing. Out: a table. None of the others tries again; what failed for them and was not received is lost.

use std::fmt::Write;
use std::time::Duration;

use crate::experiment::{Experiment, Orders, Outcome, Seen};
use crate::relay::{Break, Mischief};
use crate::servers::{Program, Protocol, Setting};

const INTERVAL: Duration = Duration::from_secs(1);
/// As clocks and loads differ: the danger is narrower than that.
const SWEEP: Duration = Duration::from_millis(2);
const AGENTS: u32 = 8;

/// A client, and what the table calls it.
const CLIENTS: [(&str, &str); 5] = [
    ("retire", "ours"),
    ("trim", "ours, may push earlier"),
    ("defaults", "reqwest as it comes"),
    ("idle:900", "pool forgets after 0.9 s"),
    ("fresh", "connection per push"),
];

/// A server to which it matters how connections are held.
#[derive(Clone, Debug)]
struct Foe {
    name: &'static str,
    setting: Setting,
    rtt_ms: u64,
    mischief: Mischief,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    foe: &'static str,
    client: &'static str,
    ours: bool,
    pushes: u64,
    pub(crate) failed: u64,
    lost: u64,
    doubled: u64,
    repeated: u64,
    connections: u64,
}

fn foes() -> Vec<Foe> {
    let foe = |name, program, idle_us, rtt_ms| Foe {
        name,
        setting: Setting::new(program, Protocol::Http1, Duration::from_micros(idle_us)),
        rtt_ms,
        mischief: Mischief::None,
    };
    let says = |mut foe: Foe, seconds| {
        foe.setting.says = Some(seconds);
        foe
    };
    vec![
        foe("Go, closes after 1 s", Program::GoRead, 1_000_000, 0),
        foe("Go, closes after 0.996 s, 10 ms away", Program::GoRead, 996_000, 10),
        foe("Go, closes after 2 s, 10 ms away", Program::GoIdle, 2_000_000, 10),
        says(foe("nginx, says and keeps 1 s, 2 ms away", Program::Nginx, 1_000_000, 2), 1),
        foe("HAProxy before Go, which closes after 1 s", Program::HaProxyBefore, 1_000_000, 0),
        Foe {
            mischief: Mischief::Often(Break::AnswerLost, 17),
            ..says(foe("one answer in 17 lost", Program::GoIdle, 5_000_000, 2), 5)
        },
    ]
}

/// Every pair of a server and a client, each `pushes` times per agent.
pub(crate) fn experiments(pushes: u32) -> Vec<(Experiment, Line)> {
    let mut all = Vec::new();
    for foe in foes() {
        for (client, name) in CLIENTS {
            let orders = Orders {
                client: client.to_owned(),
                interval: INTERVAL,
                spread: if foe.setting.program.is_proxy() { Duration::from_millis(4) } else { INTERVAL },
                sweep: SWEEP,
                agents: AGENTS,
                pushes,
                guard: Duration::from_millis(15),
                http2: false,
                at_most_once: false,
            };
            let line = Line {
                foe: foe.name,
                client: name,
                ours: orders.is_ours(),
                pushes: u64::from(AGENTS * pushes),
                failed: 0,
                lost: 0,
                doubled: 0,
                repeated: 0,
                connections: 0,
            };
            let Foe { setting, rtt_ms, mischief, .. } = foe.clone();
            let rtt = Duration::from_millis(rtt_ms);
            all.push((Experiment { setting, rtt, mischief, restarts: false, orders }, line));
        }
    }
    all
}

impl Line {
    /// With what came of it.
    pub(crate) fn filled(mut self, outcome: &Outcome) -> Self {
        let Outcome { seen, received, connections, broken: _ } = outcome;
        self.failed = if self.ours {
            seen.iter().map(Seen::failed).sum()
        } else {
            seen.iter().map(|seen| seen.lost).sum()
        };
        self.lost = self.pushes - received.profiles;
        self.doubled = received.doubles;
        self.repeated = received.repeats;
        self.connections = *connections;
        self
    }

    /// Ours may not lose, and not fail where it could be foreseen.
    pub(crate) fn is_wrong(&self) -> bool {
        let foreseen = !self.foe.contains("lost") && !self.foe.contains("before");
        self.ours && (self.lost > 0 || self.doubled > 0 || (foreseen && self.failed > 0))
    }

    /// The danger was there: another client failed.
    pub(crate) fn shows_danger(&self) -> bool {
        !self.ours && self.failed > 0
    }
}

/// The table, in Markdown.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut text =
        "| server | client | pushes | failed | lost | doubled | sent again | connections |\n".to_owned();
    text += "|---|---|---:|---:|---:|---:|---:|---:|\n";
    for line in lines {
        let Line { foe, client, pushes, failed, lost, doubled, repeated, connections, ours: _ } = line;
        let _ = writeln!(
            text,
            "| {foe} | {client} | {pushes} | {failed} | {lost} | {doubled} | {repeated} | {connections} |"
        );
    }
    text
}
