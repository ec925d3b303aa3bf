//! Recordings that are written too slowly, not at all, or by halves.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::path::Path;

use profiler_common::unwind::{End, Regs};

use super::*;
use crate::capture::recording;
use crate::model::{Comm, Cpu, Pid, RawStack, Task, Tid, UserAddr};
use crate::time::WallNs;

const WINDOW: Window = Window { start: WallNs(0), duration_ns: 1 };
const KIND: SampleKind = SampleKind::CpuTime { period_ns: 1 };
const WORDS: usize = 1 << 10;

fn sample(time: u64) -> RawSample {
    RawSample {
        time: MonoNs(time),
        cpu: Cpu(0),
        task: Task { pid: Pid(1), tid: Tid(1), comm: Comm::new(b"x") },
        kernel: Vec::new(),
        user: vec![UserAddr(time)],
        ended: End::Root,
        stack: Some(Arc::new(RawStack {
            regs: Regs { ip: 1, sp: 2, fp: 3 },
            links: [0; 2],
            words: vec![time; WORDS],
        })),
        weight: Weight(1),
    }
}

fn event(time: u64) -> ProcessEvent {
    ProcessEvent { time: MonoNs(time), pid: Pid(2), change: ProcessChange::Exited }
}

/// Room for so many samples with stacks, and for so many more without, about.
fn bounds(with: u64, without: u64) -> Bounds {
    let mut bare = sample(0);
    bare.stack = None;
    let stacks_bytes_max = with * sample_bytes(&sample(0));
    let bytes_max = stacks_bytes_max + without * sample_bytes(&bare);
    Bounds { bytes_max, stacks_bytes_max, stuck_after: Duration::from_millis(300) }
}

/// Hands over windows of one sample each.
fn record(recorder: &mut Recorder, times: std::ops::Range<u64>) -> u64 {
    let mut without_stack = 0;
    for time in times {
        without_stack += recorder.take(MonoNs(time), &VecDeque::new(), &VecDeque::from([sample(time)]));
        recorder.close(WINDOW, KIND, Lost::default());
    }
    without_stack
}

/// A writer into a pipe, and the pipe's other end, which nobody reads yet.
fn pipe(path: &Path) -> (Writer, File) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _both = File::options().read(true).write(true).open(path).unwrap();
    (Writer::create(path).unwrap(), File::open(path).unwrap())
}

/// What is said of a recording that is not whole.
fn said(recorded: Recorded) -> String {
    recorded.end().unwrap_err().to_string()
}

#[test]
fn all_that_is_taken_is_in_the_recording() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl.gz");
    let (mut recorder, recorded) = start(Writer::create(&path).unwrap()).unwrap();
    let samples: VecDeque<_> = (1..=4).map(sample).collect();
    let events: VecDeque<_> = (1..=4).map(event).collect();
    assert_eq!(recorder.take(MonoNs(3), &events, &samples), 0);
    // The gatherer took the first of each only.
    let (rest, later) = (samples.range(1..).cloned().collect(), events.range(1..).cloned().collect());
    recorder.give_back(MonoNs(3), &later, &rest);
    let mut lost = Lost::default();
    lost.add(crate::model::Reason::RingFull, Weight(7));
    recorder.close(WINDOW, KIND, lost.clone());
    recorder.take(MonoNs(4), &later, &rest);
    recorder.close(WINDOW, KIND, Lost::default());
    drop(recorder);
    recorded.end().unwrap();
    let batch = |samples: &[u64], lost| RawBatch {
        window: WINDOW,
        kind: KIND,
        samples: samples.iter().copied().map(sample).collect(),
        events: samples.iter().copied().map(event).collect(),
        lost,
    };
    assert_eq!(
        recording::read(&path).unwrap().batches,
        [batch(&[1], lost), batch(&[2, 3, 4], Lost::default())]
    );
}

#[test]
fn what_is_written_too_slowly_costs_stacks_and_then_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, mut other_end) = pipe(&folder.path().join("x.jsonl"));
    let (mut recorder, recorded) = start_within(bounds(40, 10), writer).unwrap();
    // A hundred times what the pipe holds.
    let without_stack = record(&mut recorder, 1..2001);
    drop(recorder);
    let left_out = recorded.counts.left_out.load(Ordering::Relaxed);
    let copy = folder.path().join("copy.jsonl");
    let to = copy.clone();
    let reading = std::thread::spawn(move || {
        std::io::copy(&mut other_end, &mut File::create(to).unwrap()).unwrap();
    });
    let said = said(recorded);
    reading.join().unwrap();
    assert!(said.contains("x.jsonl ends early") && said.contains(&format!("{left_out} of them")), "{said}");
    // Whole until there.
    let samples: Vec<_> =
        recording::read(&copy).unwrap().batches.into_iter().flat_map(|b| b.samples).collect();
    let times: Vec<u64> = samples.iter().map(|sample| sample.time.0).collect();
    assert_eq!(times, (1..=2000 - left_out).collect::<Vec<_>>());
    let bare = samples.iter().filter(|sample| sample.stack.is_none()).count() as u64;
    assert!(bare > 0 && bare <= without_stack, "{bare} of {without_stack}");
}

#[test]
fn a_pipe_that_nobody_reads_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, _other_end) = pipe(&folder.path().join("x.jsonl"));
    let (mut recorder, recorded) = start_within(bounds(1000, 0), writer).unwrap();
    record(&mut recorder, 1..201);
    drop(recorder);
    let said = said(recorded);
    assert!(said.contains("x.jsonl is cut off") && said.contains("nothing for 300ms"), "{said}");
}

#[test]
fn a_full_disk_ends_it_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (name, samples) in [("at-the-end.jsonl.gz", 1), ("meanwhile.jsonl", 200)] {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let (mut recorder, recorded) = start(Writer::create(&path).unwrap()).unwrap();
        record(&mut recorder, 1..1 + samples);
        drop(recorder);
        let said = said(recorded);
        assert!(said.contains(name) && said.contains("No space left"), "{said}");
    }
}
