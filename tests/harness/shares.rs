//! Whether a profile says of a workload what the workload says of itself.

use super::profile::{Profile, Stack};
use super::workloads::Spent;

/// What is compared, and how closely.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Samples at least.
    pub samples_min: u64,
    /// How far a share may be off, percentage points.
    pub share_points_max: f64,
    /// How far the weight may be from the CPU time used, percent.
    pub weight_percent_max: f64,
    /// Samples in user code whose stack must be a whole one of the workload's, percent.
    pub whole_percent_min: f64,
}

/// What was found of one workload.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of its process.
    pub comm: String,
    /// Samples.
    pub samples: u64,
    /// CPU time that its samples stand for, nanoseconds.
    pub weight_ns: u64,
    /// CPU time it used, nanoseconds.
    pub cpu_ns: u64,
    /// Time that was stolen from the machine meanwhile, nanoseconds: so much more its samples may weigh.
    pub stolen_ns: u64,
    /// Each stack with its share as measured and as told, percent.
    pub shares: Vec<(String, f64, f64)>,
    /// Samples in user code whose stack is a whole one, percent.
    pub whole_percent: f64,
    /// The stacks that were not, heaviest first.
    pub strangers: Vec<(u64, String)>,
}

impl Report {
    /// Compares the part of `profile` that belongs to `comm` with what it `spent`.
    pub fn new(profile: &Profile, period_ns: u64, comm: &str, spent: &Spent) -> Self {
        let own = profile.of(comm);
        let mut found = vec![0; spent.stacks.len()];
        let mut strangers = Vec::new();
        let mut user_samples = 0;
        for stack in &own.stacks {
            let which = spent.stacks.keys().position(|expected| passes(stack, expected));
            if stack.in_user_code() {
                user_samples += stack.samples;
            }
            match which {
                Some(which) => found[which] += stack.samples,
                None if stack.in_user_code() => strangers.push((stack.samples, line(stack))),
                None => {}
            }
        }
        strangers.sort_by(|a, b| b.cmp(a));
        let percent =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
        let all: u64 = found.iter().sum();
        let told: u64 = spent.stacks.values().sum();
        let strange: u64 = strangers.iter().map(|(samples, _)| samples).sum();
        Self {
            comm: comm.to_owned(),
            samples: own.samples(),
            weight_ns: own.samples() * period_ns,
            cpu_ns: spent.cpu_ns,
            stolen_ns: spent.stolen_ns,
            shares: (spent.stacks.iter().zip(&found))
                .map(|((stack, ns), samples)| (stack.clone(), percent(*samples, all), percent(*ns, told)))
                .collect(),
            whole_percent: 100.0 - percent(strange, user_samples.max(1)),
            strangers,
        }
    }

    /// What is wrong with it.
    pub fn faults(&self, limits: Limits) -> Vec<String> {
        let Limits { samples_min, share_points_max, weight_percent_max, whole_percent_min } = limits;
        let Self { comm, samples, shares, whole_percent, strangers, .. } = self;
        let mut faults = Vec::new();
        if *samples < samples_min {
            faults.push(format!("{comm}: {samples} samples, fewer than {samples_min}"));
        }
        for (stack, measured, told) in shares {
            if (measured - told).abs() > share_points_max {
                faults.push(format!("{comm}: {stack} has {measured:.1} % and not {told:.1} %"));
            }
        }
        let off = self.weight_percent_off();
        if off < -weight_percent_max || off > weight_percent_max + self.stolen_percent() {
            faults.push(format!(
                "{comm}: its samples weigh {off:+.1} % of the CPU time it used too much, and {:.1} % was stolen meanwhile",
                self.stolen_percent()
            ));
        }
        if *whole_percent < whole_percent_min {
            let some: Vec<_> = strangers.iter().take(8).map(|(n, line)| format!("    {line} {n}")).collect();
            faults.push(format!(
                "{comm}: only {whole_percent:.1} % of its stacks are whole:\n{}",
                some.join("\n")
            ));
        }
        faults
    }

    /// What was stolen meanwhile, in percent of the CPU time it used.
    pub fn stolen_percent(&self) -> f64 {
        self.stolen_ns as f64 * 100.0 / self.cpu_ns.max(1) as f64
    }

    /// How much more its samples weigh than the CPU time it used, percent.
    pub fn weight_percent_off(&self) -> f64 {
        (self.weight_ns as f64 / self.cpu_ns.max(1) as f64 - 1.0) * 100.0
    }
}

/// One line for who reads the test's output.
impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{:<11} {:>6} samples, weight {:+.2} %",
            self.comm,
            self.samples,
            self.weight_percent_off()
        )?;
        write!(out, ", whole {:.2} %, shares", self.whole_percent)?;
        self.shares.iter().try_for_each(|(_, measured, told)| write!(out, " {measured:.1}/{told:.1}"))
    }
}

/// Whether the user frames of `stack` pass through those of `expected`, root first, joined by `;`. What follows them is
/// what the last one calls, or has inlined.
fn passes(stack: &Stack, expected: &str) -> bool {
    let user: Vec<_> = stack.user().map(|frame| frame.name.as_str()).collect();
    let expected: Vec<_> = expected.split(';').collect();
    user.windows(expected.len())
        .any(|some| some.iter().zip(&expected).all(|(found, name)| is_function(found, name)))
}

/// Whether `found` is `name`, perhaps with its parameters.
fn is_function(found: &str, name: &str) -> bool {
    found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('('))
}

fn line(stack: &Stack) -> String {
    let frames: Vec<_> = stack.frames.iter().map(|frame| frame.name.as_str()).collect();
    frames.join(";")
}

#[cfg(test)]
mod tests {
    use super::super::profile::from_folded;
    use super::*;

    const LIMITS: Limits =
        Limits { samples_min: 10, share_points_max: 3.0, weight_percent_max: 2.0, whole_percent_min: 98.0 };

    /// Compares `folded` with a workload that spent 60 ms in `main;a` and 40 ms in `main;b`.
    fn faults(folded: &str) -> Vec<String> {
        faults_beside(0, folded)
    }

    /// The same while `stolen_ns` were stolen.
    fn faults_beside(stolen_ns: u64, folded: &str) -> Vec<String> {
        let stacks = [("main;a".to_owned(), 60_000_000), ("main;b".to_owned(), 40_000_000)];
        let spent = Spent { cpu_ns: 100_000_000, stolen_ns, stacks: stacks.into(), processes: 0 };
        Report::new(&from_folded(folded), 1_000_000, "wl", &spent).faults(LIMITS)
    }

    #[test]
    fn a_true_profile_has_no_faults() {
        assert_eq!(
            faults(
                "wl;_start;main;a 60\nwl-0;_start;main;b(int);inlined 39\nwl;main;b;tick_[k] 1\nother;x 9"
            ),
            [""; 0]
        );
    }

    #[test]
    fn a_wrong_share_is_a_fault() {
        assert_eq!(faults("wl;main;a 50\nwl;main;b 50").len(), 2);
    }

    #[test]
    fn missing_weight_is_a_fault() {
        assert!(faults("wl;main;a 57\nwl;main;b 38")[0].contains("-5.0 %"));
    }

    #[test]
    fn what_was_stolen_may_be_too_much_and_no_more() {
        let heavy = "wl;main;a 66\nwl;main;b 44";
        assert!(faults(heavy)[0].contains("+10.0 %"));
        assert_eq!(faults_beside(9_000_000, heavy), [""; 0]);
        assert!(faults_beside(7_000_000, heavy)[0].contains("+10.0 %"));
        assert!(faults_beside(9_000_000, "wl;main;a 57\nwl;main;b 38")[0].contains("-5.0 %"));
    }

    #[test]
    fn a_caller_that_is_missing_is_a_fault() {
        assert!(faults("wl;main;a 57\nwl;a 3\nwl;main;b 40")[0].contains("only 97.0 %"));
    }

    #[test]
    fn too_few_samples_are_a_fault() {
        assert!(faults("wl;main;a 6\nwl;main;b 4")[0].contains("weigh -90.0 %"));
        assert!(faults("wl;main;a 5\nwl;main;b 4")[0].contains("9 samples"));
    }
}
