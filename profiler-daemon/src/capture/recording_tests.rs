//! Recordings written and read, and what is none.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use profiler_common::unwind::{End, Regs};

use super::*;
use crate::model::{
    BuildId, Comm, Cpu, FileIdentity, KernelAddr, Lost, Mapping, Module, ModuleKind, Pid, ProcessChange,
    ProcessEvent, ProcessFacts, RawSample, RawStack, Reason, SampleKind, Task, Tid, UserAddr, Weight,
};
use crate::time::{MonoNs, WallNs, Window};

fn module() -> Arc<Module> {
    Arc::new(Module {
        id: 3,
        kind: ModuleKind::File,
        path: Arc::from(&b"/lib/\xff.so"[..]),
        build_id: BuildId::new(&[1, 2, 0xab]),
        identity: Some(FileIdentity { device: 1, inode: 2, size: 3, ctime_ns: 4 }),
        file: None,
        root: None,
    })
}

fn batch() -> RawBatch {
    let mapping = Mapping {
        start: UserAddr(0x1000),
        end: UserAddr(0x2000),
        file_offset: 0,
        path: Arc::from(&b"/lib/\xff.so"[..]),
        build_id: BuildId::new(&[1, 2, 0xab]),
        module: Some(module()),
    };
    let facts = ProcessFacts {
        started: MonoNs(5),
        comm: Comm::new(b"a\n\xfe"),
        cgroup: Some("0::/x\n".into()),
        executable: Some(Arc::from(&b"/bin/a"[..])),
        kernel_thread: false,
        mappings: vec![mapping.clone()],
    };
    let changes = [
        ProcessChange::Found(Box::new(facts)),
        ProcessChange::Forked { parent: Pid(1) },
        ProcessChange::Executed { comm: Comm::new(b"b"), cgroup: None },
        ProcessChange::Renamed { tid: Tid(9), comm: Comm::new(b"c") },
        ProcessChange::Mapped(Box::new(mapping)),
        ProcessChange::Exited,
    ];
    let mut lost = Lost::default();
    lost.add(Reason::RingFull, Weight(3));
    RawBatch {
        window: Window { start: WallNs(10), duration_ns: 20 },
        kind: SampleKind::CpuTime { period_ns: 7 },
        samples: vec![RawSample {
            time: MonoNs(11),
            cpu: Cpu(1),
            task: Task { pid: Pid(2), tid: Tid(3), comm: Comm::new(b"x") },
            kernel: vec![KernelAddr(u64::MAX)],
            user: vec![UserAddr(0x1234)],
            ended: End::NoFrame,
            stack: Some(Arc::new(RawStack {
                regs: Regs { ip: 1, sp: 2, fp: 3 },
                links: [5, 6],
                words: vec![4, u64::MAX],
            })),
            weight: Weight(1),
        }],
        events: changes
            .into_iter()
            .map(|change| ProcessEvent { time: MonoNs(1), pid: Pid(2), change })
            .collect(),
        lost,
    }
}

#[test]
fn what_was_recorded_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.jsonl", "a.jsonl.gz"] {
        let path = folder.path().join(name);
        let mut writer = Writer::create(&path).unwrap();
        writer.write(&batch()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.batches, [batch(), batch()]);
        assert!(read.cut_off.is_none());
    }
}

#[test]
fn what_is_cut_off_is_read_up_to_there_and_said() {
    let folder = tempfile::tempdir().unwrap();
    for (name, left) in [("a.jsonl", 1), ("a.jsonl.gz", 0)] {
        let path = folder.path().join(name);
        let mut writer = Writer::create(&path).unwrap();
        writer.write(&batch()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let read = read(&path).unwrap();
        // What was packed together is there or not as one.
        assert!(read.batches.len() >= left && read.batches.iter().all(|read| *read == batch()), "{name}");
        assert!(read.batches.len() < 2);
        let said = read.cut_off.expect(name).to_string();
        assert!(said.contains(name) && said.contains("is cut off in line"), "{said}");
    }
    // A last line that only lacks its end is whole.
    let mut text = b"{\"profiler_recording\":3}\n".to_vec();
    serde_json::to_writer(&mut text, &BatchLine::from(&batch())).unwrap();
    let read = parse(Path::new("x.jsonl"), &text[..]).unwrap();
    assert_eq!(read.batches, [batch()]);
    assert!(read.cut_off.is_none());
}

#[track_caller]
fn check_refused(text: &str, words: &str) {
    let error = parse(Path::new("x.jsonl"), text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn what_is_no_recording_is_said_to_be_none() {
    check_refused("", "line 1: empty");
    check_refused("hello\n", "line 1");
    check_refused("{\"profiler_recording\":9}\n", "version 9");
    check_refused("{\"profiler_recording\":2", "line 1");
    check_refused("{\"profiler_recording\":2}\n{\"start\":1,\"dur\n", "line 2");
    let backwards = r#"{"start":1,"duration":1,"period":1,"events":[{"time":1,"pid":1,"mapped":{"start":9,"end":3,"offset":0,"path":"x"}}]}"#;
    check_refused(&format!("{{\"profiler_recording\":2}}\n{backwards}\n"), "before it starts");
}
