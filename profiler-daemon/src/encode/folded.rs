//! Folded text: `comm;root;…;leaf count`, one line per stack, as flame graph tools read it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::{Function, Profile, Weight};

/// All stacks of `profiles`, in the order of their text. Counts are samples; kernel frames end in `_[k]`.
pub fn encode(profiles: &[Profile]) -> String {
    let mut lines: BTreeMap<String, Weight> = BTreeMap::new();
    for profile in profiles {
        for stack in &profile.stacks {
            let mut line = match stack.tag {
                Some(task) => task.comm.to_string(),
                None => profile.labels.get("service_name").unwrap_or("unknown").to_owned(),
            };
            line = clean(&line);
            for index in stack.functions.iter().rev() {
                line.push(';');
                frame(&mut line, &profile.functions[index.0 as usize]);
            }
            *lines.entry(line).or_default() += stack.weight;
        }
    }
    let mut text = String::new();
    for (line, weight) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line} {}", weight.0);
    }
    text
}

fn frame(line: &mut String, function: &Function) {
    line.push_str(&clean(&function.name));
    if function.kernel {
        line.push_str("_[k]");
    }
}

/// A semicolon ends a frame in this format, and a line break a stack.
fn clean(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c == ';' {
                ':'
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Comm, FunctionIndex, Known, Labels, Pid, SampleKind, Stack, Task, Tid};
    use crate::time::{WallNs, Window};

    fn profile(tag: Option<Task>, frames: &[(&str, bool)], weight: u64) -> Profile {
        let functions = frames.iter().map(|&(name, kernel)| {
            let known = Known::Name;
            Arc::new(Function {
                name: name.into(),
                file: "".into(),
                line: 0,
                module: "".into(),
                kernel,
                known,
            })
        });
        Profile {
            window: Window { start: WallNs(0), duration_ns: 1 },
            kind: SampleKind::CpuTime { period_ns: 1 },
            labels: Arc::new(Labels::new([("service_name".into(), "svc".into())])),
            functions: functions.collect(),
            stacks: vec![Stack {
                functions: (0..u32::try_from(frames.len()).unwrap_or(0)).map(FunctionIndex).collect(),
                weight: Weight(weight),
                tag,
            }],
        }
    }

    #[test]
    fn a_line_is_root_first_with_kernel_frames_marked() {
        let leaf_first = [("copy", true), ("read", false), ("main", false)];
        assert_eq!(encode(&[profile(None, &leaf_first, 7)]), "svc;main;read;copy_[k] 7\n");
    }

    #[test]
    fn the_tasks_name_opens_the_line_where_it_is_kept() {
        let tag = Task { pid: Pid(1), tid: Tid(2), comm: Comm::new(b"a;b\nc") };
        assert_eq!(encode(&[profile(Some(tag), &[("main", false)], 1)]), "a:b\\nc;main 1\n");
    }

    #[test]
    fn equal_lines_are_added_up() {
        let one = profile(None, &[("main", false)], 1);
        assert_eq!(encode(&[one.clone(), one]), "svc;main 2\n");
    }
}
