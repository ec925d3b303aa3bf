//! The kernel's half: nanoseconds per sample of each program, by depth of stack and by rate.

use std::process::Command;

use anyhow::{Context, Result};

use super::load::{Load, Stacks};
use super::{Budget, Plan, Tools, output_of};

/// A program of the object, and what it walks by.
struct Measured {
    program: &'static str,
    way: Way,
    meaning: &'static str,
}

/// What a stack is walked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Frame pointers alone, through a program that keeps them.
    Pointers,
    /// The same program with a table: the innermost frame by it.
    TableThenPointers,
    /// A program without them.
    Tables,
}

/// Programs of the object, each alone.
const MEASURED: [Measured; 8] = [
    Measured { program: "bench_empty", way: Way::Pointers, meaning: "an empty program" },
    Measured { program: "bench_get_stack", way: Way::Pointers, meaning: "bpf_get_stack of the user stack" },
    Measured { program: "bench_walk", way: Way::Pointers, meaning: "our walk, frame pointers" },
    Measured {
        program: "bench_walk",
        way: Way::TableThenPointers,
        meaning: "our walk, a table, then pointers",
    },
    Measured { program: "bench_walk", way: Way::Tables, meaning: "our walk, tables" },
    Measured { program: "cpu", way: Way::Pointers, meaning: "whole sampler, frame pointers" },
    Measured {
        program: "cpu",
        way: Way::TableThenPointers,
        meaning: "whole sampler, a table, then pointers",
    },
    Measured { program: "cpu", way: Way::Tables, meaning: "whole sampler, tables" },
];
// Places in that list.
const GET_STACK: usize = 1;
const WALK_BY_POINTERS: usize = 2;
const WALK_BY_TABLES: usize = 4;
const SAMPLER_BY_TABLE_THEN_POINTERS: usize = 6;
const SAMPLER_BY_TABLES: usize = 7;

/// Hot: so often that the program is in the cache each time. And as an agent does it.
const FREQUENCIES_HZ: [u32; 2] = [999, 99];

/// What a program cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    ns: f64,
    frames: f64,
}

/// Measures each program at each depth and rate and prints a table.
pub(super) fn measure(tools: &Tools, plan: Plan) -> Result<Vec<Budget>> {
    let mut budgets = Vec::new();
    for hz in FREQUENCIES_HZ {
        let mut table = vec![Vec::new(); MEASURED.len()];
        for stacks in Stacks::ALL {
            // Round by round, so that a noisy moment does not hit one program alone.
            let mut rounds = vec![Vec::new(); MEASURED.len()];
            for _ in 0..plan.kernel_rounds {
                for (costs, measured) in rounds.iter_mut().zip(&MEASURED) {
                    costs.push(once(tools, measured, stacks, hz, plan.kernel_seconds)?);
                }
            }
            for (row, mut costs) in table.iter_mut().zip(rounds) {
                costs.sort_by(|a, b| a.ns.total_cmp(&b.ns));
                row.push(costs[costs.len() / 2]);
            }
        }
        print_table(hz, &table);
        budgets.extend(budgets_of(hz, &table));
    }
    Ok(budgets)
}

fn print_table(hz: u32, table: &[Vec<Cost>]) {
    println!(
        "\nnanoseconds per sample, by kernel.bpf_stats, at {hz} Hz on all processors; each frame between 50 and 200"
    );
    print!("{:<40}", "");
    Stacks::ALL.iter().for_each(|stacks| print!(" {:>12}", stacks.name()));
    println!(" {:>9} {:>14}", "per frame", "frames found");
    for (row, Measured { meaning, .. }) in table.iter().zip(&MEASURED) {
        print!("{meaning:<40}");
        row.iter().for_each(|cost| print!(" {:>12.0}", cost.ns));
        let frames = row[2].frames - row[1].frames;
        let per_frame = if frames < 1.0 { 0.0 } else { (row[2].ns - row[1].ns) / frames };
        print!(" {per_frame:>9.1}  ");
        row.iter().filter(|cost| cost.frames > 0.0).for_each(|cost| print!(" {:.0}", cost.frames));
        println!();
    }
}

/// The figures that the project holds itself to.
fn budgets_of(hz: u32, table: &[Vec<Cost>]) -> Vec<Budget> {
    let budget = |what: &str, found: f64, most: f64, unit: &'static str| Budget {
        what: format!("{what} ({hz} Hz)"),
        found,
        most,
        unit,
    };
    let of_get_stack = |row: usize| table[row][1].ns / table[GET_STACK][1].ns.max(1.0);
    // The last column is of many depths, 45 frames on average.
    let microseconds = |row: usize| table[row][3].ns / 1e3;
    if hz == 99 {
        vec![
            budget("sampler by tables, 45 frames", microseconds(SAMPLER_BY_TABLES), 6.0, "µs"),
            budget(
                "sampler by a table, then pointers, 45 frames",
                microseconds(SAMPLER_BY_TABLE_THEN_POINTERS),
                3.0,
                "µs",
            ),
        ]
    } else {
        vec![
            budget(
                "walk of 50 frames by pointers, of bpf_get_stack",
                of_get_stack(WALK_BY_POINTERS),
                0.5,
                "×",
            ),
            budget("walk of 50 frames by tables, of bpf_get_stack", of_get_stack(WALK_BY_TABLES), 1.0, "×"),
        ]
    }
}

fn once(tools: &Tools, measured: &Measured, stacks: Stacks, hz: u32, seconds: u64) -> Result<Cost> {
    let &Measured { program, way, .. } = measured;
    let load = Load::deep(if way == Way::Tables { &tools.bare } else { &tools.deep }, stacks)?;
    let mut bench = Command::new(&tools.daemon);
    bench.args(["bench-kernel", "--program", program, "-F", &hz.to_string(), "-d", &format!("{seconds}s")]);
    match way {
        Way::Pointers => bench.arg("--pointers"),
        Way::TableThenPointers | Way::Tables => {
            bench.args(load.pids().flat_map(|pid| ["--tables".to_owned(), pid.to_string()]))
        }
    };
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
