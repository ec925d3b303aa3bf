//! Keeps what was captured for a recording, and has it written by a thread of its own.
//!
//! In: the samples and events of each window, from the reader. Out: a recording; at the end, whether it is whole. The reader never
//! waits for a file or a compressor: it would lose samples meanwhile. What the file is too slow for waits here, up to a bound; what
//! is over does without stacks first, and then the recording ends: the windows until then are whole, and the profile has all of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::Failure;
use crate::capture::recording::{RecordingError, Taken, Writer};
use crate::model::{Lost, Mapping, ProcessChange, ProcessEvent, RawBatch, RawSample, SampleKind, Weight};
use crate::time::{MonoNs, Window};

/// What a recording may keep waiting.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes of samples and events that wait for the file, those of the open window included. Of a window of so many `replay` reads
    /// the line. On two processors it is minutes of samples, on 256 some seconds. When it is reached the recording ends.
    bytes_max: u64,
    /// Beyond this, samples are recorded as they were walked, without the stacks that some bring: those are most of the bytes.
    stacks_bytes_max: u64,
    /// How long the file may take no byte, once nothing more comes, before it is given up.
    stuck_after: Duration,
}

const BOUNDS: Bounds =
    Bounds { bytes_max: 64 << 20, stacks_bytes_max: 32 << 20, stuck_after: Duration::from_secs(10) };

/// What reader and thread both count.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes that were handed over and are not written yet.
    waiting: AtomicU64,
    /// Weight that came after the recording had ended.
    left_out: AtomicU64,
}

/// What the reader hands over.
#[derive(Debug)]
enum Page {
    Window {
        batch: RawBatch,
        bytes: u64,
    },
    /// There is no more room: the recording ends here.
    Full,
}

/// How the thread ended.
#[derive(Debug)]
enum Outcome {
    Whole,
    Early,
    Failed(RecordingError),
}

/// The reader's end. Dropping it ends the recording.
#[derive(Debug)]
pub(super) struct Recorder {
    samples: Vec<RawSample>,
    events: Vec<ProcessEvent>,
    /// Of both.
    bytes: u64,
    /// None once the recording has ended.
    pages: Option<Sender<Page>>,
    counts: Arc<Counts>,
    bounds: Bounds,
}

/// The other end, for who wants to know what became of the recording.
#[derive(Debug)]
pub(super) struct Recorded {
    path: PathBuf,
    outcome: Receiver<Outcome>,
    counts: Arc<Counts>,
    taken: Taken,
    bounds: Bounds,
}

/// Starts the thread, which writes by `writer`.
pub(super) fn start(writer: Writer) -> Result<(Recorder, Recorded), Failure> {
    start_within(BOUNDS, writer)
}

fn start_within(bounds: Bounds, writer: Writer) -> Result<(Recorder, Recorded), Failure> {
    let counts = Arc::new(Counts::default());
    let (pages, come) = channel();
    let (tell, outcome) = channel();
    let recorded = Recorded {
        path: writer.path().to_owned(),
        outcome,
        counts: Arc::clone(&counts),
        taken: writer.taken(),
        bounds,
    };
    let recorder =
        Recorder { samples: Vec::new(), events: Vec::new(), bytes: 0, pages: Some(pages), counts, bounds };
    let counts = Arc::clone(&recorder.counts);
    std::thread::Builder::new()
        .name("recorder".to_owned())
        .spawn(move || {
            let path = writer.path().to_owned();
            let outcome = write(come, writer, &counts).unwrap_or_else(Outcome::Failed);
            match &outcome {
                Outcome::Whole => {}
                Outcome::Early => tracing::warn!(
                    "{}: the recording ends here, because it is written slower than samples come; the profile goes on",
                    path.display()
                ),
                Outcome::Failed(error) => {
                    tracing::warn!("the recording ends here, and the profile goes on: {error}");
                }
            }
            // Nobody listens any more: it was given up.
            let _ = tell.send(outcome);
        })
        .map_err(Failure::other("starting a thread"))?;
    Ok((recorder, recorded))
}

fn write(come: Receiver<Page>, mut writer: Writer, counts: &Counts) -> Result<Outcome, RecordingError> {
    for page in come {
        match page {
            Page::Window { batch, bytes } => {
                writer.write(&batch)?;
                counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
            }
            Page::Full => return writer.finish().map(|()| Outcome::Early),
        }
    }
    writer.finish().map(|()| Outcome::Whole)
}

impl Recorder {
    /// Keeps a copy of what both queues hold until `until`, for the open window. How many samples lost the stack that they brought.
    pub(super) fn take(
        &mut self,
        until: MonoNs,
        events: &VecDeque<ProcessEvent>,
        samples: &VecDeque<RawSample>,
    ) -> u64 {
        let mut without_stack = 0;
        for event in events.iter().take_while(|event| event.time <= until) {
            if self.pages.is_some() && self.has_room(event_bytes(event)) {
                self.bytes += event_bytes(event);
                self.events.push(event.clone());
            }
        }
        for sample in samples.iter().take_while(|sample| sample.time <= until) {
            if self.pages.is_none() {
                self.leave_out(sample.weight);
                continue;
            }
            let mut sample = sample.clone();
            if sample.stack.is_some() && self.waiting() + sample_bytes(&sample) > self.bounds.stacks_bytes_max
            {
                sample.stack = None;
                without_stack += 1;
            }
            if self.has_room(sample_bytes(&sample)) {
                self.bytes += sample_bytes(&sample);
                self.samples.push(sample);
            } else {
                self.leave_out(sample.weight);
            }
        }
        without_stack
    }

    /// What both queues still hold until `until` was not taken after all, and will be kept when it is.
    pub(super) fn give_back(
        &mut self,
        until: MonoNs,
        events: &VecDeque<ProcessEvent>,
        samples: &VecDeque<RawSample>,
    ) {
        for _ in events.iter().take_while(|event| event.time <= until) {
            self.bytes -= self.events.pop().as_ref().map_or(0, event_bytes);
        }
        for sample in samples.iter().take_while(|sample| sample.time <= until) {
            match self.samples.pop() {
                Some(kept) => self.bytes -= sample_bytes(&kept),
                None => {
                    self.counts.left_out.fetch_sub(sample.weight.0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Hands the open window over, which was `window`.
    pub(super) fn close(&mut self, window: Window, kind: SampleKind, lost: Lost) {
        let Some(pages) = &self.pages else { return };
        let (samples, events) = (std::mem::take(&mut self.samples), std::mem::take(&mut self.events));
        let bytes = std::mem::take(&mut self.bytes);
        let weight = samples.iter().map(|sample| sample.weight).sum();
        self.counts.waiting.fetch_add(bytes, Ordering::Relaxed);
        let batch = RawBatch { window, kind, samples, events, lost };
        if pages.send(Page::Window { batch, bytes }).is_err() {
            // The thread has ended, and said why.
            self.pages = None;
            self.leave_out(weight);
        }
    }

    fn waiting(&self) -> u64 {
        self.bytes + self.counts.waiting.load(Ordering::Relaxed)
    }

    fn leave_out(&self, weight: Weight) {
        self.counts.left_out.fetch_add(weight.0, Ordering::Relaxed);
    }

    /// Whether so many bytes more may wait. The first that may not are the end of the recording: with what happened to processes
    /// missing, whatever came later would be read against the wrong mappings.
    fn has_room(&mut self, bytes: u64) -> bool {
        if self.pages.is_some() && self.waiting() + bytes > self.bounds.bytes_max {
            if let Some(pages) = self.pages.take() {
                // If the thread has ended, it has said why.
                let _ = pages.send(Page::Full);
            }
            self.leave_out(self.samples.iter().map(|sample| sample.weight).sum());
            (self.samples, self.events, self.bytes) = (Vec::new(), Vec::new(), 0);
        }
        self.pages.is_some()
    }
}

impl Recorded {
    /// Waits until all of it is in the file, or for as long as that takes anything. To be called when the reader has ended.
    pub(super) fn end(self) -> Result<(), Failure> {
        let Self { path, outcome, counts, taken, bounds } = self;
        let mut before = taken.bytes();
        loop {
            match outcome.recv_timeout(bounds.stuck_after) {
                Ok(Outcome::Whole) => return Ok(()),
                Ok(Outcome::Early) => {
                    let left_out = counts.left_out.load(Ordering::Relaxed);
                    return Err(RecordingError::Early { path, left_out }.into());
                }
                Ok(Outcome::Failed(error)) => return Err(error.into()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Other {
                        what: format!("writing {}", path.display()),
                        error: "the recorder ended with a bug; its message is above".to_owned(),
                    });
                }
                Err(RecvTimeoutError::Timeout) if taken.bytes() == before => {
                    return Err(RecordingError::Stuck { path, waited: bounds.stuck_after }.into());
                }
                Err(RecvTimeoutError::Timeout) => before = taken.bytes(),
            }
        }
    }
}

/// What `sample` takes in memory, about: a line has two to three times as much.
fn sample_bytes(sample: &RawSample) -> u64 {
    let words = sample.kernel.len() + sample.user.len();
    let words = words + sample.stack.as_ref().map_or(0, |stack| stack.words.len());
    (size_of::<RawSample>() + words * size_of::<u64>()) as u64
}

/// What `event` takes in memory, about.
fn event_bytes(event: &ProcessEvent) -> u64 {
    let more = match &event.change {
        ProcessChange::Found(facts) => {
            let texts = facts.cgroup.as_deref().map_or(0, str::len)
                + facts.executable.as_deref().map_or(0, <[u8]>::len);
            size_of_val(&**facts) + texts + facts.mappings.iter().map(mapping_bytes).sum::<usize>()
        }
        ProcessChange::Executed { cgroup, .. } => cgroup.as_deref().map_or(0, str::len),
        ProcessChange::Mapped(mapping) => mapping_bytes(mapping),
        ProcessChange::Forked { .. } | ProcessChange::Renamed { .. } | ProcessChange::Exited => 0,
    };
    (size_of::<ProcessEvent>() + more) as u64
}

/// What `mapping` takes, its module included: others share that, but it is written with each.
fn mapping_bytes(mapping: &Mapping) -> usize {
    let module = mapping.module.as_deref().map_or(0, |module| size_of_val(module) + module.path.len());
    size_of::<Mapping>() + mapping.path.len() + module
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
