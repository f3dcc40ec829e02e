//! All that a shared file holds, read and checked; and how a store begins with it.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use serde::Deserialize;

use super::entry::{self, CHECKSUM, FORMAT, FRESHNESS, NODE, Report, STAT, Source, VERSION};
use super::image::{Image, Unfit};
use crate::model::{Node, NodePath, Revision, Stat};
use crate::store::{Feed, Filled};

/// All that a file holds.
#[derive(Clone, Debug)]
pub struct Contents {
    pub report: Report,
    pub nodes: OrdMap<NodePath, Arc<Node>>,
    /// The sum that the checksum tells.
    pub(super) sum: u64,
}

/// What a store begins with.
pub(crate) struct Restored {
    pub(crate) nodes: OrdMap<NodePath, Arc<Node>>,
    /// By the number of the feed.
    pub(crate) filled: Vec<Filled>,
    pub(crate) revision: Revision,
    /// Whether it is the very state of that revision.
    pub(crate) is_same: bool,
}

/// What the stat of a node says whose keys hold only a digest of its path.
#[derive(Deserialize)]
struct Named {
    path: NodePath,
}

/// The entries as they come.
#[derive(Default)]
struct Reading {
    /// In the order of the keys. The path is not known where the key holds only its digest.
    nodes: Vec<(Option<NodePath>, Box<[u8]>)>,
    stats: usize,
    found: Vec<(NodePath, Arc<Node>)>,
    report: Option<Report>,
    checksum: Option<Vec<u8>>,
    sum: u64,
}

impl Contents {
    /// Reads a whole file, to which nobody writes meanwhile.
    pub(super) fn load(path: &Path) -> Result<Self, Unfit> {
        Self::read(&Image::open(path)?)
    }

    pub(super) fn read(image: &Image) -> Result<Self, Unfit> {
        check_format(image)?;
        let mut reading = Reading::default();
        image.walk(&mut |key, value| reading.take(key, value))?;
        let report = reading.report.ok_or(Unfit::Damaged("it does not say how fresh it is"))?;
        if reading.checksum != Some(entry::checksum(reading.sum)) {
            return Err(Unfit::Damaged("its checksum is another"));
        }
        if reading.stats != reading.nodes.len() {
            return Err(Unfit::Damaged("a node has no stat"));
        }
        Ok(Self { report, nodes: reading.found.into_iter().collect(), sum: reading.sum })
    }

    /// Sees to it that some of this is of the feeds.
    pub(super) fn check_cluster(&self, feeds: &[Feed]) -> Result<(), Unfit> {
        let sources = &self.report.sources;
        if sources.is_empty() || sources.iter().any(|source| feeds.iter().any(|feed| source.is_of(feed))) {
            return Ok(());
        }
        let identities: Vec<_> = sources.iter().map(|source| source.identity.as_str()).collect();
        Err(Unfit::Foreign(identities.join(", ")))
    }

    /// Has the feeds begin with what of this is theirs.
    pub(crate) fn restore(&self, feeds: &mut [Feed], now: SystemTime) -> Restored {
        let of = |feed: &Feed| self.report.sources.iter().find(|source| source.is_of(feed));
        let sources: Vec<Option<&Source>> = feeds.iter().map(of).collect();
        let (mut nodes, mut filled) = (self.nodes.clone(), vec![Filled::default(); feeds.len()]);
        for (path, node) in &self.nodes {
            let is_of = |(feed, source): (&Feed, &Option<&Source>)| {
                source.is_some_and(|source| source.covers(path)) && feed.roots().iter().any(|root| path.is_under(root))
            };
            match feeds.iter().zip(&sources).position(is_of) {
                Some(owner) => filled[owner].add(path, node),
                None => drop(nodes.remove(path)),
            }
        }
        for ((feed, filled), source) in feeds.iter_mut().zip(&mut filled).zip(sources) {
            let Some(source) = source else { continue };
            filled.whole = source.whole && feed.roots().iter().all(|root| source.covers(root));
            feed.restore(self.report.age_of(source, now), source.left_out);
        }
        Restored { is_same: nodes.len() == self.nodes.len(), nodes, filled, revision: self.report.revision }
    }
}

/// What the file says of itself.
pub(super) fn report(image: &Image) -> Result<Report, Unfit> {
    check_format(image)?;
    json(&image.get(FRESHNESS)?.ok_or(Unfit::Damaged("it does not say how fresh it is"))?)
}

fn check_format(image: &Image) -> Result<(), Unfit> {
    match image.get(FORMAT)? {
        Some(version) if version == VERSION => Ok(()),
        Some(other) => Err(Unfit::Format(String::from_utf8_lossy(&other).into_owned())),
        None => Err(Unfit::Damaged("it does not say its format")),
    }
}

impl Reading {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unfit> {
        match key {
            CHECKSUM => {
                self.checksum = Some(value.to_vec());
                return Ok(());
            }
            FRESHNESS => self.report = Some(json(value)?),
            _ => {}
        }
        self.sum = self.sum.wrapping_add(entry::part_of_checksum(key, value));
        if let Some(rest) = of_path(key, NODE) {
            self.nodes.push((path(rest)?, value.into()));
        } else if let Some(rest) = of_path(key, STAT) {
            self.stat(rest, value)?;
        }
        Ok(())
    }

    /// Keys of nodes come before those of stats, and each kind in the same order.
    fn stat(&mut self, rest: &[u8], value: &[u8]) -> Result<(), Unfit> {
        let unpaired = Unfit::Damaged("a node has no stat, or a stat no node");
        let Some((path, data)) = self.nodes.get_mut(self.stats) else { return Err(unpaired) };
        let path = match path.take() {
            Some(path) if path.as_str().as_bytes() == rest => path,
            None if rest.starts_with(b"#") => json::<Named>(value)?.path,
            _ => return Err(unpaired),
        };
        let stat = written_stat(value).map_or_else(|| json(value), Ok)?;
        self.found.push((path, Arc::new(Node { data: std::mem::take(data), stat })));
        self.stats += 1;
        Ok(())
    }
}

/// The path in a key, if it is not a digest.
fn path(rest: &[u8]) -> Result<Option<NodePath>, Unfit> {
    if rest.starts_with(b"#") {
        return Ok(None);
    }
    let path = std::str::from_utf8(rest).ok().and_then(|text| NodePath::parse(text).ok());
    path.map(Some).ok_or(Unfit::Damaged("a key is no path"))
}

/// A stat as this version writes it: four times faster than to read it as JSON, and there may be a million.
fn written_stat(value: &[u8]) -> Option<Stat> {
    let mut rest = std::str::from_utf8(value).ok()?;
    let mut number = |name: &str, end: char| {
        let (number, after) = rest.strip_prefix(name)?.split_once(end)?;
        rest = after;
        number.parse::<i64>().ok()
    };
    Some(Stat {
        czxid: number("{\"czxid\":", ',')?,
        mzxid: number("\"mzxid\":", ',')?,
        pzxid: number("\"pzxid\":", ',')?,
        ctime: number("\"ctime\":", ',')?,
        mtime: number("\"mtime\":", ',')?,
        ephemeral_owner: number("\"ephemeralOwner\":", ',')?,
        version: number("\"version\":", ',')?.try_into().ok()?,
        num_children: number("\"numChildren\":", '}')?.try_into().ok()?,
    })
}

/// What follows the kind in the key of a path's entry.
fn of_path<'k>(key: &'k [u8], kind: &str) -> Option<&'k [u8]> {
    key.strip_prefix(kind.as_bytes()).filter(|rest| matches!(rest.first(), Some(b'/' | b'#')))
}

pub(super) fn json<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, Unfit> {
    serde_json::from_slice(value).map_err(|_| Unfit::Damaged("an entry is not what it should be"))
}
