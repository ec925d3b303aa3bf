//! What the agent would make of one process: its labels, or the word that rules leave it out.
//!
//! In: a process id and the configuration. Out: a finding for `doctor why`. Not here: what can be seen of the process itself.

use profiler_common::unwind::End;

use super::{Failure, build};
use crate::attribute::Relabel;
use crate::config::Config;
use crate::doctor::machine::Finding;
use crate::meters::Meters;
use crate::model::{Comm, Cpu, Pid, RawSample, Task, Tid, Weight};
use crate::time::MonoNs;

/// The labels that a sample of `pid` would have now.
pub fn labels(config: &Config, pid: u32) -> Result<Finding, Failure> {
    const NAME: &str = "labels";
    let relabel = Relabel::parse(&config.relabel).map_err(|problems| Failure::Usage(problems.join("\n")))?;
    let (mut tracker, mut attributor) =
        build::tracking(config.hostname.clone(), false, relabel, &Meters::default())?;
    for event in tracker.snapshot() {
        tracker.apply(event);
    }
    let sample = RawSample {
        time: MonoNs::now(),
        cpu: Cpu(0),
        task: Task { pid: Pid(pid), tid: Tid(pid), comm: Comm::new(b"") },
        kernel: Vec::new(),
        user: Vec::new(),
        ended: End::NoUser,
        stack: None,
        weight: Weight(1),
    };
    Ok(match attributor.attribute(&sample, &tracker) {
        Some(trace) => {
            let pairs: Vec<_> = trace.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Finding::fits(NAME, pairs.join(" "))
        }
        None => Finding::does_not_fit(
            NAME,
            "rules of the configuration (relabel) leave it out",
            "Change the rule with the action keep or drop that decides so, and reload.",
        ),
    })
}
