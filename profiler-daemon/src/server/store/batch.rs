//! What was added to a segment since a mark, in bytes: what one transaction of the journal holds.
//!
//! In: a segment and a mark; or bytes, and the segment that all earlier batches made. Out: bytes; or the segment as it
//! was. The bytes may have lain on a disk: numbers that lead nowhere are `Damaged`.

use serde::{Deserialize, Serialize};

use super::Digest;
use super::blob::{from_bytes, to_bytes};
use super::rows::{self, Damaged};
use super::segment::{Function, Mark, Node, Segment};
use super::series::{ProfileType, Series};
use crate::time::{WallNs, Window};

/// Nodes for which there is room before they are read: what says how many there are may be damaged.
const NODES_AT_ONCE: usize = 1 << 14;

#[derive(Serialize, Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    texts: Vec<&'a str>,
    functions: Vec<Function>,
    #[serde(borrow)]
    trees: Vec<NewNodes<'a>>,
    #[serde(borrow)]
    series: Vec<WrittenSeries<'a>>,
    #[serde(borrow)]
    windows: Vec<WrittenWindow<'a>>,
    digests: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct NewNodes<'a> {
    service: &'a str,
    #[serde(borrow)]
    nodes: WrittenNodes<'a>,
}

/// A series as it is written.
#[derive(Serialize, Deserialize)]
pub(super) struct WrittenSeries<'a> {
    labels: Vec<(&'a str, &'a str)>,
    profile_type: &'a str,
}

#[derive(Serialize, Deserialize)]
struct WrittenWindow<'a> {
    series: u32,
    start: i64,
    duration_ns: u64,
    rows: &'a [u8],
}

/// Nodes as they are written: how far back the parent is, and the function.
#[derive(Serialize, Deserialize)]
pub(super) struct WrittenNodes<'a>(&'a [u8]);

impl<'a> WrittenSeries<'a> {
    pub(super) fn of(series: &'a Series) -> Self {
        let labels = series.labels().iter().map(|(name, value)| (&**name, &**value)).collect();
        Self { labels, profile_type: series.profile_type().as_str() }
    }

    pub(super) fn read(&self) -> Series {
        let own = |&(name, value): &(&str, &str)| (name.into(), value.into());
        let labels = std::sync::Arc::new(self.labels.iter().map(own).collect());
        Series::new(labels, ProfileType::from_text(self.profile_type))
    }
}

/// `nodes`, of which the first is number `first`, as they are written.
pub(super) fn write_nodes(nodes: &[Node], first: usize) -> Vec<u8> {
    let pairs: Vec<(u32, u32)> = (nodes.iter().zip(first..))
        .map(|(node, index)| (u32::try_from(index).unwrap_or(u32::MAX) - node.parent, node.function))
        .collect();
    to_bytes(&pairs)
}

/// The other way round. There are hundreds of thousands in an hour, so they are read by hand: how many, then pairs.
pub(super) fn read_nodes(mut bytes: &[u8], first: usize) -> Result<Vec<Node>, Damaged> {
    let bytes = &mut bytes;
    let mut number = || rows::take(bytes).and_then(|number| u32::try_from(number).map_err(|_| Damaged));
    let count = number()? as usize;
    let mut nodes = Vec::with_capacity(count.min(NODES_AT_ONCE));
    for index in (first..).take(count) {
        let index = u32::try_from(index).map_err(|_| Damaged)?;
        let (back, function) = (number()?, number()?);
        // Only the root is its own parent.
        let parent = index.checked_sub(back).filter(|&parent| parent < index || index == 0);
        nodes.push(Node { parent: parent.ok_or(Damaged)?, function });
    }
    if bytes.is_empty() { Ok(nodes) } else { Err(Damaged) }
}

/// What came into `segment` since `mark`.
pub(super) fn write(segment: &Segment, mark: &Mark) -> Vec<u8> {
    let new_nodes: Vec<(&str, Vec<u8>)> = (segment.trees.iter().enumerate())
        .map(|(index, tree)| (tree, mark.trees.get(index).copied().unwrap_or(1)))
        .filter(|(tree, known)| tree.nodes.len() > *known)
        .map(|(tree, known)| (&*tree.service, write_nodes(&tree.nodes[known..], known)))
        .collect();
    let window = |stored: &super::segment::Stored| WrittenWindow {
        series: stored.series,
        start: stored.window.start.0,
        duration_ns: stored.window.duration_ns,
        rows: &segment.rows[stored.rows.clone()],
    };
    to_bytes(&Batch {
        texts: segment.texts[mark.texts..].iter().map(|text| &**text).collect(),
        functions: segment.functions[mark.functions..].to_vec(),
        trees: (new_nodes.iter())
            .map(|(service, nodes)| NewNodes { service, nodes: WrittenNodes(nodes) })
            .collect(),
        series: segment.series[mark.series..].iter().map(WrittenSeries::of).collect(),
        windows: segment.stored[mark.stored..].iter().map(window).collect(),
        digests: segment.digests[mark.digests..].to_vec(),
    })
}

/// Adds to `segment` what `bytes` say. When they are damaged it holds a part of them, and is of no use.
pub(super) fn read(bytes: &[u8], segment: &mut Segment) -> Result<(), Damaged> {
    let Batch { texts, functions, trees, series, windows, digests } = from_bytes(bytes)?;
    let new = |is: bool| if is { Ok(()) } else { Err(Damaged) };
    for text in texts {
        let next = segment.texts.len();
        new(segment.text(text) as usize == next)?;
    }
    for function in functions {
        let known = |text: u32| (text as usize) < segment.texts.len();
        new(known(function.name) && known(function.file) && known(function.module))?;
        let next = segment.functions.len();
        new(segment.function_of(function).0 as usize == next)?;
    }
    for NewNodes { service, nodes: WrittenNodes(nodes) } in trees {
        let tree = segment.tree(service);
        let known = |segment: &Segment| segment.trees[tree.0 as usize].nodes.len();
        for node in read_nodes(nodes, known(segment))? {
            new((node.function as usize) < segment.functions.len())?;
            let next = known(segment);
            new(segment.add_node(tree, node) as usize == next)?;
        }
    }
    for written in series {
        let next = segment.series.len();
        let series = written.read();
        segment.tree(series.service());
        new(segment.series_id(&series) as usize == next)?;
    }
    for WrittenWindow { series, start, duration_ns, rows } in windows {
        segment.keep_rows(series, Window { start: WallNs(start), duration_ns }, rows)?;
    }
    segment.digests.extend(digests);
    Ok(())
}
