//! Why a process has no data, or poor data: what `doctor why` says, by the agent that runs, or by who asks.
//!
//! In: a process id and the configuration. Out: findings. The agent that runs looks with its own rights, by the rules that hold now,
//! and knows how good the stacks of the process's service were; it is asked over its admin port. Where none answers, who asks
//! looks. Not here: what can be seen of the process itself (`doctor`).

use std::path::PathBuf;
use std::time::Duration;

use profiler_common::unwind::End;
use serde_json::{Value, json};

use super::quality::Qualities;
use super::{Budget, Failure, build};
use crate::attribute::Relabel;
use crate::config::Config;
use crate::deliver::{Access, CallError, Caller};
use crate::doctor::machine::Finding;
use crate::doctor::why::{self, Subject};
use crate::meters::Meters;
use crate::model::{Comm, Cpu, Pid, RawSample, Task, Tid, Trace, Weight};
use crate::time::MonoNs;
use crate::token::Token;

/// How long a process is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// How long an agent may take to answer: it watches the process, and may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Who looks at a process, with all that is known beside it.
#[derive(Clone, Debug)]
pub(super) struct Why {
    /// The value of the label `hostname`, if it was configured.
    pub(super) hostname: Option<String>,
    pub(super) relabel: Relabel,
    /// What the agent that looks has seen of services.
    pub(super) qualities: Option<Qualities>,
}

impl Why {
    /// What the agent answers, as JSON.
    pub(super) fn answer(&self, pid: u32) -> Value {
        // What cannot be known of a process is a finding; what fails beside that is ours.
        let findings =
            self.examine(pid).unwrap_or_else(|failure| vec![Finding::unknown("labels", failure.to_string())]);
        json!({ "checks": findings.iter().map(Finding::json).collect::<Vec<_>>() })
    }

    /// Takes as long as the process is watched.
    fn examine(&self, pid: u32) -> Result<Vec<Finding>, Failure> {
        let subject = Subject { proc: PathBuf::from("/proc"), pid, patience: WATCHED };
        let (mut findings, goes_on) = why::examine(&subject);
        if !goes_on {
            return Ok(findings);
        }
        match self.trace(pid)? {
            None => findings.push(Finding::does_not_fit(
                "labels",
                "rules of the configuration (relabel) leave it out",
                "Change the rule with the action keep or drop that decides so, and reload.",
            )),
            Some(trace) => {
                let pairs = trace.labels.iter().map(|(name, value)| format!("{name}={value}"));
                findings.push(Finding::fits("labels", pairs.collect::<Vec<_>>().join(" ")));
                let service = trace.labels.get("service_name").unwrap_or("unknown");
                findings.extend(self.qualities.as_ref().map(|qualities| match qualities.of(service) {
                    Some(words) => Finding::fits("stacks", format!("of {service}, {words}")),
                    None => Finding::unknown("stacks", format!("no sample of {service} was counted lately")),
                }));
            }
        }
        Ok(findings)
    }

    /// What a sample of `pid` would become now, unless rules leave it out.
    fn trace(&self, pid: u32) -> Result<Option<Trace>, Failure> {
        let (mut tracker, mut attributor) = build::tracking(
            self.hostname.clone(),
            false,
            self.relabel.clone(),
            &Budget::default(),
            &Meters::default(),
        )?;
        if let Some(event) = tracker.look_at(Pid(pid)) {
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
        Ok(attributor.attribute(&sample, &tracker))
    }
}

/// What the agent that runs says about `pid`, or what can be seen from here; the first finding says which.
pub fn findings(config: &Config, pid: u32) -> Result<Vec<Finding>, Failure> {
    let (first, answered) = ask(config, pid);
    let mut findings = vec![first];
    match answered {
        Some(answered) => findings.extend(answered),
        None => {
            let relabel =
                Relabel::parse(&config.relabel).map_err(|problems| Failure::Usage(problems.join("\n")))?;
            let why = Why { hostname: config.hostname.clone(), relabel, qualities: None };
            findings.extend(why.examine(pid)?);
        }
    }
    Ok(findings)
}

/// Asks the agent that the configuration is of.
fn ask(config: &Config, pid: u32) -> (Finding, Option<Vec<Finding>>) {
    const NAME: &str = "agent";
    let server = format!("http://{}", config.admin_listen);
    // Who may not read the token asks without it.
    let token = config.token_file.as_deref().and_then(|path| Token::read(path).ok());
    let access = token
        .map_or_else(Access::default, |token| Access::default().with_authorization(&token.authorization()));
    let pid = pid.to_string();
    let answer = Caller::new(&server, access)
        .map_err(CallError::from)
        .and_then(|caller| caller.get(&["-", "why"], &[("pid", &pid)], ANSWER_MAX));
    let seen = "what follows is what can be seen from here";
    let finding = match answer {
        Ok(answer) => match findings_of(&answer) {
            Some(findings) => {
                return (Finding::fits(NAME, format!("the one at {server} was asked")), Some(findings));
            }
            None => Finding::unknown(
                NAME,
                format!("what answers at {server} is no agent, or another version; {seen}"),
            ),
        },
        Err(CallError::Unreachable { .. }) if config.off_file.exists() => Finding::does_not_fit(
            NAME,
            format!("switched off; {seen}"),
            format!("Remove {}: nothing is profiled while it is there.", config.off_file.display()),
        ),
        Err(CallError::Unreachable { .. }) => Finding::does_not_fit(
            NAME,
            format!("none answers at {server}; {seen}"),
            "Start it, or name the configuration that it runs with (--config): without an agent nothing is profiled.",
        ),
        Err(CallError::Access { .. }) => Finding::unknown(
            NAME,
            format!(
                "the one at {server} asks for its token, which is not in a token_file that may be read; {seen}"
            ),
        ),
        Err(error) => Finding::unknown(NAME, format!("{error}; {seen}")),
    };
    (finding, None)
}

fn findings_of(answer: &[u8]) -> Option<Vec<Finding>> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    answer.get("checks")?.as_array()?.iter().map(Finding::from_json).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::doctor::Health;

    fn why(rules: &str) -> Why {
        Why {
            hostname: Some("here".to_owned()),
            relabel: Relabel::parse(rules).unwrap(),
            qualities: Some(Qualities::default()),
        }
    }

    #[test]
    fn an_answer_survives_its_way() {
        let own = why("").answer(std::process::id());
        let found = findings_of(own.to_string().as_bytes()).unwrap();
        let labels = found.iter().find(|finding| finding.check == "labels").unwrap();
        assert!(labels.health == Health::Fits && labels.found.contains("hostname=here"), "{labels:?}");
        let stacks = found.iter().find(|finding| finding.check == "stacks").unwrap();
        assert!(stacks.health == Health::Unknown && stacks.found.contains("no sample"), "{stacks:?}");
        assert_eq!(found.iter().map(Finding::json).collect::<Vec<_>>(), *own["checks"].as_array().unwrap());
        for strange in ["", "{}", "[]", "{\"checks\": [{}]}"] {
            assert_eq!(findings_of(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn rules_that_leave_it_out_are_told() {
        let found = why("[{ source_labels = [\"hostname\"], regex = \"here\", action = \"drop\" }]")
            .examine(std::process::id());
        let found = found.unwrap();
        let labels = found.iter().find(|finding| finding.check == "labels").unwrap();
        assert!(labels.health == Health::DoesNotFit && labels.found.contains("relabel"), "{labels:?}");
        assert!(found.iter().all(|finding| finding.check != "stacks"));
    }

    #[test]
    fn where_no_agent_answers_who_asks_looks() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = Config { admin_listen: free, off_file: "/nowhere/off".into(), ..Config::default() };
        let found = findings(&config, std::process::id()).unwrap();
        assert!(
            found[0].health == Health::DoesNotFit && found[0].found.contains("none answers"),
            "{found:?}"
        );
        assert!(found.len() > 3, "{found:?}");
        config.off_file = "/proc/self/exe".into();
        assert!(ask(&config, 1).0.found.contains("switched off"));
    }
}
