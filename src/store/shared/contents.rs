//! The whole content of a shared file, read and checked; and how a store begins with it.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::SystemTime;

use imbl::OrdMap;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::entry::{
    self, CHECKSUM, FORMAT, FRESHNESS, FileStatus, INSTANCE, INSTANCES, LOTS, MASTER, NODE, PICK, SERVICE, STAT,
    Source, VERSION,
};
use super::image::{Half, Image, InvalidFile};
use super::location::FileId;
use crate::model::{Instance, Master, Node, NodePath, Revision, Stat, view};
use crate::store::{Directory, Feed, FeedProgress, ReportedBy};

/// How many nodes are passed from one thread to the other at once.
const BATCH: usize = 1_024;

/// The whole content of a file.
#[derive(Clone, Debug)]
pub struct Contents {
    pub status: FileStatus,
    pub nodes: OrdMap<NodePath, Arc<Node>>,
    /// The entries of masters and of services, ordered by key.
    pub(super) of_masters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those of what nodes register, ordered likewise.
    pub(super) registered: Vec<(Vec<u8>, Vec<u8>)>,
    /// The sum behind the checksum.
    pub(super) sum: u64,
    /// The file it was read from.
    pub(super) file_id: FileId,
}

/// What a store begins with.
pub(crate) struct Restored {
    pub(crate) nodes: OrdMap<NodePath, Arc<Node>>,
    /// Masters that are expected back.
    pub(crate) directory: Directory,
    /// What the guard held.
    pub(crate) held: Vec<Instance>,
    /// By feed number.
    pub(crate) progress: Vec<FeedProgress>,
    /// Roots, with the number of their feed, of which nothing was left.
    pub(crate) unread: Vec<(usize, NodePath)>,
    pub(crate) revision: Revision,
    /// Whether it is exactly the state of that revision.
    pub(crate) is_same: bool,
}

/// The path in the stat of a node whose key is only a digest.
#[derive(Deserialize)]
struct Named {
    path: NodePath,
}

/// The entries before the stats, in order.
#[derive(Default)]
struct Reading {
    nodes: Vec<Bare>,
    of_masters: Vec<(Vec<u8>, Vec<u8>)>,
    registered: Vec<(Vec<u8>, Vec<u8>)>,
    status: Option<FileStatus>,
    checksum: Option<Vec<u8>>,
    sum: u64,
}

/// A node that waits for its stat.
struct Bare {
    name: Name,
    node: Arc<Node>,
}

/// How a key names a path.
enum Name {
    Path(NodePath),
    Digest(Vec<u8>),
}

impl Contents {
    /// Reads a complete file of our own that nobody writes meanwhile.
    pub(super) fn load(path: &Path) -> Result<Self, InvalidFile> {
        Self::read(&Image::open_own(path)?)
    }

    pub(super) fn read(image: &Image) -> Result<Self, InvalidFile> {
        check_format(image)?;
        let (give, bare) = mpsc::channel();
        let before = move |half: &mut Half<'_>| {
            let mut reading = Reading::default();
            half.each(&mut |key, value| reading.take(key, value, &give))?;
            // A receiver that is gone reports the reason.
            let _ = give.send(mem::take(&mut reading.nodes));
            Ok(reading)
        };
        let (reading, (nodes, sum)) = image.halves(STAT.as_bytes(), before, |half| join(half, bare))?;
        let status = reading.status.ok_or(InvalidFile::Damaged("it does not say how fresh it is"))?;
        let sum = sum.wrapping_add(reading.sum);
        if reading.checksum != Some(entry::checksum(sum)) {
            return Err(InvalidFile::Damaged("its checksum is another"));
        }
        let Reading { of_masters, registered, .. } = reading;
        Ok(Self { status, nodes, of_masters, registered, sum, file_id: image.file_id })
    }

    /// Whether it contains neither nodes nor masters.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.of_masters.is_empty()
    }

    /// Each service that masters offer: its name, if its key is not a digest, and these instances in JSON.
    pub fn services(&self) -> impl Iterator<Item = (Option<&str>, &[u8])> {
        self.entries(SERVICE)
    }

    /// Each instance that nodes register, in JSON.
    pub fn registered(&self) -> impl Iterator<Item = &[u8]> {
        self.registered.iter().filter(|(key, _)| of_path(key, INSTANCE).is_some()).map(|(_, value)| value.as_slice())
    }

    /// Those of them that the guard held, as far as readable.
    fn held(&self) -> Vec<Instance> {
        const MARK: &[u8] = b"\"held\":";
        let may_be_held = |json: &&[u8]| json.windows(MARK.len()).any(|part| part == MARK);
        let read = |json| Instance::try_from(serde_json::from_slice::<view::Instance>(json).ok()?).ok();
        self.registered().filter(may_be_held).filter_map(read).filter(|instance| instance.held.is_some()).collect()
    }

    /// How many services there are, of masters and of nodes, and how many instances of them.
    pub fn counts(&self) -> (usize, usize) {
        let of_masters = self.of_masters.iter().filter_map(|(key, json)| Some((of_path(key, SERVICE)?, json)));
        let of_nodes = self.registered.iter().filter_map(|(key, _)| of_path(key, INSTANCES));
        let names: HashSet<&[u8]> = of_masters.clone().map(|(name, _)| name).chain(of_nodes).collect();
        let count = |json: &[u8]| serde_json::from_slice::<Vec<IgnoredAny>>(json).map_or(0, |all| all.len());
        (names.len(), of_masters.map(|(_, json)| count(json)).sum::<usize>() + self.registered().count())
    }

    /// Each master in JSON.
    pub fn masters(&self) -> impl Iterator<Item = &[u8]> {
        self.entries(MASTER).map(|(_, master)| master)
    }

    /// The readable masters, and the number of unreadable ones, of which the first is logged.
    fn readable_masters(&self) -> (Vec<view::Master>, u64) {
        let (mut readable, mut unreadable) = (Vec::new(), 0);
        for (id, json) in self.entries(MASTER) {
            match serde_json::from_slice(json) {
                Ok(master) => readable.push(master),
                Err(error) => {
                    if unreadable == 0 {
                        tracing::warn!(id, %error, "left out a master of the shared file that cannot be read");
                    }
                    unreadable += 1;
                }
            }
        }
        if unreadable > 1 {
            tracing::warn!(masters = unreadable, "left out masters of the shared file that cannot be read");
        }
        (readable, unreadable)
    }

    pub(super) fn entries(&self, kind: &str) -> impl Iterator<Item = (Option<&str>, &[u8])> {
        self.of_masters.iter().filter_map(move |(key, value)| {
            let name = of_path(key, kind)?.strip_prefix(b"/");
            Some((name.and_then(|name| std::str::from_utf8(name).ok()), value.as_slice()))
        })
    }

    /// Checks that some of the nodes belong to the feeds, if there are any.
    pub(super) fn check_cluster(&self, feeds: &[impl Borrow<Feed>]) -> Result<(), InvalidFile> {
        let sources: Vec<_> = self.status.sources.iter().filter(|source| !source.knows_masters()).collect();
        if sources.is_empty() || sources.iter().any(|source| feeds.iter().any(|feed| source.is_of(feed.borrow()))) {
            return Ok(());
        }
        let identities: Vec<_> = sources.iter().map(|source| source.identity.to_string()).collect();
        Err(InvalidFile::Foreign(identities.join(", ")))
    }

    /// Initializes the feeds with their parts of this. Nodes belong to the feed whose roots they are below, whatever
    /// the sources that read them were called and however they divided the roots. Masters are expected back; a feed
    /// that had not reported all of them begins with none.
    pub(crate) fn restore(&self, feeds: &mut [Feed], now: SystemTime) -> Restored {
        let (masters, unreadable) = self.readable_masters();
        let is_known = |source: &Source| !source.knows_masters() || source.whole;
        let has_roots_of = |source: &Source, feed: &Feed| {
            feed.roots().is_empty() || source.roots.iter().any(|root| feed.is_behind(root))
        };
        let of = |feed: &Feed| -> Vec<&Source> {
            let known = self.status.sources.iter().filter(|source| is_known(source));
            known.filter(|source| source.is_of(feed) && has_roots_of(source, feed)).collect()
        };
        let sources: Vec<Vec<&Source>> = feeds.iter().map(of).collect();
        let (mut nodes, mut progress) = (self.nodes.clone(), vec![FeedProgress::default(); feeds.len()]);
        for (path, node) in &self.nodes {
            let is_of = |(feed, sources): (&Feed, &Vec<&Source>)| {
                sources.iter().any(|source| source.covers(path)) && feed.roots().iter().any(|root| path.is_under(root))
            };
            match feeds.iter().zip(&sources).position(is_of) {
                Some(owner) => progress[owner].add(path, node),
                None => drop(nodes.remove(path)),
            }
        }
        let mut unread = Vec::new();
        for (number, ((feed, progress), sources)) in feeds.iter_mut().zip(&mut progress).zip(sources).enumerate() {
            if sources.is_empty() {
                continue;
            }
            let is_whole = |root: &NodePath| sources.iter().any(|source| source.whole && source.covers(root));
            let (read, others): (Vec<_>, Vec<_>) = feed.roots().iter().cloned().partition(is_whole);
            progress.whole = !read.is_empty() || others.is_empty();
            if progress.whole {
                unread.extend(others.into_iter().map(|root| (number, root)));
            }
            let unreadable = if feed.knows_masters() { unreadable } else { 0 };
            // How much of what is mirrored now was omitted is unknown.
            let unknown = |source: &Source| u64::from(!source.identity.covers(feed.identity()));
            let skipped_nodes: u64 = sources.iter().map(|source| source.skipped_nodes + unknown(source)).sum();
            progress.skipped_nodes = skipped_nodes + unreadable;
            progress.settling = sources.iter().any(|source| source.settling);
            feed.restore(sources.iter().filter_map(|source| self.status.age_of(source, now)).max());
        }
        let mut directory = Directory::default();
        for mut master in masters {
            let sources = std::mem::take(&mut master.sources);
            let master = Arc::new(Master::from(master));
            let is_of = |feed: &Feed| feed.knows_masters() && sources.iter().any(|name| name == feed.name());
            let owners =
                feeds.iter().zip(&progress).enumerate().filter(|(_, (feed, progress))| progress.whole && is_of(feed));
            for (number, (feed, _)) in owners {
                let by =
                    ReportedBy { feed: number, source: feed.source().clone(), revision: self.status.fresh.revision };
                directory.expect(by, master.clone());
            }
        }
        let (is_same, revision) = (nodes.len() == self.nodes.len(), self.status.fresh.revision);
        Restored { is_same, nodes, directory, held: self.held(), progress, unread, revision }
    }
}

/// The status in the file.
pub(super) fn status(image: &Image) -> Result<FileStatus, InvalidFile> {
    check_format(image)?;
    json(&image.get(FRESHNESS)?.ok_or(InvalidFile::Damaged("it does not say how fresh it is"))?)
}

fn check_format(image: &Image) -> Result<(), InvalidFile> {
    match image.get(FORMAT)? {
        Some(version) if version == VERSION.as_bytes() => Ok(()),
        Some(other) => Err(InvalidFile::Format(String::from_utf8_lossy(&other).into_owned())),
        None => Err(InvalidFile::Damaged("it does not say its format")),
    }
}

impl Reading {
    fn take(&mut self, key: &[u8], value: &[u8], give: &Sender<Vec<Bare>>) -> Result<(), InvalidFile> {
        match key {
            CHECKSUM => {
                self.checksum = Some(value.to_vec());
                return Ok(());
            }
            FRESHNESS => self.status = Some(json(value)?),
            _ => {}
        }
        self.sum = self.sum.wrapping_add(entry::part_of_checksum(key, value));
        if let Some(rest) = of_path(key, NODE) {
            let node = Arc::new(Node { data: value.into(), ..Node::default() });
            self.nodes.push(Bare { name: Name::of(rest)?, node });
            if self.nodes.len() == BATCH {
                let _ = give.send(mem::replace(&mut self.nodes, Vec::with_capacity(BATCH)));
            }
        } else if of_path(key, SERVICE).or(of_path(key, MASTER)).is_some() {
            self.of_masters.push((key.to_vec(), value.to_vec()));
        } else if [INSTANCE, INSTANCES, PICK, LOTS].iter().any(|kind| of_path(key, kind).is_some()) {
            self.registered.push((key.to_vec(), value.to_vec()));
        }
        Ok(())
    }
}

/// Gives the nodes their stats, which are in the same order. Returns also the sum over their entries.
fn join(stats: &mut Half<'_>, nodes: Receiver<Vec<Bare>>) -> Result<(OrdMap<NodePath, Arc<Node>>, u64), InvalidFile> {
    const UNPAIRED: InvalidFile = InvalidFile::Damaged("a node has no stat, or a stat no node");
    let (mut nodes, mut joined, mut sum) = (nodes.into_iter().flatten(), OrdMap::new(), 0_u64);
    stats.each(&mut |key, value| {
        sum = sum.wrapping_add(entry::part_of_checksum(key, value));
        let Some(rest) = of_path(key, STAT) else { return Ok(()) };
        let Bare { name, mut node } = nodes.next().ok_or(UNPAIRED)?;
        let path = match name {
            Name::Path(path) if path.as_str().as_bytes() == rest => path,
            Name::Digest(digest) if digest == rest => json::<Named>(value)?.path,
            _ => return Err(UNPAIRED),
        };
        Arc::make_mut(&mut node).stat = written_stat(value).map_or_else(|| json(value), Ok)?;
        joined.insert(path, node);
        Ok(())
    })?;
    if nodes.next().is_some() { Err(UNPAIRED) } else { Ok((joined, sum)) }
}

impl Name {
    fn of(rest: &[u8]) -> Result<Self, InvalidFile> {
        if rest.starts_with(b"#") {
            return Ok(Self::Digest(rest.to_vec()));
        }
        let path = std::str::from_utf8(rest).ok().and_then(|text| NodePath::parse(text).ok());
        path.map(Self::Path).ok_or(InvalidFile::Damaged("a key is no path"))
    }
}

/// Parses a stat as this version writes it: four times faster than a JSON parser, and there may be a million.
fn written_stat(json: &[u8]) -> Option<Stat> {
    let mut rest = json;
    let mut number = |name: &str| {
        rest = rest.strip_prefix(name.as_bytes())?;
        let (number, after) = rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
        rest = after;
        number.first()?;
        number.iter().try_fold(0_i64, |sum, digit| sum.checked_mul(10)?.checked_add((digit - b'0').into()))
    };
    let stat = Stat {
        czxid: number("{\"czxid\":")?,
        mzxid: number(",\"mzxid\":")?,
        pzxid: number(",\"pzxid\":")?,
        ctime: number(",\"ctime\":")?,
        mtime: number(",\"mtime\":")?,
        ephemeral_owner: number(",\"ephemeralOwner\":")?,
        version: number(",\"version\":")?.try_into().ok()?,
        num_children: number(",\"numChildren\":")?.try_into().ok()?,
    };
    (rest == b"}").then_some(stat)
}

/// The rest of an entry's key after its kind.
pub(super) fn of_path<'k>(key: &'k [u8], kind: &str) -> Option<&'k [u8]> {
    key.strip_prefix(kind.as_bytes()).filter(|rest| matches!(rest.first(), Some(b'/' | b'#')))
}

pub(super) fn json<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, InvalidFile> {
    serde_json::from_slice(value).map_err(|_| InvalidFile::Damaged("an entry is not what it should be"))
}
