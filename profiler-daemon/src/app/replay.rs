//! `replay`: a recording through the same rooms as a live kernel, without root.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::build::Patience;
use super::intake::Intake;
use super::output::{FileFormat, Output, format_of};
use super::record::Collected;
use super::usage::Roll;
use super::{Budget, Failure, build};
use crate::attribute::Relabel;
use crate::capture::recording::Recorded;
use crate::capture::{Tables, recording};
use crate::encode;
use crate::meters::Meters;
use crate::model::{Lost, NamedBatch, RawBatch, SampleKind};
use crate::symbolize::Symbolizer;
use crate::time::MonoNs;

/// Samples that are taken before those of them that bring a stack are walked: all of these have room to wait.
const SAMPLES_AT_ONCE: usize = 64;

/// Replays the recording at `path` and writes `outputs`, or folded text to standard output. One that is cut off is replayed up to
/// there, and fails at the end.
pub fn replay(path: &Path, outputs: &[PathBuf]) -> Result<(), Failure> {
    let mut files = Vec::new();
    for output in outputs {
        let format = format_of(output)?;
        if format == FileFormat::Recording {
            return Err(Failure::Usage(
                "a replay writes .pb.gz, .svg, .json or .folded, not another recording".to_owned(),
            ));
        }
        files.push((format, Output::open(output)?));
    }
    let meters = Meters::default();
    let mut symbolizer =
        build::symbolizer(true, Patience::Recording, &Budget::default(), &Roll::default(), &meters);
    let mut collected = Collected::default();
    let Recorded { batches, cut_off } = recording::read(path)?;
    if batches.is_empty()
        && let Some(cut_off) = cut_off
    {
        return Err(cut_off.into());
    }
    let kind = named_each(path, batches, &mut symbolizer, &meters, |batch| {
        collected.add(batch);
    })?;
    let profiles = collected.profiles(kind);
    if files.is_empty() {
        print!("{}", encode::folded::encode(&profiles));
    }
    collected.write(&profiles, kind, files)?;
    cut_off.map_or(Ok(()), |cut_off| Err(cut_off.into()))
}

/// Hands each of `batches`, of the recording at `path`, to `each`, named.
fn named_each(
    path: &Path,
    batches: Vec<RawBatch>,
    symbolizer: &mut Symbolizer,
    meters: &Meters,
    mut each: impl FnMut(NamedBatch),
) -> Result<SampleKind, Failure> {
    let kind = batches
        .first()
        .map(|batch| batch.kind)
        .ok_or_else(|| Failure::NothingSampled(format!("{} holds no window", path.display())))?;
    let (tracker, attributor) =
        build::tracking(Some("replay".to_owned()), true, Relabel::default(), &Budget::default(), meters)?;
    let mut intake = Intake::new(tracker, attributor, None, meters);
    let mut tables = Tables::offline(meters);
    for mut batch in batches {
        let mut events = VecDeque::from(batch.events);
        let mut samples = VecDeque::from(batch.samples);
        loop {
            let some = samples.iter().take(SAMPLES_AT_ONCE).map(|sample| sample.time);
            let until = some.max().filter(|_| samples.len() > SAMPLES_AT_ONCE).unwrap_or(MonoNs(u64::MAX));
            let is_full = intake.take_until(until, &mut events, &mut samples).full;
            // Nothing waits behind us: a table that is wanted is made here and now.
            let walks = intake.stacks.walk(&mut tables, |module| Some(symbolizer.table(&module)));
            intake.gather(walks);
            let is_last = samples.is_empty() && events.is_empty();
            if is_full || is_last {
                let lost = if is_last { std::mem::take(&mut batch.lost) } else { Lost::default() };
                each(symbolizer.name(intake.attributor.take(batch.window, batch.kind, lost)));
            }
            if is_last {
                break;
            }
        }
    }
    Ok(kind)
}

/// The named batches of a recording, for tests: the seam of the whole pipeline.
pub fn named(path: &Path) -> Result<Vec<NamedBatch>, Failure> {
    let meters = Meters::default();
    let mut symbolizer =
        build::symbolizer(true, Patience::Recording, &Budget::default(), &Roll::default(), &meters);
    let mut batches = Vec::new();
    let recorded = recording::read(path)?;
    if let Some(cut_off) = recorded.cut_off {
        return Err(cut_off.into());
    }
    named_each(path, recorded.batches, &mut symbolizer, &meters, |batch| batches.push(batch))?;
    Ok(batches)
}
