//! All that a shared file holds, read and checked; and how a store begins with it.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::entry::{self, CHECKSUM, FORMAT, FRESHNESS, MASTER, NODE, Report, SERVICE, STAT, Source, VERSION};
use super::image::{Image, Unfit};
use crate::model::{Node, NodePath, Revision, Stat};
use crate::store::{Feed, Filled};

/// All that a file holds.
#[derive(Clone, Debug)]
pub struct Contents {
    pub report: Report,
    pub nodes: OrdMap<NodePath, Arc<Node>>,
    /// The entries of masters and of services, in the order of their keys.
    pub(super) of_masters: Vec<(Vec<u8>, Vec<u8>)>,
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

/// A part of the entries, as they come.
#[derive(Default)]
struct Reading {
    /// Without their stats.
    nodes: Vec<Half<Arc<Node>>>,
    stats: Vec<Half<Stat>>,
    of_masters: Vec<(Vec<u8>, Vec<u8>)>,
    report: Option<Report>,
    checksum: Option<Vec<u8>>,
    sum: u64,
}

/// One of the two entries that make a node.
struct Half<T> {
    /// A hash of the path, by which its halves know each other.
    of: u64,
    /// Known from one of the two: a key may hold no more than a digest.
    path: Option<NodePath>,
    value: T,
}

impl Contents {
    /// Reads a whole file, to which nobody writes meanwhile.
    pub(super) fn load(path: &Path) -> Result<Self, Unfit> {
        Self::read(&Image::open(path)?)
    }

    pub(super) fn read(image: &Image) -> Result<Self, Unfit> {
        check_format(image)?;
        let (mut lower, mut upper) = (Reading::default(), Reading::default());
        image.walk(&mut |key, value| lower.take(key, value), &mut |key, value| upper.take(key, value))?;
        let report = lower.report.or(upper.report).ok_or(Unfit::Damaged("it does not say how fresh it is"))?;
        let sum = lower.sum.wrapping_add(upper.sum);
        if lower.checksum.or(upper.checksum) != Some(entry::checksum(sum)) {
            return Err(Unfit::Damaged("its checksum is another"));
        }
        lower.nodes.append(&mut upper.nodes);
        lower.stats.append(&mut upper.stats);
        lower.of_masters.append(&mut upper.of_masters);
        Ok(Self { report, nodes: join(lower.nodes, lower.stats)?, of_masters: lower.of_masters, sum })
    }

    /// Each service: its name, if its key is not a digest, and its instances in JSON.
    pub fn services(&self) -> impl Iterator<Item = (Option<&str>, &[u8])> {
        self.entries(SERVICE)
    }

    /// Each master in JSON.
    pub fn masters(&self) -> impl Iterator<Item = &[u8]> {
        self.entries(MASTER).map(|(_, master)| master)
    }

    fn entries(&self, kind: &str) -> impl Iterator<Item = (Option<&str>, &[u8])> {
        self.of_masters.iter().filter_map(move |(key, value)| {
            let name = of_path(key, kind)?.strip_prefix(b"/");
            Some((name.and_then(|name| std::str::from_utf8(name).ok()), value.as_slice()))
        })
    }

    /// Sees to it that some of the nodes are of the feeds, if there are any.
    pub(super) fn check_cluster(&self, feeds: &[Feed]) -> Result<(), Unfit> {
        let sources: Vec<_> = self.report.sources.iter().filter(|source| !source.tells_of_masters()).collect();
        if sources.is_empty() || sources.iter().any(|source| feeds.iter().any(|feed| source.is_of(feed))) {
            return Ok(());
        }
        let identities: Vec<_> = sources.iter().map(|source| source.identity.as_str()).collect();
        Err(Unfit::Foreign(identities.join(", ")))
    }

    /// Has the feeds begin with what of this is theirs. Those that tell of masters begin with nothing: nobody knows
    /// who lives.
    pub(crate) fn restore(&self, feeds: &mut [Feed], now: SystemTime) -> Restored {
        let of = |feed: &Feed| self.report.sources.iter().find(|it| it.is_of(feed) && !it.tells_of_masters());
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
            let node = Arc::new(Node { data: value.into(), ..Node::default() });
            self.nodes.push(Half { of: xxh3_64(rest), path: path(rest)?, value: node });
        } else if let Some(rest) = of_path(key, STAT) {
            let path = if rest.starts_with(b"#") { Some(json::<Named>(value)?.path) } else { None };
            let stat = written_stat(value).map_or_else(|| json(value), Ok)?;
            self.stats.push(Half { of: xxh3_64(rest), path, value: stat });
        } else if of_path(key, SERVICE).or(of_path(key, MASTER)).is_some() {
            self.of_masters.push((key.to_vec(), value.to_vec()));
        }
        Ok(())
    }
}

/// Both kinds are in the same order, that of the paths in their keys.
fn join(nodes: Vec<Half<Arc<Node>>>, stats: Vec<Half<Stat>>) -> Result<OrdMap<NodePath, Arc<Node>>, Unfit> {
    let unpaired = || Unfit::Damaged("a node has no stat, or a stat no node");
    if nodes.len() != stats.len() {
        return Err(unpaired());
    }
    let pair = |(mut node, stat): (Half<Arc<Node>>, Half<Stat>)| match node.path.or(stat.path) {
        Some(path) if node.of == stat.of => {
            Arc::make_mut(&mut node.value).stat = stat.value;
            Ok((path, node.value))
        }
        _ => Err(unpaired()),
    };
    nodes.into_iter().zip(stats).map(pair).collect()
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

/// What follows the kind in the key of an entry.
pub(super) fn of_path<'k>(key: &'k [u8], kind: &str) -> Option<&'k [u8]> {
    key.strip_prefix(kind.as_bytes()).filter(|rest| matches!(rest.first(), Some(b'/' | b'#')))
}

pub(super) fn json<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, Unfit> {
    serde_json::from_slice(value).map_err(|_| Unfit::Damaged("an entry is not what it should be"))
}
