//! The kernel's half: nanoseconds per sample of each program, at two depths.

use std::process::Command;

use anyhow::{Context, Result};

use super::load::Load;
use super::{Budget, Plan, Tools, output_of};

/// Programs of the object, each alone.
const PROGRAMS: [(&str, &str); 4] = [
    ("bench_empty", "an empty program"),
    ("bench_walk", "our walk of the user stack"),
    ("bench_get_stack", "bpf_get_stack of the user stack"),
    ("cpu", "the sampler: both stacks, a record in the ring"),
];
const DEPTHS: [u32; 2] = [10, 50];
/// Often, so that little time gives many samples.
const FREQUENCY_HZ: u32 = 999;

/// What a program cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    ns: f64,
    frames: f64,
}

/// Measures each program at each depth and prints a table.
pub(super) fn measure(tools: &Tools, plan: Plan) -> Result<Vec<Budget>> {
    let mut table = vec![Vec::new(); PROGRAMS.len()];
    for depth in DEPTHS {
        let _load = Load::deep(&tools.deep, depth)?;
        // Round by round, so that a noisy moment does not hit one program alone.
        let mut rounds = vec![Vec::new(); PROGRAMS.len()];
        for _ in 0..plan.kernel_rounds {
            for (costs, (program, _)) in rounds.iter_mut().zip(PROGRAMS) {
                costs.push(once(tools, program, plan.kernel_seconds)?);
            }
        }
        for (row, mut costs) in table.iter_mut().zip(rounds) {
            costs.sort_by(|a, b| a.ns.total_cmp(&b.ns));
            row.push(costs[costs.len() / 2]);
        }
    }

    println!("\nnanoseconds per sample, by kernel.bpf_stats, at {FREQUENCY_HZ} Hz on all processors");
    println!("{:<48} {:>14} {:>14} {:>22}", "", "10 frames", "50 frames", "of bpf_get_stack at 50");
    let get_stack = table[2][1].ns;
    for (row, (_, meaning)) in table.iter().zip(PROGRAMS) {
        let ratio = row[1].ns / get_stack.max(1.0);
        println!("{meaning:<48} {:>14.0} {:>14.0} {ratio:>21.2}×", row[0].ns, row[1].ns);
    }
    let frames = |row: usize| format!("{:.1} and {:.1}", table[row][0].frames, table[row][1].frames);
    println!("user frames found: our walk {}, bpf_get_stack {}", frames(1), frames(2));
    Ok(vec![Budget {
        what: "our walk of 50 frames, in parts of bpf_get_stack".to_owned(),
        found: table[1][1].ns / get_stack.max(1.0),
        most: 0.5,
        unit: "×",
    }])
}

fn once(tools: &Tools, program: &str, seconds: u64) -> Result<Cost> {
    let (frequency, duration) = (FREQUENCY_HZ.to_string(), format!("{seconds}s"));
    let mut bench = Command::new(&tools.daemon);
    bench.args(["bench-kernel", "--program", program, "-F", &frequency, "-d", &duration]);
    parse(&output_of(&mut bench)?)
}

/// Reads `program ns_per_run frames_per_run runs verified_instructions`.
fn parse(line: &str) -> Result<Cost> {
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<f64>);
    let mut number = || numbers.next().and_then(Result::ok);
    let (ns, frames) = (number(), number());
    let cost = ns.zip(frames).map(|(ns, frames)| Cost { ns, frames });
    cost.with_context(|| format!("`bench-kernel` printed `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_bench_kernel_is_read() {
        let cost = parse("cpu 1234.5 50.25 9000 4321").expect("a line as it is printed");
        assert!((cost.ns - 1234.5).abs() < 1e-9 && (cost.frames - 50.25).abs() < 1e-9);
        assert!(parse("cpu").is_err());
    }
}
