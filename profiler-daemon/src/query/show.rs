//! What a person or the next program in the pipe reads: tables and lines of text.
//!
//! In: stacks, series. Out: text. Values carry their unit and their share; what is left out is said. Not here: where it
//! is written to.

use std::fmt::Write;

use super::stacks::{Node, Row, Stacks};
use super::{Labels, Point};

/// `value` in the unit that people use: of nanoseconds, bytes, or plainly counted.
pub fn amount(value: u64, unit: &str) -> String {
    const TIMES: [(f64, &str); 5] = [(3.6e12, "h"), (6e10, "min"), (1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    const SIZES: [(f64, &str); 4] =
        [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "kiB")];
    let (steps, least): (&[_], _) = match unit {
        "nanoseconds" => (&TIMES, "ns"),
        "bytes" => (&SIZES, "B"),
        _ => return value.to_string(),
    };
    let value = value as f64;
    match steps.iter().find(|(step, _)| value >= *step) {
        Some((step, name)) => format!("{:.2} {name}", value / step),
        None => format!("{value:.0} {least}"),
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// A name as it may be printed: what controls a terminal is data here.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The heaviest functions, at most `rows_max`.
pub fn top(stacks: &Stacks, unit: &str, rows_max: usize) -> String {
    let whole = stacks.total();
    let rows = stacks.rows();
    let mut text = format!("{:>19} {:>19}   function\n", "self", "total");
    let column = |value| format!("{:>12} {:>5.1}%", amount(value, unit), percent(value, whole));
    for Row { function, own, total } in rows.iter().take(rows_max) {
        let _ = writeln!(text, "{} {}   {}", column(*own), column(*total), clean(function));
    }
    if rows.len() > rows_max {
        let rest = rows[rows_max..].iter().fold(0_u64, |sum, row| sum.saturating_add(row.own));
        let count = rows.len() - rows_max;
        let _ = writeln!(text, "{} {:19}   {count} more functions", column(rest), "");
    }
    let _ = writeln!(text, "{} {}   all", column(whole), column(whole));
    text
}

/// The tree, of nodes that have at least `percent_min` of all.
pub fn tree(stacks: &Stacks, unit: &str, percent_min: f64) -> String {
    let whole = stacks.total();
    let mut text = String::new();
    let line = |text: &mut String, depth, value, name: &str| {
        let share = percent(value, whole);
        let _ = writeln!(
            text,
            "{:>12} {share:>5.1}%  {:depth$}{name}",
            amount(value, unit),
            "",
            depth = 2 * depth
        );
    };
    line(&mut text, 0, whole, "all");
    let mut hidden = (0_usize, 0_u64);
    let mut hidden_below = None;
    for Node { depth, function, total, .. } in stacks.tree() {
        if hidden_below.is_some_and(|below| depth > below) {
            hidden.0 += 1;
            continue;
        }
        hidden_below = (percent(total, whole) < percent_min).then_some(depth);
        if hidden_below.is_some() {
            hidden = (hidden.0 + 1, hidden.1.saturating_add(total));
        } else {
            line(&mut text, depth + 1, total, &clean(&function));
        }
    }
    if hidden.0 > 0 {
        let (nodes, value) = (hidden.0, amount(hidden.1, unit));
        let _ = writeln!(text, "{nodes} nodes of less than {percent_min} % are not shown; they have {value}");
    }
    text
}

/// A line for each stack, as flame graph tools read it.
pub fn folded(stacks: &Stacks) -> String {
    let mut text = String::new();
    for (stack, weight) in &stacks.weights {
        // A semicolon ends a frame in this format.
        let frames: Vec<String> = stack.iter().map(|name| clean(name).replace(';', ":")).collect();
        let _ = writeln!(text, "{} {weight}", frames.join(";"));
    }
    text
}

/// A series as a selector that finds it.
pub fn selector(labels: &Labels) -> String {
    let pair = |(name, value): &(String, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{}\"", clean(&value))
    };
    format!("{{{}}}", labels.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// Time series in columns with tabs between them: time, the labels in the order of `group_by`, value.
pub fn points(group_by: &[String], series: &[(Labels, Vec<Point>)]) -> String {
    let mut text =
        format!("time\t{}value\n", group_by.iter().map(|name| format!("{name}\t")).collect::<String>());
    for (labels, points) in series {
        let value_of =
            |name: &String| labels.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
        let values: String = group_by.iter().map(|name| format!("{}\t", clean(value_of(name)))).collect();
        for Point { at_ms, value } in points {
            let _ = writeln!(text, "{}\t{values}{value}", date(*at_ms));
        }
    }
    text
}

fn date(at_ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_amount(value: u64, unit: &str, expected: &str) {
        assert_eq!(amount(value, unit), expected);
    }

    #[test]
    fn a_value_has_a_unit_that_people_use() {
        check_amount(0, "nanoseconds", "0 ns");
        check_amount(1_234_567_890, "nanoseconds", "1.23 s");
        check_amount(7_200_000_000_000, "nanoseconds", "2.00 h");
        check_amount(1023, "bytes", "1023 B");
        check_amount(3 << 20, "bytes", "3.00 MiB");
        check_amount(12, "count", "12");
    }

    fn stacks() -> Stacks {
        let all =
            [("main;work", 990_000_000_u64), ("main;a;b", 6_000_000), ("main;x\u{1b}[31m;y;z", 4_000_000)];
        let stack = |(text, weight): (&str, u64)| (text.split(';').map(str::to_owned).collect(), weight);
        Stacks { weights: all.into_iter().map(stack).collect() }
    }

    #[test]
    fn a_table_ends_with_what_it_left_out_and_all() {
        let text = top(&stacks(), "nanoseconds", 2);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "self total function",
                "990.00 ms 99.0% 990.00 ms 99.0% work",
                "6.00 ms 0.6% 6.00 ms 0.6% b",
                "4.00 ms 0.4% 5 more functions",
                "1.00 s 100.0% 1.00 s 100.0% all",
            ]
        );
    }

    #[test]
    fn a_tree_says_what_it_does_not_show() {
        let text = tree(&stacks(), "nanoseconds", 0.5);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "1.00 s 100.0% all",
                "1.00 s 100.0% main",
                "990.00 ms 99.0% work",
                "6.00 ms 0.6% a",
                "6.00 ms 0.6% b",
                "3 nodes of less than 0.5 % are not shown; they have 4.00 ms",
            ]
        );
    }

    #[test]
    fn a_name_is_data_and_never_a_command_to_the_terminal() {
        assert!(!folded(&stacks()).contains('\u{1b}'));
        assert!(folded(&stacks()).contains("main;x?[31m;y;z 4000000\n"));
    }

    #[test]
    fn a_series_is_written_as_what_finds_it() {
        let labels = vec![("a".to_owned(), "x\"y\\".to_owned()), ("b".to_owned(), String::new())];
        assert_eq!(selector(&labels), r#"{a="x\"y\\", b=""}"#);
    }

    #[test]
    fn points_are_rows_with_tabs() {
        let by = vec!["host".to_owned()];
        let point = Point { at_ms: 1_795_360_230_000, value: 1.5 };
        let series = vec![(vec![("host".to_owned(), "h1".to_owned())], vec![point]), (vec![], vec![])];
        assert_eq!(points(&by, &series), "time\thost\tvalue\n2026-11-22T15:10:30.000Z\th1\t1.5\n");
    }
}
