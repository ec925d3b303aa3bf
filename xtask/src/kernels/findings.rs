//! What a transcript shows, each thing with what was to be seen.
//!
//! An emulated processor is taken away for milliseconds at a time, so figures of cost mean nothing here, and skipped ticks
//! are no fault of the daemon's. What must hold all the same: programs load and run, names are right, the books balance.

use super::noted::Noted;
use crate::emulator::finding::Finding;
use crate::emulator::{Step, Transcript};

/// Share of a workload's samples that must show the whole chain of its functions, percent. The rest is its start, before
/// main(): a tenth where the emulator has hardly a processor, and every page fault is dear. A fault leaves half, or none.
const WHOLE_PERCENT_MIN: f64 = 80.0;
/// Samples below which a share says nothing: half a second's.
const SAMPLES_MIN: u64 = 50;

/// Everything there is to see.
pub(super) fn all(transcript: &Transcript) -> Vec<Finding> {
    let mut findings = Vec::new();
    let noted = Noted::read();
    let release = transcript.step("release").lines.join(" ");
    for program in
        ["cpu", "cpu bounded", "bench_walk", "bench_walk bounded", "bench_get_stack", "kernel_names"]
    {
        let step = transcript.step(&format!("verify {program}"));
        findings.push(verified(program, &step, &release, &noted));
    }
    let folded = transcript.step("folded").lines;
    for (comm, root) in [("shop", "main"), ("wl-threads-0", "till"), ("wl-threads-1", "till")] {
        findings.push(named(comm, root, &folded));
    }
    for way in ["loop", "bounded"] {
        findings.push(walked(way, &transcript.step(&format!("walk {way}"))));
    }
    let record = transcript.step("record");
    findings.push(Finding {
        what: "record ends with the command's code".to_owned(),
        seen: record.lines.last().cloned().unwrap_or_default(),
        well: record.code == Some(0),
    });
    let run = transcript.step("run");
    findings.push(listed(&run));
    findings.push(books(&run));
    findings.extend(confined(&run));
    findings.push(transcript.end());
    findings
}

/// `program ns_per_run frames_per_run runs verified_instructions`.
fn verified(program: &str, step: &Step, release: &str, noted: &Noted) -> Finding {
    let last = step.lines.last().cloned().unwrap_or_default();
    let words: Vec<&str> = last.split_whitespace().collect();
    let (seen, well) = match words[..] {
        [_, _, _, runs, instructions] if step.code == Some(0) => {
            let (name, way) = program.split_once(' ').map_or((program, "loop"), |(name, _)| (name, "chain"));
            match instructions.parse() {
                Ok(number) if number > 0 => {
                    let (compared, is_near) = noted.judge(release, name, way, number);
                    let seen = format!("{number} instructions verified ({compared}), {runs} runs");
                    (seen, runs != "0" && is_near)
                }
                // Linux 5.16 is the first that tells.
                _ => (format!("an untold number of instructions verified, {runs} runs"), runs != "0"),
            }
        }
        _ => (last, false),
    };
    Finding { what: format!("program {program}"), seen, well }
}

/// Whether the stacks of the thread `comm` show the whole chain from `root` to a leaf.
fn named(comm: &str, root: &str, folded: &[String]) -> Finding {
    let serve = format!(";{root};serve;");
    let leaves = ["checkout;price", "checkout;stock", "report"].map(|leaf| format!("{serve}{leaf}"));
    // The library's clock keeps no frame, so that the leaf, its caller, is lost to a walk by frame pointers; and an
    // emulator makes it dear.
    let clock = |stack: &str| stack.contains(&serve) && stack.contains(";__clock_gettime");
    let is_whole = |stack: &str| clock(stack) || leaves.iter().any(|leaf| stack.contains(leaf));
    let (mut all, mut whole) = (0, 0);
    for line in folded {
        let Some((stack, count)) = line.rsplit_once(' ') else { continue };
        let count: u64 = count.parse().unwrap_or(0);
        if stack.split(';').next() == Some(comm) {
            all += count;
            whole += if is_whole(stack) { count } else { 0 };
        }
    }
    let percent = if all == 0 { 0.0 } else { whole as f64 * 100.0 / all as f64 };
    Finding {
        what: format!("names of {comm}"),
        seen: format!("{percent:.1} % of {all} samples show the whole chain from {root} to a leaf"),
        well: all >= SAMPLES_MIN && percent >= WHOLE_PERCENT_MIN,
    }
}

/// Whether stacks without frame pointers are as deep as they were made: `program ns_per_run frames_per_run …`.
fn walked(way: &str, step: &Step) -> Finding {
    /// Of 60 that the workload has of its own; some samples are others'.
    const FRAMES_MIN: f64 = 48.0;
    let last = step.lines.last().cloned().unwrap_or_default();
    let frames = last.split_whitespace().nth(2).and_then(|frames| frames.parse::<f64>().ok());
    let (seen, well) = match frames {
        Some(frames) if step.code == Some(0) => {
            (format!("{frames:.1} frames of 60 on average"), frames >= FRAMES_MIN)
        }
        _ => (last, false),
    };
    Finding { what: format!("walk by tables, {way}"), seen, well }
}

/// Whether the page lists the program that ran.
fn listed(run: &Step) -> Finding {
    let well = run.lines.iter().any(|line| line == "the page lists shop");
    Finding {
        what: "the embedded server's services".to_owned(),
        seen: if well { "shop is among them" } else { "shop is not among them" }.to_owned(),
        well,
    }
}

/// `stopped: captured 10 = delivered 8 + lost 2 (2 tick skipped)`: nothing may be lost for another reason.
fn books(run: &Step) -> Finding {
    let last = run.lines.iter().rev().find_map(|line| Some(line.split_once("stopped: ")?.1));
    let well = run.code == Some(0) && last.is_some_and(balanced);
    let seen = last.or(run.lines.last().map(String::as_str)).unwrap_or_default().to_owned();
    Finding { what: "the books of run".to_owned(), seen, well }
}

fn balanced(line: &str) -> bool {
    let (sums, reasons) = line.split_once(" (").unwrap_or((line, ""));
    let numbers: Vec<u64> = sums.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [captured, delivered, lost] = numbers[..] else { return false };
    captured == delivered + lost
        && delivered > 0
        && (lost == 0 || reasons.strip_suffix(')') == Some(&format!("{lost} tick skipped")))
}

/// What the children gave up, as they say it; how much of it a kernel can is its own business.
fn confined(run: &Step) -> Option<Finding> {
    let said = run.lines.iter().find_map(|line| Some(line.split_once("server: ")?.1))?;
    Some(Finding { what: "the embedded server gives up".to_owned(), seen: said.to_owned(), well: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(code: i32, lines: &[&str]) -> Step {
        Step { lines: lines.iter().map(|&line| line.to_owned()).collect(), code: Some(code) }
    }

    #[test]
    fn a_program_that_ran_is_well_and_one_that_was_refused_says_why() {
        let verified = |step: &Step| verified("cpu", step, "0.1.2", &Noted::read());
        let ran = verified(&step(0, &["cpu 8883.2 0.00 202 918"]));
        let seen = "918 instructions verified (to be noted: 0.1 cpu loop 918), 202 runs";
        assert_eq!((ran.seen.as_str(), ran.well), (seen, true));
        let untold = verified(&step(0, &["cpu 8883.2 0.00 202 0"]));
        assert_eq!(
            (untold.seen.as_str(), untold.well),
            ("an untold number of instructions verified, 202 runs", true)
        );
        let refused = verified(&step(3, &["profiler-daemon: this kernel cannot"]));
        assert_eq!((refused.seen.as_str(), refused.well), ("profiler-daemon: this kernel cannot", false));
        assert!(!verified(&step(0, &["cpu 0.0 0.00 0 918"])).well);
    }

    #[test]
    fn a_walk_by_tables_finds_what_is_there() {
        assert!(walked("loop", &step(0, &["bench_walk 9000.1 60.22 600 3500"])).well);
        assert!(!walked("loop", &step(0, &["bench_walk 9000.1 2.22 600 3500"])).well);
        assert!(!walked("loop", &step(3, &["profiler-daemon: this kernel cannot"])).well);
    }

    #[track_caller]
    fn check_named(folded: &[&str], well: bool) {
        assert_eq!(named("shop", "main", &step(0, folded).lines).well, well);
    }

    #[test]
    fn a_chain_is_whole_from_the_root_to_a_leaf() {
        check_named(&["shop;start;main;serve;checkout;price;spend 50", "else;x 900"], true);
        check_named(&["shop;main;serve;report;tick_[k] 60", "shop;[unknown] 20"], false);
        check_named(&["shop;main;serve;report 49"], false);
        check_named(&["shop;serve;report 100"], false);
        check_named(&["shop;main;serve;checkout;__clock_gettime;clock_gettime 50"], true);
        check_named(&["shop;__clock_gettime;clock_gettime 50"], false);
    }

    #[track_caller]
    fn check_balanced(line: &str, well: bool) {
        assert_eq!(balanced(line), well);
    }

    #[test]
    fn the_books_balance_with_nothing_lost_but_ticks_that_never_came() {
        check_balanced("captured 10 = delivered 10 + lost 0", true);
        check_balanced("captured 10 = delivered 8 + lost 2 (2 tick skipped)", true);
        check_balanced("captured 10 = delivered 8 + lost 1 (1 tick skipped)", false);
        check_balanced("captured 10 = delivered 8 + lost 2 (1 ring full, 1 tick skipped)", false);
        check_balanced("captured 0 = delivered 0 + lost 0", false);
        check_balanced("", false);
    }
}
